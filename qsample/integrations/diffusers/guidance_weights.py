"""How large the networks of an energy are, and which surrogate they bear."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from qsample.neural.surrogates import Surrogate, first_order, second_order

MANY = 10**7
"""weights of an energy beyond which guidance takes no second derivatives by itself"""


class Weights(TorchFunctionMode):
    """Parameters that enter the operations within it, wherever the function found them.

        with Weights() as weights:
            energy(x, x0, t)
        weights.number

    A network that is called several times counts once, one that is not called does not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, nn.Parameter] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """An operation, with a look at its arguments."""
        kwargs = kwargs or {}
        for value in _parts([*args, *kwargs.values()]):
            if isinstance(value, nn.Parameter):
                self._seen[id(value)] = value
        return func(*args, **kwargs)

    @property
    def number(self) -> int:
        """How many numbers they hold."""
        return sum(parameter.numel() for parameter in self._seen.values())


def surrogate_for(weights: int) -> Surrogate:
    """`second_order`, or `first_order` for an energy of more than 10^7 weights.

    Each of K Hessian-vector products goes through the energy's networks, and holds their graph.
    """
    return first_order if weights > MANY else second_order


def _parts(values: Sequence[Any]) -> Iterator[Any]:
    """Values, and those of lists among them: a recurrent layer takes its weights in one."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value
