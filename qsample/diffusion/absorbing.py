"""The absorbing process: each site is lost to a mask, at a rate, and stays lost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from qsample.diffusion.process import SiteProcess, Step
from qsample.sampling.random import Draws, Generators, draw_seeds
from qsample.support.checks import check_tensors
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.diffusion")
@dataclass(frozen=True, eq=False)
class Absorbing(SiteProcess):
    r"""Sites of M states, each lost to a mask at `rate`, for good (D3PM's absorbing kernel).

    Austin et al., NeurIPS 2021. With m the mask and $a = e^{-\lambda\,\Delta t}$

    $$Q(x'|x) = a\,[x' = x] + (1 - a)\,[x' = m]$$

    States are the integers 0..M-1, and the mask is M. What shows at step k has shown at all steps
    before; a masked site shows at step k - 1 with probability $(a_{k-1} - a_k) / (1 - a_k)$,
    $a_k = e^{-\lambda t_k}$, whatever the data: `hidden` draws which sites do not.

    Args:
        times: t_0 = 0 < t_1 < ... < t_T, `[T+1]`; the last may be infinite.
        rate: of losses, a number or one per site `[n]`.
        states: M, without the mask.

    Raises:
        ValueError: times that do not rise from 0, fewer than one step, a rate that is not positive,
            M < 2.
        TypeError: times that are no tensor.
    """

    @property
    def width(self) -> int:
        """States of a noisy site, the mask among them: M + 1."""
        return self.states + 1

    def kernel(self, k: Step, start: Step | None = None) -> Tensor:
        """The transition matrix Q[x, x'] of a site, `[M+1, M+1]`, or `[n, M+1, M+1]`."""
        lost = self.lost(k, start)[..., None, None]
        mask = one_hot(torch.tensor(self.states), self.width).to(lost)
        return (1 - lost) * torch.eye(self.width, dtype=lost.dtype) + lost * mask

    # ---- draws ----------------

    @uncompiled
    def noise(
        self, x: Tensor, k: Step, start: Step = 0, generator: Generators | None = None
    ) -> Tensor:
        """x_k given x_start: each site keeps its state or is masked. Same shape and dtype.

        Args:
            x: x_start, states `[*B, n]`.
            k: step to go to, for all items or one for each `[*B]`.
            start: step of x.
            generator: one for the batch, or a list with one for each of the `*B` items; None is
                torch's default.

        Raises:
            ValueError: states that are not the process's, a mask in x_0, steps out of order.
        """
        self.check(x)
        clean = torch.as_tensor(start, device=x.device) == 0
        self.check_data("x_0", x[clean.expand(x.shape[:-1])])
        level = Draws(draw_seeds(generator, x.shape[:-1]), x.device).uniform(x.shape[-1])
        lost = level < self.lost(k, start).to(x.device)
        return torch.where(lost.reshape(x.shape), self.states, x)

    @uncompiled
    def prior(self, shape: tuple[int, ...], generator: Generators | None = None) -> Tensor:
        """States at infinite time: masks, of `shape` `[*B, n]`, int64; nothing is drawn."""
        return torch.full(shape, self.states, device="cpu")

    @uncompiled
    def hidden(self, x: Tensor, k: Step, generator: Generators | None = None) -> Tensor:
        """Which masked sites of x_k are masked at step k - 1 too, `[*B, n]` bool.

        Each with probability $(1 - a_{k-1}) / (1 - a_k)$, whatever the data.

        Args:
            x: x_k, states `[*B, n]`.
            k: step of x, for all items or one for each `[*B]`.
            generator: as in `noise`.
        """
        self.check(x)
        level = Draws(draw_seeds(generator, x.shape[:-1]), x.device).uniform(x.shape[-1])
        stay = (self.lost(k - 1, 0) / self.lost(k, 0)).to(x.device)
        return (level < stay).reshape(x.shape) & (x == self.states)

    # ---- the reverse step of a denoiser ----------------

    def posterior(self, x: Tensor, probs: Tensor, k: Step) -> Tensor:
        r"""P(x_{k-1} | x_k) of each site, `[*B, n, M+1]`, by a denoiser's P(x_0 | x_k).

        A site that shows stays as it is. Of a masked one

        $$P(x_{k-1} = m) = \frac{1 - a_{k-1}}{1 - a_k}, \quad
          P(x_{k-1} = c) = \frac{a_{k-1} - a_k}{1 - a_k}\, P(x_0 = c\,|\,x_k)$$

        Args:
            x: x_k, states `[*B, n]`.
            probs: P(x_0 | x_k) of each site, `[*B, n, M]`; of sites that show it is not used.
            k: step of x.
        """
        self.check(x)
        stay = (self.lost(k - 1, 0) / self.lost(k, 0)).to(probs)
        stay = stay.expand(x.shape)[..., None]
        masked = torch.cat([(1 - stay) * probs, stay], -1)
        shown = one_hot(x.long(), self.width).to(probs)
        return torch.where((x == self.states)[..., None], masked, shown)

    def given(self, law: Tensor, hidden: Tensor) -> Tensor:
        """A posterior `[*B, n, M+1]` given which sites are masked, `[*B, n]`, not normalised."""
        states = law[..., :-1].masked_fill(hidden[..., None], 0)
        return torch.cat([states, hidden[..., None].to(law)], -1)

    def check_data(self, name: str, x: Tensor) -> None:
        """A ValueError where x_0 has masks, which noise makes and no data holds.

        Args:
            name: what x is to the user.
            x: states of the process.
        """
        if (x == self.states).any():
            raise ValueError(
                f"expected {name} in 0..{self.states - 1}; got {self.states}, the mask, which "
                f"noise alone makes: Absorbing(times, states={self.states + 1}) takes it for data"
            )

    def check(self, x: Tensor) -> None:
        """An error unless x are states of the process, `[*, n]`."""
        check_tensors(x=x)
        known = (x >= 0) & (x <= self.states)
        if x.dim() < 1 or x.is_floating_point() or not known.all():
            odd = x[~known]
            value = f"{float(odd[0]):g}" if odd.numel() else f"shape {list(x.shape)}"
            raise ValueError(
                f"expected x [*, n] of integers in 0..{self.states}, {self.states} for the mask; "
                f"got {x.dtype} {value}"
            )
