r"""A step of an RBM by products with W itself: chains and gradient.

The ordinary step makes an Ising problem of the model (J = -W/4, a copy), the native kernel lays
couplings out anew, and the loss is autograd's. This path has the same law and gradient. It is
chosen here and nowhere else: `holds` says so of a loss, `serves` of chains, `is_large` of weights
that are too many to copy at all.

CD-1 is four products here, of which none is taken twice: the field of the data, $c + v W$, draws
the first hidden units and is the positive statistics'; $h W^\top$ draws the visible ones; their
field $v' W$ is the negative statistics'; and the gradient is one product of both, stacked. On a
CPU `Products` takes each by looking sums up, so that a large step costs less than its products. On
a GPU a product of a large W takes many times as long as its launch: none is captured as a graph.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.gibbs import Gibbs
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import is_full
from qsample.learning.distributed import world
from qsample.learning.memory import check_room
from qsample.learning.products import Multiplies, Products, add_outer
from qsample.models.rbm.bernoulli import BernoulliRBM
from qsample.sampling.random import draw_seeds
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import Exactness, Samples
from qsample.support.one_by_one import one_by_one
from qsample.support.transforms import (
    is_batched_gradient,
    is_transformed,
    is_transforming,
    uncompiled,
)

if TYPE_CHECKING:
    from qsample.models import EnergyModel

LARGE = 1 << 24
"""weights, 64 MiB of them: more than caches hold, and the native kernel's tables serve no more"""
MANY = 1 << 10
"""weights from which on a CPU this path is no slower than the ordinary one"""
WIDEST = 1e30
"""biases from which on energies overflow"""
FEW_SWEEPS = 4
"""of chains: a native kernel's tables pay from more on"""


def is_large(model: EnergyModel) -> TypeGuard[BernoulliRBM]:
    """Whether these are the weights of an RBM, and too many to copy."""
    return _has(model, LARGE)


def holds(model: EnergyModel) -> TypeGuard[BernoulliRBM]:
    """Whether the loss of this model is by products with W itself.

    On a CPU also that of smaller weights, but where torch compiles it or casts its factors.
    """
    if _has(model, LARGE):
        return True
    if not _has(model, MANY):
        return False
    W = model.weights()[0]
    plain = W.device.type == "cpu" and type(W) in (Tensor, torch.nn.Parameter)
    return plain and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def serves(model: EnergyModel, sampler: Sampler, start: str) -> bool:
    """Whether chains of this sampler are drawn by products with W itself.

    Args:
        model: any model.
        sampler: sampler of its chains.
        start: where they begin, a `Start`.
    """
    return (
        type(sampler) is Gibbs
        and sampler.scan == "forward"
        and is_full(sampler.precision)
        and sampler.betas is None
        and sampler.time_limit is None
        and start != "jarzynski"
        and (is_large(model) or (sampler.sweeps <= FEW_SWEEPS and holds(model)))
        # of other devices' generators chains have no numbers
        and (sampler.first_replica == 0 or model.weights()[0].device.type == "cpu")
    )


def _has(model: EnergyModel, least: int) -> TypeGuard[BernoulliRBM]:
    """Whether these are so many weights of an RBM, of a dtype that products take."""
    if not isinstance(model, BernoulliRBM):
        return False
    W = model.weights()[0]
    if W.numel() < least or is_transformed(W) or is_transforming():
        return False
    return W.dtype in (torch.float32, torch.bfloat16)


# ---- memory ----------------


def check_memory(model: BernoulliRBM, rows: int, chains: int) -> None:
    """A MemoryError, before anything is allocated, where a step will not fit.

    Args:
        model: a large model.
        rows: rows of data of the step.
        chains: chains of the step.
    """
    W = model.W
    n, m = W.shape
    wanted = W.requires_grad and W.grad is None and W.data_ptr() not in _at_once
    parts = {
        "gradient": W.numel() * W.element_size() if wanted else 0,
        # units and fields, their probabilities, products and random numbers, in single precision
        "chains and statistics": 4 * (rows + chains) * (3 * n + 4 * m),
    }
    check_room(f"a step of an RBM of {n} x {m} weights", parts, W.device)


# ---- chains ----------------


def fields_of(model: BernoulliRBM, data: Tensor) -> tuple[Products, Tensor]:
    """The products with W, and the hidden units' fields c + v W given the rows, `[N, m]`.

    Raises:
        ValueError: a weight that is not finite, or so large that fields are rubbish.
    """
    W, _, c = model.weights()
    check_biases(model)
    products = Products(W)
    return products, products.from_left(data.to(products.dtype)).add_(c.detach())


