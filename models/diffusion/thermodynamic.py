"""The denoising thermodynamic model: a diffusion whose reverse steps are Boltzmann machines."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from qsample.diffusion.process import UniformBits
from qsample.diffusion.reverse_step import by_gumbel_weight, draw
from qsample.diffusion.times import log_times
from qsample.models.boltzmann import BoltzmannMachine
from qsample.models.diffusion.tensor_file import read_file, write_file
from qsample.models.diffusion.visible_bits import VisibleBits
from qsample.models.identity import Identified, short_hash
from qsample.models.units import FixedIndex
from qsample.problem.graph import Graph, check_graph
from qsample.problem.ising import Ising
from qsample.problem.lattices import scatter
from qsample.sampling.random import Generators
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.support.checks import check_tensors, whole
from qsample.support.faces import public
from qsample.support.transforms import uncompiled

FORMAT = "qsample thermodynamic model 2"


@public("qsample.models")
class DenoisingThermodynamicModel(Identified):
    r"""T Boltzmann machines on one graph, each the reverse of one step of a noising process.

    arXiv 2510.23972:

    $$P_k(x_{k-1}, z \mid x_k) \propto
      \exp\bigl(w_k\, x_{k-1} \cdot x_k - E_k(x_{k-1}, z)\bigr), \quad k = T..1$$

    with w_k the coupling of the forward process (`UniformBits`) and E_k a `BoltzmannMachine` over
    the visible spins and latent spins z. What x_k does is only a field on the visible spins: a
    batch of conditions is one batch of Ising problems with one J. At its best, sum_z exp(-E_k) is
    the law of x_{k-1}; a small step makes a strong field, and so a conditional that mixes fast. A
    model of one step is a plain Boltzmann machine.

    The visible spins are the bits x (spins, -1 and +1) and, with classes, a label code
    (`VisibleBits`). Machines share nothing: any subset of steps may be trained
    (`denoising_loss(..., steps=)`) or taken from another model (`adopt`).

    Args:
        graph: any graph; `qsample.problem.lattices.grid` makes those of the paper.
        bits: number of data bits, the length of x.
        steps: number of reverse steps, T.
        classes: number of labels; 0 for a model without them.
        copies: number of copies of the one-hot label among the visible spins.
        rate: rate at which bits of x are resampled, in the forward process.
        label_rate: rate at which label bits are resampled: slower, so that labels guide the early
            steps.
        times: t_0 = 0 < ... < t_T of the forward process, `[steps + 1]`; `log_times(steps)` by
            default.
        visible: labels (in the graph) of the spins that carry the bits of x, then the label bits.
            By default random ones of the largest colour class, so that only latent spins couple
            them; of further classes when it is full.
        scale: standard deviation of the initial couplings, as in `BoltzmannMachine`.
        generator: draws the places and the initial couplings; None is torch's default.

    Attributes: `machines` (that of step k is `machines[k - 1]`), `process`, `visible`, `sites` [v]
    (the spin of each visible bit), `penalty` [T] (the correlation penalty of each step) and `rhat`
    [T], both moved by `AdaptivePenalty`.

    Raises:
        ValueError: T < 1, no bits, a graph without room for the visible spins, `visible` of another
            length.
    """

    penalty: Tensor
    rhat: Tensor
    _may_differ = frozenset({"scale"})

    def __init__(
        self,
        graph: Graph,
        bits: int,
        steps: int,
        *,
        classes: int = 0,
        copies: int = 1,
        rate: float = 0.9,
        label_rate: float = 0.2,
        times: Tensor | None = None,
        visible: Iterable[Hashable] | None = None,
        scale: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_graph(graph)
        self.graph = graph
        self.visible = VisibleBits(bits, classes, copies)

        # the forward process and the spins that carry its bits: numbers also where the parameters
        # have none
        with torch.device("cpu"):
            times = log_times(steps) if times is None else times
            rates = [rate] * bits + [label_rate] * self.visible.label_bits
            self.process = UniformBits(times, torch.tensor(rates, dtype=torch.float64))
            if self.process.steps != steps:
                raise ValueError(
                    f"expected {steps + 1} times for {steps} steps; got {len(self.process.times)}"
                )
            sites = self._places(visible, generator).tolist()
        self._sites = FixedIndex(sites)

        # a machine per step
        shown = set(sites)
        hidden = [label for i, label in enumerate(graph.labels) if i not in shown]
        self.machines = nn.ModuleList(
            BoltzmannMachine(graph, hidden, scale=scale, generator=generator) for _ in range(steps)
        )
        self.register_buffer("penalty", torch.zeros(steps))
        self.register_buffer("rhat", torch.full((steps,), float("nan")))
        self._settings = {
            "bits": bits,
            "steps": steps,
            "classes": classes,
            "copies": copies,
            "scale": scale,
            "rate": float(rate),
            "label_rate": float(label_rate),
            "times": self.process.times.tolist(),
        }

    def _places(
        self, visible: Iterable[Hashable] | None, generator: torch.Generator | None
    ) -> Tensor:
        """Numbers of the spins that carry the visible bits, `[v]`; a ValueError unless they fit."""
        bits = self.visible.bits
        num = self.visible.num
        if num > self.graph.num_spins:
            raise ValueError(
                f"a graph of {self.graph.num_spins} spins has no room for {bits} bits and "
                f"{self.visible.label_bits} label bits: take a larger one"
            )
        if visible is None:
            return scatter(self.graph, num, generator)
        sites = self.graph.index(visible)
        if len(sites) != num:
            raise ValueError(f"expected visible spins for {num} bits; got {len(sites)}")
        return sites

    @property
    def sites(self) -> Tensor:
        """Numbers of the spins that carry the visible bits, `[v]`, on the parameters' device."""
        return self._sites.on(self.penalty.device)

    @property
    def steps(self) -> int:
        """Number of reverse steps, T."""
        return len(self.machines)

    def machine(self, k: int) -> BoltzmannMachine:
        """The machine of step k, 1..T: its energy is E_k."""
        if not 1 <= k <= self.steps:
            raise ValueError(f"expected a step 1 <= k <= {self.steps}; got {k}")
        return self.machines[k - 1]  # pyright: ignore[reportReturnType]

    def encode(self, x: Shaped[Tensor, "N _"], labels: Tensor | None = None) -> Int[Tensor, "N v"]:
        """Checked data as visible spins, int8: the bits of x (-1 and +1), then the label bits."""
        return self.visible.encode(self._beside("x", x), labels)

    def _beside(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of the user's; a ValueError unless it is on the parameters' device."""
        check_tensors(**{name: tensor})
        device = self.sites.device
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, the model on {device}: move one")
        return tensor

    def set_visible_bias(
        self, x: Tensor, labels: Tensor | None = None, generator: Generators | None = None
    ) -> None:
        """Start every machine at the means of its own noised data.

        See `EnergyModel.set_visible_bias`.

        Args:
            x: data, spins `[N, bits]`.
            labels: `[N]`, for a model with classes.
            generator: of the noise, one or a list with one per row; None is torch's default.
        """
        clean = self.encode(x, labels)
        order = self.sites.argsort()
        for k in range(1, self.steps + 1):
            noised = self.process.noise(clean, k - 1, 0, generator)
            self.machine(k).set_visible_bias(noised[:, order])

    # ---- the reverse process ----------------

    def ising(self, k: int, after: Shaped[Tensor, "*batch v"]) -> Ising:
        """The law of (x_{k-1}, z) given x_k = `after`, on the model's graph.

        One problem per row, with one J for all.
        """
        if self._beside("x_k", after).shape[-1] != len(self.sites):
            raise ValueError(
                f"expected x_k of shape [*, {len(self.sites)}]; got {list(after.shape)}"
            )
        return self.process.condition(self.machine(k).ising(), after, k, self.sites)

    @torch.no_grad()
    def step(
        self,
        sampler: Sampler,
        after: Shaped[Tensor, "N v"],
        k: int,
        labels: Tensor | None = None,
        *,
        reads: int = 1,
        generator: Generators | None = None,
    ) -> Int[Tensor, "N v"]:
        """x_{k-1} given x_k, for a batch: one call of the sampler.

        Args:
            sampler: draws `N` problems with one J.
            after: x_k, visible spins `[N, v]`.
            k: step of `after`.
            labels: `[N]`; clamps the label bits. None leaves them free.
            reads: reads per condition, of which one is kept, by its weight.
            generator: one, or a list with one per row; None is torch's default.
        """
        check_is_sampler(sampler)
        problem = self.ising(k, after)
        choose = by_gumbel_weight(generator)
        if labels is None:
            samples = draw(problem, sampler, reads, choose=choose, generator=generator)
            return samples.spins[:, 0, self.sites]

        # label bits stand still; what is drawn is numbered without them
        code = self.visible.encode_labels(self._beside("labels", labels))
        bit_sites, label_sites = self.sites.tensor_split([self.visible.bits])
        problem = problem.clamp(label_sites, code)
        samples = draw(problem, sampler, reads, choose=choose, generator=generator)
        free = self.graph.without(label_sites).free.to(code.device)
        place = free.new_empty(self.graph.num_spins)
        place[free] = torch.arange(len(free), device=code.device)
        return torch.cat([samples.spins[:, 0, place[bit_sites]], code], 1)

    @uncompiled
    @torch.no_grad()
    def sample(
        self,
        sampler: Sampler,
        num: int,
        labels: Tensor | None = None,
        *,
        reads: int = 1,
        generator: Generators | None = None,
    ) -> Int[Tensor, "num bits"]:
        """Draws of x_0, spins `[num, bits]`: uniform x_T, then T batched steps of the sampler.

        Args:
            sampler: any; T calls, each of `num` problems with one J.
            num: number of draws.
            labels: `[num]`; clamps the label bits in every step (to the clean label, as the paper
                does: what a slow `label_rate` makes of it differs little). None leaves them free.
            reads: reads per draw, of which one is kept, by its weight. More than one only helps
                samplers whose reads carry weights.
            generator: one, or a list with one per draw: draw i is then what it would be alone.
                None is torch's default.
        """
        num = whole("num", num, 1)
        if labels is not None and labels.shape != (num,):
            raise ValueError(f"expected one label per draw, [{num}]; got {list(labels.shape)}")
        x = self.process.prior((num, len(self.sites)), generator).to(self.sites.device)
        for k in range(self.steps, 0, -1):
            x = self.step(sampler, x, k, labels, reads=reads, generator=generator)
        return self.visible.decode(x)[0]

    # ---- weights and their identity ----------------

    def adopt(self, other: DenoisingThermodynamicModel, steps: Sequence[int]) -> None:
        """Take the machines (and penalties) of these steps from another model.

        Raises:
            ValueError: a model of another graph, other sites or settings.
        """
        self._refuse_others(other._identity())
        for k in steps:
            self.machine(k).load_state_dict(other.machine(k).state_dict())
            self.penalty[k - 1] = other.penalty[k - 1]
            self.rhat[k - 1] = other.rhat[k - 1]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Settings and weights in one safetensors file, all or nothing; `load` reads it."""
        about = {"format": FORMAT, "settings": json.dumps(self._settings), "graph": self.graph.hash}
        write_file(path, self.state_dict() | {"sites": self.sites}, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], graph: Graph) -> DenoisingThermodynamicModel:
        """The model saved at `path`, on the graph that it was trained on.

        Raises:
            ValueError: no such model, a damaged one, or another graph.
        """
        state, about = read_file(path, FORMAT)
        try:
            if about["graph"] != graph.hash:
                raise ValueError(
                    f"it was saved with another graph, {about['graph'][:16]}; this one is "
                    f"{graph.hash[:16]}: load it with its own"
                )
            settings = _checked_settings(json.loads(about["settings"]), state)
            times = torch.tensor(settings.pop("times"), dtype=torch.float64)
            visible = [graph.labels[i] for i in state.pop("sites").tolist()]
            model = cls(graph, times=times, visible=visible, **settings)
            model.to(state["machines.0.J"].dtype).load_state_dict(state)
        except KeyError as error:
            raise ValueError(f"{path} holds no whole model: {error} is missing") from None
        except (LookupError, TypeError, ValueError, RuntimeError, RecursionError) as error:
            raise ValueError(f"{path}: {str(error).splitlines()[-1].strip()}") from None
        return model

    def _identity(self) -> dict[str, Any]:
        sites = short_hash(self._sites.cpu.tolist())
        return {"graph": self.graph.hash[:16], **self._settings, "sites": sites}


