"""What is of the wrong kind is refused in one line: what it is, and the call that makes it right.

Nothing is imported for it: kinds of other packages are known by the names of their classes.
"""

from __future__ import annotations

import operator
from typing import Any, get_args

import torch
from torch import Tensor

from qsample.support.transforms import numbers

_CQM = "dimod.cqm_to_bqm(cqm) makes one, with an inverter"
_BQMS = ("BinaryQuadraticModel", "DictBQM", "Float32BQM", "Float64BQM", "DictBinaryQuadraticModel")
WAYS_TO_BQM = {
    "ConstrainedQuadraticModel": _CQM,
    "DiscreteQuadraticModel": (
        f"cqm = dimod.ConstrainedQuadraticModel.from_discrete_quadratic_model(dqm), then {_CQM}"
    ),
    "QuadraticModel": (
        "cqm = dimod.ConstrainedQuadraticModel.from_quadratic_model("
        f"qm.spin_to_binary(inplace=False)), then {_CQM}"
    ),
    "BinaryPolynomial": "dimod.make_quadratic(poly, strength, dimod.SPIN) makes one",
    "Ising": "problem.to_bqm() makes one",
    "dict": (
        'dimod.BinaryQuadraticModel(h, J, "SPIN") or '
        "dimod.BinaryQuadraticModel.from_qubo(Q) makes one"
    ),
    "ndarray": 'dimod.BinaryQuadraticModel(Q, "BINARY") makes one of a QUBO matrix',
    "SampleSet": "it holds reads, not a problem",
}
WAYS_TO_ISING = {
    **dict.fromkeys(_BQMS, "Ising.from_bqm(bqm) makes one"),
    "dict": "Ising.from_qubo(Q) makes one of a QUBO",
    "Graph": "Ising(graph, h, J) makes one",
    "Potts": "PottsGibbs(sweeps=100) draws from it",
    "Tensor": "Ising.from_dense(h, J) makes one of a matrix",
    "ndarray": "Ising.from_dense(torch.as_tensor(h), torch.as_tensor(J)) makes one of a matrix",
    **{
        name: f"make a BQM of it first: {WAYS_TO_BQM[name]}; then Ising.from_bqm(bqm)"
        for name in (
            "ConstrainedQuadraticModel",
            "DiscreteQuadraticModel",
            "QuadraticModel",
            "BinaryPolynomial",
        )
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
    **{
        name: way
        for name, way in WAYS_TO_ISING.items()
        if name.endswith(("QuadraticModel", "Polynomial"))
    },
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
    """The error for an argument of the wrong kind, with the way from what was given.

    Args:
        expected: What was expected, in words.
        got: What was given.
        ways: The way to it from kinds that users hold, by the names of their classes.
    """
    kind = type(got).__name__
    way = ways.get(kind, "")
    if type(got).__module__.startswith("networkx"):
        way = "Graph.from_networkx(graph) makes a Graph, and Ising(graph, h, J) gives it numbers"
    message = f"expected {expected}; got {kind}"
    return TypeError(f"{message}: {way}" if way else message)


def check_tensors(**values: object) -> None:
    """TypeError for what is no torch tensor."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            way = WAYS_TO_TENSOR.get(kind, "use torch.as_tensor")
            raise TypeError(f"expected {name} as a torch tensor; got {kind}: {way}")
        if value.layout != torch.strided:
            raise TypeError(
                f"expected {name} as a dense tensor; got {value.layout}: "
                f"{name}.to_dense() makes one"
            )
        if value.is_complex():
            raise TypeError(
                f"expected {name} of real numbers; got {value.dtype}: "
                f"{name}.real takes their real part"
            )


def evenly(count: int, number: int) -> Tensor:
    """Places of at most `number` of `count` rows, from the first to the last, int64."""
    number = min(count, number)
    return torch.arange(number) * (count - 1) // max(number - 1, 1)


def as_numbers(name: str, value: Any) -> Tensor:
    """`value` as a tensor, of lists and arrays too; TypeError for what holds no numbers."""
    if isinstance(value, Tensor):
        return value  # as_tensor would move it to the default device
    try:
        return torch.as_tensor(value)
    except (RuntimeError, TypeError, ValueError):
        raise TypeError(
            f"expected {name} as a tensor or a list of numbers; got {type(value).__name__}"
        ) from None


def whole(name: str, value: object, least: int) -> int:
    """A plain int of any integer, NumPy's too.

    Args:
        name: The argument's name.
        value: What was given.
        least: Smallest number allowed.

    Raises:
        ValueError: No integer, one below `least`, or one of more than 63 bits.
    """
    number = _index(value)
    if number is None or number < least:
        raise ValueError(f"expected {name} >= {least}; got {value!r}")
    if number >= 1 << 63:
        raise ValueError(f"expected {name} < 2^63; got {value!r}")
    return number


def whole_settings(settings: object, **least: int) -> None:
    """Makes the named fields of a frozen dataclass plain ints, as files hold them.

    Args:
        settings: The dataclass.
        least: Smallest number allowed, by the field's name; see `whole`.
    """
    for name, smallest in least.items():
        object.__setattr__(settings, name, whole(name, getattr(settings, name), smallest))


def check_choice(name: str, value: object, options: object) -> None:
    """ValueError unless a setting is one of the strings of a `Literal`.

    Args:
        name: The setting's name.
        value: What was given.
        options: The `Literal`.
    """
    allowed = get_args(options)
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(allowed)}")


def check_spins(name: str, spins: Tensor, remedy: str = "2 * bits - 1 makes spins of bits") -> None:
    """ValueError unless all numbers of a tensor are -1 or +1.

    Args:
        name: What the spins are to the user, such as "spins x" or "an anchor".
        spins: The tensor, of any shape and dtype.
        remedy: How the user makes spins of what was given.
    """
    values = numbers(spins)
    wrong = abs(values) != 1
    if wrong.any():
        odd = float(values[wrong][0])
        if spins.dtype == torch.uint8:  # 2 * 0 - 1 is 255
            remedy = remedy.replace("2 * bits -", "2 * bits.to(torch.int8) -")
        raise ValueError(f"expected {name} of -1 and +1; got {odd:g}: {remedy}")


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
    if isinstance(value, bool):
        return None
    if isinstance(value, Tensor) and (value.dim() or value.dtype is torch.bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
