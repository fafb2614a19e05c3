"""The mean and standard deviation of a reverse step, for each of diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reverse:
    r"""A reverse step $x' = \mu + \sigma z$, z standard normal.

    Args:
        mean: $\mu$, of the sample's shape.
        std: $\sigma$: a number, or one for each coordinate where a network predicts it. 0 where
            nothing is drawn.
        x0: the scheduler's prediction of $x_0$, clipped as its configuration says.
        t: the timestep of x', what a network that sees x' must be told; -1 for $x_0$ itself.
        gain: $d\hat x_0/dx'$ of the best denoiser of data of unit variance at t': what x' says of
            x_0 before a network has seen it. Near 0 in noise, 1 at the end.
    """

    mean: Tensor
    std: Tensor
    x0: Tensor
    t: Tensor
    gain: Tensor

    def copied(self) -> Reverse:
        """The same numbers in new tensors.

        They are no inference tensors, where this is called outside that mode.
        """
        return Reverse(*(getattr(self, field.name).clone() for field in fields(self)))

    def x0_of(self, x: Tensor) -> Tensor:
        r"""The prediction of x_0 as x' moves it: $\hat x_0 + \mathrm{gain}\,(x' - \mu)$."""
        return self.x0 + self.gain.to(self.x0) * (x - self.mean)


def ddpm(scheduler: Any, arguments: Mapping[str, Any]) -> Reverse:
    r"""Ancestral sampling, from t to the next timestep t'.

    Ho, Jain and Abbeel, NeurIPS 2020, Eq. 7:

    $$\mu = \frac{\sqrt{\bar\alpha_{t'}}\,\beta}{1-\bar\alpha_t}\,\hat x_0
      + \frac{\sqrt{\alpha}\,(1-\bar\alpha_{t'})}{1-\bar\alpha_t}\,x, \qquad
      \sigma^2 = \frac{1-\bar\alpha_{t'}}{1-\bar\alpha_t}\,\beta$$

    with $\alpha = \bar\alpha_t/\bar\alpha_{t'} = 1 - \beta$. $\sigma$ by `variance_type`; a network
    of twice the channels predicts it (Nichol and Dhariwal, ICML 2021, Eq. 15).

    Args:
        scheduler: a `DDPMScheduler`.
        arguments: those of its `step`, by name.
    """
    output = arguments["model_output"]
    t = arguments["timestep"]
    x = arguments["sample"]
    kind = scheduler.variance_type
    predicted = None
    if kind in ("learned", "learned_range") and output.shape[1] == 2 * x.shape[1]:
        output, predicted = output.chunk(2, dim=1)
    then = scheduler.previous_timestep(t)
    bar = scheduler.alphas_cumprod[t]
    bar_then = _product(scheduler, then, scheduler.one)
    alpha = bar / bar_then
    x0, _ = _predict(scheduler, output, x, bar)
    of_x0 = (bar_then**0.5 * (1 - alpha)) / (1 - bar)
    of_x = alpha**0.5 * (1 - bar_then) / (1 - bar)
    mean = of_x0 * x0 + of_x * x
    if t > 0:
        variance = scheduler._get_variance(t, predicted_variance=predicted)
        # some kinds the scheduler answers with the root already, or with a logarithm
        if kind == "fixed_small_log":
            std = variance
        elif kind == "learned_range":
            std = torch.exp(0.5 * variance)
        else:
            std = torch.sqrt(variance)
        return Reverse(mean, std, x0, torch.as_tensor(then), bar_then**0.5)
    return Reverse(mean, torch.zeros(()), x0, torch.as_tensor(-1), torch.ones(()))


def ddim(scheduler: Any, arguments: Mapping[str, Any]) -> Reverse:
    r"""DDIM (Song, Meng and Ermon, ICLR 2021, Eq. 12 and 16), random for $\eta > 0$.

    $$\mu = \sqrt{\bar\alpha_{t'}}\,\hat x_0
      + \sqrt{1-\bar\alpha_{t'}-\sigma^2}\;\hat\epsilon, \qquad
      \sigma^2 = \eta^2\,\frac{1-\bar\alpha_{t'}}{1-\bar\alpha_t}\,
      \Bigl(1-\frac{\bar\alpha_t}{\bar\alpha_{t'}}\Bigr)$$

    Args:
        scheduler: a `DDIMScheduler`.
        arguments: those of its `step`, by name.
    """
    t = arguments["timestep"]
    x = arguments["sample"]
    eta = arguments["eta"]
    then = t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    bar = scheduler.alphas_cumprod[t]
    bar_then = _product(scheduler, then, scheduler.final_alpha_cumprod)
    x0, noise = _predict(scheduler, arguments["model_output"], x, bar)
    if arguments["use_clipped_model_output"]:
        noise = (x - bar**0.5 * x0) / (1 - bar) ** 0.5
    variance = (1 - bar_then) / (1 - bar) * (1 - bar / bar_then)
    std = eta * variance**0.5
    mean = bar_then**0.5 * x0 + (1 - bar_then - std**2) ** 0.5 * noise
    return Reverse(mean, torch.as_tensor(std), x0, torch.as_tensor(then), bar_then**0.5)


def euler_ancestral(scheduler: Any, arguments: Mapping[str, Any]) -> Reverse:
    r"""Euler's method down to $\sigma_-$, and noise up to $\sigma'$ again.

    k-diffusion; Karras et al., NeurIPS 2022:

    $$\mu = x + (\sigma_- - \sigma_t)\,\frac{x - \hat x_0}{\sigma_t}, \qquad
      \sigma^2 = \frac{\sigma'^2\,(\sigma_t^2 - \sigma'^2)}{\sigma_t^2}, \qquad
      \sigma_-^2 = \sigma'^2 - \sigma^2$$

    Args:
        scheduler: an `EulerAncestralDiscreteScheduler`.
        arguments: those of its `step`, by name.
    """
    output = arguments["model_output"]
    x = arguments["sample"].to(torch.float32)
    index = scheduler.step_index
    if index is None:
        begin = scheduler.begin_index
        index = scheduler.index_for_timestep(arguments["timestep"]) if begin is None else begin
    sigma = scheduler.sigmas[index]
    sigma_next = scheduler.sigmas[index + 1]
    if scheduler.config.prediction_type == "v_prediction":
        x0 = output * (-sigma / (sigma**2 + 1) ** 0.5) + x / (sigma**2 + 1)
    else:
        x0 = x - sigma * output
    up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
    down = (sigma_next**2 - up**2) ** 0.5
    last = index + 1 >= len(scheduler.timesteps)
    t = torch.as_tensor(-1) if last else scheduler.timesteps[index + 1]
    mean = x + (x - x0) / sigma * (down - sigma)
    return Reverse(mean, up, x0, t, 1 / (1 + sigma_next**2))


def _predict(scheduler: Any, output: Tensor, x: Tensor, bar: Tensor) -> tuple[Tensor, Tensor]:
    """The x_0 and the noise that a network's output predicts, by `prediction_type`; x_0 clipped."""
    kind = scheduler.config.prediction_type
    signal = bar**0.5
    noise = (1 - bar) ** 0.5
    if kind == "sample":
        x0 = output
        epsilon = (x - signal * output) / noise
    elif kind == "v_prediction":
        x0 = signal * x - noise * output
        epsilon = signal * output + noise * x
    else:
        x0 = (x - noise * output) / signal
        epsilon = output
    if scheduler.config.thresholding:
        x0 = scheduler._threshold_sample(x0)
    elif scheduler.config.clip_sample:
        x0 = x0.clamp(-scheduler.config.clip_sample_range, scheduler.config.clip_sample_range)
    return x0, epsilon


def _product(scheduler: Any, t: Any, end: Tensor) -> Tensor:
    """The product of the alphas up to t; `end` for the clean image."""
    return scheduler.alphas_cumprod[t] if t >= 0 else end
