"""Models by name: for the command line, and for checkpoints, which say how their model is made.

A model is its own file and one line of `MODELS`. Its class has a method `arguments`, which returns
what its constructor takes to make the same model with other weights: numbers, strings, lists of
labels and a `Graph`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qsample.models.energy import Coding, EnergyModel, own_class
from qsample.problem.graph import Graph
from qsample.problem.lattices import open_grid

Layout = Callable[[int, int, Sequence[int]], dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A named model: a class of the face `qsample.models`, and how it is laid out for data.

    Args:
        kind: name of the class, which is imported when asked.
        about: one line of description.
        coding: the data's coding, "bits" or "spins".
        layout: the constructor's arguments, from the number of visible units, the number of hidden
            units and the (rows, columns) of an image.
        min_hidden: smallest number of hidden units.
        max_hidden: largest number of hidden units; None is any.
        on_images: whether the data must be images.
    """

    kind: str
    about: str
    coding: Coding
    layout: Layout
    min_hidden: int = 0
    max_hidden: int | None = None
    on_images: bool = False

    @property
    def model_class(self) -> Any:
        """The class, a kind of `EnergyModel` whose constructor takes a `generator` too."""
        return getattr(importlib.import_module("qsample.models"), self.kind)


def _rbm(visible: int, hidden: int, image_shape: Sequence[int]) -> dict[str, Any]:
    return {"n_visible": visible, "n_hidden": hidden}


def _complete(visible: int, hidden: int, image_shape: Sequence[int]) -> dict[str, Any]:
    total = visible + hidden
    return {"graph": Graph.complete(total), "hidden": range(visible, total)}


def _grid(visible: int, hidden: int, image_shape: Sequence[int]) -> dict[str, Any]:
    rows, columns = image_shape
    if rows * columns != visible:
        raise ValueError(f"expected images of {visible} bits; got {rows} rows of {columns}")
    return {"graph": open_grid(rows, columns)}


MODELS: dict[str, Entry] = {
    "rbm": Entry("BernoulliRBM", "restricted Boltzmann machine", "bits", _rbm, min_hidden=1),
    "boltzmann": Entry("BoltzmannMachine", "every unit coupled to every other", "spins", _complete),
    "grid": Entry(
        "BoltzmannMachine",
        "visible spins on the data's own grid",
        "spins",
        _grid,
        max_hidden=0,
        on_images=True,
    ),
}


