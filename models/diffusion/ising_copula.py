"""The Ising copula: a denoiser whose reverse step draws all bits of an image jointly."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from qsample.diffusion.denoiser import check_denoiser, check_logits
from qsample.diffusion.known import Known
from qsample.diffusion.process import Step, UniformBits
from qsample.diffusion.reverse_step import (
    Denoised,
    centred_problem,
    draw,
    feature_couplings,
    pair_energy,
    pulling_couplings,
)
from qsample.models.identity import Identified
from qsample.problem.graph import Graph, check_graph
from qsample.problem.ising import Ising
from qsample.sampling.random import Draws, Generators, draw_seeds, step_generators
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.sampling.samples import Samples
from qsample.support.checks import check_choice, check_spins, check_tensors, is_whole, whole
from qsample.support.faces import public
from qsample.support.transforms import uncompiled

CdStart = Literal["data", "fresh"]
StepStart = Literal["fresh", "independent"]


@public("qsample.models")
class IsingCopula(Identified):
    r"""A reverse step that is a Boltzmann law of all bits: a denoiser's fields, and couplings.

    $$P(x_{k-1} | x_k) \propto \exp\Bigl(-\sum_i h_i(x_k)\, x_{k-1,i}
      - \sum_{(i,j)} J_{ij}\, x_{k-1,i}\, x_{k-1,j}\Bigr), \quad
      J_{ij} = J^{(k)}_{ij} - \tfrac12 u_i \cdot u_j$$

    h are the fields of the factorised step, `UniformBits.posterior_fields` of the denoiser's mean
    tanh(logits / 2), so that J = 0, or a graph without edges, is the factorised denoiser exactly.
    That step drops the dependence between bits, which is what fails when steps are few; an
    autoregressive copula restores it in Discrete Copula Diffusion (Liu, Broadrick, Niepert and Van
    den Broeck, arXiv 2410.01949), an Ising problem here.

    The couplings J^(k) are parameters, one set per step, shared by all x_k, and start at 0: where
    the law of x_{k-1} is an Ising law, the exact step has its couplings and x_k enters the fields
    alone. A denoiser that answers features u `[B, n, r]` too adds couplings that depend on x_k.
    Couplings shift the bits' means, so the logits are trained with them:

        copula = IsingCopula(denoiser, graph, UniformBits(log_times(4)))
        x, after, k = copula.pairs(x_0)                        # x_{k-1} and x_k, k random
        loss = -copula.pseudo_likelihood(x, after, k).mean()   # n logits per image, no sampling
        # then the likelihood's own gradient, nearly
        loss = copula.cd_loss(x, after, k, Gibbs(sweeps=10)).mean()
        images = copula.sample(Gibbs(sweeps=100), 64)

    Of a denoiser that is trained already, a centred copula keeps the means nearly, whatever J:

    $$P(x_{k-1} | x_k) \propto \exp\Bigl(-(h(x_k) + b^{(k)}) \cdot x_{k-1}
      - \sum_{(i,j)} J_{ij}\, (x_{k-1,i} - m_i)(x_{k-1,j} - m_j)\Bigr), \quad m = -\tanh h(x_k)$$

    Where a bit is sure, m = -1 or +1, its couplings do nothing, as the exact step's. With h frozen
    the log-likelihood is concave in b and J, which start at the factorised step.

    Args:
        denoiser: any network: (x_k `[B, n]` floats of -1 and +1, k `[B]` int64) to logits `[B, n]`,
            or to (logits, features `[B, n, r]`).
        graph: which bits of x_{k-1} are coupled, one spin per bit.
        process: the forward process, with the times of the steps.
        centred: whether couplings are between deviations from the factorised step's means.

    Parameters: the denoiser's and `J` [steps, edges], one number per edge in the order of
    `graph.edges`; of a centred copula also `b` [steps, n].

    Raises:
        TypeError: a denoiser that is no module, a graph or a process that is none.
    """

    def __init__(
        self, denoiser: nn.Module, graph: Graph, process: UniformBits, *, centred: bool = False
    ) -> None:
        if not isinstance(process, UniformBits):
            raise TypeError(
                f"expected a process of spins, such as UniformBits(log_times(4)); got {process!r}"
            )
        check_graph(graph)
        check_denoiser("denoiser", denoiser)
        super().__init__()
        self.denoiser = denoiser
        self.graph = graph
        self.process = process
        floats = (p for p in denoiser.parameters() if p.is_floating_point())
        like = next(floats, torch.empty(0))
        zeros = torch.zeros(process.steps, graph.num_edges, dtype=like.dtype, device=like.device)
        self.J = nn.Parameter(zeros)
        self.b = None
        if centred:
            self.b = nn.Parameter(zeros.new_zeros(process.steps, graph.num_spins))

    # ---- the step ----------------

    def forward(self, x: Shaped[Tensor, "B n"], k: Step) -> Denoised:
        """What the model says of x_k = `x`.

        Its couplings are `[edges]` where one step serves all rows, else `[B, edges]`.
        """
        logits, features, steps = self._answer(x, k)
        coupling = _rows(self.J, steps)
        if features is not None:
            coupling = feature_couplings(features, self.graph, sites=1, shared=coupling)
        return Denoised(logits, coupling)

    def step_problem(self, x: Shaped[Tensor, "B n"], k: Step) -> Ising:
        """The law of x_{k-1} given x_k = `x`, per row; differentiable in the parameters."""
        return self._laws(x, k)[1]

    def fields(self, x: Shaped[Tensor, "B n"], k: Step) -> Float[Tensor, "B n"]:
        """Fields of the factorised step, as if all J and b were 0, in double precision."""
        logits, _, _ = self._answer(x, k)
        return self.process.logit_fields(x, logits.double(), k)

    def _laws(self, x: Tensor, k: Step) -> tuple[Tensor, Ising]:
        """Fields of the factorised step, in the couplings' precision, and the step's law."""
        logits, features, steps = self._answer(x, k)
        h = self.process.logit_fields(x, logits.double(), k)
        pull = None
        if features is None:
            # the table is filled in before a batch repeats it
            J = _rows(self.graph.couplings(self.J), steps)
            h = h.to(J)
        else:
            shared = _rows(self.J, steps)
            h = h.to(torch.promote_types(features.dtype, shared.dtype))
            mean = None if self.b is None else -h.tanh()
            coupling, pull = pulling_couplings(features, self.graph, shared, mean)
            J = self.graph.couplings(coupling)
        problem = Ising(self.graph, h, J)
        if self.b is None:
            return h, problem
        return h, centred_problem(problem, _rows(self.b, steps), pull)

    def _answer(self, x: Tensor, k: Step) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits, features if there are any, and the steps as a tensor."""
        self._check(x)
        steps = self.process.step_numbers(x, k)
        answer: Any = self.denoiser(x.to(self.J), steps.expand(len(x)))
        logits: Any = answer
        features: Any = None
        if isinstance(answer, tuple) and len(answer) == 2:
            logits, features = answer
        check_logits(logits, tuple(x.shape), " or (logits, features)")
        if features is None:
            return logits, None, steps
        check_tensors(features=features)
        if features.shape[:2] != x.shape or features.dim() != 3:
            raise ValueError(
                f"expected the denoiser's features [{len(x)}, {x.shape[1]}, r]; got "
                f"{list(features.shape)}"
            )
        return logits, features, steps

    @uncompiled
    @torch.no_grad()
    def sample(
        self,
        sampler: Sampler,
        num: int,
        *,
        known: Tensor | None = None,
        repeats: int = 1,
        start: StepStart = "fresh",
        generator: Generators | None = None,
    ) -> Shaped[Tensor, "num n"]:
        r"""Images, spins `[num, n]` int8, by all steps from x_T, which is uniform.

        With some bits of x_0 known, a mask or the bits of a class, the steps are drawn given them:

        $$x_{k-1}^K \sim q(x_{k-1}^K | x_k^K, x_0^K), \qquad
          x_{k-1}^U \sim P_k(x_{k-1}^U \,|\, x_k, x_{k-1}^K)$$

        The known bits K go back as the forward process came; the others U are drawn from the
        step's own law with the bits K clamped, which is exact: a clamp is a field. Independent bits
        do not feel it within the step. The images as a whole are not exact draws of
        p(x_0^U | x_0^K), not even of an exact model: of the known bits a step sees x_{k-1} and x_k,
        not x_0. `repeats` helps: each step is taken back by noise and drawn again (Lugmayr et al.,
        CVPR 2022). With steps that are the exact posterior that is Gibbs sampling of (x_1, x_0^U)
        at k = 1, which leaves p(x_0^U | x_0^K) as it is, so that many repeats make it exact.

        Args:
            sampler: draws each step, in one call.
            num: images.
            known: known bits of x_0, spins `[n]` or `[num, n]`, 0 where they are not known, which
                is at the same sites in every row; none by default.
            repeats: draws of each step, with noise between them; one by default.
            start: where the sampler's chains begin at each step: "fresh", its own start, or
                "independent", a draw of the factorised step, which is nearer the weaker the
                couplings are, and exact without; the sampler must continue chains, as `Gibbs` does.
            generator: one, or a list with one per image: each is then what it would be alone, where
                the denoiser rounds alike. None is torch's default.

        Raises:
            ValueError: num or repeats < 1, another number of generators, bits that are no spins or
                known at other sites in other rows, an unknown start, or a sampler that cannot
                continue chains.
            TypeError: no sampler.
        """
        check_is_sampler(sampler)
        check_choice("start", start, StepStart)
        if not is_whole(num) or num < 1:
            raise ValueError(f"expected num >= 1 images; got {num!r}")
        whole("repeats", repeats, 1)
        n = self.graph.num_spins
        seeds = draw_seeds(generator, (num,))
        x = self.process.prior((num, n), step_generators(seeds, 0)).to(self.J.device)
        given = None if known is None else Known.of(known, num, n, x.device)
        if given is not None:
            x = given.start(self.process, x, step_generators(seeds, 0, 1))
        for k in range(self.process.steps, 0, -1):
            x = self._before(x, k, sampler, given, start, seeds)
            for turn in range(1, repeats):
                x = self.process.noise(x, k, k - 1, step_generators(seeds, k, 3 * turn + 2))
                x = self._before(x, k, sampler, given, start, seeds, 3 * turn)
        return x

    def _before(
        self,
        x: Tensor,
        k: int,
        sampler: Sampler,
        given: Known | None,
        start: StepStart,
        seeds: list[int],
        branch: int = 0,
    ) -> Tensor:
        """A draw of x_{k-1} given x_k = x and the known bits of x_0, `[num, n]`."""
        h, problem = self._laws(x, k)
        one = partial(draw, sampler=sampler, generator=step_generators(seeds, k, branch))
        if given is None and start == "fresh":
            return one(problem).spins[:, 0]
        chances = Draws(draw_seeds(step_generators(seeds, k, branch + 1), (len(x),)), x.device)
        bits = None
        if given is not None:
            bits = given.before(self.process, x, k, chances.uniform(len(given.sites)))
        if start == "independent":
            up = (-2 * h.double()).sigmoid()
            spins = torch.where(chances.uniform(x.shape[1]) < up, 1, -1).to(torch.int8)[:, None]
            if given is not None:
                spins = spins[..., self.graph.without(given.sites).free.to(spins.device)]
            unknown = torch.full(spins.shape[:-1], float("nan"), device=spins.device)
            one = partial(one, initial=Samples(spins, unknown))
        if given is None or bits is None:
            return one(problem).spins[:, 0]
        return given.draw(problem, bits, one).spins[:, 0]

    # ---- learning ----------------

    @uncompiled
    def pairs(
        self, data: Shaped[Tensor, "B n"], generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """(x_{k-1}, x_k, k) of data x_0 `[B, n]`: what to train on, a random step k per row."""
        self._check(data)
        k = torch.randint(1, self.process.steps + 1, (len(data),), generator=generator)
        x = self.process.noise(data, k - 1, generator=generator)
        return x, self.process.noise(x, k, k - 1, generator), k

    def pseudo_likelihood(
        self, x: Shaped[Tensor, "B n"], after: Shaped[Tensor, "B n"], k: Step
    ) -> Float[Tensor, " B"]:
        r"""$\sum_i \log P(x_i | x_{\setminus i}, x_k)$ of x = x_{k-1}, per row (Besag 1975).

        $P(x_i | \cdot) = \sigma(-2 f_i x_i)$ with the local field f_i. With J = 0 it is the
        log-likelihood, in nats.

        Args:
            x: x_{k-1}, spins `[B, n]`.
            after: x_k, spins `[B, n]`.
            k: step of `after`, for all rows or one for each `[B]`.
        """
        self._check(x)
        field = self.step_problem(after, k).field(x[:, None])[:, 0]
        return logsigmoid(-2 * field * x.to(field)).sum(-1)

    def cd_loss(
        self,
        x: Shaped[Tensor, "B n"],
        after: Shaped[Tensor, "B n"],
        k: Step,
        sampler: Sampler,
        *,
        start: CdStart = "data",
        num: int = 1,
        generator: Generators | None = None,
    ) -> Float[Tensor, " B"]:
        r"""$E(x_{k-1}) - \langle E \rangle$ over reads of the step, per row.

        Its gradient is that of -log P, nearly: exactly, in the mean, where the reads are exact. Its
        value is no likelihood.

        Args:
            x: x_{k-1}, spins `[B, n]`.
            after: x_k, spins `[B, n]`.
            k: step of `after`, for all rows or one for each `[B]`.
            sampler: draws the step.
            start: where its chains begin: "data", at x (CD-k; the sampler must continue chains), or
                "fresh", its own start.
            num: reads per row.
            generator: one, or a list with one per row; None is torch's default.

        Raises:
            ValueError: bad spins or steps, an unknown start, a sampler that cannot start at x.
            TypeError: no sampler.
        """
        self._check(x)
        check_is_sampler(sampler)
        check_choice("start", start, CdStart)
        problem = self.step_problem(after, k)
        initial = None
        if start == "data":
            spins = x.to(torch.int8)[:, None].repeat(1, num, 1)
            initial = Samples(spins, torch.full(spins.shape[:-1], float("nan"), device=x.device))
        with torch.no_grad():
            reads = sampler.sample(problem.detach(), num, initial=initial, generator=generator)
        weight = reads.weight.to(problem.h)
        expected = (weight * problem.energy(reads.spins)).sum(-1)
        return problem.energy(x[:, None])[:, 0] - expected

    def evidence_loss(
        self,
        x_0: Shaped[Tensor, "B n"],
        k: Step,
        sampler: Sampler,
        *,
        after: Shaped[Tensor, "B n"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " B"]:
        r"""A loss of step k, per row, with the slope of minus its term of the evidence bound.

        $$\langle E(x_{k-1}) \rangle_q - E(s) + E(s^0) - \langle E(s^0) \rangle$$

        E is linear in each bit, so the mean over q(x_{k-1} | x_k, x_0) is E of the bits' means. s
        is a read of the step, in chains that begin at a draw of q; s^0 one of the factorised step
        by the same random numbers, whose mean is known: the weaker the couplings, the fewer bits
        differ, and the less noise is in the gradient. It is exact in the mean where s is: chains
        from the data do not see a mode far from them, which `evidence_bound` looks for. The value
        is no likelihood.

        Args:
            x_0: data, spins `[B, n]`.
            k: the step, for all rows or one for each `[B]`.
            sampler: draws the step; it must continue chains, such as `Gibbs`.
            after: x_k, spins `[B, n]`, drawn by the process from x_0; None draws them anew.
            generator: randomness; None is torch's default.

        Raises:
            ValueError: bad spins or steps, a sampler that cannot continue chains.
            TypeError: no sampler.
        """
        self._check(x_0)
        check_is_sampler(sampler)
        noise, start, chain = draw_seeds(generator, (3,))
        if after is None:
            after = self.process.noise(x_0, k, generator=torch.Generator().manual_seed(noise))
        self._check(after)
        mean = -self.process.posterior_fields(after, x_0.double(), k).tanh()
        up = torch.rand(mean.shape, generator=torch.Generator().manual_seed(start))
        spins = torch.where(up.to(mean) < (1 + mean) / 2, 1, -1).to(torch.int8)[:, None]
        initial = Samples(spins, torch.full(spins.shape[:-1], float("nan"), device=x_0.device))

        h, problem = self._laws(after, k)
        fields = h.detach()
        plain = Ising(self.graph, fields, torch.zeros_like(problem.J))

        def expected(law: Ising) -> Tensor:
            with torch.no_grad():
                seeds = torch.Generator().manual_seed(chain)
                reads = sampler.sample(law.detach(), 1, initial=initial, generator=seeds)
            return (reads.weight.to(fields) * pair_energy(problem, reads.spins)).sum(-1)

        known = torch.stack([mean.to(fields), -fields.tanh()], 1)
        start_energy, plain_energy = pair_energy(problem, known).unbind(1)
        return start_energy - expected(problem) + expected(plain) - plain_energy

    def _check(self, x: Tensor) -> None:
        """An error unless x are spins `[B, n]` beside the parameters."""
        check_tensors(spins=x)
        n = self.graph.num_spins
        if x.dim() != 2 or x.shape[-1] != n or len(x) == 0:
            raise ValueError(
                f"expected spins [B, {n}], one per spin of the graph; got {list(x.shape)}"
            )
        if x.device != self.J.device:
            raise ValueError(f"x is on {x.device}, the model on {self.J.device}: move one")
        check_spins("spins x", x)

    def _identity(self) -> dict[str, Any]:
        centred = {} if self.b is None else {"centred": True}
        return {"graph": self.graph.hash[:16], **centred}


def _rows(table: Tensor, steps: Tensor) -> Tensor:
    """What a table `[steps, ...]` holds for a step, or for each of some, `[*steps, ...]`."""
    rows = table.index_select(0, steps.reshape(-1) - 1)
    return rows.reshape(*steps.shape, *table.shape[1:])
