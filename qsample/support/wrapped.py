"""A model inside another module: one rule for what is looked through and what is refused."""

from __future__ import annotations

from typing import Any


def bare(model: Any, method: str = "ising") -> Any:
    """The model itself, of a model or of `torch.compile`'s wrapper around one.

    Other wrappers (with `.module`) are refused by name: their `forward`, which averages gradients,
    gathers shards or splits batches, would never be called, for a model's methods are.

    Args:
        model: A model that has `method`, or a module around one.
        method: Name of a method that tells the model; "ising" by default.

    Raises:
        TypeError: A wrapper, or something else that is no model.
    """
    given = type(model).__name__
    while "_orig_mod" in getattr(model, "_modules", {}):
        model = model._orig_mod
    children = getattr(model, "_modules", {})
    inner = children.get("module", children.get("_fsdp_wrapped_module"))
    if inner is None:
        if hasattr(model, method):
            return model
        expected = "the model itself"
        if method == "ising":
            expected = "an energy model, such as BernoulliRBM(784, 500)"
        raise TypeError(f"expected {expected}; got {given}")
    wrapper = type(model).__name__
    way = "pass its .module"
    if wrapper in ("DistributedDataParallel", "FullyShardedDataParallel"):
        loss = f"{wrapper}(ContrastiveDivergence(model.module, ...))"
        way = f"{way}, and to train on many ranks wrap the loss: {loss}"
    around = type(inner).__name__
    raise TypeError(f"expected the model itself; got {wrapper} around {around}: {way}")
