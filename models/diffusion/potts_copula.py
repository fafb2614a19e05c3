"""The Potts copula: a denoiser whose reverse step draws all tokens of a row jointly."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from qsample.diffusion.absorbing import Absorbing
from qsample.diffusion.denoiser import check_denoiser, check_logits
from qsample.diffusion.potts import TINY, Potts, PottsGibbs, categories, check_is_potts_sampler
from qsample.diffusion.process import Step, Uniform, UniformBits
from qsample.models.identity import Identified
from qsample.problem.graph import Graph, check_graph
from qsample.sampling.random import Draws, Generators, draw_seeds, step_generators
from qsample.support.checks import check_tensors, whole
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.models")
class PottsCopula(Identified):
    r"""A reverse step that is a Boltzmann law of tokens: a denoiser's posteriors, and couplings.

    $$P(x_{k-1} | x_k) \propto \prod_i p_i(x_{k-1,i} | x_k)\,
      \exp\Bigl(-\sum_{(i,j)} J^{(k)}_{ij}(x_{k-1,i}, x_{k-1,j})\Bigr)$$

    `IsingCopula` for tokens of M states. p_i is the factorised step, the posterior of the process
    for the denoiser's softmax, so that J = 0, where training starts, is that step. The couplings
    are tables of M x M costs per step and edge.

    Of uniform noise (`Uniform`): where the law of x_{k-1} is a Potts law, the exact step has its
    couplings, and x_k enters the fields alone. Of masks (`Absorbing`): which sites show at step
    k - 1 does not depend on the data and is drawn apart, `Absorbing.hidden`; given that, the step
    is a law of the tokens that come to show, coupled to one another and to those that have shown
    (a mask is coupled to nothing). Where the law of x_0 is a Potts law, the exact last step has its
    couplings, and x_1 is a clamp.

        copula = PottsCopula(denoiser, graph, Absorbing(log_times(4), states=27))
        x, after, k = copula.pairs(x_0)                        # x_{k-1} and x_k, k random
        loss = -copula.pseudo_likelihood(x, after, k).mean()   # no sampling
        tokens = copula.sample(PottsGibbs(sweeps=20), 64)

    Args:
        denoiser: any network: (x_k `[B, n]` int64, k `[B]` int64) to logits `[B, n, M]` of x_0. A
            mask is the number M.
        graph: which tokens of x_{k-1} are coupled, one spin per token.
        process: the forward process, with the times of the steps.

    Parameters: the denoiser's and `J` [steps, edges, M, M], in the order of `graph.edges`, the
    state of the edge's first end first.

    Raises:
        TypeError: a denoiser that is no module, a graph or a process that is none.
    """

    def __init__(self, denoiser: nn.Module, graph: Graph, process: Uniform | Absorbing) -> None:
        tokens = isinstance(process, Uniform | Absorbing) and not isinstance(process, UniformBits)
        if not tokens:
            raise TypeError(
                "expected a process of tokens, such as Absorbing(log_times(4), states=27); "
                f"got {process!r} (spins are for IsingCopula)"
            )
        check_graph(graph)
        check_denoiser("denoiser", denoiser)
        super().__init__()
        self.denoiser = denoiser
        self.graph = graph
        self.process = process
        floats = (p for p in denoiser.parameters() if p.is_floating_point())
        like = next(floats, torch.empty(0))
        shape = (process.steps, graph.num_edges, process.states, process.states)
        self.J = nn.Parameter(torch.zeros(shape, dtype=like.dtype, device=like.device))

    @property
    def _masks(self) -> Absorbing | None:
        """The process where it has masks."""
        return self.process if isinstance(self.process, Absorbing) else None

    # ---- the step ----------------

    def posterior(self, x: Int[Tensor, "B n"], k: Step) -> Float[Tensor, "B n S"]:
        """P(x_{k-1} | x_k) of each token, as if all J were 0, in double precision.

        S is M, or M + 1 with the mask.
        """
        self._check(x)
        steps = self.process.step_numbers(x, k)
        x = x.long()
        logits = self.denoiser(x, steps.expand(len(x)))
        check_logits(logits, (*x.shape, self.process.states))
        return self.process.posterior(x, logits.double().softmax(-1), k)

    def step_problem(self, x: Int[Tensor, "B n"], k: Step, hidden: Tensor | None = None) -> Potts:
        """The law of x_{k-1} given x_k = `x`, per row; differentiable in the parameters.

        Args:
            x: x_k, states `[B, n]`.
            k: step of x, for all rows or one for each `[B]`.
            hidden: with masks, the sites that are masked at k - 1 too, `[B, n]` bool: a draw of
                `process.hidden(x, k)`, or those of a known x_{k-1}.

        Raises:
            ValueError: bad states or steps, `hidden` without masks or the reverse.
        """
        law = self.posterior(x, k)
        if (hidden is None) != (self._masks is None):
            raise ValueError(
                "expected hidden sites where there are masks, and only there: "
                "process.hidden(x, k) draws them"
            )
        if self._masks is not None and hidden is not None:
            law = self._masks.given(law, hidden)
        h = -law.clamp_min(TINY).log()
        J = self.J[self.process.step_numbers(x, k) - 1]
        extra = self.process.width - self.process.states
        return Potts(self.graph, h.to(J), pad(J, (0, extra, 0, extra)))

    @uncompiled
    @torch.no_grad()
    def sample(
        self,
        sampler: PottsGibbs,
        num: int,
        *,
        known: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Int[Tensor, "num n"]:
        """Rows of tokens, int64 `[num, n]`, by all steps from x_T.

        Known tokens of x_0: with masks they show from the start and condition every step, which is
        exact for the whole chain where the steps are. Of uniform noise they go back as the forward
        process came, q(x_{k-1} | x_k, x_0), and the others are drawn from the step's law with those
        clamped: exact for each step, not for the chain (`IsingCopula.sample`).

        Args:
            sampler: draws each step, in one call.
            num: rows.
            known: known tokens, int64 `[n]` or `[num, n]`, -1 where they are not known; none by
                default.
            generator: one, or a list with one per row: each is then what it would be alone, where
                the denoiser rounds alike. None is torch's default.

        Raises:
            ValueError: num < 1, another number of generators, known tokens that are none.
            TypeError: a sampler that does not draw Potts problems.
        """
        check_is_potts_sampler(sampler)
        whole("num", num, 1)
        n = self.graph.num_spins
        masks = self._masks
        seeds = draw_seeds(generator, (num,))
        x = self.process.prior((num, n), step_generators(seeds, 0, 0)).to(self.J.device)
        if known is not None:
            known = self._checked(known, num).to(x.device)
            start = known.clamp_min(0)
            if masks is None:
                start = self.process.noise(
                    start, self.process.steps, 0, step_generators(seeds, 0, 1)
                )
            x = torch.where(known >= 0, start, x)
        for k in range(self.process.steps, 0, -1):
            streams = step_generators(seeds, k, 1)
            hidden = None if masks is None else masks.hidden(x, k, streams)
            problem = self.step_problem(x, k, hidden)
            if masks is not None and k == 1:  # x_0 has no mask, whatever the couplings cost
                problem = problem.of_states(masks.states)
            if known is not None and masks is None:
                problem = problem.given(self._back(x, known, k, streams))
            x = sampler.sample(problem, generator=step_generators(seeds, k, 0))[:, 0]
        return x

    def _back(self, x: Tensor, known: Tensor, k: int, generator: Generators) -> Tensor:
        """Draws of q(x_{k-1} | x_k, x_0) where x_0 is known, -1 elsewhere: `[num, n]`."""
        x_0 = one_hot(known.clamp_min(0), self.process.states).double()
        law = self.process.posterior(x, x_0, k)
        draws = Draws(draw_seeds(generator, known.shape[:1]), x.device)
        drawn = categories(-law.clamp_min(TINY).log()[:, None], draws)[:, 0]
        return torch.where(known >= 0, drawn, -1)

    # ---- learning ----------------

    @uncompiled
    def pairs(
        self, data: Int[Tensor, "B n"], generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """(x_{k-1}, x_k, k) of data x_0 `[B, n]`: what to train on, a random step k per row."""
        self._check(data)
        if self._masks is not None:
            self._masks.check_data("data", data)
        k = torch.randint(1, self.process.steps + 1, (len(data),), generator=generator)
        x = self.process.noise(data, k - 1, generator=generator)
        return x, self.process.noise(x, k, k - 1, generator), k

    def pseudo_likelihood(
        self, x: Int[Tensor, "B n"], after: Int[Tensor, "B n"], k: Step
    ) -> Float[Tensor, " B"]:
        r"""$\sum_i \log P(x_i | x_{\setminus i}, x_k)$ of x = x_{k-1}, per row (Besag 1975).

        Of masks: given which sites show, whose law has no parameters. With J = 0 it is the
        log-likelihood, in nats.

        Args:
            x: x_{k-1}, states `[B, n]`.
            after: x_k, states `[B, n]`.
            k: step of `after`, for all rows or one for each `[B]`.

        Raises:
            ValueError: bad states or steps, a mask in x_0.
        """
        problem = self._of_pair(x, after, k)
        x = x.long()
        field = problem.field(x[:, None])[:, 0]
        return (-field).log_softmax(-1).gather(-1, x[..., None]).sum((-1, -2))

    def cd_loss(
        self,
        x: Int[Tensor, "B n"],
        after: Int[Tensor, "B n"],
        k: Step,
        sampler: PottsGibbs,
        *,
        generator: Generators | None = None,
    ) -> Float[Tensor, " B"]:
        r"""$E(x_{k-1}) - E(y)$ with a read y of the step, in chains that begin at x, per row.

        Its gradient is that of -log P, in the mean and where the chains have reached their law. Its
        value is no likelihood.

        Args:
            x: x_{k-1}, states `[B, n]`.
            after: x_k, states `[B, n]`.
            k: step of `after`, for all rows or one for each `[B]`.
            sampler: draws the step.
            generator: one, or a list with one per row; None is torch's default.

        Raises:
            ValueError: bad states or steps, a mask in x_0.
            TypeError: a sampler that does not draw Potts problems.
        """
        check_is_potts_sampler(sampler)
        problem = self._of_pair(x, after, k)
        start = x.long()[:, None]
        reads = sampler.sample(problem.detach(), initial=start, generator=generator)
        return (problem.energy(start) - problem.energy(reads))[:, 0]

    def _of_pair(self, x: Tensor, after: Tensor, k: Step) -> Potts:
        """The step from `after`; with masks, given which sites of x are masked."""
        self._check(x)
        self._check(after)
        if x.shape != after.shape:
            raise ValueError(
                f"expected x and after, x_(k-1) and x_k, of one shape; got {list(x.shape)} and "
                f"{list(after.shape)}"
            )
        hidden = None
        if self._masks is not None:
            first = self.process.step_numbers(after, k).expand(len(x)) == 1
            self._masks.check_data("x at k = 1, which is x_0,", x[first])
            hidden = x == self._masks.states
        return self.step_problem(after, k, hidden)

    # ---- checks ----------------

    def _check(self, x: Tensor) -> None:
        """A ValueError unless x are states `[B, n]` beside the parameters."""
        check_tensors(x=x)
        n = self.graph.num_spins
        if x.dim() != 2 or x.shape[-1] != n or len(x) == 0:
            raise ValueError(
                f"expected states [B, {n}], one per spin of the graph; got {list(x.shape)}"
            )
        if x.device != self.J.device:
            raise ValueError(f"x is on {x.device}, the model on {self.J.device}: move one")
        self.process.check(x)

    def _checked(self, known: Tensor, num: int) -> Tensor:
        """Known tokens `[num, n]`; a ValueError for what is none."""
        check_tensors(known=known)
        n = self.graph.num_spins
        M = self.process.states
        if known.shape not in ((n,), (num, n)):
            raise ValueError(
                f"expected known of shape [{n}] or [{num}, {n}], -1 where a token is not known; "
                f"got {list(known.shape)}"
            )
        if known.is_floating_point() or not ((known >= -1) & (known < M)).all():
            raise ValueError(
                f"expected known tokens in 0..{M - 1}, and -1 where they are not; got "
                f"{known.dtype} of {known.min():g} to {known.max():g}"
            )
        return known.long().expand(num, n)

    def _identity(self) -> dict[str, Any]:
        noise = type(self.process).__name__
        return {"graph": self.graph.hash[:16], "noise": noise, "states": self.process.states}
