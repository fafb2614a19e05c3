"""Ways to draw images of low energy from one diffusion model, by diffusers' DDPMPipeline.

They differ in `pipe.scheduler`, and in how many images are drawn for each that is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from experiments.noisy_images import CLEAN, plain_scheduler
from qsample.annealers import Gibbs
from qsample.diffusion import AnnealedGuidance, first_order, second_order
from qsample.integrations.diffusers.guidance_step import ddpm

RESAMPLINGS = 5
"""times that particles are resampled in a run"""
Energy = Callable[[Tensor, Tensor, Tensor], Tensor]
EnergyOf = Callable[[Tensor], Energy]
"""the energy of images that answer the wishes of these numbers `[B]`"""
Cost = dict[str, Any]


class Draw(NamedTuple):
    """A way to draw, and its numbers."""

    family: str
    """plain, best of N, FK steering, SMC, classifier guidance, annealed noise (and J = 0)"""
    steps: int
    """reverse steps"""
    scale: float = 0.0
    """scale of guidance: of the energy in the law that is drawn from"""
    tries: int = 1
    """images, or particles, for each wish"""


class Noise(NamedTuple):
    """The blocks of a step's annealed noise."""

    K: int
    blocks: int


class Setting(NamedTuple):
    """What all ways to draw share."""

    pipe: DDPMPipeline
    energy_of: EnergyOf
    groups: Tensor
    """which images share a wish, `[wishes]`"""
    noise: dict[str, Noise]
    """blocks of the annealed noise by family"""
    sweeps: int
    """Gibbs sweeps of the annealed noise"""
    moves: int
    """corrections by Metropolis and Hastings"""
    seed: int
    """seed of the noise"""