def _checked_settings(settings: Any, state: dict[str, Tensor]) -> dict[str, Any]:
    """The settings of a file, as far as its tensors tell them; a ValueError for others.

    A file may come from anyone: it sets numbers alone, those that `save` writes.
    """
    whole = {"bits": 1, "steps": 1, "classes": 0, "copies": 0}
    real = ("scale", "rate", "label_rate")
    if not isinstance(settings, dict) or settings.keys() != {*whole, *real, "times"}:
        raise ValueError("its settings are not those of a thermodynamic model")
    for name, least in whole.items():
        if type(value := settings[name]) is not int or not least <= value < 1 << 31:
            raise ValueError(f"it has a damaged setting {name}={str(value)[:40]}")
    for name in real:
        if type(settings[name]) not in (int, float):
            raise ValueError(f"it has a damaged setting {name}={str(settings[name])[:40]}")
    times = settings["times"]
    if not isinstance(times, list) or not all(type(time) in (int, float) for time in times):
        raise ValueError(f"it has damaged times: expected a list of numbers; got {str(times)[:40]}")
    steps = sum(name.endswith(".J") for name in state)
    if settings["steps"] != steps or settings["bits"] > len(state["sites"]):
        raise ValueError(f"it has settings of {settings['steps']} steps, and tensors of {steps}")
    if settings["classes"] * settings["copies"] > len(state["sites"]):
        raise ValueError(
            f"it has settings of {settings['classes']} classes, too many for its spins"
        )
    for name, t in state.items():
        if name != "rhat" and not t.isfinite().all():  # rhat is nan until it is measured
            raise ValueError(f"it has a {name} that is not finite")
    return settings
