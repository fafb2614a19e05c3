r"""An RBM whose weights are spread over ranks by hidden units, with the draws of one process.

W lies as a `DTensor` of placements `Shard(1)`, c as `Shard(0)`, and b on every rank; so torch's
optimisers and `torch.distributed.checkpoint` know what to do with them. A sweep of a rank's chains
is $f = c + v W$ of its own columns, hidden units by their numbers among all, and $b + h W^\top$,
which is one sum over ranks of chains x visible units (`learning.columns`: of whole numbers, so
exact). Chains are moved in two halves, so that the sum of one is on its way while the other half is
computed. On a mesh of two dimensions chains are spread over the other one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from qsample.annealers.gibbs import Gibbs
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import is_full
from qsample.learning.columns import Columns, Place
from qsample.learning.distributed import ALONE, Ranks, Summed, everyone, gathered, join
from qsample.learning.exact_sums import whole_sums
from qsample.learning.memory import check_room
from qsample.models.rbm.bernoulli import BernoulliRBM
from qsample.sampling.random import draw_seed, mix
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import Exactness, Samples
from qsample.support.transforms import uncompiled

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

CPU = torch.device("cpu")
HALVES = 2  # of the chains, one computed while the other is exchanged


# ---- weights that are spread ----------------


def shard_hidden(
    model: BernoulliRBM,
    mesh: DeviceMesh | None = None,
    *,
    scale: float = 0.4,
    generator: torch.Generator | None = None,
) -> BernoulliRBM:
    """Spread a model's weights over ranks by hidden units, in place; every rank calls it.

    A model on the meta device, which takes no memory, gets initial weights: each column of W from a
    stream of its own, so that they do not depend on the number of ranks. The weights of any other
    model are those of the mesh's first rank.

    Args:
        model: a model of float32, whole, or on the meta device.
        mesh: ranks, of one dimension; or of two, of which the first spreads chains and the second
            hidden units. None is one dimension of all ranks.
        scale: standard deviation of initial weights, as in `BernoulliRBM`.
        generator: draws one seed of them, of which that of the first rank counts; None is torch's
            default.

    Returns:
        The model.

    Raises:
        ValueError: hidden units that do not divide; a mesh of other ranks than there are.
        TypeError: another kind of model.
        MemoryError: this rank's weights and their gradient will not fit.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard

    if not _can_be_spread(model):
        kind = type(model).__name__
        raise TypeError(
            f"expected a BernoulliRBM of float32, on the CPU or meta, that is whole; got {kind}"
        )
    _meet()
    size = everyone().size
    mesh = init_device_mesh("cpu", (size,), mesh_dim_names=("hidden",)) if mesh is None else mesh
    if mesh.size() != size or mesh.ndim > 2:
        raise ValueError(
            f"expected a mesh of one or two dimensions over all {size} ranks; got "
            f"{list(mesh.shape)}"
        )
    ranks = _along(mesh, mesh.ndim - 1)
    n, m = model.W.shape
    if m % ranks.size:
        raise ValueError(
            f"{m} hidden units do not divide over {ranks.size} ranks: use a multiple of "
            f"{ranks.size}"
        )
    each = m // ranks.size
    columns = slice(ranks.rank * each, (ranks.rank + 1) * each)
    parts = {"weights": 4 * n * each, "gradient": 4 * n * each}
    check_room(f"an RBM of {n} x {m} with {each} hidden units per rank", parts, CPU)
    W, b, c = _initial(model, columns, scale, generator)
    if not model.W.is_meta:
        for weight in (W, b, c):
            torch.distributed.broadcast(weight, 0)
        W, c = W[:, columns].clone(), c[columns].clone()
    for name, own, placement in (("W", W, Shard(1)), ("b", b, Replicate()), ("c", c, Shard(0))):
        placements = [*[Replicate()] * (mesh.ndim - 1), placement]
        spread = DTensor.from_local(own, mesh, placements, run_check=False)
        learns = getattr(model, name).requires_grad
        setattr(model, name, nn.Parameter(spread, requires_grad=learns))
    return model


def _can_be_spread(model: Any) -> bool:
    """Whether these are weights of the right kind, which are not spread yet."""
    if not isinstance(model, BernoulliRBM) or is_sharded(model):
        return False
    return model.W.dtype == torch.float32 and model.W.device.type in ("cpu", "meta")


