"""Quantum-enhanced MCMC: a measured quantum evolution as the proposal of a Metropolis step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qsample.annealers.gate.statevector import (
    AMPLITUDES,
    basis,
    check_qubits,
    cumulated,
    drawn,
    energies,
    evolved,
)
from qsample.annealers.kernels.results import passed_on, samples_of
from qsample.annealers.kernels.streams import Streams
from qsample.problem.enumeration import states_of
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import check_choice, whole_settings
from qsample.support.faces import public

Ramp = Literal["symmetric", "quench"]
MAX_MATRIX = 12  # spins of a whole matrix of probabilities
WHOLE = 1 << 11  # states of a problem whose whole matrix is computed, 32 MiB of probabilities
SHARE = 0.4  # of the time for the way up, and as much for the way down


@public("qsample.annealers")
@dataclass(frozen=True)
class QuantumProposal:
    r"""Metropolis steps whose proposals are quantum evolutions, measured (Layden et al. 2023).

    From the chain's state $|s\rangle$ the qubits evolve under

    $$H(\tau) = (1 - g(\tau))\, \alpha C + g(\tau) \sum_i X_i, \qquad
      \alpha = \sqrt{n} / \Big(\sum_i h_i^2 + \sum_{ij} J_{ij}^2\Big)^{1/2}$$

    with C = E(s), and are measured. As $g(T - \tau) = g(\tau)$, the evolution U is its own
    transpose: s' is as likely from s as s from s', and acceptance with $\min(1, e^{E(s) - E(s')})$
    makes each step reversible at the problem's law, whatever U is. Trotter's layers are symmetric
    too, so their error costs no exactness; rounding in single precision leaves U symmetric to 1e-6.
    The largest g and the time T are random.

    The evolution is simulated on the problem's device, 2^n amplitudes per chain in complex64.
    There is no speed-up in the worst case, for this proposal or any other unital one (Orfi and
    Sels, arXiv 2403.03087), and each step here costs 2^n times what a classical one does: it is
    for the study of such proposals.

    Args:
        steps: Metropolis steps per call.
        hold: steps for which strength and time of the evolution are held before they are drawn
            anew, for all chains of a problem. Where there are more chains and steps than states the
            whole matrix of an evolution is computed once for them all.
        ramp: "symmetric": g rises smoothly from 0, stays, and falls again (Hsieh, Orfi and Sels,
            arXiv 2603.28076). "quench": g is the same throughout (Layden et al., Nature 619, 282;
            they took gamma=(0.25, 0.6) and time=(2, 20)).
        gamma: smallest and largest of the greatest g of a step, which is uniform between them.
        time: smallest and largest time T of a step, which is uniform between them.
        layers: Trotter layers of an evolution.

    Raises:
        ValueError: a setting that is none of these.

    `info`: "acceptance" `[*B]`, the fraction of steps accepted; "moved" `[*B]`, of those that went
    to another state.
    """

    steps: int = 20
    hold: int = 5
    ramp: Ramp = "symmetric"
    gamma: tuple[float, float] = (0.4, 0.8)
    time: tuple[float, float] = (4.0, 12.0)
    layers: int = 16

    name = "quantum-proposal"
    about = "Metropolis steps from simulated quantum evolutions, up to 20 spins"
    exactness = Exactness.ASYMPTOTIC
    sweep_share = ("steps", 1)
    warm_start = True
    reversible = True

    def __post_init__(self) -> None:
        whole_settings(self, steps=1, hold=1, layers=1)
        check_choice("ramp", self.ramp, Ramp)
        _check_range("gamma", self.gamma, 1.0)
        _check_range("time", self.time, math.inf)

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw `num` reads of each problem; weights of `initial` are kept.

        Args:
            problem: the problems, a batch of any dimensions `*B`, of at most 20 spins.
            num: reads of each problem.
            initial: chains to continue, `[*B, num, n]`; None starts from uniform random spins.
            generator: randomness, as in `Sampler.sample`.

        Raises:
            ValueError: as `check_request` says, or more spins than can be simulated.
        """
        problem = check_request(self, problem, num, initial)
        n = problem.num_spins
        check_qubits("QuantumProposal", n)
        flat = problem.flat()
        seeds = draw_seeds(generator, problem.batch_shape)
        streams = Streams([mix(seed, 0) for seed in seeds], problem.device)
        energy = energies(flat)
        if initial is None:
            number = (streams.uniform64(num) * (1 << n)).long()
        else:
            number = _numbers(initial.spins.reshape(-1, num, n))

        scale = scaling(flat)
        accepted = torch.zeros(len(seeds), dtype=torch.float64, device=problem.device)
        moved = torch.zeros_like(accepted)
        for first in range(0, self.steps, self.hold):
            steps = min(self.hold, self.steps - first)
            gamma, beta = self.angles(streams.uniform64(2), scale)
            points = streams.uniform64(steps, 2, num)
            number, went, gone = walked(number, energy, gamma, beta, points)
            accepted += went
            moved += gone

        weight, family = passed_on(initial)
        info = {
            "steps": self.steps,
            "acceptance": accepted / self.steps,
            "moved": moved / self.steps,
        }
        spins = states_of(number, n)
        return samples_of(
            problem, spins, Exactness.ASYMPTOTIC, info, log_weight=weight, family=family
        )

    def proposal_matrix(self, problem: Ising, draws: Tensor) -> Tensor:
        """Probability of each proposal from each state, |U|^2, `[2^n, 2^n]` float64; symmetric.

        States are numbered: spin i is +1 where bit i of the number is set.

        Args:
            problem: one problem, without batch dimensions.
            draws: uniform numbers in (0, 1), `[2]`: of the largest g, and of the time.

        Raises:
            ValueError: more than 12 spins, whose matrix no memory is spent on.
        """
        n = problem.num_spins
        check_qubits("QuantumProposal.proposal_matrix", n, limit=MAX_MATRIX)
        flat = problem.detach().flat()
        gamma, beta = self.angles(draws.double()[None], scaling(flat))
        number = torch.arange(1 << n, device=problem.device)[None]
        state = evolved(basis(number, n), energies(flat), gamma, beta)
        return state.double().square().sum(0)[0].mT

    def angles(self, draws: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        r"""The circuit of a step: angles of phases and of mixers, `[P, layers]` float64.

        Symmetric Trotter layers of length T / layers. The phases at both ends, which no measurement
        sees, are left out: layer k has the phase between mixers k - 1 and k, and layer 0 none.

        Args:
            draws: uniform numbers in (0, 1), `[P, 2]` float64: of the largest g, and of the time.
            scale: $\alpha$, `[P]` float64.
        """
        largest = between(self.gamma, draws[:, 0, None])
        step = between(self.time, draws[:, 1, None]) / self.layers
        middle = (torch.arange(self.layers, dtype=torch.float64) + 0.5) / self.layers
        mixing = largest * self.shape(middle).to(draws.device)
        phase = (1 - mixing) * scale[:, None] * step
        # half a phase of the layer before, half of this one
        inner = (phase[:, 1:] + phase[:, :-1]) / 2
        return torch.cat([torch.zeros_like(phase[:, :1]), inner], -1), mixing * step

    def shape(self, x: Tensor) -> Tensor:
        """The ramp g / max g at times x = tau / T in (0, 1); the same at x and 1 - x."""
        if self.ramp == "quench":
            return torch.ones_like(x)
        edge = torch.minimum(x, 1 - x).clamp(max=SHARE) / SHARE
        return (edge * (math.pi / 2)).sin().square()


def between(ends: tuple[float, float], share: Tensor) -> Tensor:
    """The numbers at these shares of the way from the first end to the second."""
    return ends[0] + (ends[1] - ends[0]) * share


def scaling(problem: Ising) -> Tensor:
    r"""$\alpha$ of flat problems, `[P]` float64, which makes C as large as the mixer.

    1 where C is 0.
    """
    h = problem.h.double()
    J = problem.graph.edge_values(problem.J.double())
    numbers = torch.cat([h, J.expand(len(h), -1)], -1)
    largest = numbers.abs().amax(-1)
    unit = torch.where(largest > 0, largest, 1)
    norm = unit * (numbers / unit[:, None]).square().sum(-1).sqrt()
    return torch.where(largest > 0, math.sqrt(problem.num_spins) / norm, 1)


def walked(
    number: Tensor, energy: Tensor, gamma: Tensor, beta: Tensor, points: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """States after Metropolis steps with one circuit; steps accepted and moved, means over reads.

    Args:
        number: states of the chains, `[P, R]` int64.
        energy: E of all states, `[P, 2^n]` float64.
        gamma: angles of the phases, `[P, layers]`.
        beta: angles of the mixers, `[P, layers]`.
        points: uniform numbers, `[P, steps, 2, R]` float64: of the measurements, of acceptance.
    """
    chains = number.shape[-1]
    states = energy.shape[-1]
    steps = points.shape[1]
    # many chains and steps: the whole matrix once, a column per state
    whole = states <= WHOLE and states <= steps * chains
    at_once = max(1, WHOLE**2 // (states * (states if whole else chains)))
    rows: list[Tensor] = []
    accepted: list[Tensor] = []
    moved: list[Tensor] = []
    for first in range(0, len(number), at_once):
        part = slice(first, first + at_once)
        E = energy[part]
        angles = (gamma[part], beta[part])
        now = number[part]
        table = None
        if whole:
            every = torch.arange(states, device=number.device).expand(len(now), -1)
            table = measured(every, E, *angles)
        went = torch.zeros(len(now), dtype=torch.float64, device=number.device)
        gone = torch.zeros_like(went)
        for step in range(steps):
            point, threshold = points[part, step].unbind(1)
            if table is None:
                proposed = proposals(now, E, *angles, point)
            else:
                proposed = drawn(table, now, point)
            gain = E.gather(-1, now) - E.gather(-1, proposed)
            accept = threshold.log() < gain
            went += accept.double().mean(-1)
            gone += (accept & (proposed != now)).double().mean(-1)
            now = torch.where(accept, proposed, now)
        rows.append(now)
        accepted.append(went)
        moved.append(gone)
    return torch.cat(rows), torch.cat(accepted), torch.cat(moved)


def measured(number: Tensor, energy: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Cumulative probabilities after the circuit from each state `[P, M]`: `[P, 2^n, M]` float64.

    A few columns at a time, which caches hold.

    Args:
        number: states `[P, M]`.
        energy: C of all states, `[P, 2^n]` float64.
        gamma: angles of the phases, `[P, layers]` float64.
        beta: angles of the mixers, `[P, layers]` float64.
    """
    states = energy.shape[-1]
    n = states.bit_length() - 1
    step = max(1, AMPLITUDES // (states * len(number)))
    parts = [
        cumulated(evolved(basis(columns, n), energy, gamma, beta))
        for columns in number.split(step, -1)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def proposals(number: Tensor, energy: Tensor, gamma: Tensor, beta: Tensor, point: Tensor) -> Tensor:
    """A measured state for each chain after the circuit from its own, `[P, R]` int64.

    Args:
        number: states of the chains, `[P, R]` int64.
        energy: E of all states, `[P, 2^n]` float64.
        gamma: angles of the phases, `[P, layers]`.
        beta: angles of the mixers, `[P, layers]`.
        point: uniform numbers, `[P, R]` float64.
    """
    step = max(1, AMPLITUDES // (energy.shape[-1] * len(number)))
    parts: list[Tensor] = []
    for columns, points in zip(number.split(step, -1), point.split(step, -1), strict=True):
        own = torch.arange(columns.shape[-1], device=number.device).expand(len(number), -1)
        parts.append(drawn(measured(columns, energy, gamma, beta), own, points))
    return torch.cat(parts, -1)


def _numbers(spins: Tensor) -> Tensor:
    """Numbers of states `[P, R, n]` in the order of `enumeration.states`, `[P, R]` int64."""
    place = 1 << torch.arange(spins.shape[-1], device=spins.device)
    return ((spins > 0) * place).sum(-1)


def _check_range(name: str, value: object, top: float) -> None:
    """ValueError for what is no pair of rising numbers above 0 and at most `top`."""
    good = (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(end, int | float) for end in value)
        and 0 < value[0] <= value[1] <= top
        and math.isfinite(value[1])
    )
    if not good:
        limit = "" if math.isinf(top) else f" <= {top:g}"
        raise ValueError(f"expected {name} as a pair 0 < smallest <= largest{limit}; got {value!r}")
