r"""Statistics of an RBM as exact sums, which do not depend on the processes that add them up.

A sum of floats depends on its order. Here every term of one is a whole number of a unit: units of
the data and of the reads are 0 or 1, and hidden units' probabilities are rounded to multiples of
$2^{-(24 - \lceil\log_2 K\rceil)}$, K being the rows of data or the chains, whichever are more. So
sums of K terms have 24 bits at most, and are exact in any order. Beyond 1024 the unit stays that of
512 terms, $2^{-15}$, which are added in single precision, and their sums in double. Rounding moves
a probability by half a unit, $2^{-16}$ at 512 chains, which is far below the noise of a gradient.

The fields behind the probabilities are `Products`, a row at a time as it were, and chains
draw numbers of their own. So chains, gradient and loss are the same on any number of ranks, bit for
bit, if all processes run the same build of torch on processors of one kind. Functions of a number
are taken so that its neighbours do not matter (`one_by_one`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qsample.annealers.gibbs import Gibbs
from qsample.learning.columns import Columns, Place
from qsample.learning.distributed import Summed, add_over_ranks
from qsample.learning.products import Products
from qsample.models.rbm.bernoulli import BernoulliRBM
from qsample.sampling.sampler import Sampler
from qsample.support.one_by_one import one_by_one
from qsample.support.transforms import uncompiled

if TYPE_CHECKING:
    from qsample.models import EnergyModel

FEW = 1024  # terms that single precision adds up by itself
TOGETHER = 512  # terms of a block, where they are more


class Counts(NamedTuple):
    """Rows of data and chains, of all ranks together."""

    rows: int
    chains: int

    @property
    def unit(self) -> float:
        """What probabilities are multiples of."""
        most = max(self)
        terms = most if most <= FEW else TOGETHER
        return 2.0 ** (math.ceil(math.log2(terms)) - 24)


class Terms(NamedTuple):
    """What one rank adds to a loss.

    Args:
        data: its rows `[N / ranks, n]`.
        reads: visible units of its reads, of 0 and 1, `[R / ranks, n]`.
        field: fields of its hidden units given these rows, `[N / ranks, m]`.
        counts: N and R.
        products: products with its W.
        place: ranks that add up.
        told: free energies of the rows and of the reads of all ranks, by those of this one.
    """

    data: Tensor
    reads: Tensor
    field: Tensor
    counts: Counts
    products: Products | Columns
    place: Place
    told: Callable[[Tensor], tuple[Tensor, Tensor]]


def check_served(model: EnergyModel, sampler: Sampler, start: str) -> None:
    """A ValueError for what has no exact sums, or does not number its replicas.

    Args:
        model: any model.
        sampler: sampler of its chains.
        start: where they begin, a `Start`.
    """
    if not isinstance(model, BernoulliRBM) or model.W.dtype != torch.float32:
        kind = type(model).__name__
        raise ValueError(
            "exact_sums is for a BernoulliRBM of float32 weights, whose hidden probabilities it "
            f"rounds; got {kind} of {next(model.parameters()).dtype}"
        )
    if type(sampler) is not Gibbs:
        raise ValueError(
            "exact_sums draws by the number of a chain among those of all ranks, which Gibbs(...) "
            f"does; got {type(sampler).__name__}"
        )
    if start == "jarzynski":
        raise ValueError(
            "exact_sums is for chains of equal weight: use start='data', 'persistent' or 'fresh'"
        )


def checksums(data: Tensor) -> dict[str, int]:
    """What tells other data from these: a number of each kind."""
    bits = data.detach().to("cpu", torch.int8).contiguous().numpy()
    return {"numbers of rows": len(data), "values of the data": zlib.crc32(bits.tobytes())}


def checksum(weights: Sequence[Tensor]) -> int:
    """What tells other weights from these."""
    total = 0
    for weight in weights:
        # some 2^17 numbers of them: their bits, whose sum has no rounding
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() >> 17)].contiguous()
        total += int(some.view(torch.int32).sum(dtype=torch.int64))
    return total


def probabilities(field: Tensor, counts: Counts) -> Tensor:
    """sigmoid(field) as whole numbers of the unit."""
    return one_by_one(torch.sigmoid, field).div_(counts.unit).round_().mul_(counts.unit)


def hidden_means(field: Tensor, counts: Counts) -> Tensor:
    """Means over the data of all ranks of the hidden units' probabilities, `[m]` float64.

    Args:
        field: hidden units' fields given this rank's rows.
        counts: rows and chains of all ranks.
    """
    total = probabilities(field, counts).sum(0, dtype=torch.float64)
    add_over_ranks(total)
    return total / counts.rows


@uncompiled
def loss(weights: Sequence[Tensor], terms: Terms) -> Tensor:
    """The loss of all ranks' data and reads; its gradient is that of all of them on every rank.

    The sum over ranks of the statistics is on its way from here on, and `backward` waits for it.

    Args:
        weights: W, b and c as they act; of W and c those of this rank.
        terms: what this rank adds.
    """
    wanted = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
    with torch.autocast(terms.data.device.type, enabled=False):
        return _Loss.apply(*weights, terms, wanted)  # type: ignore[no-any-return]


class _Loss(torch.autograd.Function):
    """Mean F of the data less that of the reads; its gradient is sums of statistics."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, W: Tensor, b: Tensor, c: Tensor, terms: Terms, wanted: bool
    ) -> Tensor:
        x = torch.cat([terms.data.to(W), terms.reads.to(W)])
        rows = len(terms.data)
        field = torch.cat([terms.field, terms.products.from_left(x[rows:]) + c])
        ctx.counts = terms.counts
        ctx.like = W.dtype
        if wanted:
            ctx.sums = _statistics(x, field, terms.counts, rows)
            ctx.sent = Summed(ctx.sums.flat, terms.place.chains)
        visible = Products(b[:, None]).from_left(x)[:, 0]
        free = -visible - hidden_energy(field, terms.place)
        of_data, of_reads = terms.told(free)
        return (of_data.mean() - of_reads.mean()).to(W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        counts: Counts = ctx.counts
        ctx.sent.wait()
        scale = float(above)
        # new tensors: a graph may be gone through twice
        grads = [part * (-scale / counts.rows) for part in ctx.sums.parts(0)]
        if counts.rows != counts.chains:
            for grad, part in zip(grads, ctx.sums.parts(1), strict=True):
                grad.add_(part, alpha=scale / counts.chains)
        return (*(grad.to(ctx.like) for grad in grads), None, None)


def hidden_energy(field: Tensor, place: Place) -> Tensor:
    r"""Sums over hidden units of $\log(1 + e^f)$, `[R]` float64.

    Args:
        field: fields of this rank's hidden units, `[R, m / ranks]`.
        place: ranks that have the others.
    """
    own = one_by_one(torch.nn.functional.softplus, field)
    if not place.total:
        return own.sum(-1, dtype=torch.float64)
    return Summed(whole_sums(own), place.hidden).wait()


def whole_sums(t: Tensor) -> Tensor:
    """Sums over the last dimension of multiples of 2^-24, exact in double precision, any order."""
    return t.double().mul_(2.0**24).round_().sum(-1).mul_(2.0**-24)


def _statistics(x: Tensor, field: Tensor, counts: Counts, rows: int) -> _Sums:
    """This rank's sums, of the rows of data and of the reads after them."""
    p = probabilities(field, counts)
    equal = counts.rows == counts.chains
    sums = _Sums(1 if equal else 2, x.shape[1], p.shape[1], counts, x.device)
    if equal:
        # of the difference: terms of both signs stay within the bits of either
        sign = torch.ones_like(x[:, :1])
        sign[rows:] = -1
        sums.add(0, x * sign, p, p * sign)
    else:
        sums.add(0, x[:rows], p[:rows], p[:rows])
        sums.add(1, x[rows:], p[rows:], p[rows:])
    return sums


class _Sums:
    """Sums over rows of x' p, x and p in one piece of memory, so that ranks exchange it at once.

    Args:
        groups: sums of each kind.
        n: visible units.
        m: hidden units.
        counts: terms of the sums, over all ranks.
        device: where they are.
    """

    def __init__(self, groups: int, n: int, m: int, counts: Counts, device: torch.device) -> None:
        self.sizes = (n * m, n, m)
        self.shapes = ((n, m), (n,), (m,))
        self.few = max(counts) <= FEW
        dtype = torch.float32 if self.few else torch.float64
        self.flat = torch.zeros(groups, sum(self.sizes), dtype=dtype, device=device)

    def parts(self, group: int) -> list[Tensor]:
        """The sums of a group: `[n, m]`, `[n]` and `[m]`, as they lie in memory."""
        pieces = self.flat[group].split(self.sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def add(self, group: int, x: Tensor, p: Tensor, alone: Tensor) -> None:
        """Add x' p, the sum of x and that of `alone`, over rows.

        Args:
            group: number of the sums.
            x: visible units, `[K, n]`.
            p: hidden units, `[K, m]`, as pairs take them.
            alone: hidden units, `[K, m]`, as their own sum takes them.
        """
        pairs, visible, hidden = self.parts(group)
        if self.few:
            torch.mm(x.T, p, out=pairs)
        else:
            for some_x, some_p in zip(x.split(TOGETHER), p.split(TOGETHER), strict=True):
                pairs += some_x.T @ some_p
        visible += x.sum(0, dtype=self.flat.dtype)
        hidden += alone.sum(0, dtype=self.flat.dtype)
