"""The Ising copula: a denoiser whose reverse step draws all bits jointly, as one Ising problem an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from qsample.diffusion.process import Step, UniformBits
from qsample.models.identity import tensor_of, text_of
from qsample.problem.graph import Graph, check_graph
from qsample.problem.ising import Ising
from qsample.sampling.sampler import Generators, Sampler, check_is_sampler, draw_seeds, mix
from qsample.sampling.samples import Samples
from qsample.support.checks import is_whole
from qsample.support.transforms import numbers, uncompiled

CdStart = Literal["data", "fresh"]
SURE = 1 - torch.finfo(torch.float64).eps  # the largest mean: at 1 a field has no gradient


@dataclass(frozen=True, eq=False)
class Denoised:
    """What a denoiser says of x_k: `logits` `[B, n]` of x_0 = +1, and `coupling` of x_{k-1}, `[B, edges]` or `[edges]`.

    Without couplings E[x_0 | x_k] = tanh(logits / 2); with them the logits are those of a step without its couplings.
    """

    logits: Tensor
    coupling: Tensor | None = None


class IsingCopula(nn.Module):
    r"""A reverse step that is a Boltzmann law of all bits: a denoiser's fields, and couplings between them.

    $$P(x_{k-1} | x_k) \propto \exp\Bigl(-\sum_i h_i(x_k)\, x_{k-1,i}
      - \sum_{(i,j)} J_{ij}\, x_{k-1,i}\, x_{k-1,j}\Bigr), \quad J_{ij} = J^{(k)}_{ij} - \tfrac12 u_i \cdot u_j$$

    h are the fields of the factorised step, `UniformBits.posterior_fields` of the denoiser's mean tanh(logits / 2), so
    that J = 0, or a graph without edges, is the factorised denoiser exactly. That step drops the dependence between
    bits, which is what fails when steps are few; an autoregressive copula restores it in Discrete Copula Diffusion
    (Liu, Broadrick, Niepert and Van den Broeck, arXiv 2410.01949), an Ising problem here.

    The couplings J^(k) are parameters, one set a step, shared by all x_k, and start at 0: where the law of x_{k-1} is
    an Ising law, the exact step has its couplings and x_k enters the fields alone. A denoiser that answers features u
    `[B, n, r]` too adds couplings that depend on x_k. Couplings shift the bits' means, so the logits are trained with
    them:

        copula = IsingCopula(denoiser, graph, UniformBits(log_times(4)))
        x, after, k = copula.pairs(x_0)                                # x_{k-1} and x_k, k random
        loss = -copula.pseudo_likelihood(x, after, k).mean()           # n logits an image, no sampling; then
        loss = copula.cd_loss(x, after, k, Gibbs(sweeps=10)).mean()    # the likelihood's own gradient, nearly
        images = copula.sample(Gibbs(sweeps=100), 64)

    Args:
        denoiser: any network: (x_k `[B, n]` floats of -1 and +1, k `[B]` int64) to logits `[B, n]`, or to (logits,
            features `[B, n, r]`).
        graph: which bits of x_{k-1} are coupled, one spin a bit.
        process: the forward process, with the times of the steps.

    Parameters: the denoiser's and `J` [steps, edges], one number an edge in the order of `graph.edges`.
    """

    def __init__(self, denoiser: nn.Module, graph: Graph, process: UniformBits) -> None:
        if not isinstance(process, UniformBits):
            raise TypeError(f"expected a process of spins, such as UniformBits(log_times(4)); got {process!r}")
        check_graph(graph)
        super().__init__()
        self.denoiser, self.graph, self.process = denoiser, graph, process
        like = next((p for p in denoiser.parameters() if p.is_floating_point()), torch.empty(0))
        self.J = nn.Parameter(torch.zeros(process.steps, graph.num_edges, dtype=like.dtype, device=like.device))

    # ---- the step --------------------------------------------------------------------------------------------

    def forward(self, x: Shaped[Tensor, "B n"], k: Step) -> Denoised:
        """What the model says of x_k = `x`; couplings `[edges]` where one step serves all rows, else `[B, edges]`."""
        logits, J = self._answer(x, k)
        return Denoised(logits, self.graph.edge_values(J))

    def step_problem(self, x: Shaped[Tensor, "B n"], k: Step) -> Ising:
        """The law of x_{k-1} given x_k = `x`, one problem a row; differentiable in the parameters."""
        logits, J = self._answer(x, k)
        mean = (logits.double() / 2).tanh()  # in double precision, where a sure one is not yet 1
        h = self.process.posterior_fields(x, mean.clamp(-SURE, SURE), k)
        return Ising(self.graph, h.to(logits), J)

    def _answer(self, x: Tensor, k: Step) -> tuple[Tensor, Tensor]:
        """Logits, and couplings in the graph's layout."""
        self._check(x)
        steps = torch.as_tensor(k, device=x.device)
        if steps.shape not in ((), x.shape[:1]):
            raise ValueError(f"expected one step k, or one for each of {len(x)} rows; got {list(steps.shape)}")
        if not numbers((steps >= 1) & (steps <= self.process.steps)).all():
            raise ValueError(f"expected steps 1 <= k <= {self.process.steps}; got {steps.tolist()}")
        answer = self.denoiser(x.to(self.J), steps.expand(len(x)))
        logits, u = answer if isinstance(answer, tuple) else (answer, None)
        if logits.shape != x.shape:
            raise ValueError(f"expected the denoiser's logits {list(x.shape)}; got {list(logits.shape)}")
        table = self.graph.couplings(self.J)  # filled in before a batch repeats it
        J = table.index_select(0, steps.reshape(-1) - 1).reshape(*steps.shape, *table.shape[1:])
        if u is None:
            return logits, J
        if u.shape[:2] != x.shape or u.dim() != 3:
            raise ValueError(f"expected the denoiser's features [{len(x)}, {x.shape[1]}, r]; got {list(u.shape)}")
        i, j = self.graph.edges.to(u.device)
        return logits, J - self.graph.couplings((u[:, i] * u[:, j]).sum(-1) / 2)

    @uncompiled
    @torch.no_grad()
    def sample(self, sampler: Sampler, num: int, *, generator: Generators | None = None) -> Shaped[Tensor, "num n"]:
        """`num` images, spins `[num, n]` int8, by all steps from x_T, which is uniform: one call of `sampler` a step.

        With a list of generators, one an image, each is what it would be alone, where the denoiser rounds alike.
        """
        check_is_sampler(sampler)
        if not is_whole(num) or num < 1:
            raise ValueError(f"expected num >= 1 images; got {num!r}")
        seeds = draw_seeds(generator, (num,))

        def streams(step: int) -> list[torch.Generator]:
            return [torch.Generator().manual_seed(mix(seed, step)) for seed in seeds]

        x = self.process.prior((num, self.graph.num_spins), streams(0)).to(self.J.device)
        for k in range(self.process.steps, 0, -1):
            x = sampler.sample(self.step_problem(x, k), 1, generator=streams(k)).spins[:, 0]
        return x

    # ---- learning --------------------------------------------------------------------------------------------

    @uncompiled
    def pairs(self, data: Shaped[Tensor, "B n"], generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """(x_{k-1}, x_k, k) of data x_0 `[B, n]`: what to train on, each row with a uniform random step k."""
        self._check(data)
        k = torch.randint(1, self.process.steps + 1, (len(data),), generator=generator)
        x = self.process.noise(data, k - 1, generator=generator)
        return x, self.process.noise(x, k, k - 1, generator), k

    def pseudo_likelihood(self, x: Shaped[Tensor, "B n"], after: Shaped[Tensor, "B n"], k: Step) -> Float[Tensor, " B"]:
        r"""$\sum_i \log P(x_i | x_{\setminus i}, x_k)$ of x = x_{k-1} given `after` = x_k, a row (Besag 1975).

        $P(x_i | \cdot) = \sigma(-2 f_i x_i)$ with the local field f_i. With J = 0 it is the log-likelihood.
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
        r"""$E(x_{k-1}) - \langle E \rangle$ over `num` reads of the step, a row: minus the gradient of log P, nearly.

        Exactly, in the mean, where the reads are exact. Its value is no likelihood.

        Args:
            x: x_{k-1} `[B, n]`.
            after: x_k.
            k: the step.
            sampler: draws the step.
            start: of its chains: "data", at x (CD-k; the sampler must continue chains), or "fresh", its own start.
            num: reads a row.
            generator: one, or a list with one a row.
        """
        self._check(x)
        check_is_sampler(sampler)
        if start not in get_args(CdStart):
            raise ValueError(f"unknown start {start!r}; expected one of {', '.join(get_args(CdStart))}")
        problem, initial = self.step_problem(after, k), None
        if start == "data":
            spins = x.to(torch.int8)[:, None].repeat(1, num, 1)
            initial = Samples(spins, torch.full(spins.shape[:-1], float("nan"), device=x.device))
        with torch.no_grad():
            reads = sampler.sample(problem.detach(), num, initial=initial, generator=generator)
        return problem.energy(x[:, None])[:, 0] - (reads.weight.to(problem.h) * problem.energy(reads.spins)).sum(-1)

    def _check(self, x: Tensor) -> None:
        n = self.graph.num_spins
        if x.dim() != 2 or x.shape[-1] != n or len(x) == 0:
            raise ValueError(f"expected spins [B, {n}], one a spin of the graph; got {list(x.shape)}")
        if x.device != self.J.device:
            raise ValueError(f"x is on {x.device}, the model on {self.J.device}: move one")
        if not numbers(x.abs() == 1).all():
            odd = float(x[x.abs() != 1][0])
            raise ValueError(f"expected spins x of -1 and +1; got {odd:g}: 2 * bits - 1 makes spins of bits")

    # ---- the graph travels with the weights ----------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """The graph's identity, as bytes in a tensor, so that weights cannot be loaded into another graph."""
        return tensor_of(self.graph.hash)

    def set_extra_state(self, state: Any) -> None:
        """Nothing to set: `_load_from_state_dict` has compared it."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state = state_dict.get(prefix + "_extra_state")
        if state is not None:  # before any tensor is copied
            theirs, ours = text_of(state), self.graph.hash
            if theirs != ours:
                raise ValueError(f"weights of another graph: its hash is {theirs[:12]}, this one's {ours[:12]}")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
