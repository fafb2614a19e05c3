"""Where on the chip a problem's graph goes: found once, kept on disk, the same for every step of a training run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qsample.annealers.dwave.chip import minors
from qsample.annealers.dwave.chip.chip import Chip
from qsample.annealers.dwave.chip.placement import Chains, Placement
from qsample.problem.graph import Graph

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
    """A place for `graph` on `chip`; computed once for a graph object, and once for all where there is a `cache`.

    A graph whose labels are qubits and whose edges are couplers stays where it is. Any other is searched for in tiles
    of growing size, then on the whole chip: without chains, by the templates of complete and bipartite graphs, by
    minorminer's heuristic, whichever has the shortest chains. What is found is repeated over the chip by the
    symmetries of its lattice, around defects. Seed and versions being equal, so is the result, unless a search ran
    out of time: the file makes it so.

    Args:
        graph: the problem's.
        chip: the solver's.
        copies: on disjoint qubits. Default: as many as fit.
        seed: of the searches.
        cache: a folder for embeddings, made if missing; a file's name has the hashes of graph and chip.
        timeout: seconds for the search.

    Raises:
        ValueError: the graph is too large for the chip (before any search, if that can be counted), no embedding was
            found in time, fewer than `copies` fit, or the cached file holds an embedding of another graph or chip.
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
    graph: Graph, chip: Chip, copies: int | None, seed: int, cache: Path | None, timeout: float | int
) -> Placement:
    native = own_qubits(graph, chip)
    if native is not None:
        return Placement.of(graph, chip, _enough(graph, chip, tiled(graph, chip, native, chip, copies), copies))
    if cache is None:
        return Placement.of(graph, chip, find(graph, chip, copies, seed, timeout))
    path = cache / f"{graph.hash[:16]}-{chip.hash[:16]}-{copies or 'all'}-{seed}.json"
    head = {"format": FORMAT, "graph": graph.hash, "chip": chip.hash, "copies": copies, "seed": seed}
    known = _load(path, head, graph, chip)
    if known is None:
        known = Placement.of(graph, chip, find(graph, chip, copies, seed, timeout))
        _save(path, head | {"chains": known.chains})
    return known


def own_qubits(graph: Graph, chip: Chip) -> tuple[tuple[int, ...], ...] | None:
    """The labels as chains, if they are qubits of the chip and the edges couplers; else None."""
    if not all(isinstance(label, int | np.integer) and not isinstance(label, bool) for label in graph.labels):
        return None
    labels = np.array(graph.labels, dtype=np.int64)
    if not np.isin(labels, chip.nodes).all() or not chip.coupled(labels[graph.edges.numpy().T]).all():
        return None
    return tuple((int(q),) for q in labels)


def find(graph: Graph, chip: Chip, copies: int | None, seed: int, timeout: float | int) -> Chains:
    """Chains by copy and variable, searched for; ValueError where there are none."""
    minors.check_counts(graph, chip)
    start, wanted, best, most = time.monotonic(), copies or 1, (), ()
    for region in _tiles(graph, chip):
        if time.monotonic() - start > timeout / 2:
            break
        one = minors.chains_in(graph, region, seed, start + timeout / 2)
        found = tiled(graph, region, one, chip, copies) if one else ()
        most = max(most, found, key=len)
        if len(found) < wanted:
            continue
        if not best or longest(found) < longest(best):
            best = found
        if found is not best or longest(best) == 1:
            break  # as good as it gets: larger tiles have no shorter chains, and fewer copies
    if best:
        return best
    minors.check_template(graph, chip)
    one = minors.chains_in(graph, chip, seed, start + timeout, last=True)
    if one is None:
        held = minors.capacity(graph, chip)
        hint = "raise timeout, change seed or use a smaller model"
        raise ValueError(f"found no place for {minors.described(graph)} in {timeout:g} s; {held}: {hint}")
    return _enough(graph, chip, max(tiled(graph, chip, one, chip, copies), most, key=len), copies)


def longest(chains: Chains) -> int:
    """Qubits of the longest chain; all copies are alike."""
    return max(map(len, chains[0]))


def _tiles(graph: Graph, chip: Chip) -> Iterator[Chip]:
    """Perfect tiles of growing size, up to half the chip: larger ones fit once."""
    if chip.lattice is None:
        return
    for size in range(2 if chip.topology == "pegasus" else 1, chip.lattice.rows // 2 + 1):
        tile = chip.tile(size)
        if len(tile.nodelist) >= minors.fewest_qubits(graph, tile)[1]:
            yield tile


def tiled(graph: Graph, region: Chip, one: tuple[tuple[int, ...], ...], chip: Chip, copies: int | None) -> Chains:
    """At most `copies` disjoint moves of the chains `one`, found in `region`, onto the qubits and couplers of `chip`.

    Greedy in the order of `Lattice.moves`. Every coupler within a chain must work where the copy lands, and at
    least one for each pair of coupled chains.
    """
    if region.lattice is None or chip.lattice is None:
        return (one,)
    start = Placement.of(graph, region, (one,))
    number, ends, used = graph.num_edges, start.edges.numpy(), len(start._edge)
    free = np.zeros(chip.span, dtype=bool)
    free[chip.nodes] = True
    at, found = region.lattice.coordinates(np.array(start.qubits)), []
    for qubits in chip.lattice.moves(at):
        if copies is not None and len(found) == copies or free.sum() < len(qubits):
            break
        if qubits.max() >= chip.span or not free[qubits].all():
            continue
        works = chip.coupled(qubits[ends])
        served = np.bincount(start._edge.numpy()[works[:used]], minlength=number)
        if works[used:].all() and served.all():
            free[qubits] = False
            of = dict(zip(start.qubits, qubits.tolist(), strict=True))
            found.append(tuple(tuple(of[q] for q in chain) for chain in one))
    return tuple(found)


def _enough(graph: Graph, chip: Chip, found: Chains, copies: int | None) -> Chains:
    if len(found) < (copies or 1):
        what = f"{len(found)} copies of {minors.described(graph)} fit on {chip.name}"
        raise ValueError(f"{what}; got copies={copies}: ask for fewer, or None for as many as fit")
    return found


# ---- files -------------------------------------------------------------------------------------------------------


def _load(path: Path, head: dict, graph: Graph, chip: Chip) -> Placement | None:
    """The placement in a file; None where there is no file or, with a warning, none that can be read."""
    try:
        stored = json.loads(path.read_text())
        said = stored.pop("sha256", None)
        if said != _digest(stored):
            raise ValueError("its SHA-256 is not that of its contents")
        chains = tuple(tuple(tuple(map(int, chain)) for chain in copy) for copy in stored["chains"])
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']} instead of {FORMAT}")
        other = [name for name, value in head.items() if stored[name] != value]
        if not other:
            return Placement.of(graph, chip, chains)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OSError) as error:
        warnings.warn(f"the embedding in {path} cannot be read and is made anew ({error})", stacklevel=6)
        return None
    raise ValueError(f"{path} holds an embedding of another {other[0]} ({stored[other[0]]}): delete it")


def _save(path: Path, content: dict) -> None:
    """All or nothing: a temporary file beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            plain = json.loads(json.dumps(content))
            json.dump(plain | {"sha256": _digest(plain)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _digest(content: dict) -> str:
    """SHA-256 of what a file holds."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
