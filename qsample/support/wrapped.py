"""A model inside another module: what is looked through, and what is refused. One rule for every call."""

from __future__ import annotations

from typing import Any


def bare(model: Any, method: str = "ising") -> Any:
    """The model itself: `torch.compile`'s wrapper is looked through, others (with `.module`) are refused by name.

    Their `forward` (which averages gradients, gathers shards or splits batches) would never be
    called: a model's methods are.

    Args:
        model: a model that has `method`, or a module around one.
        method: what tells the model.

    Raises:
        TypeError: a wrapper, or something else that is no model.
    """
    given = type(model).__name__
    while "_orig_mod" in getattr(model, "_modules", {}):
        model = model._orig_mod
    kind = type(model).__name__
    inner = getattr(model, "_modules", {}).get("module", getattr(model, "_modules", {}).get("_fsdp_wrapped_module"))
    if inner is None and hasattr(model, method):
        return model
    if inner is None:
        wanted = "an energy model, such as BernoulliRBM(784, 500)" if method == "ising" else "the model itself"
        raise TypeError(f"expected {wanted}; got {given}")
    way = "pass its .module"
    if kind in ("DistributedDataParallel", "FullyShardedDataParallel"):
        way += f", and to train on many ranks wrap the loss: {kind}(ContrastiveDivergence(model.module, ...))"
    raise TypeError(f"expected the model itself; got {kind} around {type(inner).__name__}: {way}")
