"""Guidance by choosing the noise: an annealer draws part of each step's noise."""

from __future__ import annotations

import inspect
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qsample.integrations.diffusers.guidance_frame import Frame
from qsample.integrations.diffusers.guidance_step import Reverse, ddim, ddpm, euler_ancestral
from qsample.integrations.diffusers.guidance_weights import Weights, surrogate_for
from qsample.neural.block_metropolis import BlockMetropolis
from qsample.neural.energy import Counted
from qsample.neural.surrogates import Surrogate
from qsample.sampling.random import Draws, Generators, draw_seeds
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.sampling.samples import Exactness
from qsample.support.checks import whole
from qsample.support.faces import public
from qsample.support.optional import needs

with needs("diffusion", "AnnealedGuidance"):
    from diffusers.configuration_utils import FrozenDict
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_euler_ancestral_discrete import (
        EulerAncestralDiscreteScheduler,
    )

Guidance = Callable[[Tensor, Tensor, Tensor], Tensor]
REVERSE: Mapping[type, Callable[[Any, Mapping[str, Any]], Reverse]] = {
    DDPMScheduler: ddpm,
    DDIMScheduler: ddim,
    EulerAncestralDiscreteScheduler: euler_ancestral,
}


@public("qsample.diffusion")
class AnnealedGuidance:
    r"""A diffusers scheduler whose noise is drawn with an eye on an energy.

    One line in an existing pipeline:

        sampler = Gibbs(20, scan="palindromic")
        pipe.scheduler = AnnealedGuidance(pipe.scheduler, energy, sampler, scale=2.0)

    A reverse step is $x' = \mu + \sigma z$. Blocks of K coordinates are chosen at random, their
    noise is written $z_{block} = \mathrm{diag}(\epsilon) H s/\sqrt K$ with spins s (`Frame`), and s
    is drawn from

    $$p(s) \propto e^{-\lambda\,G(x'(s),\,\hat x_0,\,t')}$$

    instead of uniformly: an Ising problem of $h = \lambda\sigma D^\top\nabla G$ and $J =
    \lambda\sigma^2\,\mathrm{offdiag}(D^\top\nabla^2 G\,D)$ about the x' without noise in the
    blocks, for all items in one call of the sampler, then corrected for what is not quadratic by
    `moves` steps of Metropolis and Hastings. They are exact for that law of s, the blocks, the
    signs and all other noise held fixed (in the long run; at once where G is quadratic and the
    sampler draws exactly). To first order the step moves by $-\lambda\sigma^2\nabla G$, as
    classifier guidance does (Dhariwal and Nichol, NeurIPS 2021), but noise keeps its length however
    large $\lambda$.

    $\hat x_0$ is held fixed. An energy of $\hat x_0$ alone (found out by an uncounted look, once a
    run) is given one that moves with x', $\hat x_0 + g\,(x' - \mu)$. No network has seen x' yet, so
    the slope g is that of the best denoiser of data of unit variance: $\sqrt{\bar\alpha_{t'}}$, or
    $1/(1+\sigma'^2)$ with Euler. To see through the network itself call it in the energy, which may
    predict its own x_0 from x and t.

    In half precision (float16, bfloat16) means, noise and spins are computed in float32; x' and x_0
    are handed to the energy as the pipeline holds them.

    A pipeline that makes a scheduler of its own from the given one's config (`DDIMPipeline`,
    `PNDMPipeline`, LEDITS++) would drop the guidance. It is refused there and set afterwards:
    `pipe.scheduler = AnnealedGuidance(pipe.scheduler, ...)`.

    All else is the wrapped scheduler's: attributes, configuration, class (for `isinstance` and for
    saved pipelines, which load as the plain scheduler) and, bit for bit, the noise outside the
    blocks, steps without noise, `scale=0`. Item k of a batch is what it would be alone with its
    generator, bit for bit where the networks round alike.

    `info` tells of the last run, since `set_timesteps`: `network`, `energy`, `hessian_vectors`, in
    rows (rows of the network's output that came; of G evaluated, with its gradient or without; of
    products with its Hessian), `acceptance`, the mean of each step, the `surrogate`, and the reads'
    `exactness`.

    Args:
        scheduler: `DDPMScheduler`, `DDIMScheduler` (the pipeline must pass eta > 0),
            `EulerAncestralDiscreteScheduler`.
        energy: `energy(x, x0, t)` -> `[B]` of a batch x as the pipeline holds it `[B, ...]`: x' and
            its timestep t, and the scheduler's prediction of x_0. A function of its own row alone
            (and of the row's number: labels).
        sampler: reversible, such as `Gibbs(20, scan="palindromic")`, or `Exact()` for K <= 24.
        scale: strength $\lambda \ge 0$ of the energy.
        K: number of coordinates of a block, a power of two.
        blocks: number of blocks per step, drawn together as one problem of K blocks spins.
        surrogate: `second_order`, `first_order` (one gradient, J = 0), or for an energy without
            gradients a fit, `partial(regression, flips=0.5, graph=Graph.sparse(K * blocks, []))`.
            (Without `graph` it fits all K (K - 1) / 2 couplings too, by thousands of evaluations.)
            None, the default, is `second_order`, whose K Hessian-vector products per block go
            through the energy's networks; where these have more than 10^7 parameters (counted in
            the run's first look at the energy) it is `first_order`.
        moves: moves of Metropolis and Hastings per step; 0 leaves the surrogate's draw as it is,
            from any sampler.

    Raises:
        TypeError: another scheduler, an energy or sampler that is none.
        ValueError: a scale that is negative or not finite, K not a power of two, a sampler that is
            not reversible where moves > 0; at a step: blocks that the image has no room for, DDIM
            with eta = 0; in a pipeline that makes its own scheduler.
    """

    _OWN = frozenset(
        {
            "scheduler",
            "energy",
            "sampler",
            "scale",
            "K",
            "blocks",
            "surrogate",
            "moves",
            "info",
            "_look",
        }
    )

    def __init__(
        self,
        scheduler: Any,
        energy: Guidance,
        sampler: Sampler,
        scale: float = 1.0,
        *,
        K: int = 64,
        blocks: int = 1,
        surrogate: Surrogate | None = None,
        moves: int = 1,
    ) -> None:
        if type(scheduler) not in REVERSE:
            known = ", ".join(kind.__name__ for kind in REVERSE)
            raise TypeError(
                f"expected one of {known}; got {type(scheduler).__name__}: "
                "DDPMScheduler.from_config(pipe.scheduler.config) makes one"
            )
        if not callable(energy):
            raise TypeError(
                f"expected an energy, a function energy(x, x0, t) -> [B]; got {energy!r}"
            )
        check_is_sampler(sampler)
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not number or not 0 <= scale < math.inf:
            raise ValueError(
                f"expected a finite scale >= 0; got {scale!r}: negate the energy to guide away "
                "from it"
            )
        K = whole("K", K, 1)
        if K & (K - 1):
            raise ValueError(f"expected K a power of two; got {K}: use {1 << (K.bit_length() - 1)}")
        blocks = whole("blocks", blocks, 1)
        moves = whole("moves", moves, 0)
        if surrogate is not None and not callable(surrogate):
            raise TypeError(
                "expected surrogate to be a function, such as qsample.diffusion.first_order; got "
                f"{surrogate!r}"
            )
        if moves and not sampler.reversible:
            raise ValueError(
                f"{sampler!r} is not reversible, so no correction makes it exact: use "
                'Gibbs(20, scan="palindromic"), or moves=0 for its draws as they are'
            )
        # the module of the class, as saved pipelines name it: past __setattr__, which forwards
        self.__dict__["__module__"] = type(scheduler).__module__
        self.scheduler = scheduler
        self.energy = energy
        self.sampler = sampler
        self.scale = scale
        self.K = K
        self.blocks = blocks
        self.surrogate = surrogate
        self.moves = moves
        self.info: dict[str, Any] = _fresh()
        self._look: _Look | None = None

    # ---- a transparent wrapper ----------------
    #
    # Pipelines know a scheduler by isinstance, by arguments that they look for in the signatures of
    # `step` and `set_timesteps`, by attributes that they read and set, and save it by the names of
    # its class and module. A subclass of each scheduler would answer all that too, but its own
    # methods would call the guided ones, and what it saves would need qsample to be loaded. So this
    # object answers in the name of the one it wraps: `__class__` and `__module__` are the wrapped
    # scheduler's (`type(guided)` stays AnnealedGuidance), and every attribute that is not in `_OWN`
    # is read from and set on it.

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The wrapped scheduler's: pipelines ask isinstance, and save the name of the class."""
        if "scheduler" not in self.__dict__:  # being copied
            return AnnealedGuidance
        return type(self.__dict__["scheduler"])

    def __getattr__(self, name: str) -> Any:
        # of what this class has not
        if "scheduler" not in self.__dict__:  # being copied
            raise AttributeError(name)
        return getattr(self.__dict__["scheduler"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.scheduler, name, value)

    def __len__(self) -> int:
        return len(self.scheduler)

    def __repr__(self) -> str:
        kind = type(self.scheduler).__name__
        return f"AnnealedGuidance({kind}, sampler={self.sampler!r}, scale={self.scale})"

    @property
    def config(self) -> Any:
        """The wrapped scheduler's; a pipeline that makes a scheduler of it is refused."""
        frame = sys._getframe(1)
        callers = []
        # type checkers stand between, where there are some
        while frame is not None and len(callers) < 8:
            callers.append(type(frame.f_locals.get("self")))
            frame = frame.f_back
        for caller in callers:
            if any(kind.__name__ == "DiffusionPipeline" for kind in caller.__mro__):
                return _Guarded(self.scheduler.config, caller.__name__)
        return self.scheduler.config

    @property
    def set_timesteps(self) -> Callable[..., None]:
        """The wrapped scheduler's, of its signature; `info` starts anew."""
        wrapped = self.scheduler.set_timesteps

        @wraps(wrapped)
        def set_timesteps(*args: Any, **kwargs: Any) -> None:
            self.info = _fresh()
            self._look = None
            wrapped(*args, **kwargs)

        return set_timesteps

    @property
    def step(self) -> Callable[..., Any]:
        """The wrapped scheduler's, of its signature (pipelines look for eta in it), guided."""
        wrapped = self.scheduler.step

        @wraps(wrapped)
        def step(*args: Any, **kwargs: Any) -> Any:
            bound = inspect.signature(wrapped).bind(*args, **kwargs)
            if self.scale == 0:
                self.info["network"] += len(bound.arguments["model_output"])
                return wrapped(*args, **kwargs)
            bound.apply_defaults()
            return self._step(bound.arguments)

        return step

    # ---- a guided step ----------------

    def _step(self, arguments: dict[str, Any]) -> Any:
        """The scheduler's own step, then other noise in the blocks."""
        if arguments.get("eta") == 0:
            raise ValueError(
                "DDIM adds no noise at eta=0, so there is none to choose: pass eta=1.0 to the "
                "pipeline"
            )
        if arguments.get("variance_noise") is not None:
            raise ValueError(
                "variance_noise fixes the noise that guidance chooses: pass a generator instead"
            )
        precise = {name: _precise(value) for name, value in arguments.items()}
        reverse = REVERSE[type(self.scheduler)](self.scheduler, precise)
        return_dict = arguments.pop("return_dict")
        out = self.scheduler.step(**arguments, return_dict=True)
        self.info["network"] += len(arguments["model_output"])
        if bool((reverse.std != 0).any()):
            usual = out.prev_sample
            generator = arguments["generator"]
            if torch.is_inference_mode_enabled():  # which forbids the gradients of the energy
                with torch.inference_mode(False), torch.no_grad():
                    out.prev_sample = self._choose(reverse.copied(), usual.clone(), generator)
            else:
                out.prev_sample = self._choose(reverse, usual, generator)
        return out if return_dict else (out.prev_sample, out.pred_original_sample)

    def _choose(self, reverse: Reverse, usual: Tensor, generator: Generators | None) -> Tensor:
        """The usual x' `[B, ...]` with the noise of the blocks drawn anew."""
        B = len(usual)
        d = usual[0].numel()
        n = self.K * self.blocks
        if n > d:
            raise ValueError(
                f"{self.blocks} blocks of K={self.K} need {n} coordinates; an image has {d}: "
                "lower K"
            )
        if isinstance(generator, list) and len(generator) == 1:
            generator = generator[0]  # of the whole batch, as for diffusers

        # where spins become noise, and the step's law there
        draws = Draws(draw_seeds(generator, (B,)), usual.device)
        frame = Frame.draw(draws, d, self.K, self.blocks)
        generators = draws.generators()
        mean = reverse.mean.flatten(1).gather(1, frame.sites)
        std = reverse.std.to(mean).expand_as(usual).flatten(1).gather(1, frame.sites)
        look = self._looked(reverse, usual)
        surrogate = self.surrogate or surrogate_for(look.weights)
        self.info["surrogate"] = surrogate

        def place(s: Tensor) -> Tensor:
            chosen = mean + std * frame.noise(s.to(mean))
            return _precise(usual).flatten(1).scatter(1, frame.sites, chosen).view_as(usual)

        def energy(s: Tensor) -> Tensor:
            """The energy of spins `[B, M, n]`, `[B, M]`: lambda G where they put x'."""
            energies = []
            for state in s.unbind(-2):
                x = place(state)
                x0 = reverse.x0_of(x) if look.of_x0_alone else reverse.x0
                energies.append(self._guidance(x.to(usual), x0.to(usual), reverse))
            return torch.stack(energies, -1)

        # spins drawn by that energy, in place of uniform ones
        like = mean.new_zeros(B, n)
        spins = self._spins(Counted(energy), surrogate, like, draws, generators)
        return place(spins).to(usual)

    def _looked(self, reverse: Reverse, usual: Tensor) -> _Look:
        """What an uncounted evaluation of the energy shows, once a run.

        Whether x' itself enters it: by its gradients; by its values where it has none.
        """
        if self._look is not None and self._look.energy is self.energy:
            return self._look
        x0 = reverse.x0.to(usual)
        with torch.enable_grad(), Weights() as weights:
            G = self._guidance(usual.detach().clone().requires_grad_(), x0, reverse)
            alone = not G.requires_grad
            if alone:
                by_x0 = self._guidance(usual, x0.detach().clone().requires_grad_(), reverse)
                alone = by_x0.requires_grad
        if not alone and not G.requires_grad:  # no gradient at all
            alone = torch.equal(G, self._guidance(reverse.mean.to(usual), x0, reverse))
        self._look = _Look(self.energy, alone, weights.number)
        return self._look

    def _guidance(self, x: Tensor, x0: Tensor, reverse: Reverse) -> Tensor:
        """Lambda G, checked: `[B]`."""
        G = self.energy(x, x0, reverse.t)
        if G.shape != x.shape[:1]:
            raise ValueError(
                f"expected energies [{len(x)}] of x {list(x.shape)}; got {list(G.shape)}: one per "
                "item"
            )
        return self.scale * _precise(G)

    def _spins(
        self,
        energy: Counted,
        surrogate: Surrogate,
        like: Tensor,
        draws: Draws,
        generators: list[torch.Generator],
    ) -> Tensor:
        """Spins `[B, n]` for each item: the surrogate's draw, moved by Metropolis and Hastings."""
        # regression at flips=0.5 and the expansions about 0 need no better anchor than this
        anchor = draws.spins(like.shape[-1]).to(like)
        fitted = surrogate(energy, anchor, generator=generators)
        problem = fitted.detach().to(dtype=torch.float32)
        samples = self.sampler.sample(problem, 1, generator=generators)
        s = samples.spins[:, 0].to(like)
        tag = Exactness.HEURISTIC

        # corrected for what is not quadratic
        if self.moves:
            kernel = BlockMetropolis(self.sampler, problem)
            E = energy(s[:, None])[:, 0]
            acceptance = 0.0
            for _ in range(self.moves):
                y, fall, tag = kernel.propose(problem, s, generators)
                E_y = energy(y[:, None])[:, 0]
                log_ratio = (E.double() - E_y.double()) - fall
                accepted = draws.uniform(1)[:, 0].log() < log_ratio
                s = torch.where(accepted[:, None], y, s)
                E = torch.where(accepted, E_y, E)
                acceptance += float(accepted.double().mean()) / self.moves
            self.info["acceptance"].append(acceptance)

        self.info["exactness"] = tag if tag is Exactness.HEURISTIC else Exactness.ASYMPTOTIC
        self.info["energy"] += energy.counts["evaluations"] + energy.counts["gradients"]
        self.info["hessian_vectors"] += energy.counts["hessian_vectors"]
        return s


class _Look(NamedTuple):
    """What a run's first evaluation of an energy showed."""

    energy: Guidance
    of_x0_alone: bool
    weights: int


class _Guarded(FrozenDict):
    """A config as a pipeline reads it.

    What makes a scheduler of it asks which values are defaults, and is refused.
    """

    _pipeline: str

    def __init__(self, config: Mapping[str, Any], pipeline: str) -> None:
        super().__init__(config)
        OrderedDict.__setattr__(self, "_pipeline", pipeline)  # it is frozen

    def get(self, key: str, default: Any = None) -> Any:
        if key == "_use_default_values":
            raise ValueError(
                f"{self._pipeline} makes a scheduler of its own from the given one's config, "
                "without the guidance: construct it with the plain scheduler, then "
                "pipe.scheduler = AnnealedGuidance(pipe.scheduler, ...)"
            )
        return super().get(key, default)


def _precise(value: Any) -> Any:
    """A tensor of half precision as float32; anything else as it is."""
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _fresh() -> dict[str, Any]:
    """The `info` of a run that has not begun."""
    counts = {"network": 0, "energy": 0, "hessian_vectors": 0}
    return {**counts, "acceptance": [], "surrogate": None, "exactness": None}