def check_biases(model: BernoulliRBM) -> None:
    """A ValueError for a bias that is not finite, or beyond what energies are told apart by."""
    for name, bias in zip(("b", "c"), model.weights()[1:], strict=True):
        sizes = bias.detach().abs()
        if not bool((sizes < WIDEST).all()):
            k = int((~(sizes < WIDEST)).nonzero()[0])
            raise ValueError(
                f"{name}[{k}] is {float(bias[k]):g}: expected finite numbers only, below {WIDEST:g}"
            )


@torch.no_grad()
def chains(
    model: BernoulliRBM,
    sampler: Gibbs,
    visible: Tensor | None,
    num: int,
    generator: torch.Generator | None,
    products: Multiplies,
    fields: Tensor | None = None,
    first_replica: int = 0,
) -> Samples:
    """Reads after the sampler's sweeps, hidden units first, as its kernels make them.

    Args:
        model: a large model.
        sampler: block Gibbs.
        visible: visible units `[num, n_visible]` to start from, of 0 and 1; None for random ones.
        num: chains.
        generator: randomness, of which one seed is taken.
        products: products with the model's W.
        fields: hidden units' fields given `visible`, where they are known, `[num, n_hidden]`.
        first_replica: number of the first chain, for randomness.
    """
    b, c = (bias.detach().to(products.dtype) for bias in model.weights()[1:])
    draws = _Draws(draw_seeds(generator, ())[0], b.device, first_replica)
    v = draws.coins(num, len(b)) if visible is None else visible.to(products.dtype)
    h = v.new_empty(num, len(c))
    pull = v.new_empty(0)
    for sweep in range(int(sampler.sweeps)):
        known = fields is not None and sweep == 0
        field = fields if known else products.from_left(v) + c
        assert field is not None
        h = draws.bits(field, len(b))
        pull = products.from_right(h).add_(b)
        v = draws.bits(pull, 0)
    # E = -v.(W h + b) - c.h, and pull is the bracket
    energy = -(v * pull).sum(-1) - h @ c
    spins = torch.cat([v.to(torch.int8), h.to(torch.int8)], -1).mul_(2).sub_(1)
    weight_dtype = model.weights()[0].dtype
    info: dict[str, Any] = {"sweeps": int(sampler.sweeps)}
    return Samples(spins, energy.to(weight_dtype), None, Exactness.ASYMPTOTIC, info)


class _Draws:
    """Bits by their fields: number by (seed, chain, pass, unit) on a CPU, else a torch generator's.

    Args:
        seed: 63 bits.
        device: where the chains are.
        first_replica: number of the first chain; on other devices than a CPU they have none.
    """

    def __init__(self, seed: int, device: torch.device, first_replica: int = 0) -> None:
        self.seed = seed
        self.device = device
        self.first_replica = first_replica
        self.passes = 0
        if device.type != "cpu":
            self._generator = torch.Generator(device).manual_seed(seed)

    def coins(self, rows: int, units: int) -> Tensor:
        """Bits of probability 1/2, `[rows, units]` in single precision."""
        streams = Streams([self.seed], self.device)
        streams.position = self.first_replica * units
        spins = streams.spins(rows, units)[0]
        return (spins > 0).to(torch.float32)

    def bits(self, field: Tensor, first: int) -> Tensor:
        """0 and 1 of the field's dtype and shape, 1 with probability sigmoid(field).

        Args:
            field: log-odds `[R, units]`.
            first: number of the first unit among all spins.
        """
        out = torch.empty_like(field)
        if self.device.type != "cpu":
            return out.bernoulli_(field.sigmoid(), generator=self._generator)
        from qsample.annealers._engine import draw_bits

        none = np.zeros((1, field.shape[1]), dtype=np.float32)
        warm = np.ones(1, dtype=np.float32)
        seeds = np.array([self.seed], dtype=np.int64)
        draw_bits(
            field.numpy(),
            out.numpy(),
            none,
            warm,
            seeds,
            self.passes,
            first,
            metropolis=False,
            first_replica=self.first_replica,
            threads=torch.get_num_threads(),
        )
        self.passes += 1
        return out


# ---- statistics ----------------


@uncompiled
def free_energies(
    model: BernoulliRBM, data: Tensor, samples: Samples, fields: Tensor | None
) -> tuple[Tensor, Tensor]:
    """F of the rows `[N]` and of the reads `[R]`, whose gradient is one product.

    Args:
        model: a large model.
        data: checked rows `[N, n_visible]`.
        samples: reads `[R, n]`.
        fields: hidden units' fields given the rows, where they are known, `[N, n_hidden]`.
    """
    W, b, c = model.weights()
    with torch.autocast(data.device.type, enabled=False):
        x = model.rows(data, samples.spins, torch.float32)
        energy = _FreeEnergy.apply(W, b, c, x, fields)
    return energy[: len(data)], energy[len(data) :]  # type: ignore[index]


