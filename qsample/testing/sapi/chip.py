"""The physics of the simulated chip: Boltzmann reads at a temperature that no client is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from qsample.annealers.gibbs import Gibbs
from qsample.annealers.simulated_annealing import SimulatedAnnealing
from qsample.problem.ising import Ising
from qsample.sampling.samples import Samples
from qsample.support.faces import public
from qsample.testing.sapi.parameters import Refusal, Request
from qsample.testing.sapi.solver import Problem


@public("qsample.testing.sapi")
@dataclass(frozen=True)
class Chip:
    r"""A simulated chip: draws from exp(-beta E'), E' being the energy programmed and disturbed.

    $$h'_i = a\,h_i(1 + \sigma\epsilon_i) + b, \qquad J'_{ij} = a\,J_{ij}(1 + \sigma\epsilon_{ij})$$

    where a is 1, or the factor of `auto_scale=True` (the client then sees an effective beta of a
    beta). Reads are independent simulated anneals by our own engine; a reverse anneal is `sweeps`
    sweeps at beta from its state.

    Args:
        beta: the hidden inverse temperature, in the units of h and J on the chip.
        drift: relative swing of beta, which is beta (1 + drift sin(2 pi k / period)) in programming
            k.
        period: number of programmings per period of the drift.
        bias: field b, added to every active h; spin-reversal transforms average it out.
        noise: sigma, the relative error of h and J (Gaussian).
        fixed_noise: whether the errors belong to the chip, the same at every programming; otherwise
            they are drawn afresh at each.
        sweeps: number of sweeps of an anneal: half of them cool linearly, half hold at beta.
        seed: seed of all randomness; equal jobs in equal number give equal reads, whatever the
            order of arrival.

    Raises:
        ValueError: a number outside its range.
    """

    beta: float = 6.35
    drift: float = 0.0
    period: int = 1000
    bias: float = 0.0
    noise: float = 0.0
    fixed_noise: bool = False
    sweeps: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf or not 0 <= self.drift < 1 or self.period < 1:
            raise ValueError(
                "expected beta > 0, drift in [0, 1) and period >= 1; got "
                f"beta={self.beta}, drift={self.drift}, period={self.period}"
            )
        if not 0 <= self.noise < math.inf or not math.isfinite(self.bias) or self.sweeps < 2:
            raise ValueError(
                "expected noise >= 0, a finite bias and sweeps >= 2; got "
                f"noise={self.noise}, bias={self.bias}, sweeps={self.sweeps}"
            )

    def beta_at(self, programming: int) -> float:
        """The hidden beta of the k-th programming, from 0."""
        return self.beta * (1 + self.drift * math.sin(2 * math.pi * programming / self.period))

    def programmed(self, problem: Problem, scale: float, seed: int) -> Ising:
        """The disturbed problem, E'.

        Args:
            problem: the problem that was submitted.
            scale: the factor a on h and J.
            seed: seed of the errors of this programming.
        """
        rng = np.random.default_rng(seed)
        error_h = rng.standard_normal(len(problem.h))
        error_J = rng.standard_normal(len(problem.J))
        if self.fixed_noise:
            error_h = self._fixed_errors(0, problem.active)
            error_J = self._fixed_errors(1, problem.coupler)
        h = scale * problem.h * (1 + self.noise * error_h) + self.bias
        J = scale * problem.J * (1 + self.noise * error_J)
        return Ising(problem.graph, torch.from_numpy(h), torch.from_numpy(J))

    def _fixed_errors(self, kind: int, index: np.ndarray) -> np.ndarray:
        """The chip's own errors of the qubits (kind 0) or couplers (kind 1) at `index`."""
        rng = np.random.default_rng([self.seed, kind])
        return rng.standard_normal(int(index.max(initial=-1)) + 1)[index]

    def draw(
        self, problem: Problem, request: Request, scale: float, programming: int, seed: int
    ) -> np.ndarray:
        """Reads `[R, n]` of one programming, int8, -1 and +1.

        Args:
            problem: the problem that was submitted.
            request: what the job asks for.
            scale: the factor on h and J, other than 1 under `auto_scale=True`.
            programming: number of the programming, from 0.
            seed: seed of the errors and of the reads.
        """
        beta = self.beta_at(programming)
        target = self.programmed(problem, scale, seed)
        generator = torch.Generator().manual_seed(seed)

        # forward: cool, then hold at beta
        if request.initial_state is None:
            cooling = [beta * (k + 1) / (self.sweeps // 2) for k in range(self.sweeps // 2)]
            betas = cooling + [beta] * (self.sweeps - len(cooling))
            sampler = SimulatedAnnealing(schedule=betas)
            return sampler.sample(target, request.num_reads, generator=generator).spins.numpy()

        # in reverse: sweeps at beta from the state, each read from there or from the last one
        kernel = Gibbs(betas=[beta] * self.sweeps)
        state = torch.from_numpy(initial_spins(problem, request))
        if request.reinitialize_state:
            start = state.expand(request.num_reads, -1).contiguous()
            initial = Samples(start, torch.zeros(len(start)))
            num = request.num_reads
            return kernel.sample(target, num, initial=initial, generator=generator).spins.numpy()
        reads = []
        for _ in range(request.num_reads):
            last = Samples(state[None], torch.zeros(1))
            state = kernel.sample(target, 1, initial=last, generator=generator).spins[0]
            reads.append(state)
        return torch.stack(reads).numpy()


def initial_spins(problem: Problem, request: Request) -> np.ndarray:
    """The state `[n]` of a reverse anneal.

    Raises:
        Refusal: it leaves an active qubit out or has the wrong values.
    """
    state = np.array(request.initial_state, dtype=np.int8)[problem.active]
    low = -1 if problem.kind == "ising" else 0
    if not np.isin(state, (low, 1)).all():
        raise Refusal(
            400,
            f"initial_state must give every active qubit of this {problem.kind} problem {low} or 1",
        )
    return np.where(state > 0, 1, -1).astype(np.int8)
