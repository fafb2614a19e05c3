"""A diffusers scheduler for bits: its reverse step is an Ising problem, which any sampler draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from qsample.annealers.registry import configured, described
from qsample.diffusion.process import UniformBits, noised
from qsample.diffusion.reverse_step import Denoised, draw_near, reverse_problem
from qsample.diffusion.times import cosine_time, falling_times, index_of_time, log_time
from qsample.integrations.diffusers.answers import known_bits, read, to_sample, to_spins
from qsample.problem.graph import Graph, check_graph
from qsample.problem.ising import Ising
from qsample.problem.lattices import grid_edges
from qsample.sampling.random import Draws, Generators, draw_seeds
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.sampling.samples import Exactness
from qsample.support.checks import (
    as_numbers,
    check_choice,
    check_spins,
    check_tensors,
    is_whole,
    whole,
)
from qsample.support.faces import public
from qsample.support.optional import needs

with needs("diffusion", "IsingScheduler"):
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from diffusers.utils.outputs import BaseOutput

Schedule = Literal["log", "cosine"]
TIMES = {"log": log_time, "cosine": cosine_time}
LIVE = "live: "  # what a config says of a sampler that JSON cannot hold


def _listed(name: str, pairs: Any) -> list[list[int]] | None:
    """Offsets or edges as lists of plain ints, of any array, tensor or sequence.

    ValueError for other numbers.
    """
    if pairs is None:
        return None
    rows = pairs.tolist() if hasattr(pairs, "tolist") else pairs
    rows = list(rows) if _is_sequence(rows) else [rows]
    if not all(_is_sequence(row) for row in rows):
        example = "[[0, 1], [1, 0]]" if name == "neighbours" else "[[0, 1], [1, 2]]"
        raise ValueError(f"expected {name} as rows of numbers, such as {example}; got {pairs!r}")
    rows = [[_item(number) for number in row] for row in rows]
    if not all(is_whole(number) for row in rows for number in row):
        raise ValueError(f"expected {name} as rows of whole numbers; got {rows[:4]}")
    return rows


def _is_sequence(rows: Any) -> bool:
    """Whether it can be gone through, and is no word."""
    return hasattr(rows, "__iter__") and not isinstance(rows, str) and getattr(rows, "ndim", 1) > 0


def _item(number: Any) -> Any:
    """A plain number of NumPy's or torch's."""
    return number.item() if hasattr(number, "item") else number


def _plain(settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Settings with lists and numbers in place of arrays and theirs."""
    if settings is None:
        return None
    return {
        key: value.tolist() if hasattr(value, "tolist") else value
        for key, value in settings.items()
    }


