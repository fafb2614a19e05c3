"""The denoising thermodynamic model: a diffusion whose every reverse step is one Boltzmann machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from qsample.diffusion.process import UniformBits, log_times
from qsample.models.boltzmann import BoltzmannMachine
from qsample.models.diffusion.tensor_file import read_file, write_file
from qsample.models.diffusion.visible_bits import VisibleBits
from qsample.models.identity import record_of, tensor_of
from qsample.models.units import FixedIndex
from qsample.problem.graph import Graph, check_graph
from qsample.problem.ising import Ising
from qsample.problem.lattices import scatter
from qsample.sampling.random import Draws
from qsample.sampling.sampler import Generators, Sampler, check_is_sampler, draw_seeds
from qsample.support.transforms import uncompiled

FORMAT = "qsample thermodynamic model 2"


class DenoisingThermodynamicModel(nn.Module):
    r"""T Boltzmann machines on one graph, each the reverse of one step of a noising process (arXiv 2510.23972).

    $$P_k(x_{k-1}, z \mid x_k) \propto \exp\bigl(w_k\, x_{k-1} \cdot x_k - E_k(x_{k-1}, z)\bigr), \quad k = T..1$$

    with w_k the coupling of the forward process (`UniformBits`) and E_k a `BoltzmannMachine` over the visible spins and
    latent spins z. What x_k does is only a field on the visible spins: a batch of conditions is one batch of Ising
    problems with one J. At its best, sum_z exp(-E_k) is the law of x_{k-1}; a small step makes a strong field, and
    so a conditional that mixes fast. A model of one step is a plain Boltzmann machine.

    The visible spins are the bits x (spins, -1 and +1) and, with classes, a label code (`VisibleBits`). Machines share
    nothing: any subset of steps may be trained (`denoising_loss(..., steps=)`) or taken from another model (`adopt`).

    Args:
        graph: any graph; `qsample.problem.lattices.grid` makes those of the paper.
        bits: of x.
        steps: T.
        classes: of labels; 0 for none.
        copies: of the one-hot label among the visible spins.
        rate: at which bits of x are resampled, in the forward process.
        label_rate: at which label bits are: slower, so that labels guide the early steps.
        times: of the steps, `log_times(steps)` by default.
        visible: labels (in the graph) of the spins that carry the bits of x, then the label bits. By default random
            ones of the largest colour class, so that only latent spins couple them; of further classes when it is full.
        scale: of the initial couplings, see `BoltzmannMachine`.
        generator: draws the places and the initial couplings; None is torch's default.

    Attributes: `machines` (that of step k is `machines[k - 1]`), `process`, `visible`, `sites` [v] (the spin of each
    visible bit), `penalty` [T] (the correlation penalty of each step) and `rhat` [T], both moved by `AdaptivePenalty`.

    Raises:
        ValueError: T < 1, no bits, a graph without room for the visible spins, `visible` of another length.
    """

    penalty: Tensor
    rhat: Tensor

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
        self.graph, self.visible = graph, VisibleBits(bits, classes, copies)
        with torch.device("cpu"):  # what has numbers also where the parameters have none
            times = log_times(steps) if times is None else times
            rates = [rate] * bits + [label_rate] * self.visible.label_bits
            self.process = UniformBits(times, torch.tensor(rates, dtype=torch.float64))
            if self.process.steps != steps:
                raise ValueError(f"expected {steps + 1} times for {steps} steps; got {len(self.process.times)}")
            if (num := self.visible.num) > graph.num_spins:
                needed = f"{bits} bits and {self.visible.label_bits} label bits"
                raise ValueError(f"a graph of {graph.num_spins} spins has no room for {needed}: take a larger one")
            sites = scatter(graph, num, generator) if visible is None else graph.index(visible)
            if len(sites) != num:
                raise ValueError(f"expected visible spins for {num} bits; got {len(sites)}")
        self._sites = FixedIndex(sites.tolist())
        shown = set(sites.tolist())
        hidden = [label for i, label in enumerate(graph.labels) if i not in shown]
        made = (BoltzmannMachine(graph, hidden, scale=scale, generator=generator) for _ in range(steps))
        self.machines = nn.ModuleList(made)
        self.register_buffer("penalty", torch.zeros(steps))
        self.register_buffer("rhat", torch.full((steps,), float("nan")))
        self._settings = {"bits": bits, "steps": steps, "classes": classes, "copies": copies, "scale": scale}
        self._settings |= {"rate": float(rate), "label_rate": float(label_rate), "times": self.process.times.tolist()}

    @property
    def sites(self) -> Tensor:
        """Numbers of the spins that carry the visible bits, `[v]`, on the device of the parameters."""
        return self._sites.on(self.penalty.device)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.machines)

    def machine(self, k: int) -> BoltzmannMachine:
        """The machine of step k, 1..T: its energy is E_k."""
        if not 1 <= k <= self.steps:
            raise ValueError(f"expected a step 1 <= k <= {self.steps}; got {k}")
        return self.machines[k - 1]  # pyright: ignore[reportReturnType]

    def encode(self, x: Shaped[Tensor, "N _"], labels: Tensor | None = None) -> Int[Tensor, "N v"]:
        """Checked data as visible spins, int8: the bits of x (-1 and +1), then the label bits."""
        return self.visible.encode(self._here("x", x), labels)

    def _here(self, name: str, t: Tensor) -> Tensor:
        if t.device != self.sites.device:
            raise ValueError(f"{name} is on {t.device}, the model on {self.sites.device}: move one")
        return t

    def set_visible_bias(self, x: Tensor, labels: Tensor | None = None, generator: Generators | None = None) -> None:
        """Start every machine at the means of its own noised data: see `EnergyModel.set_visible_bias`."""
        clean, order = self.encode(x, labels), self.sites.argsort()
        for k in range(1, self.steps + 1):
            self.machine(k).set_visible_bias(self.process.noise(clean, k - 1, 0, generator)[:, order])

    # ---- the reverse process -----------------------------------------------------------------------------------------

    def ising(self, k: int, after: Shaped[Tensor, "*batch v"]) -> Ising:
        """The law of (x_{k-1}, z) given x_k = `after`: one problem a row, on the model's graph, with one J for all."""
        if self._here("x_k", after).shape[-1] != len(self.sites):
            raise ValueError(f"expected x_k of shape [*, {len(self.sites)}]; got {list(after.shape)}")
        joint = self.machine(k).ising()
        field = self.process.fields(after, k).to(joint.h)
        h = joint.h.expand(*after.shape[:-1], -1).index_add(-1, self.sites, field)
        return Ising(joint.graph, h, joint.J, joint.offset)

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
        """x_{k-1} given x_k = `after`, for a batch: one call of the sampler. Arguments are those of `sample`."""
        check_is_sampler(sampler)
        problem, label_sites = self.ising(k, after), self.sites[self.visible.bits :]
        fixed = None if labels is None else self.visible.encode_labels(self._here("labels", labels))
        problem = problem if fixed is None else problem.clamp(label_sites, fixed)
        samples = sampler.sample(problem, reads, generator=generator)
        spins = samples.spins[:, 0]
        if samples.log_weight is not None:  # one read, by its weight: the largest of log w plus Gumbel noise
            u = Draws(draw_seeds(generator, after.shape[:1]), spins.device).uniform(reads)
            pick = (samples.log_weight - (-u.log()).log()).argmax(-1)
            spins = samples.spins[torch.arange(len(pick)), pick]
        if fixed is None:
            return spins[:, self.sites]
        place = spins.new_empty(self.graph.num_spins, dtype=torch.int64)
        free = self.graph.without(label_sites).free.to(spins.device)
        place[free] = torch.arange(len(free), device=spins.device)
        return torch.cat([spins[:, place[self.sites[: self.visible.bits]]], fixed], 1)

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
        """`num` draws of x_0, spins `[num, bits]`: uniform x_T, then T batched steps of the sampler.

        Args:
            sampler: any; T calls, each of `num` problems with one J.
            num: of draws.
            labels: `[num]`; clamps the label bits in every step (to the clean label, as the paper does: what a slow
                `label_rate` makes of it differs little). None leaves them free.
            reads: the sampler makes for each draw; one is kept, by its weight. More than one only helps samplers
                whose reads carry weights.
            generator: one, or a list with one for each draw: draw i is then what it would be alone.
        """
        if labels is not None and labels.shape != (num,):
            raise ValueError(f"expected one label a draw, [{num}]; got {list(labels.shape)}")
        x = self.process.prior((num, len(self.sites)), generator).to(self.sites.device)
        for k in range(self.steps, 0, -1):
            x = self.step(sampler, x, k, labels, reads=reads, generator=generator)
        return self.visible.decode(x)[0]

    # ---- weights and their identity --------------------------------------------------------------------------------

    def adopt(self, other: DenoisingThermodynamicModel, steps: Sequence[int]) -> None:
        """Take the machines (and penalties) of these steps from another model: the best of each, say."""
        self._refuse_others(other._identity())
        for k in steps:
            self.machine(k).load_state_dict(other.machine(k).state_dict())
            self.penalty[k - 1], self.rhat[k - 1] = other.penalty[k - 1], other.rhat[k - 1]

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
                theirs, ours = about["graph"][:16], graph.hash[:16]
                raise ValueError(f"it was saved with another graph, {theirs}; this one is {ours}: load it with its own")
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
        sites = hashlib.sha256(repr(self._sites.cpu.tolist()).encode()).hexdigest()[:16]
        return {"graph": self.graph.hash[:16], **self._settings, "sites": sites}

    def get_extra_state(self) -> Tensor:
        """What the weights are for, as bytes in a tensor, so that they cannot be loaded into another model."""
        return tensor_of(json.dumps(self._identity()))

    def set_extra_state(self, state: Any) -> None:
        """Nothing to set: `_load_from_state_dict` has compared it."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if prefix + "_extra_state" in state_dict:
            self._refuse_others(record_of(state_dict[prefix + "_extra_state"]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _refuse_others(self, theirs: dict[str, Any]) -> None:
        for key, ours in json.loads(json.dumps(self._identity())).items():
            if key != "scale" and theirs.get(key) != ours:
                raise ValueError(f"weights of another model: its {key} is {theirs.get(key)}, this one's {ours}")


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
        raise ValueError(f"it has settings of {settings['classes']} classes, too many for its spins")
    for name, t in state.items():
        if name != "rhat" and not t.isfinite().all():  # rhat is nan until it is measured
            raise ValueError(f"it has a {name} that is not finite")
    return settings
