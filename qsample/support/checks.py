"""What is of the wrong kind is refused in one line, which names what it is and the call that makes the right one of it.

Nothing is imported for it: kinds of other packages are known by the names of their classes.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

_CQM = "dimod.cqm_to_bqm(cqm) makes one, with an inverter"
_BQMS = ("BinaryQuadraticModel", "DictBQM", "Float32BQM", "Float64BQM", "DictBinaryQuadraticModel")
WAYS_TO_BQM = {
    "ConstrainedQuadraticModel": _CQM,
    "DiscreteQuadraticModel": (
        "cqm = dimod.ConstrainedQuadraticModel.from_discrete_quadratic_model(dqm), then " + _CQM
    ),
    "QuadraticModel": (
        "cqm = dimod.ConstrainedQuadraticModel.from_quadratic_model(qm.spin_to_binary(inplace=False)), then " + _CQM
    ),
    "BinaryPolynomial": "dimod.make_quadratic(poly, strength, dimod.SPIN) makes one",
    "Ising": "problem.to_bqm() makes one",
    "dict": 'dimod.BinaryQuadraticModel(h, J, "SPIN") or dimod.BinaryQuadraticModel.from_qubo(Q) makes one',
    "ndarray": 'dimod.BinaryQuadraticModel(Q, "BINARY") makes one of a QUBO matrix',
    "SampleSet": "it holds reads, not a problem",
}
WAYS_TO_ISING = {
    **dict.fromkeys(_BQMS, "Ising.from_bqm(bqm) makes one"),
    "dict": "Ising.from_qubo(Q) makes one of a QUBO",
    "Graph": "Ising(graph, h, J) makes one",
    "Tensor": "Ising.from_dense(h, J) makes one of a matrix",
    "ndarray": "Ising.from_dense(torch.as_tensor(h), torch.as_tensor(J)) makes one of a matrix",
    **{
        name: f"make a BQM of it first: {WAYS_TO_BQM[name]}; then Ising.from_bqm(bqm)"
        for name in ("ConstrainedQuadraticModel", "DiscreteQuadraticModel", "QuadraticModel", "BinaryPolynomial")
    },
}
WAYS_TO_GRAPH = {
    **dict.fromkeys(_BQMS, "Ising.from_bqm(bqm).graph is its graph"),
    "Ising": "problem.graph is its graph",
    "int": "Graph.complete(n), .bipartite(n, m) or .sparse(n, edges) makes one",
    "list": "Graph.sparse(n, edges) makes one",
    "ndarray": "Graph.sparse(n, edges) makes one",
    "Tensor": "Graph.sparse(n, edges) makes one",
    "dict": "Graph.sparse(n, edges) makes one",
}
WAYS_TO_QUBO = {
    **{name: way for name, way in WAYS_TO_ISING.items() if name.endswith(("QuadraticModel", "Polynomial"))},
    **dict.fromkeys(_BQMS, "Ising.from_bqm(bqm) takes it as it is"),
    "ndarray": "dict(np.ndenumerate(Q)) makes one of a matrix",
    "Tensor": "dict(np.ndenumerate(Q.numpy())) makes one of a matrix",
    "tuple": "bqm.to_qubo() gives (Q, offset): Ising.from_qubo(Q, offset)",
}


WAYS_TO_TENSOR = {
    "DataFrame": "torch.as_tensor(frame.to_numpy(copy=True)) makes one",
    "Series": "torch.as_tensor(series.to_numpy(copy=True)) makes one",
    "Dataset": "dataset.x is one",
    "TensorDataset": "dataset.tensors[0] is one",
    "Subset": "torch.stack([subset[i][0] for i in range(len(subset))]) makes one",
    "DataLoader": "torch.cat([rows for rows, *_ in loader]) makes one",
}


def wrong_kind(expected: str, got: object, ways: dict[str, str]) -> TypeError:
    """The error, with the way from what was given where one is known."""
    kind = type(got).__name__
    if type(got).__module__.startswith("networkx"):
        way = "Graph.from_networkx(graph) makes a qsample Graph, which Ising(graph, h, J) gives its numbers"
    else:
        way = ways.get(kind, "")
    return TypeError(f"expected {expected}; got {kind}" + (f": {way}" if way else ""))


def check_tensors(**values: object) -> None:
    """TypeError for what is no torch tensor."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            way = WAYS_TO_TENSOR.get(kind, "use torch.as_tensor")
            raise TypeError(f"expected {name} as a torch tensor; got {kind}: {way}")
        if value.layout != torch.strided:
            raise TypeError(f"expected {name} as a dense tensor; got {value.layout}: {name}.to_dense() makes one")
        if value.is_complex():
            raise TypeError(f"expected {name} of real numbers; got {value.dtype}: {name}.real takes their real part")


def evenly(count: int, number: int) -> Tensor:
    """Places of at most `number` of `count` rows, evenly spaced from the first to the last, int64."""
    number = min(count, number)
    return torch.arange(number) * (count - 1) // max(number - 1, 1)


def as_numbers(name: str, value: Any) -> Tensor:
    """`value` as a tensor, of lists and arrays too; TypeError for what holds no numbers."""
    if isinstance(value, Tensor):
        return value  # as_tensor would move it to the default device
    try:
        return torch.as_tensor(value)
    except (RuntimeError, TypeError, ValueError):
        raise TypeError(f"expected {name} as a tensor or a list of numbers; got {type(value).__name__}") from None


def whole(name: str, value: object, least: int) -> int:
    """A plain int of any integer (NumPy's too); ValueError for other numbers and those below `least`."""
    number = _index(value)
    if number is None or number < least:
        raise ValueError(f"expected {name} >= {least}; got {value!r}")
    if number >= 1 << 63:
        raise ValueError(f"expected {name} < 2^63; got {value!r}")
    return number


def whole_settings(settings: object, **least: int) -> None:
    """Make the named fields of a frozen dataclass plain ints, as files hold them, each checked by `whole`."""
    for name, value in least.items():
        object.__setattr__(settings, name, whole(name, getattr(settings, name), value))


def plain_seed(seed: object) -> int:
    """A seed of 64 bits as a plain int."""
    number = _index(seed)
    if number is None or not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"expected a seed of 64 bits; got {seed!r}")
    return number


def is_whole(value: object) -> bool:
    """Whether it is an integer of any kind, and no bool."""
    return _index(value) is not None


def _index(value: Any) -> int | None:
    if isinstance(value, bool) or (isinstance(value, Tensor) and (value.dim() or value.dtype is torch.bool)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