class ClassifierGuidance(DDPMScheduler):
    """Dhariwal and Nichol (NeurIPS 2021), Algorithm 1: the mean moved by -scale sigma^2 grad G."""

    energy: Energy
    scale: float
    gradients = 0

    def step(
        self,
        model_output: Any,
        timestep: Any,
        sample: Any,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """DDPM's step, moved; the gradient is that at the mean."""
        arguments = {"model_output": model_output, "timestep": timestep, "sample": sample}
        reverse = ddpm(self, arguments)
        out: Any = super().step(model_output, timestep, sample, generator)
        if reverse.std > 0:
            with torch.enable_grad():
                mean = reverse.mean.detach().requires_grad_()
                total = self.energy(mean, reverse.x0, reverse.t).sum()
                (gradient,) = torch.autograd.grad(total, mean)
            self.gradients += len(mean)
            out.prev_sample = out.prev_sample - self.scale * reverse.std**2 * gradient
        return out


class FeynmanKac(DDPMScheduler):
    """Feynman-Kac steering (Singhal et al., arXiv 2501.06848) with the difference potential.

    The particles of a wish are resampled five times in a run, in proportion to
    exp(-scale (G(x') - G(x at the time before))), systematically. G is the energy at x's own
    timestep, the one that guides the other methods. The product of the potentials is that of the
    final images alone, so that many particles are drawn from p(x) exp(-scale G(x)).
    """

    energy: Energy
    scale: float
    particles: Tensor
    """numbers of images `[groups, particles]`"""
    at_end: bool
    """whether the final images are resampled too"""
    last: Tensor | None = None
    evaluations = 0
    count = 0

    def step(
        self,
        model_output: Any,
        timestep: Any,
        sample: Any,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """DDPM's step; then particles are resampled, where it is time."""
        arguments = {"model_output": model_output, "timestep": timestep, "sample": sample}
        reverse = ddpm(self, arguments)
        out: Any = super().step(model_output, timestep, sample, generator)
        self.count += 1
        every = max(1, len(self.timesteps) // RESAMPLINGS)
        ended = self.count == len(self.timesteps)
        if self.at_end if ended else self.count % every == 0:
            x = out.prev_sample
            energy = self.energy(x, reverse.x0, reverse.t)
            self.evaluations += len(x)
            ancestors = self.resampled(energy, generator)
            out.prev_sample = x[ancestors]
            self.last = energy[ancestors]
        return out

    def resampled(self, energy: Tensor, generator: torch.Generator) -> Tensor:
        """Numbers of the particles that go on, `[images]`."""
        change = energy if self.last is None else energy - self.last
        change = change[self.particles].double()
        weights = (-self.scale * change).softmax(-1)
        size = weights.shape[-1]
        offset = torch.rand(len(weights), 1, generator=generator)
        places = (offset + torch.arange(size)) / size
        chosen = torch.searchsorted(weights.cumsum(-1), places.double()).clamp_max(size - 1)
        ancestors = torch.empty_like(self.particles.flatten())
        ancestors[self.particles.flatten()] = self.particles.gather(-1, chosen).flatten()
        return ancestors


def drawn(way: Draw, setting: Setting) -> tuple[Tensor, Cost]:
    """Images, one for each wish, and evaluations for each of network, energy, Hessian-vectors.

    Args:
        way: how to draw.
        setting: pipeline, energy, wishes.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    wishes = torch.arange(len(setting.groups))
    if way.family in ("plain", "best of N"):
        return best_of(way, setting, generator)
    if way.family == "FK steering":
        return steered(way, setting, generator)
    energy = setting.energy_of(wishes)
    count = len(wishes)
    if way.family == "SMC":
        scheduler = feynman_kac(energy, way.scale, groups_of(setting.groups), at_end=True)
        images = run(setting.pipe, scheduler, count, way.steps, generator)
        return images, cost(way.steps, scheduler.evaluations / count)
    if way.family == "classifier guidance":
        guided: Any = ClassifierGuidance.from_config(plain_scheduler().config)
        guided.energy = energy
        guided.scale = way.scale
        images = run(setting.pipe, guided, count, way.steps, generator)
        return images, cost(way.steps, guided.gradients / count)
    return annealed(way, setting, generator)


def best_of(way: Draw, setting: Setting, generator: torch.Generator) -> tuple[Tensor, Cost]:
    """Plain samples; of several for each wish the one of the lowest final energy."""
    wishes = torch.arange(len(setting.groups))
    energy = setting.energy_of(wishes)
    scheduler = plain_scheduler()
    samples = torch.stack(
        [run(setting.pipe, scheduler, len(wishes), way.steps, generator) for _ in range(way.tries)]
    )
    energies = torch.stack([energy(x, x, CLEAN) for x in samples])
    evaluations = way.tries if way.tries > 1 else 0
    return samples[energies.argmin(0), wishes], cost(way.tries * way.steps, evaluations)


def steered(way: Draw, setting: Setting, generator: torch.Generator) -> tuple[Tensor, Cost]:
    """For each wish the particle of the lowest final energy."""
    count = len(setting.groups)
    particles = torch.arange(count * way.tries).reshape(count, way.tries)
    energy = setting.energy_of(torch.arange(count).repeat_interleave(way.tries))
    scheduler = feynman_kac(energy, way.scale, particles, at_end=False)
    x = run(setting.pipe, scheduler, count * way.tries, way.steps, generator)
    best = energy(x, x, CLEAN)[particles].argmin(-1)
    chosen = particles[torch.arange(count), best]
    return x[chosen], cost(way.tries * way.steps, scheduler.evaluations / count)


def annealed(way: Draw, setting: Setting, generator: torch.Generator) -> tuple[Tensor, Cost]:
    """Ours: the noise drawn by an annealer."""
    count = len(setting.groups)
    noise = setting.noise[way.family]
    scheduler: Any = AnnealedGuidance(
        plain_scheduler(),
        setting.energy_of(torch.arange(count)),
        Gibbs(setting.sweeps, scan="palindromic"),
        way.scale,
        K=noise.K,
        blocks=noise.blocks,
        surrogate=second_order if way.family == "annealed noise" else first_order,
        moves=setting.moves,
    )
    images = run(setting.pipe, scheduler, count, way.steps, generator)
    info = scheduler.info
    spent = cost(way.steps, info["energy"] / count, info["hessian_vectors"] / count)
    return images, {**spent, "acceptance": info["acceptance"]}


def feynman_kac(energy: Energy, scale: float, particles: Tensor, *, at_end: bool) -> FeynmanKac:
    """A scheduler that resamples particles.

    Args:
        energy: energy of all images.
        scale: strength of the energy.
        particles: numbers of the images that compete, `[groups, particles]`.
        at_end: whether the final images are resampled too.
    """
    scheduler: Any = FeynmanKac.from_config(plain_scheduler().config)
    scheduler.energy = energy
    scheduler.scale = scale
    scheduler.particles = particles
    scheduler.at_end = at_end
    return scheduler


def groups_of(groups: Tensor) -> Tensor:
    """Numbers of the images of each wish, `[wishes, images]`; as many for each."""
    return torch.stack([(groups == wish).nonzero()[:, 0] for wish in groups.unique()])


def run(
    pipe: DDPMPipeline, scheduler: Any, count: int, steps: int, generator: torch.Generator
) -> Tensor:
    """Images `[count, channels, rows, columns]`, -1 to 1.

    Args:
        pipe: pipeline, whose scheduler is replaced.
        scheduler: how to take a step.
        count: number of images.
        steps: reverse steps.
        generator: source of the noise.
    """
    pipe.scheduler = scheduler
    out: Any = pipe(count, generator=generator, num_inference_steps=steps, output_type="np")
    return torch.from_numpy(out.images).permute(0, 3, 1, 2) * 2 - 1


def cost(network: float, energy: float, hessian_vectors: float = 0) -> Cost:
    """Evaluations per image that is kept."""
    return {
        "network": network,
        "energy_evaluations": energy,
        "hessian_vectors": hessian_vectors,
    }
