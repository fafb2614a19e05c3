"""The forward process: each site is resampled uniformly, at a rate. Its transition law is an Ising coupling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot, pad

from qsample.problem.graph import lasting
from qsample.problem.ising import Ising
from qsample.sampling.random import Draws
from qsample.sampling.sampler import Generators, draw_seeds
from qsample.support.transforms import numbers, uncompiled

Step = int | Tensor  # number of a step, for all items or one for each `[*B]`
SMALLEST = 1e-12  # rate * dt below which a coupling no longer grows: a field of 14.2, no flip in a trillion


def coupling(rate_dt: Tensor | float, states: int = 2) -> Tensor:
    r"""The coupling $\Gamma$ of a site before and after a step of `rate_dt` = $\lambda\,\Delta t$, M = `states`.

    $$Q(x'|x) \propto e^{\Gamma\,[x' = x]}, \quad \Gamma = \ln\frac{1 + (M-1)a}{1 - a}, \quad a = e^{-\lambda\Delta t}$$

    For spins, $\Gamma = 2w$ with $w = -\tfrac12 \ln\tanh(\lambda\Delta t/2)$ and $Q(x'|x) \propto e^{w x x'}$. It is
    0 at $\lambda\Delta t = \infty$ and finite at 0, where $\lambda\Delta t$ is taken for `SMALLEST`.
    """
    u = torch.as_tensor(rate_dt, dtype=torch.float64).clamp_min(SMALLEST)
    return ((states - 1) * (-u).exp()).log1p() - (-(-u).expm1()).log()


def log_times(steps: int) -> Tensor:
    r"""$t_k = -\ln(1 - k/T)$: a bit is still its own at step k with probability 1 - k/T; the last time is infinite."""
    return log_time(_fractions(steps))


def cosine_times(steps: int, s: float = 0.008) -> Tensor:
    r"""$e^{-t_k} = f(k)/f(0)$, $f(k) = \cos^2\frac{k/T + s}{1 + s}\frac\pi2$ (Nichol and Dhariwal, ICML 2021)."""
    return cosine_time(_fractions(steps), s)


def log_time(fraction: Tensor) -> Tensor:
    """The time of `log_times` at a fraction k/T in [0, 1]."""
    return -torch.log1p(-fraction)


def cosine_time(fraction: Tensor, s: float = 0.008) -> Tensor:
    """The time of `cosine_times` at a fraction k/T in [0, 1]."""

    def f(u: Tensor) -> Tensor:
        return torch.cos((u + s) / (1 + s) * math.pi / 2).square()

    times = -(f(fraction) / f(torch.zeros_like(fraction))).log()
    return times.masked_fill(fraction <= 0, 0.0).masked_fill(fraction >= 1, math.inf)


@dataclass(frozen=True, eq=False)
class Uniform:
    """Sites of M states, each resampled uniformly at `rate`: over dt a site keeps its state with probability
    a + (1 - a)/M, a = exp(-rate dt) (D3PM's uniform kernel; Austin et al., NeurIPS 2021).

    States are the integers 0..M-1; `UniformBits` is the case of spins.

    Args:
        times: t_0 = 0 < t_1 < ... < t_T, `[T+1]`; the last may be infinite.
        rate: of resampling, a number or one a site `[n]` (labels, say, are often slower).
        states: M.

    Raises:
        ValueError: times that do not rise from 0, fewer than one step, a rate that is not positive, M < 2.
    """  # noqa: D205

    times: Tensor
    rate: Tensor | float = 1.0
    states: int = 2
    _couplings: dict[tuple[int, int | None], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.times, Tensor):
            raise TypeError(f"expected times as a tensor, such as log_times(8); got {self.times!r}")
        times = self.times.double()
        if times.dim() != 1 or len(times) < 2 or times[0] != 0 or not (times.diff() > 0).all():
            raise ValueError(f"expected times 0 = t_0 < t_1 < ... < t_T; got {times.tolist()[:8]}: see log_times(T)")
        rate = torch.as_tensor(self.rate, dtype=torch.float64, device="cpu")  # whatever the default
        if rate.dim() > 1 or not ((rate > 0) & rate.isfinite()).all():
            raise ValueError(f"expected a rate > 0, or one a site [n]; got {rate.tolist()}")
        if self.states < 2:
            raise ValueError(f"expected states >= 2; got {self.states}")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "rate", rate)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.times) - 1

    def rate_dt(self, k: Step, start: Step | None = None) -> Tensor:
        """Rate times t_k - t_start; `start` is k - 1 by default.

        A number, or one a site `[n]`; for steps `[*B]`, one an item: `[*B, 1]` or `[*B, n]`.
        """
        k = torch.as_tensor(k).cpu()
        start = k - 1 if start is None else torch.as_tensor(start).cpu()
        if not numbers((start >= 0) & (start <= k) & (k <= self.steps)).all():
            at = f"start = {start.tolist()}, k = {k.tolist()}"
            raise ValueError(f"expected steps 0 <= start <= k <= {self.steps}; got {at}")
        dt = torch.where(start == k, 0.0, self.times[k] - self.times[start])
        return self.rate * (dt[..., None] if dt.dim() else dt)

    def coupling(self, k: Step, start: Step | None = None) -> Tensor:
        """Gamma of the step from `start` (k - 1 by default) to k: see `coupling`. A number, or one a site `[n]`."""
        if not (isinstance(k, int) and isinstance(start, int | None)):
            return coupling(self.rate_dt(k, start), self.states)
        if (k, start) not in self._couplings:  # a reverse step asks again and again
            with lasting():
                self._couplings[k, start] = coupling(self.rate_dt(k, start), self.states)
        return self._couplings[k, start]

    def kernel(self, k: Step, start: Step | None = None) -> Tensor:
        """The transition matrix Q[x, x'] of one site, `[M, M]`, or `[n, M, M]` where rates differ."""
        a = (-self.rate_dt(k, start)).exp()[..., None, None]
        return a * torch.eye(self.states, dtype=a.dtype) + (1 - a) / self.states

    @uncompiled
    def noise(self, x: Tensor, k: Step, start: Step = 0, generator: Generators | None = None) -> Tensor:
        """x_k given x_start = `x` `[*B, n]`: each site keeps its state or draws a new one. Same shape and dtype.

        `generator`: one for the batch, or a list with one for each of the `*B` items.
        """
        self._check(x)
        draws = Draws(draw_seeds(generator, x.shape[:-1]), x.device)
        when, fresh = draws.uniform(2, x.shape[-1]).unbind(1)
        resampled = when < -(-self.rate_dt(k, start).to(x.device)).expm1()
        return torch.where(resampled.reshape(x.shape), self._fresh(fresh).to(x.dtype).reshape(x.shape), x)

    @uncompiled
    def prior(self, shape: tuple[int, ...], generator: Generators | None = None) -> Tensor:
        """States at infinite time: uniform, `[*B, n]`; int64, or int8 spins."""
        draws = Draws(draw_seeds(generator, shape[:-1]), torch.device("cpu"))
        return self._fresh(draws.uniform(shape[-1])).reshape(shape)

    def posterior(self, x: Tensor, probs: Tensor, k: Step) -> Tensor:
        r"""P(x_{k-1} | x_k) of each site, `[*B, n, M]`, where `probs` `[*B, n, M]` is a denoiser's P(x_0 | x_k).

        $$\sum_{x_0} P(x_0|x_k)\, \frac{Q(x_k|x_{k-1})\, Q(x_{k-1}|x_0)}{Q(x_k|x_0)}$$
        """
        self._check(x)
        own = one_hot(self._index(x), self.states).to(probs)
        last, before, whole = (self.kernel(*at).to(probs) for at in ((k,), (k - 1, 0), (k, 0)))  # all symmetric

        def times(Q: Tensor, v: Tensor) -> Tensor:
            return (Q @ v[..., None])[..., 0]

        return times(last, own) * times(before, probs / times(whole, own))

    def _index(self, x: Tensor) -> Tensor:
        """A site's state as a number in 0..M-1."""
        return x.long()

    def _fresh(self, u: Tensor) -> Tensor:
        return (u * self.states).long()

    def _check(self, x: Tensor) -> None:
        if x.dim() < 1 or x.is_floating_point() or not ((x >= 0) & (x < self.states)).all():
            raise ValueError(f"expected x [*, n] of integers in 0..{self.states - 1}; got {x.dtype} {_odd(x)}")


class UniformBits(Uniform):
    r"""Bits as spins, each resampled uniformly at `rate`: an Ising coupling between one step and the next.

    $$Q(x_k | x_{k-1}) \propto e^{w_k\, x_{k-1} \cdot x_k}, \quad w_k = -\tfrac12 \ln\tanh(\lambda (t_k - t_{k-1})/2)$$

    so that conditioning on x_k is a field on x_{k-1} and nothing else: `fields`. States are spins, -1 and +1.

        forward = UniformBits(log_times(8))
        x_k = forward.noise(x_0, k)                         # train on these
        problem = forward.condition(model.ising(), x_k, k)  # one reverse step, for a batch of x_k
    """

    def __init__(self, times: Tensor, rate: Tensor | float = 1.0) -> None:
        super().__init__(times, rate)

    def fields(self, x: Tensor, k: Step, sites: int | None = None) -> Tensor:
        """What x_k = `x` `[*B, n]` adds to the fields of x_{k-1}: -w_k x, `[*B, n]`; zeros up to `sites` follow."""
        self._check(x)
        h = -self.coupling(k).to(x.device) / 2 * (x if x.is_floating_point() else x.double())
        return h if sites is None else pad(h, (0, sites - x.shape[-1]))

    def condition(self, problem: Ising, x: Tensor, k: Step) -> Ising:
        """`problem`, a law of x_{k-1} (its first n spins; latent ones may follow), given x_k = `x` `[*B, n]`.

        One problem a row of x, on the same graph with the same J.
        """
        if problem.num_spins < x.shape[-1]:
            raise ValueError(f"x has {x.shape[-1]} bits and the problem {problem.num_spins} spins: too few to hold it")
        if x.device != problem.device:
            raise ValueError(f"x is on {x.device}, the problem on {problem.device}: move one")
        h = problem.h + self.fields(x, k, problem.num_spins).to(problem.h)
        return Ising(problem.graph, h, problem.J, problem.offset)

    def conditioned(self, energy: Callable[[Tensor], Tensor], x: Tensor, k: Step) -> Callable[[Tensor], Tensor]:
        """An energy of x_{k-1} given x_k = `x` `[*B, n]`: E(y) - w_k x.y, for states y `[*B, M, n]`."""
        h = self.fields(x, k)[..., None, :]
        return lambda y: energy(y) + (h.to(y) * y).sum(-1)

    def posterior_fields(self, x: Tensor, mean: Tensor, k: Step) -> Float[Tensor, "*batch n"]:
        r"""Fields h of the factorised step: $P(x_{k-1} = +1 | x_k) = \sigma(-2h)$, `[*B, n]`.

        `mean` `[*B, n]` in [-1, 1] is a denoiser's E[x_0 | x_k], or x_0 itself, where
        $h = -w_k x_k - w_{0 \to k-1} x_0$.
        """
        self._check(x)
        if not numbers(mean.abs() <= 1).all():
            raise ValueError(f"expected mean in [-1, 1]; got {float(mean[~(mean.abs() <= 1)][0]):g}")
        near, start = (self.coupling(*at).to(x.device) / 2 for at in ((k,), (k - 1, 0)))
        # P(x_{k-1} | x_0) is e^{(w_k x_k + w x_0) x_{k-1}} / 2cosh(w_k + w x_k x_0): the cosh depends on x_k x_0 alone
        ratio = ((near + start).cosh().log() - (near - start).cosh().log()).to(mean)
        near, small, x = near.to(mean), (-2 * start).exp().to(mean), x.to(mean)
        up, down = 1 + mean, (1 - mean) * (ratio * x).exp()
        return ((up * small + down).log() - (up + down * small).log()) / 2 - near * x

    def _index(self, x: Tensor) -> Tensor:
        return (x > 0).long()

    def _fresh(self, u: Tensor) -> Tensor:
        return (u < 0.5).to(torch.int8) * 2 - 1

    def _check(self, x: Tensor) -> None:
        if x.dim() < 1 or not numbers(x.abs() == 1).all():
            raise ValueError(f"expected spins x [*, n] of -1 and +1; got {_odd(x)}: 2 * bits - 1 makes spins of bits")


def _odd(x: Tensor) -> str:
    """A value that does not belong."""
    odd = x[x.abs() != 1] if x.dim() else x
    return f"{float(odd.flatten()[0]):g}" if odd.numel() else f"shape {list(x.shape)}"


def _fractions(steps: int) -> Tensor:
    if steps < 1:
        raise ValueError(f"expected steps >= 1; got {steps}")
    return torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