def entry_of(name: str) -> Entry:
    """The entry of that name; ValueError for an unknown one, with all names."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; expected one of {', '.join(MODELS)}")
    return MODELS[name]


def new_model(
    name: str,
    visible: int,
    hidden: int,
    image_shape: Sequence[int] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> EnergyModel:
    """An untrained model of that name for data of a given width.

    Args:
        name: a name of `MODELS`.
        visible: number of visible units.
        hidden: number of hidden units.
        image_shape: (rows, columns) of an image; None where the data are no images.
        generator: draws the initial weights; None is torch's default.

    Raises:
        ValueError: an unknown name, a number of hidden units that the model cannot have, or data
            that are no images for a model on their grid.
    """
    entry = entry_of(name)
    if entry.on_images and image_shape is None:
        raise ValueError(f"the data have no rows and columns, which model {name} needs")
    check_hidden(name, hidden)
    arguments = entry.layout(visible, hidden, image_shape or ())
    return entry.model_class(**arguments, generator=generator)


def check_hidden(name: str, hidden: int) -> None:
    """ValueError for a number of hidden units that the model of that name cannot have."""
    entry = entry_of(name)
    if hidden < entry.min_hidden:
        raise ValueError(f"expected hidden >= {entry.min_hidden} for model {name}; got {hidden}")
    if entry.max_hidden is not None and hidden > entry.max_hidden:
        raise ValueError(f"expected hidden <= {entry.max_hidden} for model {name}; got {hidden}")


# ---- what a checkpoint says of its model ----------------


def architecture(model: EnergyModel) -> dict[str, Any] | None:
    """The registry's name of a model and its constructor's arguments, as a checkpoint stores them.

    None for a model that no name stands for: a class that is not in `MODELS`, parameters that are
    made by others (pruning, `parametrize`), labels that are no numbers and strings.
    """
    kind = own_class(model)
    names = [name for name, entry in MODELS.items() if entry.kind == kind.__name__]
    if not names or MODELS[names[0]].model_class is not kind:
        return None
    if {name for name, _ in model.named_parameters()} != set(model.names):
        return None
    if not has_plain_labels(model.graph):
        return None
    arguments: dict[str, Any] = model.arguments()  # pyright: ignore[reportAssignmentType, reportCallIssue]
    return {"name": names[0], "arguments": {key: stored(arguments[key]) for key in arguments}}


def rebuilt(record: Mapping[str, Any], max_units: int) -> EnergyModel:
    """The untrained model that a checkpoint's `architecture` describes.

    Args:
        record: what `architecture` returned; a file may come from anyone.
        max_units: number of units that the model has at most, checked before it is made.

    Raises:
        ValueError: an unknown name, more units, or arguments that its class refuses.
    """
    return made(entry_of(record["name"]).model_class, record["arguments"], max_units)


def made(kind: Any, arguments: Mapping[str, Any], max_units: int) -> Any:
    """An untrained model of a class; torch's default generator stays as it is.

    Args:
        kind: the class.
        arguments: what its constructor takes, as `stored` made it.
        max_units: number of units that the model has at most, checked before it is made.

    Raises:
        ValueError: more units, or arguments that the class refuses.
    """
    arguments = {key: _restored(value) for key, value in arguments.items()}
    for value in arguments.values():
        units = value.num_spins if isinstance(value, Graph) else value
        if isinstance(units, int) and units > max_units:
            raise ValueError(f"it has {max_units} units, not {units}")
    try:
        with torch.random.fork_rng(devices=[]):  # the weights are loaded later
            return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{kind.__name__} is made otherwise: {error}") from None


def architecture_of_weights(identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `architecture` that weights alone tell; None where they do not tell all.

    Checkpoints of before hold no `architecture`, but the identity that travels with weights has the
    sizes of a `BernoulliRBM`.

    Args:
        identity: the record in the weights' `_extra_state`.
    """
    sizes = identity.get("sizes")
    if identity.get("model") != "BernoulliRBM" or not isinstance(sizes, list) or len(sizes) != 2:
        return None
    return {"name": "rbm", "arguments": {"n_visible": sizes[0], "n_hidden": sizes[1]}}


def has_plain_labels(graph: Graph) -> bool:
    """Whether files can hold the labels of a graph."""
    return isinstance(graph.labels, range) or _plain(list(graph.labels))


def _plain(value: Any) -> bool:
    """Whether a checkpoint can store a label: numbers, strings, tuples and lists of them."""
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    return type(value) in (int, float, str)


def stored(value: Any) -> Any:
    """An argument as a checkpoint stores it: a graph as a dict of its parts."""
    if not isinstance(value, Graph):
        return value
    parts: dict[str, Any] = {"kind": value.kind, "sizes": list(value.sizes)}
    if value.kind == "sparse":
        parts["edges"] = value.edges.T.to(torch.int32)
    if not isinstance(value.labels, range):
        parts["labels"] = list(value.labels)
    return {"graph": parts}


def _restored(value: Any) -> Any:
    """An argument from what `stored` made of it."""
    if not isinstance(value, dict):
        return value
    parts = value["graph"]
    labels = parts.get("labels")
    if parts["kind"] == "bipartite":
        left, right = parts["sizes"]
        return Graph.bipartite(left, right, labels)
    (total,) = parts["sizes"]
    if parts["kind"] == "sparse":
        return Graph.sparse(total, parts["edges"], labels)
    if parts["kind"] == "complete":
        return Graph.complete(total, labels)
    raise ValueError(f"unknown kind of graph {parts['kind']!r}")