def whole_model(model: BernoulliRBM) -> BernoulliRBM:
    """An ordinary model of the weights of all ranks, on every rank; every rank calls it."""
    W, b, c = (weight.detach() for weight in (model.W, model.b, model.c))
    if is_sharded(model):
        W, b, c = (weight.full_tensor() for weight in (W, b, c))  # pyright: ignore
    return BernoulliRBM.from_arrays(W, b, c, orientation="visible-hidden")


def is_sharded(model: Any) -> TypeGuard[BernoulliRBM]:
    """Whether the model's weights are spread over ranks."""
    if "torch.distributed.tensor" not in sys.modules or not isinstance(model, BernoulliRBM):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(model.W, DTensor)


def check_whole(model: Any, what: str) -> None:
    """A ValueError for weights that are spread over ranks, where all are needed."""
    if is_sharded(model):
        raise ValueError(
            f"{what} is for weights on one rank, and these are spread over ranks: use "
            "ContrastiveDivergence(model, Gibbs(...), exact_sums=True) in a loop, or whole_model"
        )


@uncompiled
def place_of(model: BernoulliRBM) -> Place:
    """This rank's place in the model's mesh; of a whole model chains alone are spread."""
    if not is_sharded(model):
        return Place(everyone())
    W: Any = model.W
    mesh = W.device_mesh
    at = [placement.is_shard(1) for placement in W.placements]
    if sum(at) != 1 or not all(p.is_shard(1) or p.is_replicate() for p in W.placements):
        raise ValueError(
            f"expected W of placements Shard(1) in one dimension of its mesh; got {W.placements}: "
            "use shard_hidden(model, mesh)"
        )
    axis = at.index(True)
    hidden = _along(mesh, axis)
    chains = _along(mesh, 1 - axis) if mesh.ndim == 2 else ALONE
    total = W.shape[1]
    return Place(chains, hidden, hidden.rank * (total // hidden.size), total)


def local(weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """This rank's part of the weights, whose gradient is theirs."""
    return tuple(weight.to_local() for weight in weights)  # pyright: ignore


def _along(mesh: DeviceMesh, axis: int) -> Ranks:
    """The ranks along one dimension."""
    size = mesh.size(axis)
    return Ranks(mesh.get_local_rank(axis), size, mesh.get_group(axis) if size > 1 else None)


def _meet() -> None:
    """One of several processes meets the others; one that is alone itself, for torch's meshes."""
    join()
    if not torch.distributed.is_initialized():
        store: Any = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)


def _initial(
    model: BernoulliRBM, columns: slice, scale: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The weights as they are; on the meta device this rank's columns of new ones."""
    W, b, c = (weight.detach() for weight in (model.W, model.b, model.c))
    if not W.is_meta:
        return W.contiguous().clone(), b.clone(), c.clone()
    n, m = W.shape
    drawn = torch.tensor(draw_seed(generator))
    torch.distributed.broadcast(drawn, 0)
    seed = int(drawn)
    std = scale / (n * m) ** 0.25
    W = torch.empty(n, columns.stop - columns.start, device="cpu")
    stream = torch.Generator()
    for k, number in enumerate(range(columns.start, columns.stop)):
        W[:, k] = torch.randn(n, generator=stream.manual_seed(mix(seed, number)), device="cpu")
    zeros = torch.zeros(n, device="cpu"), torch.zeros(W.shape[1], device="cpu")
    return W.mul_(std), *zeros


# ---- chains ----------------


def check_served(sampler: Sampler, centred: bool) -> None:
    """A ValueError for chains that are not drawn over spread weights."""
    plain = (
        type(sampler) is Gibbs
        and sampler.scan == "forward"
        and is_full(sampler.precision)
        and sampler.betas is None
        and sampler.time_limit is None
    )
    if not plain:
        raise ValueError(
            "weights that are spread over ranks are for Gibbs(sweeps), forward and without betas "
            f"or a time limit; got {sampler}"
        )
    if centred:
        raise ValueError("centred=True is for weights on one rank: leave it out")


def check_memory(W: Tensor, rows: int, chains: int) -> None:
    """A MemoryError, before anything is allocated, where a step will not fit.

    Args:
        W: this rank's columns.
        rows: its rows of data.
        chains: its chains.
    """
    n, m = W.shape
    groups = 1 if rows == chains else 2
    parts = {
        "statistics": 4 * groups * n * m,
        "gradient": 4 * n * m,
        "chains": 4 * (rows + chains) * (4 * n + 5 * m),
    }
    check_room(f"a step of an RBM with {n} x {m} weights on this rank", parts, CPU)


def chains(
    weights: tuple[Tensor, ...],
    sampler: Gibbs,
    visible: Tensor | None,
    num: int,
    seed: int,
    columns: Columns,
    fields: Tensor | None,
    first_replica: int,
) -> Samples:
    """Reads of this rank's chains after the sampler's sweeps, with the hidden units of all ranks.

    Args:
        weights: this rank's W, b and c.
        sampler: block Gibbs.
        visible: visible units `[num, n_visible]` to start from, of 0 and 1; None for random ones.
        num: chains.
        seed: of all draws.
        columns: products with W.
        fields: this rank's hidden units' fields given `visible`, where they are known.
        first_replica: number of the first chain.
    """
    _, b, c = (weight.detach() for weight in weights)
    if visible is None:
        streams = Streams([seed], CPU)
        streams.position = first_replica * len(b)
        visible = (streams.spins(num, len(b))[0] > 0).to(torch.float32)
    size = -(-num // HALVES)
    halves = []
    for first in range(0, num, size):
        some = slice(first, first + size)
        known = None if fields is None else fields[some]
        halves.append(_Half(visible[some], known, seed, first_replica + first))
    for sweep in range(int(sampler.sweeps)):
        for half in halves:
            if sweep:
                half.draw_visible(columns, b)
            half.draw_hidden(columns, c)
    for half in halves:
        half.draw_visible(columns, b)
    own = torch.cat([half.h for half in halves])
    pull = torch.cat([half.pull for half in halves])
    v = torch.cat([half.v for half in halves])
    # E = -v.(W h + b) - c.h, and pull is the bracket
    energy = -whole_sums(v * pull)
    energy -= Summed(whole_sums(own * c), columns.place.hidden).wait()
    parts = gathered(own.to(torch.int8)[None], columns.place.hidden)
    h = parts.transpose(0, 1).reshape(num, -1)
    spins = torch.cat([v.to(torch.int8), h], -1).mul_(2).sub_(1)
    info: dict[str, Any] = {"sweeps": int(sampler.sweeps)}
    return Samples(spins, energy.to(torch.float32), None, Exactness.ASYMPTOTIC, info)


class _Half:
    """Some of the chains: their units, and a sum over ranks that is on its way.

    Args:
        v: visible units.
        fields: hidden units' fields given them, where they are known.
        seed: of all draws.
        first_replica: number of the first of these chains.
    """

    def __init__(self, v: Tensor, fields: Tensor | None, seed: int, first_replica: int) -> None:
        self.v = v
        self.h = v
        self.pull = v
        self._fields = fields
        self._seed = seed
        self._first_replica = first_replica
        self._passes = 0
        self._product = Summed(v, ALONE)

    def draw_hidden(self, columns: Columns, c: Tensor) -> None:
        """This rank's hidden units; their pull on the visible ones is then on its way."""
        known, self._fields = self._fields, None
        fields = columns.from_left(self.v) + c if known is None else known
        self.h = self._bits(fields, columns.W.shape[0] + columns.place.first)
        self._product = columns.from_right(self.h)

    def draw_visible(self, columns: Columns, b: Tensor) -> None:
        """The visible units, on each rank all of them."""
        self.pull = columns.values(self._product.wait()).add_(b)
        self.v = self._bits(self.pull, 0)

    def _bits(self, fields: Tensor, first: int) -> Tensor:
        """0 and 1 by log-odds; `first` is the number of the first unit among all spins."""
        from qsample.annealers._engine import draw_bits

        out = torch.empty_like(fields)
        draw_bits(
            fields.numpy(),
            out.numpy(),
            np.zeros((1, fields.shape[1]), dtype=np.float32),
            np.ones(1, dtype=np.float32),
            np.array([self._seed], dtype=np.int64),
            self._passes,
            first,
            metropolis=False,
            first_replica=self._first_replica,
            threads=torch.get_num_threads(),
        )
        self._passes += 1
        return out
