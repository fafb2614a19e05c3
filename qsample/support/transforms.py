"""What `torch.compile` must leave alone, and the numbers that `torch.func` has wrapped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,  # pyright: ignore[reportAttributeAccessIssue]
    _functorch,  # pyright: ignore[reportAttributeAccessIssue]
)
from torch._compile import _disable_dynamo
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

P = ParamSpec("P")
T = TypeVar("T")


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run as written also where its caller is compiled.

    The graph breaks around the call. For draws, whose 64-bit integers and NumPy a compiler would
    compute otherwise. `torch.compiler.disable` would load the compiler (a second or more) wherever
    qsample is imported.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        # a traced frame sees the first, one that is run as written (too many variants to compile)
        # the second
        if torch.compiler.is_compiling() or "torch._dynamo" in sys.modules:
            return _outside(function, args, kwargs)
        return function(*args, **kwargs)

    # the compiler counts its attempts per code object: not one count for all that is wrapped here
    own: Any = run
    own.__code__ = own.__code__.replace(co_name=getattr(function, "__name__", "run"))
    return run


@_disable_dynamo  # loads the compiler when called, and then it is loaded already
def _outside(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def is_transformed(x: Tensor) -> bool:
    """Whether a transform of `torch.func` (vmap, grad) is at work on `x`.

    Then nothing may branch on it, nor store it.
    """
    compiling = torch.compiler.is_compiling()  # which does not know the next call
    return not compiling and _functorch.is_functorch_wrapped_tensor(x)


def is_transforming() -> bool:
    """Whether a transform of `torch.func`, or forward-mode differentiation, is at work at all.

    What it acts on may be any tensor, so that a function without rules for it must not be called.
    """
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_batched_gradient(above: Tensor) -> bool:
    """Whether a backward pass takes many gradients at once (`is_grads_batched`)."""
    return _functorch.is_legacy_batchedtensor(above)


def numbers(x: Tensor) -> Any:
    """What a check compares: all numbers as an array or a tensor, whatever transform wraps them.

    NumPy looks on one thread, and is as fast; torch takes -1 for 255 in uint8, so it looks at
    floats.
    """
    if is_transformed(x) or (is_transforming() and not torch.compiler.is_compiling()):
        # else the transform would take part in the look: even a plain tensor's `detach` is wrapped
        with temporarily_clear_interpreter_stack():
            while is_transformed(x):
                x = _functorch.get_unwrapped(x)
            x = x.detach().cpu()
            return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    if x.device.type == "cpu" and x.dtype != torch.bfloat16:
        return x.detach().numpy()
    return x.detach() if x.is_floating_point() else x.detach().float()