class _FreeEnergy(torch.autograd.Function):
    r"""$F(v) = -b v - \sum_j \log(1 + e^{f_j})$ with $f = c + v W$, whose gradient is by hand.

    The gradient of W is $-v^\top \sigma(f)$, each row weighed by what comes from above. It needs no
    weights: they may have changed since.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, W: Tensor, b: Tensor, c: Tensor, x: Tensor, known: Tensor | None
    ) -> Tensor:
        with_known = 0 if known is None else len(known)
        field = x.new_empty(len(x), W.shape[1])
        if known is not None:
            field[:with_known] = known
        Products(W).from_left(x[with_known:], out=field[with_known:]).add_(c)
        ctx.save_for_backward(x, field)
        ctx.weights = W, b, c
        ctx.versions = _versions(W, b, c)
        return -(x @ b.to(x)) - torch.nn.functional.softplus(field).sum(-1)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        # of any dtype that autocast chose, where it acts
        with torch.autocast(above.device.type, enabled=False):
            return _slopes(ctx, above)


def _slopes(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of W, b, c and x, and none of the fields.

    Args:
        ctx: what `_FreeEnergy` left.
        above: gradient of each row's F.
    """
    W, b, c = ctx.weights
    x, field = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    # the gradient is to be differentiated itself, or there are many at once
    by_torch = torch.is_grad_enabled() or is_batched_gradient(above)
    if (by_torch or wanted[3]) and ctx.versions != _versions(W, b, c):
        raise RuntimeError(
            "weights were changed in place after the loss, and this gradient needs those of then: "
            "call backward first"
        )
    if by_torch:
        field = x @ W.to(x) + c.to(x)
        weighed = field.sigmoid() * -above[:, None]
    else:
        weighed = one_by_one(torch.sigmoid, field).mul_(-above[:, None])
    of_W = None
    if wanted[0]:
        of_W = (x.T @ weighed).to(W) if by_torch else _gradient(W, x, weighed)
    of_b = (-above @ x).to(b) if wanted[1] else None
    of_c = weighed.sum(0).to(c) if wanted[2] else None
    of_x = weighed @ W.T.to(x) - above[:, None] * b.to(x) if wanted[3] else None
    return of_W, of_b, of_c, of_x, None


def _versions(*weights: Tensor) -> tuple[int, ...]:
    """Counts of their changes in place; tensors of inference mode have none."""
    return tuple(0 if weight.is_inference() else weight._version for weight in weights)


_one_at_a_time = threading.Lock()  # of the passes that add to a gradient


def _gradient(W: Tensor, x: Tensor, weighed: Tensor) -> Tensor | None:
    """The product x' weighed, a new tensor; None where `W.grad`, or W itself, took it in place."""
    step = _at_once.get(W.data_ptr())
    if step is not None:
        add_outer(W.detach(), x, weighed, step.keep, step.times)
        torch.autograd.graph.increment_version(W)
        return None
    if _accumulates(W):
        assert W.grad is not None
        with _one_at_a_time:
            add_outer(W.grad, x, weighed)
        torch.autograd.graph.increment_version(W.grad)
        return None
    out = torch.empty_like(W, memory_format=torch.contiguous_format)
    add_outer(out, x, weighed, keep=0.0)
    return out


def _accumulates(W: Tensor) -> bool:
    """Whether this pass adds to W's `.grad`, and nobody looks at the gradient before.

    `torch.autograd.grad` does not, hooks do look, and ranks average what comes from each.
    """
    # of others torch warns when it is asked for .grad
    if not W.is_leaf or W.grad is None or W.grad.is_sparse:
        return False
    if W.grad.dtype != W.dtype or not W.grad.is_contiguous():
        return False
    looked_at = W._backward_hooks or getattr(W, "_post_accumulate_grad_hooks", None)
    if looked_at or world()[1] > 1:
        return False
    node = torch.autograd.graph.get_gradient_edge(W).node
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # which says that this is autograd.grad
        return False


# ---- new weights at once ----------------


class _Step(NamedTuple):
    """W becomes keep W + times (its gradient)."""

    keep: float
    times: float


_at_once: dict[int, _Step] = {}  # by the address of W


@contextmanager
def applied_at_once(W: Tensor, rate: float, decay: float) -> Iterator[None]:
    r"""Inside, a backward pass of this module makes $W - \eta (g + \lambda W)$ of W at once.

    So no gradient of the size of W exists: `W.grad` stays None, and the optimiser leaves W alone.

    Args:
        W: a large model's parameter, a leaf, contiguous.
        rate: the learning rate, eta.
        decay: weight decay, lambda.
    """
    place = W.data_ptr()
    _at_once[place] = _Step(1.0 - rate * decay, -rate)
    try:
        yield
    finally:
        del _at_once[place]
