"""Where on the chip a graph goes: an embedding, one chain for each variable in each copy.

It is searched for once and kept on disk, and so the same for every step of a training run. The
chains of one copy come from `chains.py`; here they are repeated over the chip.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qsample.annealers.dwave.chip.chains import (
    Chains,
    capacity,
    chains_in,
    check_counts,
    check_template,
    described,
    fewest_qubits,
)
from qsample.annealers.dwave.chip.chip import Chip
from qsample.annealers.dwave.chip.placement import Embedding, Placement
from qsample.problem.graph import Graph
from qsample.support.files import write_whole

FORMAT = 2  # of the files


def place(
    graph: Graph,
    chip: Chip,
    *,
    copies: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    timeout: float | int = 60,
) -> Placement:
    """A placement of `graph` on `chip`, by an embedding that is searched for where it is not known.

    It is computed once for a graph object, and once for all where there is a `cache`.

    A graph whose labels are qubits and whose edges are couplers stays where it is. Any other is
    searched for in tiles of growing size, then on the whole chip: without chains, by the templates
    of complete and bipartite graphs, by minorminer's heuristic, whichever has the shortest chains.
    The chains of one copy are repeated over the chip by the symmetries of its lattice, around
    defects. Seed and versions being equal, so is the result, unless a search ran out of time: the
    file makes it so.

    Args:
        graph: the problem's graph.
        chip: the solver's chip.
        copies: number of copies on disjoint qubits. Default: as many as fit.
        seed: seed of the searches.
        cache: folder of embeddings, made if missing; a file's name has the hashes of graph and
            chip. Default: nothing is kept.
        timeout: seconds for the search.

    Raises:
        ValueError: the graph is too large for the chip (before any search, if that can be counted),
            no embedding was found in time, fewer than `copies` fit, or the cached file holds an
            embedding of another graph or chip.
        OSError: the embedding cannot be written to the cache.
    """
    if copies is not None and copies < 1:
        raise ValueError(f"expected copies >= 1 or None; got {copies}")
    if not timeout > 0:
        raise ValueError(f"expected timeout > 0 seconds; got {timeout:g}")
    if not graph.num_spins:
        raise ValueError("a graph without spins has no place on a chip")
    key = ("placement", chip.hash, copies, seed, cache)
    return graph.cached(key, lambda: _place(graph, chip, copies, seed, cache, timeout))


def _place(
    graph: Graph,
    chip: Chip,
    copies: int | None,
    seed: int,
    cache: Path | None,
    timeout: float | int,
) -> Placement:
    native = own_qubits(graph, chip)
    if native is not None:
        embedding = repeated(graph, chip, native, chip, copies)
        return Placement.of(graph, chip, _enough(graph, chip, embedding, copies))
    if cache is None:
        return Placement.of(graph, chip, find_embedding(graph, chip, copies, seed, timeout))
    path = cache / f"{graph.hash[:16]}-{chip.hash[:16]}-{copies or 'all'}-{seed}.json"
    head = {
        "format": FORMAT,
        "graph": graph.hash,
        "chip": chip.hash,
        "copies": copies,
        "seed": seed,
    }
    placement = _load(path, head, graph, chip)
    if placement is None:
        embedding = find_embedding(graph, chip, copies, seed, timeout)
        placement = Placement.of(graph, chip, embedding)
        _save(path, head | {"chains": placement.chains})
    return placement


def own_qubits(graph: Graph, chip: Chip) -> Chains | None:
    """The labels as chains, if they are qubits of the chip and the edges couplers; else None."""
    for label in graph.labels:
        if not isinstance(label, int | np.integer) or isinstance(label, bool):
            return None
    labels = np.array(graph.labels, dtype=np.int64)
    if not np.isin(labels, chip.nodes).all():
        return None
    if not chip.coupled(labels[graph.edges.numpy().T]).all():
        return None
    return tuple((int(qubit),) for qubit in labels)


def find_embedding(
    graph: Graph, chip: Chip, copies: int | None, seed: int, timeout: float | int
) -> Embedding:
    """Chains by copy and variable, searched for.

    Args:
        graph: the problem's graph.
        chip: the solver's chip.
        copies: number of copies; None is as many as fit.
        seed: seed of the searches.
        timeout: seconds for the search; half of them for tiles.

    Raises:
        ValueError: no chains were found, or fewer copies fit.
    """
    check_counts(graph, chip)
    start = time.monotonic()
    needed = copies or 1

    # in tiles of growing size: the smallest with the shortest chains has the most copies
    best: Embedding = ()
    largest: Embedding = ()  # of as many copies as any tile gave, where they were too few
    for region in _tiles(graph, chip):
        if time.monotonic() - start > timeout / 2:
            break
        chains = chains_in(graph, region, seed, start + timeout / 2)
        embedding = repeated(graph, region, chains, chip, copies) if chains else ()
        largest = max(largest, embedding, key=len)
        if len(embedding) < needed:
            continue
        if not best or longest(embedding) < longest(best):
            best = embedding
        if embedding is not best or longest(best) == 1:
            break  # as good as it gets: larger tiles have no shorter chains, and fewer copies
    if best:
        return best

    # on the whole chip, with all the time that is left
    check_template(graph, chip)
    chains = chains_in(graph, chip, seed, start + timeout, last=True)
    if chains is None:
        hint = "raise timeout, change seed or use a smaller model"
        raise ValueError(
            f"found no place for {described(graph)} in {timeout:g} s; {capacity(graph, chip)}: "
            f"{hint}"
        )
    embedding = repeated(graph, chip, chains, chip, copies)
    return _enough(graph, chip, max(embedding, largest, key=len), copies)


def longest(embedding: Embedding) -> int:
    """Number of qubits of the longest chain; all copies are alike."""
    return max(map(len, embedding[0]))


def _tiles(graph: Graph, chip: Chip) -> Iterator[Chip]:
    """Perfect tiles of growing size, up to half the chip: larger ones fit once."""
    if chip.lattice is None:
        return
    smallest = 2 if chip.topology == "pegasus" else 1
    for size in range(smallest, chip.lattice.rows // 2 + 1):
        tile = chip.tile(size)
        if len(tile.nodelist) >= fewest_qubits(graph, tile)[1]:
            yield tile


def repeated(
    graph: Graph, region: Chip, chains: Chains, chip: Chip, copies: int | None
) -> Embedding:
    """The chains of one copy in `region`, moved onto disjoint qubits of `chip`.

    Greedy in the order of `Lattice.moves`. Every coupler within a chain must work where the copy
    lands, and at least one for each pair of coupled chains.

    Args:
        graph: the problem's graph.
        region: the chip, or a perfect tile of its family, in which the chains lie.
        chains: a chain of qubits of the region for each variable.
        chip: the chip that they are moved onto.
        copies: largest number of copies; None is as many as fit.
    """
    if region.lattice is None or chip.lattice is None:
        return (chains,)
    origin = Placement.of(graph, region, (chains,))
    ends = origin.edges.numpy()
    between = len(origin._edge)  # couplers between chains come first, those within after them
    free = np.zeros(chip.span, dtype=bool)
    free[chip.nodes] = True
    embedding = []
    for qubits in chip.lattice.moves(region.lattice.coordinates(np.array(origin.qubits))):
        if copies is not None and len(embedding) == copies or free.sum() < len(qubits):
            break
        if qubits.max() >= chip.span or not free[qubits].all():
            continue
        works = chip.coupled(qubits[ends])
        serving = origin._edge.numpy()[works[:between]]
        served = np.bincount(serving, minlength=graph.num_edges)
        if works[between:].all() and served.all():
            free[qubits] = False
            moved = dict(zip(origin.qubits, qubits.tolist(), strict=True))
            embedding.append(tuple(tuple(moved[qubit] for qubit in chain) for chain in chains))
    return tuple(embedding)


def _enough(graph: Graph, chip: Chip, embedding: Embedding, copies: int | None) -> Embedding:
    """The embedding; a ValueError where it has fewer copies than were asked for."""
    if len(embedding) < (copies or 1):
        what = f"{len(embedding)} copies of {described(graph)} fit on {chip.name}"
        raise ValueError(f"{what}; got copies={copies}: ask for fewer, or None for as many as fit")
    return embedding


# ---- files ----------------


def _load(path: Path, head: dict[str, Any], graph: Graph, chip: Chip) -> Placement | None:
    """The placement in a file; None where there is no file.

    One that cannot be read, or was changed, is None with a warning; one of another graph or chip a
    ValueError.

    Args:
        path: the file.
        head: what it must say that it is for.
        graph: the problem's graph.
        chip: the solver's chip.
    """
    try:
        stored = json.loads(path.read_text())
        digest = stored.pop("sha256", None)
        if digest != _digest(stored):
            raise ValueError("its SHA-256 is not that of its contents")
        embedding = tuple(
            tuple(tuple(map(int, chain)) for chain in copy) for copy in stored["chains"]
        )
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']} instead of {FORMAT}")
        other = [name for name, value in head.items() if stored[name] != value]
        if not other:
            return Placement.of(graph, chip, embedding)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OSError) as error:
        warnings.warn(
            f"the embedding in {path} cannot be read and is made anew ({error})", stacklevel=6
        )
        return None
    raise ValueError(
        f"{path} holds an embedding of another {other[0]} ({stored[other[0]]}): delete it"
    )


def _save(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all, with the SHA-256 of what it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(content))
    write_whole(path, json.dumps(plain | {"sha256": _digest(plain)}).encode())


def _digest(content: dict[str, Any]) -> str:
    """SHA-256 of what a file holds, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