@dataclass
class IsingSchedulerOutput(BaseOutput):
    """What `IsingScheduler.step` returns.

    Attributes:
        prev_sample: the bits at the next, less noisy time, coded as the sample was.
        pred_original_sample: the denoiser's E[x_0 | x_t], in the same coding (but not rounded to
            bits).
        pred_logits: the denoiser's logits, as they came.
        exactness: what is known about the law of the draw; `EXACT` for a factorised step.
        info: what the sampler said: sweeps, effective beta, timing.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None
    pred_logits: Tensor | None = None
    exactness: Exactness | None = None
    info: Mapping[str, Any] | None = None


@public("qsample.diffusion")
class IsingScheduler(SchedulerMixin, ConfigMixin):
    r"""Reverse steps of the uniform bit diffusion (D3PM, K = 2), drawn as batched Ising problems.

    $$P(x_{s} | x_t) \propto \exp\Bigl(-h \cdot x_s - \sum_{(i,j)} J_{ij}\, x_{s,i} x_{s,j}\Bigr)$$

    h are the fields of the factorised step (`UniformBits.posterior_fields`), J the denoiser's
    couplings on a fixed graph. Without couplings the bits are independent and drawn directly,
    exactly, by no sampler.

    Timesteps are fractions that fall from 1 (noise) to 1/N, as in diffusers' pull request 14741. An
    integer is the number of a step counted from the noise, as the discrete pipelines of diffusers
    0.42 pass it.

    A sample is spins -1 and +1 `[B, ...]` in a floating-point type, or tokens 0 and 1 `[B, ...]` in
    an integer type. The denoiser answers with logits of x_0 = +1 in the sample's shape (two logits
    per token for tokens, on a last axis); with `pair_features` r more channels for each; or with an
    object that has `.logits` and `.coupling`.

    Args:
        num_inference_steps: number of steps N; `set_timesteps` changes it.
        schedule: how fast bits are resampled: "log" (a bit is still its own with probability 1 - t)
            or "cosine".
        sampler: a sampler, as `scheduler.sampler = Gibbs(50)` sets it, or the name of one that
            computes here (`qsample samplers` lists them). A config may come from anyone, so it
            names no device.
        sampler_settings: arguments of the named sampler's class that are numbers, words or lists of
            numbers.
        reads: reads of the sampler per item, one of which is kept (by weight): weighted samplers
            need many.
        neighbours: the graph as offsets on the sample's grid, such as [[0, 1], [1, 0]] for (rows,
            columns), or [channels, rows, columns]; no wrapping around.
        edges: or the graph as pairs of spin numbers; `scheduler.graph = graph` sets them.
        pair_features: features per spin, r; channels C..C + rC of the answer are features u, and
            $J_{ij} = -\tfrac12 u_i \cdot u_j$.

    Raises:
        ValueError: an unknown schedule, sampler or setting, numbers that are not whole, two graphs.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_inference_steps: int = 32,
        schedule: Schedule = "log",
        sampler: str | Sampler = "gibbs",
        sampler_settings: Mapping[str, Any] | None = None,
        reads: int = 1,
        neighbours: Sequence[Sequence[int]] | None = None,
        edges: Sequence[Sequence[int]] | None = None,
        pair_features: int = 0,
    ) -> None:
        check_choice("schedule", schedule, Schedule)
        if neighbours is not None and edges is not None:
            raise ValueError("neighbours and edges are both given: a scheduler has one graph")
        plain = {  # of arrays, tensors and their numbers, which no file holds
            "num_inference_steps": whole("num_inference_steps", num_inference_steps, 1),
            "reads": whole("reads", reads, 1),
            "pair_features": whole("pair_features", pair_features, 0),
            "neighbours": _listed("neighbours", neighbours),
            "edges": _listed("edges", edges),
            "sampler_settings": _plain(sampler_settings),
        }
        # from_config would drop these, positional arguments among them
        self.register_to_config(_use_default_values=[], **plain)
        self._graphs: dict[tuple[int, ...], Graph] = {}
        self._falling: list[float] = []
        if not isinstance(sampler, str):
            if sampler_settings:
                raise ValueError(
                    f"sampler_settings are for a sampler's name; got them beside {sampler!r}"
                )
            self.sampler = sampler
        else:
            live = sampler.startswith(LIVE)
            self._sampler = None if live else configured(sampler, _plain(sampler_settings) or {})
        self.set_timesteps(num_inference_steps)

    @property
    def sampler(self) -> Sampler:
        """The sampler of steps with couplings.

        Setting one updates the config, where JSON can hold it.
        """
        if self._sampler is None:
            name = self.config["sampler"].removeprefix(LIVE)
            raise ValueError(
                f"the scheduler was saved with a live {name}: set it again, scheduler.sampler = ..."
            )
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        check_is_sampler(sampler)
        name, settings = described(sampler) or (LIVE + type(sampler).__name__, None)
        self.register_to_config(sampler=name, sampler_settings=settings)
        self._sampler = sampler

    @property
    def graph(self) -> Graph | None:
        """The graph that was set; None where the config decides it, with the sample's shape."""
        return self._graphs.get(())

    @graph.setter
    def graph(self, graph: Graph) -> None:
        check_graph(graph)
        self.register_to_config(edges=graph.edges.T.tolist(), neighbours=None)
        self._graphs = {(): graph}

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Set the times of the steps.

        Args:
            num_inference_steps: N equal steps, from 1 down to 1/N.
            device: of `timesteps`; the CPU by default.
            timesteps: or the times themselves, which fall in (0, 1].

        Raises:
            ValueError: both or neither given, times that do not fall in (0, 1].
        """
        falling = falling_times(num_inference_steps, timesteps)
        self.timesteps = falling.to(device, torch.float32)
        self.num_inference_steps = len(falling)
        if falling.tolist() != self._falling:  # else the couplings it has worked out still serve
            self._falling = falling.tolist()
            rising = torch.cat([torch.zeros(1, dtype=torch.float64), falling.flip(0)])
            self._forward = UniformBits(TIMES[self.config["schedule"]](rising))
        self._step_index = self._begin_index = None

    @property
    def step_index(self) -> int | None:
        """The number of the next step; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The first step of this run, where a pipeline set it (image to image)."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say where in `timesteps` a run begins; pipelines do this before the first step."""
        self._begin_index = begin_index

    def index_for_timestep(
        self, timestep: int | float | Tensor, schedule_timesteps: Tensor | None = None
    ) -> int:
        """Where in `timesteps` this one stands; an integer is that number already."""
        falling = self._falling if schedule_timesteps is None else schedule_timesteps.tolist()
        return index_of_time(timestep, falling)

    def prior(
        self,
        shape: Sequence[int],
        generator: Generators | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The sample at t = 1: uniform random spins.

        Args:
            shape: of the sample; the first axis counts the items.
            generator: one for the batch, or a list with one per item; None is torch's default.
            device: of the sample; the CPU by default.
            dtype: of the sample; torch's default by default.
        """
        draws = Draws(draw_seeds(generator, shape[:1]), torch.device("cpu"))
        return draws.spins(*shape[1:]).to(device, dtype or torch.get_default_dtype())

    def add_noise(
        self,
        original_samples: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        generator: Generators | None = None,
    ) -> Tensor:
        r"""x_t given x_0: each bit is resampled, or kept.

        Args:
            original_samples: x_0, spins -1 and +1 in a floating-point type or tokens 0 and 1 in an
                integer type, `[B, ...]`.
            noise: of the same shape. Normal, as `randn_tensor` makes it: a bit flips where
                $\Phi(\mathrm{noise}) < (1 - a_t)/2$, and nothing else is drawn. Or a sample of
                uniform random bits, which show where a mask says so, with probability 1 - a_t.
            timesteps: t in [0, 1], one or `[B]`.
            generator: draws the mask; one for the batch, or a list with one per item. None is
                torch's default.

        Raises:
            ValueError: an x_0 of other numbers, noise of another shape, nan or floats 0 and 1,
                timesteps outside [0, 1] or of another number.
            TypeError: what is no tensor.
        """
        check_tensors(original_samples=original_samples, noise=noise)
        if noise.shape != original_samples.shape:
            raise ValueError(
                f"expected noise of shape {list(original_samples.shape)}; got {list(noise.shape)}"
            )
        spins = to_spins(original_samples)
        check_spins("original_samples", spins)
        if noise.isnan().any():
            raise ValueError("expected noise of normal numbers or of random bits; got nan")
        one = noise == 1
        if noise.is_floating_point() and one.any() and (one | (noise == 0)).all():
            raise ValueError(
                "expected noise of normal numbers, or of random bits as spins -1 and +1 or as "
                "integers; got floats 0 and 1: 2 * noise - 1 makes spins of bits"
            )
        t = as_numbers("timesteps", timesteps).to(original_samples.device, torch.float64)
        t = t.reshape(-1, 1)
        if len(t) not in (1, len(spins)):
            raise ValueError(
                f"expected one of timesteps, or one for each of {len(spins)} samples; got {len(t)}"
            )
        inside = (t >= 0) & (t <= 1)
        if not inside.all():
            odd = float(t[~inside][0])
            raise ValueError(
                f"expected timesteps in [0, 1], fractions of the way to noise; got {odd:g}"
            )
        lost = -(-TIMES[self.config["schedule"]](t)).expm1()  # 1 - a
        flat = noise.flatten(1) if noise.is_floating_point() else to_spins(noise)

        def draws() -> Draws:
            return Draws(draw_seeds(generator, spins.shape[:1]), spins.device)

        x = noised(spins, flat, lost, draws)
        return to_sample(x.to(torch.int8), original_samples)

    def scale_model_input(
        self, sample: Tensor, timestep: int | float | Tensor | None = None
    ) -> Tensor:
        """The sample as it is: spins need no scaling."""
        return sample

    def ising(self, model_output: Any, timestep: int | float | Tensor, sample: Tensor) -> Ising:
        """The reverse step: problems `[B]` for the next spins.

        Args:
            model_output: the denoiser's answer; the problems are differentiable in it.
            timestep: t of the sample.
            sample: x_t, `[B, ...]`.
        """
        return self._ask(model_output, timestep, sample)[1]

    @torch.no_grad()
    def step(
        self,
        model_output: Any,
        timestep: int | float | Tensor,
        sample: Tensor,
        generator: Generators | None = None,
        return_dict: bool = True,
        *,
        original: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Any:
        r"""Draw the sample at the next time.

        With an `original` x_0, the bits K that `keep` marks go back as the forward process came,
        and the others U are drawn from the step's own law with those clamped:

        $$x_s^K \sim q(x_s^K | x_t^K, x_0^K), \qquad x_s^U \sim P(x_s^U \,|\, x_t, x_s^K)$$

        The step is exact, given x_t and the clamp. The chain of steps is not exact for
        p(x_0^U | x_0^K): see `IsingCopula.sample`.

        Args:
            model_output: the denoiser's answer.
            timestep: t of the sample.
            sample: x_t, `[B, ...]`.
            generator: one for the batch, or a list with one per item, which then draws what it
                would draw alone. None is torch's default.
            return_dict: an `IsingSchedulerOutput`, else (prev_sample, pred_original_sample).
            original: x_0, coded as the sample `[B, ...]`, of which some bits are known.
            keep: which bits these are, bool `[...]`, the same for every item.

        Raises:
            ValueError: an original without a mask or the reverse, or of another shape.
        """
        denoised, problem, index = self._ask(model_output, timestep, sample)
        draws = Draws(draw_seeds(generator, sample.shape[:1]), sample.device)
        near = partial(
            draw_near, draws=draws, sampler=lambda: self.sampler, reads=self.config["reads"]
        )
        known = known_bits(original, keep, sample)
        if known is None:
            samples = near(problem)
        else:
            uniform = draws.uniform(len(known.sites))
            x = to_spins(sample)
            bits = known.before(self._forward, x, len(self) - index, uniform)
            samples = known.draw(problem, bits, near)
        self._step_index = index + 1
        previous = to_sample(samples.spins, sample)
        mean = to_sample(denoised.mean, sample)
        if not return_dict:
            return previous, mean
        logits = getattr(model_output, "logits", model_output)
        return IsingSchedulerOutput(previous, mean, logits, samples.exactness, samples.info)

    def __len__(self) -> int:
        return len(self.timesteps)

    def _graph_of(self, shape: tuple[int, ...]) -> Graph:
        """The graph of samples of this shape, made once."""
        n = torch.Size(shape).numel()
        graph = self._graphs.get(()) or self._graphs.get(shape)
        if graph is None:
            neighbours = self.config["neighbours"]
            edges = self.config["edges"]
            pairs = grid_edges(shape, neighbours) if neighbours is not None else edges or []
            if neighbours and len(pairs) == 0 and n > 1:
                raise ValueError(
                    f"neighbours {neighbours} leave the grid {list(shape)} from every site: "
                    "expected offsets along its axes, such as [[0, 1], [1, 0]]"
                )
            graph = self._graphs[shape] = Graph.sparse(n, pairs)
        if graph.num_spins != n:
            raise ValueError(
                f"scheduler.graph has {graph.num_spins} spins and a sample of shape "
                f"{list(shape)} {n}"
            )
        return graph

    def _ask(
        self, model_output: Any, timestep: int | float | Tensor, sample: Tensor
    ) -> tuple[Denoised, Ising, int]:
        """What the denoiser says, the problem that it makes, and the number of the step."""
        index = self.index_for_timestep(timestep)
        spins = to_spins(sample)  # checked before its shape makes a graph
        graph = self._graph_of(tuple(sample.shape[1:]))
        denoised = read(model_output, sample, graph, self.config["pair_features"])
        x = spins.to(denoised.logits)
        if denoised.coupling is None:
            coupling = x.new_zeros(graph.num_edges)
        else:
            coupling = denoised.coupling
        J = graph.couplings(coupling)
        problem = reverse_problem(self._forward, graph, x, denoised.mean, len(self) - index, J)
        return denoised, problem, index
