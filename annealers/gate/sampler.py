"""QAOA as a sampler: a shallow circuit of phases and mixers, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from qsample.annealers.gate.ansatz import Circuit, ramp
from qsample.annealers.gate.kits import Kit, kit_backend
from qsample.annealers.gate.proposal import scaling
from qsample.annealers.gate.statevector import (
    check_qubits,
    cumulated,
    drawn,
    energies,
    evolved,
    uniform,
)
from qsample.annealers.gate.training import expected_energy, trained
from qsample.annealers.kernels.results import samples_of
from qsample.annealers.kernels.streams import Streams
from qsample.problem.enumeration import states_of
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import check_choice, whole_settings
from qsample.support.faces import public


@public("qsample.annealers")
@dataclass(frozen=True)
class QAOA:
    r"""The quantum approximate optimisation algorithm, measured (Farhi et al., arXiv 1411.4028).

    $$|\gamma, \beta\rangle = \prod_{k=1}^{p} e^{i \beta_k \sum_j X_j} e^{-i \gamma_k \alpha C}
      |{+}\dots{+}\rangle, \qquad
      \alpha = \sqrt{n} / \Big(\sum_i h_i^2 + \sum_{ij} J_{ij}^2\Big)^{1/2}$$

    with C = E(s) and spin $s = 1 - 2b$ of a measured bit b. Its law is not Boltzmann's: states of
    equal energy get unequal weight, and alpha takes the temperature out. So the reads are
    HEURISTIC, and `Corrected(QAOA(...), Gibbs(k))` is what trains a model.

    Args:
        depth: number p of layers.
        kit: who runs the circuit. "torch": state vectors on the problem's device, no extra.
            "pennylane", "qiskit" (V2 primitives), "cirq": the same circuit there, each an extra, on
            their fastest simulator that is installed: Lightning, Aer, qsim.
        angles: "ramp": a linear ramp that serves all problems (arXiv 2506.03241). "trained": for
            each problem the mean energy goes down from there by Adam; gradients are PennyLane's
            adjoint ones on that kit, and torch's elsewhere. A tensor `[2, depth]` (gammas, betas):
            these, as they are at the time of a call; as an `nn.Parameter` it may be moved by the
            optimiser that moves a model's weights, see `expected_energy`. Nested lists of numbers
            become such a tensor.
        updates: steps of Adam where angles are trained.
        rate: their learning rate, radians.
        device: a device, simulator or noise model of the kit, which is then called as it is: a
            PennyLane device or its name, a Qiskit backend or V2 sampler, a `cirq.Sampler`. Its
            draws are beyond our seeds, and it may hold more than 20 qubits. None is a simulator.

    Raises:
        ValueError: a setting that is none of these.

    `info`: "kit", and "angles" `[*B, 2, depth]` that were used.
    """

    depth: int = 4
    kit: Kit = "torch"
    angles: str | Tensor | Sequence[Sequence[float]] = "ramp"
    updates: int = 30
    rate: float = 0.05
    device: Any = None

    name = "qaoa"
    about = "a measured circuit, simulated up to 20 spins; not Boltzmann's law"
    exactness = Exactness.HEURISTIC
    warm_start = False
    reversible = False

    def __post_init__(self) -> None:
        whole_settings(self, depth=1, updates=1)
        check_choice("kit", self.kit, Kit)
        if isinstance(self.angles, list | tuple):
            object.__setattr__(self, "angles", _as_angles(self.angles))
        if not isinstance(self.rate, int | float) or not self.rate > 0:
            raise ValueError(f"expected rate > 0; got {self.rate!r}")
        if self.kit == "torch" and self.device is not None:
            raise ValueError(
                f'kit="torch" runs where the problem lies, so device={self.device!r} has no place: '
                "problem.to(device) moves it"
            )
        if isinstance(self.angles, Tensor):
            if list(self.angles.shape) != [2, self.depth] or self.angles.is_complex():
                raise ValueError(
                    f"expected angles of shape [2, {self.depth}], gammas and betas of depth="
                    f"{self.depth}; got {list(self.angles.shape)}"
                )
        elif self.angles not in ("ramp", "trained"):
            raise ValueError(
                f"unknown angles {self.angles!r}; expected ramp, trained, or a tensor [2, depth]"
            )

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw `num` measurements of each problem; see `Sampler.sample`.

        Args:
            problem: one problem, or a batch `*B` of problems, of at most 20 spins.
            num: number of reads per problem.
            initial: refused, as a circuit begins anew.
            generator: source of the seeds; None is torch's default generator.

        Raises:
            ValueError: as `check_request` says, or more spins than can be simulated.
            ImportError: the kit is not installed, or too old; the line names the extra.
        """
        problem = check_request(self, problem, num, initial)
        if self.device is None or self.angles == "trained":
            check_qubits(f"QAOA(kit={self.kit!r})", problem.num_spins)
        seeds = draw_seeds(generator, problem.batch_shape)
        flat = problem.flat()
        angles = self._angles(flat)
        if self.kit == "torch":
            spins = self._simulated(flat, angles, num, seeds)
        else:
            spins = self._asked(flat, angles, num, seeds)
        info = {"kit": self.kit, "angles": angles}
        return samples_of(problem, spins, Exactness.HEURISTIC, info)

    def expected_energy(self, problem: Ising) -> Tensor:
        """Mean energy of the reads without shot noise, `[*B]` float64, differentiable in `angles`.

        What moves an `nn.Parameter` of angles: `(loss + qaoa.expected_energy(problem)).backward()`
        with one optimiser over a model's weights and the angles. On `kit="pennylane"` by its torch
        interface and the adjoint method, else by a state vector in torch. The problem counts as
        given: its own gradients stop here.

        Args:
            problem: one problem, or a batch `*B` of problems, of at most 20 spins.

        Raises:
            ValueError: more spins than can be simulated.
            ImportError: as `sample` does.
        """
        check_qubits(f"QAOA(kit={self.kit!r})", problem.num_spins)
        flat = problem.detach().flat()
        angles = self._angles(flat)
        if isinstance(self.angles, Tensor):
            angles = self._expanded(self.angles, flat)
        mean = self._mean(flat)(angles) + flat.offset.double()
        return mean.reshape(problem.batch_shape)

    # ---- angles ----------------

    def _angles(self, problem: Ising) -> Tensor:
        """The angles of flat problems, `[P, 2, depth]` float64, detached."""
        if isinstance(self.angles, Tensor):
            return self._expanded(self.angles.detach(), problem).clone()
        start = self._expanded(ramp(self.depth), problem)
        if self.angles == "ramp":
            return start.clone()
        return trained(self._mean(problem), start, self.updates, self.rate)

    def _expanded(self, angles: Tensor, problem: Ising) -> Tensor:
        """The same angles `[2, depth]` for each problem."""
        return angles.to(problem.device, torch.float64).expand(len(problem.h), -1, -1)

    def _mean(self, problem: Ising) -> Any:
        """The mean energy without the offset, `[P]`, of angles `[P, 2, depth]`."""
        scale = scaling(problem)
        if self.kit == "pennylane":
            backend = cast(Any, kit_backend(self.kit))
            singles = problem.unbind()

            def adjoint(angles: Tensor) -> Tensor:
                gamma, beta = layered(angles.cpu(), scale.cpu())
                means = [
                    backend.expected_energy(Circuit.of(single, gamma[k], beta[k]))
                    for k, single in enumerate(singles)
                ]
                return torch.stack(means).to(problem.device)

            return adjoint
        energy = energies(problem)
        return lambda angles: expected_energy(energy, *layered(angles, scale))

    # ---- measurements, `[P, num, n]` int8 ----------------

    def _simulated(self, problem: Ising, angles: Tensor, num: int, seeds: list[int]) -> Tensor:
        """By state vectors in torch, a problem at a time."""
        streams = Streams([mix(seed, 0) for seed in seeds], problem.device)
        points = streams.uniform64(num)
        gamma, beta = layered(angles, scaling(problem))
        n = problem.num_spins
        rows: list[Tensor] = []
        for k, single in enumerate(problem.unbind()):
            start = uniform(1, n, problem.device)
            state = evolved(start, energies(single.flat()), gamma[k, None], beta[k, None])
            column = torch.zeros(1, num, dtype=torch.int64, device=problem.device)
            rows.append(states_of(drawn(cumulated(state), column, points[k, None]), n))
        return torch.cat(rows)

    def _asked(self, problem: Ising, angles: Tensor, num: int, seeds: list[int]) -> Tensor:
        """By a kit, one problem after the other."""
        backend = kit_backend(self.kit)
        gamma, beta = layered(angles.cpu(), scaling(problem).cpu())
        rows: list[Tensor] = []
        for k, (single, seed) in enumerate(zip(problem.unbind(), seeds, strict=True)):
            circuit = Circuit.of(single, gamma[k], beta[k])
            bits = backend.bits(circuit, num, mix(seed, 0) >> 32, self.device)
            if bits.shape != (num, problem.num_spins):
                raise ValueError(
                    f"asked {self.kit} for reads [{num}, {problem.num_spins}], got "
                    f"{list(bits.shape)}: leave the number of shots to QAOA"
                )
            rows.append(1 - 2 * torch.from_numpy(bits.astype("int8")))
        return torch.stack(rows).to(problem.device)


def layered(angles: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""Phase angles $\alpha \gamma$ and mixer angles $-\beta$ of a circuit, `[P, depth]` each.

    Args:
        angles: gammas and betas, `[P, 2, depth]` float64.
        scale: alpha, `[P]` float64.
    """
    gamma, beta = angles.unbind(1)
    return gamma * scale[:, None], -beta


def _as_angles(rows: Sequence[Sequence[float]]) -> Tensor:
    """Nested lists of angles as a tensor; a ValueError for what are no numbers."""
    try:
        return torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError):
        raise ValueError(f"expected angles as numbers [2, depth]; got {rows!r}") from None
