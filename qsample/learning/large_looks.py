"""What a run looks at of a model whose weights are too many to copy: by products with W itself.

`fit` asks how strong the weights are, how far the data lie above the lowest free energies, and how
warm the reads look. Of other models it asks their Ising form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qsample.annealers.gibbs import Gibbs
from qsample.learning import by_products
from qsample.learning.products import Products
from qsample.models.rbm.bernoulli import BernoulliRBM
from qsample.sampling.samples import Estimate, Samples
from qsample.sampling.temperature import beta_of_alignment

if TYPE_CHECKING:
    from qsample.models import EnergyModel

ROWS = 64  # rows of data, evenly spread, that are looked at
PROBES = 32  # states that are relaxed from random ones, and from rows, in search of low energies
SWEEPS = 3  # of each


@torch.no_grad()
def strength(model: BernoulliRBM) -> float:
    """The largest coupling, or a bound on the fields; nan or infinite where a weight is.

    Of spins, J = -W/4, and a field is at most that of its bias and of all its weights at once.
    """
    W, b, c = (weight.detach() for weight in model.weights())
    least, most = torch.aminmax(W)
    coupling = torch.maximum(-least, most).float() / 4
    biases = torch.stack([b.abs().amax(), c.abs().amax()]).amax().float()
    fields = biases / 2 + coupling * max(W.shape)
    return float(torch.maximum(coupling, fields))


@torch.no_grad()
def bound(
    model: BernoulliRBM, data: Tensor, states: Tensor | None, generator: torch.Generator
) -> float:
    """Nats per row that the data cost at least, as `Judge.bound`: fewer rows, states and sweeps.

    Args:
        model: a large model.
        data: rows, of which a few are taken.
        states: joint spins `[R, n]` to look at too; None for none.
        generator: randomness of the states.
    """
    rows = data[:: max(1, len(data) // ROWS)][:ROWS].to(torch.float32)
    products = Products(model.weights()[0])
    begin = rows[:PROBES]
    random = torch.rand(PROBES, rows.shape[1], generator=generator).to(rows.device) < 0.5
    begin = torch.cat([random.to(begin), begin])
    reads = by_products.chains(model, Gibbs(SWEEPS), begin, len(begin), generator, products)
    probes = reads.spins
    if states is not None:
        probes = torch.cat([probes, states[:PROBES].to(probes)])
    visible = model.split(probes)[0].to(torch.float32)
    energy = _free_energy(model, torch.cat([rows, visible]), products)
    return float(energy[: len(rows)].mean() - energy[len(rows) :].min())


def _free_energy(model: BernoulliRBM, x: Tensor, products: Products) -> Tensor:
    """F of rows `[N, n_visible]` of 0 and 1, in double precision where sums are long."""
    b, c = (bias.detach().double() for bias in model.weights()[1:])
    fields = products.from_left(x).double().add_(c)
    return -(x.double() @ b) - torch.nn.functional.softplus(fields).sum(-1)


@torch.no_grad()
def beta_of_reads(model: BernoulliRBM, samples: Samples) -> Estimate:
    """`effective_beta` of the reads, without the error that they would show under the model.

    That error looks at pairs of neighbours, of which there are as many as weights.

    Args:
        model: a large model.
        samples: reads of its joint problem, `[R, n]`.
    """
    b, c = (bias.detach().to(torch.float32) for bias in model.weights()[1:])
    products = Products(model.weights()[0])
    v, h = (units.to(torch.float32) for units in model.split(samples.spins))
    logits = torch.cat([products.from_right(h).add_(b), products.from_left(v).add_(c)], -1)
    alignment = (logits * (2 * torch.cat([v, h], -1) - 1)).double()
    beta, stderr, note = beta_of_alignment(alignment, samples.weight.double())
    return Estimate(float(beta), float(stderr), float(samples.ess()), note)


def check_evaluation(model: EnergyModel, evaluate: object) -> None:
    """A ValueError for a likelihood of a large model, before a run begins."""
    if by_products.is_large(model) and isinstance(evaluate, str) and evaluate != "auto":
        n, m = model.W.shape
        raise ValueError(
            f"evaluate={evaluate!r} of an RBM of {n} x {m} weights is out of reach: use 'auto', "
            "which measures none of them, or a function of model and rows"
        )
