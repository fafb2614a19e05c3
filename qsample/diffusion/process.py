"""The forward process: each site is resampled uniformly, at a rate: an Ising coupling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot, pad

from qsample.problem.graph import lasting
from qsample.problem.ising import Ising
from qsample.sampling.random import Draws, Generators, draw_seeds
from qsample.support.checks import as_numbers, check_spins, check_tensors
from qsample.support.faces import public
from qsample.support.transforms import numbers, uncompiled

Step = int | Tensor  # number of a step, for all items or one for each `[*B]`
# rate * dt below which a coupling no longer grows: a field of 14.2, no flip in a trillion
SMALLEST = 1e-12
SUREST = 300.0  # log odds of a bit, beyond which nothing changes but numbers overflow


def coupling(rate_dt: Tensor | float, states: int = 2) -> Tensor:
    r"""The coupling $\Gamma$ of a site before and after a step of `rate_dt` = $\lambda\,\Delta t$.

    With M = `states`

    $$Q(x'|x) \propto e^{\Gamma\,[x' = x]}, \quad
      \Gamma = \ln\frac{1 + (M-1)a}{1 - a}, \quad a = e^{-\lambda\Delta t}$$

    For spins, $\Gamma = 2w$ with $w = -\tfrac12 \ln\tanh(\lambda\Delta t/2)$ and $Q(x'|x) \propto
    e^{w x x'}$. It is 0 at $\lambda\Delta t = \infty$ and finite at 0, where $\lambda\Delta t$ is
    taken for `SMALLEST`.
    """
    u = torch.as_tensor(rate_dt, dtype=torch.float64).clamp_min(SMALLEST)
    return ((states - 1) * (-u).exp()).log1p() - (-(-u).expm1()).log()


def noised(spins: Tensor, noise: Tensor, lost: Tensor, draws: Callable[[], Draws]) -> Tensor:
    r"""Spins `[B, n]` of which each was resampled with probability `lost`, by noise that is given.

    Normal noise decides alone: a spin flips where $\Phi(\mathrm{noise}) < \mathrm{lost}/2$. Noise
    of spins -1 and +1 shows where a uniform number is under `lost`.

    Args:
        spins: -1 and +1, `[B, n]`.
        noise: normal numbers, or uniform random spins, `[B, n]`.
        lost: probability of resampling, `[B, 1]` or `[1, 1]`.
        draws: makes the streams of uniform numbers, where they are needed.
    """
    if (noise.abs() == 1).all():
        return torch.where(draws().uniform(spins.shape[1]) < lost, noise.to(spins), spins)
    return torch.where(noise < torch.special.ndtri(lost / 2), -spins, spins)


@dataclass(frozen=True, eq=False)
class SiteProcess:
    """What forward processes share: times, a rate, and sites that change independently.

    Args:
        times: t_0 = 0 < t_1 < ... < t_T, `[T+1]`; the last may be infinite.
        rate: of changes, a number or one per site `[n]`.
        states: M, states of a site of data.

    Raises:
        ValueError: times that do not rise from 0, fewer than one step, a rate that is not positive,
            M < 2.
        TypeError: times that are no tensor.
    """

    times: Tensor
    rate: Tensor | float = 1.0
    states: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.times, Tensor):
            raise TypeError(f"expected times as a tensor, such as log_times(8); got {self.times!r}")
        times = self.times.double()
        listed = times.dim() == 1 and len(times) >= 2
        if not listed or times[0] != 0 or not (times.diff() > 0).all():
            raise ValueError(
                f"expected times 0 = t_0 < t_1 < ... < t_T; got {times.tolist()[:8]}: see "
                "log_times(T)"
            )
        # on the CPU, whatever the default device
        rate = torch.as_tensor(self.rate, dtype=torch.float64, device="cpu")
        if rate.dim() > 1 or not ((rate > 0) & rate.isfinite()).all():
            raise ValueError(f"expected a rate > 0, or one per site [n]; got {rate.tolist()}")
        if self.states < 2:
            raise ValueError(f"expected states >= 2; got {self.states}")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "rate", rate)

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return len(self.times) - 1

    def step_numbers(self, x: Tensor, k: Step) -> Tensor:
        """The step, or one for each row of x_k = `x`, as a tensor beside it.

        Raises:
            ValueError: steps outside 1 <= k <= T, another number of them than of rows.
            TypeError: steps that are no integers.
        """
        steps = _steps("k", k).to(x.device)
        if steps.shape not in ((), x.shape[:1]):
            raise ValueError(
                f"expected one step k, or one for each of {len(x)} rows; got {list(steps.shape)}"
            )
        if not numbers((steps >= 1) & (steps <= self.steps)).all():
            raise ValueError(f"expected steps 1 <= k <= {self.steps}; got {steps.tolist()}")
        return steps

    def rate_dt(self, k: Step, start: Step | None = None) -> Tensor:
        """Rate times t_k - t_start; `start` is k - 1 by default.

        A number, or one per site `[n]`; for steps `[*B]`, one per item: `[*B, 1]` or `[*B, n]`.

        Raises:
            ValueError: steps outside 0 <= start <= k <= T.
            TypeError: steps that are no integers.
        """
        k = _steps("k", k).cpu()
        start = k - 1 if start is None else _steps("start", start).cpu()
        if not numbers((start >= 0) & (start <= k) & (k <= self.steps)).all():
            raise ValueError(
                f"expected steps 0 <= start <= k <= {self.steps}; got start = {start.tolist()}, "
                f"k = {k.tolist()}"
            )
        # not inf - inf
        dt = torch.where(start == k, 0.0, self.times[k] - self.times[start])
        return self.rate * (dt[..., None] if dt.dim() else dt)

    def lost(self, k: Step, start: Step | None = None) -> Tensor:
        """Probability 1 - a that a site lost its state between `start` (k - 1 by default) and k.

        A number, or one per site `[n]`; for steps `[*B]`, one per item: `[*B, 1]` or `[*B, n]`.
        """
        return -(-self.rate_dt(k, start)).expm1()


def _steps(name: str, k: Step) -> Tensor:
    """Numbers of steps as a tensor; TypeError for what are no integers."""
    steps = as_numbers(name, k)
    if steps.is_floating_point() or steps.dtype == torch.bool:
        raise TypeError(
            f"expected {name} as the number of a step, or one for each row, integers; got "
            f"{steps.tolist()}, {steps.dtype}"
        )
    return steps


@public("qsample.diffusion")
@dataclass(frozen=True, eq=False)
class Uniform(SiteProcess):
    """Sites of M states, each resampled uniformly at `rate` (D3PM's uniform kernel).

    Austin et al., NeurIPS 2021: over dt a site keeps its state with probability a + (1 - a)/M,
    a = exp(-rate dt). States are the integers 0..M-1; `UniformBits` is the case of spins.

    Args:
        times: t_0 = 0 < t_1 < ... < t_T, `[T+1]`; the last may be infinite.
        rate: of resampling, a number or one per site `[n]` (labels, say, are often slower).
        states: M.

    Raises:
        ValueError: times that do not rise from 0, fewer than one step, a rate that is not positive,
            M < 2.
        TypeError: times that are no tensor.
    """

    _couplings: dict[tuple[int, int | None], Tensor] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def width(self) -> int:
        """States of a noisy site: M."""
        return self.states

    # ---- the law of a site ----------------

    def coupling(self, k: Step, start: Step | None = None) -> Tensor:
        """Gamma of the step from `start` (k - 1 by default) to k: see the function `coupling`.

        A number, or one per site `[n]`; for steps `[*B]`, one per item: `[*B, 1]` or `[*B, n]`.
        """
        if not (isinstance(k, int) and isinstance(start, int | None)):
            return coupling(self.rate_dt(k, start), self.states)
        if (k, start) not in self._couplings:  # a reverse step asks again and again
            with lasting():
                self._couplings[k, start] = coupling(self.rate_dt(k, start), self.states)
        return self._couplings[k, start]

    def kernel(self, k: Step, start: Step | None = None) -> Tensor:
        """The transition matrix Q[x, x'] of a site: `[M, M]`, or `[n, M, M]` where rates differ."""
        a = (-self.rate_dt(k, start)).exp()[..., None, None]
        return a * torch.eye(self.states, dtype=a.dtype) + (1 - a) / self.states

    # ---- draws ----------------

    @uncompiled
    def noise(
        self, x: Tensor, k: Step, start: Step = 0, generator: Generators | None = None
    ) -> Tensor:
        """x_k given x_start: each site keeps its state or draws a new one. Same shape and dtype.

        Args:
            x: x_start, states `[*B, n]`.
            k: step to go to, for all items or one for each `[*B]`.
            start: step of x.
            generator: one for the batch, or a list with one for each of the `*B` items; None is
                torch's default.

        Raises:
            ValueError: states that are not the process's, steps out of order.
        """
        self.check(x)
        draws = Draws(draw_seeds(generator, x.shape[:-1]), x.device)
        level, state = draws.uniform(2, x.shape[-1]).unbind(1)
        resampled = (level < self.lost(k, start).to(x.device)).reshape(x.shape)
        fresh = self._states(state).to(x.dtype).reshape(x.shape)
        return torch.where(resampled, fresh, x)

    @uncompiled
    def prior(self, shape: tuple[int, ...], generator: Generators | None = None) -> Tensor:
        """States at infinite time: uniform, of `shape` `[*B, n]`; int64, or int8 spins."""
        draws = Draws(draw_seeds(generator, shape[:-1]), torch.device("cpu"))
        return self._states(draws.uniform(shape[-1])).reshape(shape)

    # ---- the reverse step of a denoiser ----------------

    def posterior(self, x: Tensor, probs: Tensor, k: Step) -> Tensor:
        r"""P(x_{k-1} | x_k) of each site, `[*B, n, M]`, by a denoiser's P(x_0 | x_k).

        $$\sum_{x_0} P(x_0|x_k)\, \frac{Q(x_k|x_{k-1})\, Q(x_{k-1}|x_0)}{Q(x_k|x_0)}$$

        Args:
            x: x_k, states `[*B, n]`.
            probs: P(x_0 | x_k) of each site, `[*B, n, M]`.
            k: step of x.
        """
        self.check(x)
        x_k = one_hot(self._index(x), self.states).to(probs)
        # all symmetric
        near = self.kernel(k).to(probs)
        start = self.kernel(k - 1, 0).to(probs)
        through = self.kernel(k, 0).to(probs)

        def times(Q: Tensor, v: Tensor) -> Tensor:
            return (Q @ v[..., None])[..., 0]

        return times(near, x_k) * times(start, probs / times(through, x_k))

    # ---- what a site's states are ----------------

    def _index(self, x: Tensor) -> Tensor:
        """A site's state as a number in 0..M-1."""
        return x.long()

    def _states(self, u: Tensor) -> Tensor:
        """Uniform states of uniform numbers."""
        return (u * self.states).long()

    def check(self, x: Tensor) -> None:
        """An error unless x are states of the process, `[*, n]`."""
        check_tensors(x=x)
        known = (x >= 0) & (x < self.states)
        if x.dim() < 1 or x.is_floating_point() or not known.all():
            odd = x[~known]
            value = f"{float(odd[0]):g}" if odd.numel() else f"shape {list(x.shape)}"
            raise ValueError(
                f"expected x [*, n] of integers in 0..{self.states - 1}; got {x.dtype} {value}"
            )


@public("qsample.diffusion")
class UniformBits(Uniform):
    r"""Bits as spins, resampled uniformly at `rate`: an Ising coupling between steps.

    $$Q(x_k | x_{k-1}) \propto e^{w_k\, x_{k-1} \cdot x_k}, \quad
      w_k = -\tfrac12 \ln\tanh(\lambda (t_k - t_{k-1})/2)$$

    so that conditioning on x_k is a field on x_{k-1} and nothing else: `fields`. States are spins,
    -1 and +1.

        forward = UniformBits(log_times(8))
        x_k = forward.noise(x_0, k)                         # train on these
        problem = forward.condition(model.ising(), x_k, k)  # one reverse step, for a batch of x_k

    Args:
        times: t_0 = 0 < t_1 < ... < t_T, `[T+1]`; the last may be infinite.
        rate: of resampling, a number or one per site `[n]`.
    """

    def __init__(self, times: Tensor, rate: Tensor | float = 1.0) -> None:
        super().__init__(times, rate)

    def fields(self, x: Tensor, k: Step, sites: int | None = None) -> Tensor:
        """What x_k adds to the fields of x_{k-1}: -w_k x, `[*B, n]`.

        Args:
            x: x_k, spins `[*B, n]`.
            k: step of x.
            sites: length to fill up with zeros, for latent spins that follow; n by default.
        """
        self.check(x)
        w = self.coupling(k).to(x.device) / 2
        h = -w * (x if x.is_floating_point() else x.double())
        return h if sites is None else pad(h, (0, sites - x.shape[-1]))

    def condition(self, problem: Ising, x: Tensor, k: Step, sites: Tensor | None = None) -> Ising:
        """A law of x_{k-1}, given x_k: one problem per row of x, on the same graph with the same J.

        Args:
            problem: the law of x_{k-1}, and of latent spins.
            x: x_k, spins `[*B, n]`.
            k: step of x.
            sites: numbers `[n]` of the spins that carry the bits of x_{k-1}; the first n by
                default.

        Raises:
            ValueError: more bits than spins, tensors on two devices.
        """
        n = x.shape[-1]
        if problem.num_spins < n:
            raise ValueError(
                f"x has {n} bits and the problem {problem.num_spins} spins: too few to hold it"
            )
        if x.device != problem.device:
            raise ValueError(f"x is on {x.device}, the problem on {problem.device}: move one")
        if sites is None:
            sites = torch.arange(n, device=x.device)
        batch = torch.broadcast_shapes(problem.h.shape[:-1], x.shape[:-1])
        field = self.fields(x, k).to(problem.h).expand(*batch, -1)
        h = problem.h.expand(*batch, -1).index_add(-1, sites, field)
        return Ising(problem.graph, h, problem.J, problem.offset)

    def conditioned(
        self, energy: Callable[[Tensor], Tensor], x: Tensor, k: Step
    ) -> Callable[[Tensor], Tensor]:
        """An energy of x_{k-1}, given x_k: E(y) - w_k x.y.

        Args:
            energy: E, a function of states y `[*B, M, n]` to `[*B, M]`.
            x: x_k, spins `[*B, n]`.
            k: step of x.
        """
        h = self.fields(x, k)[..., None, :]
        return lambda y: energy(y) + (h.to(y) * y).sum(-1)

    def posterior_fields(self, x: Tensor, mean: Tensor, k: Step) -> Float[Tensor, "*batch n"]:
        r"""Fields h of the factorised step: $P(x_{k-1} = +1 | x_k) = \sigma(-2h)$, `[*B, n]`.

        Given x_0 itself, $h = -w_k x_k - w_{0 \to k-1} x_0$.

        Args:
            x: x_k, spins `[*B, n]`.
            mean: a denoiser's E[x_0 | x_k] in [-1, 1], or x_0 itself, `[*B, n]`.
            k: step of x.

        Raises:
            ValueError: x that is no spins, a mean outside [-1, 1].
        """
        self.check(x)
        if not numbers(mean.abs() <= 1).all():
            odd = float(mean[~(mean.abs() <= 1)][0])
            raise ValueError(f"expected mean in [-1, 1]; got {odd:g}")
        near, ratio, small = self._constants(x, mean, k)
        x = x.to(mean)
        up = 1 + mean
        down = (1 - mean) * (ratio * x).exp()
        return ((up * small + down).log() - (up + down * small).log()) / 2 - near * x

    def logit_fields(self, x: Tensor, logits: Tensor, k: Step) -> Float[Tensor, "*batch n"]:
        r"""`posterior_fields` of a denoiser's log odds l of x_0 = +1, whose mean is tanh(l / 2).

        $$h = \tfrac12 \ln\frac{e^{-2w} + \rho}{1 + \rho\, e^{-2w}} - w_k x_k, \quad
          \rho = e^{-l} \frac{\cosh(w_k x_k + w)}{\cosh(w_k x_k - w)}, \quad w = w_{0 \to k-1}$$

        One exponential and one logarithm, and no digits are lost where a bit is all but sure.

        Args:
            x: x_k, spins `[*B, n]`.
            logits: log odds, `[*B, n]`, in double precision.
            k: step of x.
        """
        self.check(x)
        near, ratio, small = self._constants(x, logits, k)
        x = x.to(logits)
        odds = (ratio * x - logits.clamp(-SUREST, SUREST)).exp()
        return ((small + odds) / (1 + odds * small)).log() / 2 - near * x

    def _constants(self, x: Tensor, like: Tensor, k: Step) -> tuple[Tensor, Tensor, Tensor]:
        """w_k, ln cosh(w_k + w) - ln cosh(w_k - w), and e^{-2w}, in the dtype of `like`.

        P(x_{k-1} | x_0) is e^{(w_k x_k + w x_0) x_{k-1}} / 2cosh(w_k + w x_k x_0): the cosh depends
        on x_k x_0 alone.
        """
        near = self.coupling(k).to(x.device) / 2
        start = self.coupling(k - 1, 0).to(x.device) / 2
        ratio = (near + start).cosh().log() - (near - start).cosh().log()
        return near.to(like), ratio.to(like), (-2 * start).exp().to(like)

    def _index(self, x: Tensor) -> Tensor:
        return (x > 0).long()

    def _states(self, u: Tensor) -> Tensor:
        return (u < 0.5).to(torch.int8) * 2 - 1

    def check(self, x: Tensor) -> None:
        """An error unless x are states of the process, `[*, n]`."""
        check_tensors(x=x)
        if x.dim() < 1:
            raise ValueError(f"expected spins x [*, n] of -1 and +1; got shape {list(x.shape)}")
        check_spins("spins x [*, n]", x)
