"""A Boltzmann machine as the critic of an agent: values of actions as negative free energies."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qsample.learning.reinforcement import free_energy
from qsample.learning.reinforcement.free_energy import Estimator
from qsample.models.boltzmann import BoltzmannMachine
from qsample.models.energy import EnergyModel
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.problem.transverse import transverse_field
from qsample.sampling.random import draw_seed
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.support.checks import check_choice, check_tensors, whole
from qsample.support.faces import public


@dataclass
class Spent:
    """What a critic and its copies asked of the sampler so far."""

    reads: int = 0
    problems: int = 0


@public("qsample")
class FreeEnergyCritic(nn.Module):
    r"""$Q(s, a) = -F(s, a)/\sqrt{n_s}$: the free energy of a model whose visible units show both.

    $F(s, a) = -\log \sum_h e^{-E(s, a, h)}$ (Sallans and Hinton, JMLR 5, 1063, 2004); the scale, by
    the number $n_s$ of state units, is that of Elfwing, Uchibe and Doya (Neural Networks 84, 17,
    2016). The gradient of a squared error of Q is that of temporal-difference learning,
    $\partial Q/\partial\theta = -\langle \partial E/\partial\theta \rangle_{h|s,a}/\sqrt{n_s}$.

    States and actions are units of the model, in its own coding: 0 and 1 of an RBM, -1 and +1 of a
    `BoltzmannMachine`, which takes values between as well: a unit at 0 adds nothing to a field.

    Args:
        model: any energy model; its first visible units show the state, the others the action.
        num_state: number of state units.
        sampler: what F is measured by, such as `Gibbs(20)`, an annealer, tempering or a recorded
            QPU; None sums over all states of the hidden units, in closed form where they are not
            coupled to each other.
        num: reads per state and action.
        estimator: how F is made of reads, `auto`, `seen` or `entropy`. "seen" sums the weights of
            the states that were read, which is right whatever the sampler's law once all that
            matter were seen, and never below F. "auto" takes log Z from a sampler that tells it
            (`Exact`, `AnnealedImportance`, `PopulationAnnealing`), else "seen". "entropy" is the
            published one, mean energy less entropy of the frequencies; of hidden units that are not
            coupled to each other it alone draws reads, the others take the closed form.
        transverse: field Γ on the hidden units, a quantum Boltzmann machine; 0 is a classical one.
        slices: Suzuki-Trotter slices, where there is a field.

    Raises:
        ValueError: a model without room for state and action, a setting that is none.
        TypeError: no energy model, or no sampler.
    """

    def __init__(
        self,
        model: EnergyModel,
        num_state: int,
        *,
        sampler: Sampler | None = None,
        num: int = 100,
        estimator: Estimator = "auto",
        transverse: float = 0.0,
        slices: int = 5,
    ) -> None:
        super().__init__()
        if not isinstance(model, EnergyModel):
            kind = type(model).__name__
            raise TypeError(f"expected an energy model, such as BernoulliRBM(20, 8); got {kind}")
        if sampler is not None:
            check_is_sampler(sampler)
        check_choice("estimator", estimator, Estimator)
        self.model = model
        self.num_state = whole("num_state", num_state, 1)
        if self.num_state >= model.num_visible:
            raise ValueError(
                f"expected num_state below the model's {model.num_visible} visible units, which "
                f"show state and action; got {num_state}"
            )
        self.num_action = model.num_visible - self.num_state
        self.sampler = sampler
        self.num = whole("num", num, 1)
        self.estimator: Estimator = estimator
        self.transverse = _field(transverse)
        self.slices = whole("slices", slices, 1)
        self.spent = Spent()
        self._given_state = model.graph.without(model.units.visible.cpu[: self.num_state])
        actions = set(model.units.visible.cpu[self.num_state :].tolist())
        free = self._given_state.free.tolist()
        self._places = [place for place, spin in enumerate(free) if spin in actions]

    @property
    def _closed(self) -> bool:
        """Whether F has a closed form, and reads are not asked for."""
        by_formula = self.model.tractable and not self.transverse
        return by_formula and (self.sampler is None or self.estimator != "entropy")

    @property
    def off(self) -> int:
        """The lower of the two values of a unit, in the model's coding."""
        return 0 if self.model.coding == "bits" else -1

    def extra_repr(self) -> str:
        """Sizes and how F is measured, for `print(critic)`."""
        text = f"{self.num_state} state units, {self.num_action} action units"
        if self.transverse:
            text += f", transverse={self.transverse:g}, slices={self.slices}"
        if self.sampler is None:
            return f"{text}, exact sum"
        return f"{text}, sampler={self.sampler!r}, num={self.num}, {self.estimator}"

    def forward(
        self,
        state: Float[Tensor, "... s"],
        action: Float[Tensor, "... a"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Q of states and actions, `[*]`; differentiable in the parameters.

        Args:
            state: state units, `[*, num_state]`.
            action: action units, `[*, num_action]`; leading axes broadcast.
            generator: source of the sampler's seeds; None is torch's default.
        """
        units = self._units(state, action)
        shape = units.shape[:-1]
        rows = units.reshape(-1, units.shape[-1])
        if self._closed:
            free = self._free_energy(rows, generator)
        else:  # equal rows are one problem: sums and reads cost more than looking for them
            rows, place = rows.unique(dim=0, return_inverse=True)
            free = self._free_energy(rows, generator)[place]
        return -free.reshape(shape) / math.sqrt(self.num_state)

    def actions(
        self,
        state: Float[Tensor, "... s"],
        num: int,
        sampler: Sampler,
        *,
        temperature: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "... num a"]:
        r"""Actions of the problem in which the state is clamped: reads, their hidden units dropped.

        Their law is $p(a|s) \propto \sum_h e^{-\beta E(s, a, h)}$, with
        $\beta = 1/(T\sqrt{n_s})$. At β = 1, the default T, it is softmax of Q/T over all actions,
        however many there are; at others it is near, and colder as T falls.

        Args:
            state: state units, `[*, num_state]`.
            num: reads of each state.
            sampler: any sampler.
            temperature: T, above 0; by default $1/\sqrt{n_s}$.
            generator: source of the sampler's seeds; None is torch's default.

        Raises:
            ValueError: a temperature that is not above 0, or a critic in a transverse field, whose
                actions no classical problem draws.
        """
        if self.transverse:
            raise ValueError(
                "actions are not sampled in a transverse field: use one of 0, or a space of few "
                "actions, which are tried one by one"
            )
        beta = 1.0
        if temperature is not None:
            if not temperature > 0:
                raise ValueError(f"expected a temperature above 0; got {temperature!r}")
            beta = 1 / (temperature * math.sqrt(self.num_state))
        self._check_width("state", state, self.num_state)
        with torch.no_grad():
            shape = state.shape[:-1]
            clamped = self._spins(state).reshape(-1, self.num_state)
            problem = self.model.ising().given(self._given_state, clamped).scale(beta)
            reads = sampler.sample(problem, num, generator=generator)
            self._count(problem, num)
            drawn = self.model.decode(reads.spins[..., self._places])
        return drawn.reshape(*shape, num, self.num_action)

    # ---- F ----------------

    def _free_energy(self, units: Tensor, generator: torch.Generator | None) -> Tensor:
        """F of rows of visible units, `[N]`."""
        model = self.model
        if self._closed:
            return model.free_energy_of_units(units)
        problem = model.ising().given(model.units.given, self._spins(units))
        if self.sampler is None:
            if self.transverse:
                return free_energy.by_transfer(problem, self.transverse, self.slices)
            return free_energy.listed(problem)
        if self.transverse:
            problem = transverse_field(problem, self.transverse, self.slices)
        # a seed of its own per call, so that a call draws the same whatever was drawn before
        seeded = torch.Generator().manual_seed(draw_seed(generator))
        reads = self.sampler.sample(problem.detach(), self.num, generator=seeded)
        self._count(problem, self.num)
        return free_energy.from_reads(problem, reads, self.estimator)

    def _count(self, problem: Ising, num: int) -> None:
        problems = problem.batch_shape.numel()
        self.spent.problems += problems
        self.spent.reads += problems * num

    # ---- units ----------------

    def _units(self, state: Tensor, action: Tensor) -> Tensor:
        """Visible units of states and actions, `[*, n_visible]`, like the parameters."""
        self._check_width("state", state, self.num_state)
        self._check_width("action", action, self.num_action)
        shape = (state[..., 0] + action[..., 0]).shape  # quicker than torch.broadcast_shapes
        weight = self.model.weights()[0]
        parts = [units.to(weight).expand(*shape, -1) for units in (state, action)]
        return torch.cat(parts, -1)

    def _spins(self, units: Tensor) -> Tensor:
        """Units as spins: 2 x - 1 of 0 and 1."""
        units = units.to(self.model.weights()[0])
        return 2 * units - 1 if self.model.coding == "bits" else units

    @staticmethod
    def _check_width(name: str, units: Tensor, width: int) -> None:
        check_tensors(**{name: units})
        if units.dim() < 1 or units.shape[-1] != width:
            raise ValueError(f"expected {name} units of shape [*, {width}]; got {[*units.shape]}")

    def __deepcopy__(self, memo: dict[int, Any]) -> FreeEnergyCritic:
        """Weights of its own; the sampler, which may hold a device, and the count are shared."""
        twin = FreeEnergyCritic(
            copy.deepcopy(self.model, memo),
            self.num_state,
            sampler=self.sampler,
            num=self.num,
            estimator=self.estimator,
            transverse=self.transverse,
            slices=self.slices,
        )
        twin.spent = self.spent
        return twin.train(self.training)


def _field(transverse: float) -> float:
    """The field, checked."""
    if isinstance(transverse, bool) or not isinstance(transverse, Real):
        raise TypeError(f"expected transverse as a number; got {type(transverse).__name__}")
    value = float(transverse)
    if not 0 <= value < math.inf:
        raise ValueError(f"expected transverse >= 0 and finite; got {transverse!r}")
    return value


@public("qsample")
def layered_machine(
    num_state: int,
    hidden: Sequence[int],
    num_action: int,
    *,
    scale: float = 0.1,
    generator: torch.Generator | None = None,
) -> BoltzmannMachine:
    """A Boltzmann machine in layers: state units, hidden layers, action units, each to the next.

    The deep critic of Crawford et al. (arXiv 1612.05695): with layers (4, 4), state units meet the
    first hidden layer and action units the last. With one layer both meet it.

    Args:
        num_state: number of state units.
        hidden: sizes of the hidden layers, from the state to the action.
        num_action: number of action units.
        scale: scale of the initial couplings, as in `BoltzmannMachine`.
        generator: draws the initial couplings; None is torch's default.

    Returns:
        The machine; spins are state units, action units, then the hidden layers.

    Raises:
        ValueError: no hidden layer, or a layer without units.
    """
    layers = [whole("units of a hidden layer", size, 1) for size in hidden]
    if not layers:
        raise ValueError("expected at least one hidden layer; got none")
    sizes = [
        whole("num_state", num_state, 1),
        *layers,
        whole("num_action", num_action, 1),
    ]
    visible = sizes[0] + sizes[-1]
    starts = [0]
    total = visible
    for size in layers:
        starts.append(total)
        total += size
    starts.append(sizes[0])
    edges = []
    for k in range(len(sizes) - 1):
        first = torch.arange(starts[k], starts[k] + sizes[k])
        second = torch.arange(starts[k + 1], starts[k + 1] + sizes[k + 1])
        edges.append(torch.cartesian_prod(first, second))
    graph = Graph.sparse(total, torch.cat(edges))
    return BoltzmannMachine(graph, range(visible, total), scale=scale, generator=generator)
