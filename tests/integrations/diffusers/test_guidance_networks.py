"""Guidance by networks: how large they may be for second derivatives, attention, half precision."""

from functools import partial
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn

from qsample.annealers import Gibbs
from qsample.diffusion import AnnealedGuidance, first_order, second_order
from qsample.integrations.diffusers.guidance_weights import MANY, Weights, surrogate_for
from tests.support.seeds import generator

PALINDROMIC = Gibbs(5, scan="palindromic")
SLOW = partial(pytest.param, marks=pytest.mark.long)
SHARED = nn.Linear(3, 4)


# ---- how many weights enter an energy ----------------


def weights_in(call) -> int:
    with Weights() as weights:
        call()
    return weights.number


def closure():
    first = nn.Linear(3, 5)
    inner = nn.Sequential(first, nn.LayerNorm(5), nn.Linear(5, 1, bias=False))
    return lambda x: inner(first.weight.mean() + x)  # its first weights enter twice


CALLS = {
    "a closure, twice the same weights": (closure(), 20 + 10 + 5),
    "a global": (lambda x: SHARED(x), 16),
    "partial, frozen": (partial(nn.Linear(3, 2).requires_grad_(False).forward), 8),
    "a list of weights": (nn.LSTM(3, 2), 4 * 2 * (3 + 2 + 2)),
    "concatenated": (lambda x: torch.cat([SHARED.weight, SHARED.bias[:, None]], 1), 16),
    "attention": (lambda x: ATTENTION(x[:, None], x[:, None], x[:, None]), 36 + 12),
    "by keyword": (lambda x: nn.functional.linear(x, weight=SHARED.weight), 12),
    "none": (lambda x: x.square(), 0),
}
ATTENTION = nn.MultiheadAttention(3, 1)


@pytest.mark.parametrize("name", CALLS)
def test_weights_are_counted_wherever_they_come_from(name):
    call, number = CALLS[name]
    unused = nn.Linear(9, 9)
    assert weights_in(lambda: call(torch.ones(2, 3))) == number and unused.bias is not None


def test_the_limit():
    assert surrogate_for(MANY) is second_order and surrogate_for(MANY + 1) is first_order


@pytest.mark.parametrize("wide", [False, SLOW(True)])
def test_large_networks_are_not_derived_twice_by_default(wide):
    network = nn.Linear(64, MANY // 64 + 1 if wide else 10).requires_grad_(False)

    def energy(x, x0, t):
        return network(x.flatten(1)).square().mean(1)

    guided = AnnealedGuidance(DDPMScheduler(), energy, PALINDROMIC, K=16)
    assert guided.info["surrogate"] is None
    run(guided)
    assert guided.info["surrogate"] is (first_order if wide else second_order)
    assert guided.info["hessian_vectors"] == (0 if wide else 2 * 2 * 16)

    # what is asked for is done, and another energy is looked at anew
    guided.surrogate = second_order
    run(guided)
    assert guided.info["hessian_vectors"] == 2 * 2 * 16
    guided.surrogate = None
    guided.energy = lambda x, x0, t: x.flatten(1).square().mean(1)
    run(guided)
    assert guided.info["surrogate"] is second_order


def run(guided, dtype=torch.float32):
    guided.set_timesteps(3)
    x = torch.randn(2, 1, 8, 8, generator=generator(1)).to(dtype)
    for t in guided.timesteps:
        x = guided.step(0.1 * x, t, x, generator=generator(2)).prev_sample
        assert x.dtype is dtype
    return x


# ---- a denoiser with attention, in half precision, within the energy ----------------


def attentive(dtype: torch.dtype) -> Any:
    """A pipeline whose UNet attends at half size and in the middle."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet: Any = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    pipe: Any = DDPMPipeline(unet.to(dtype).requires_grad_(False), DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def through(unet):
    """Minus the brightness of the x_0 that the network itself predicts from x'."""

    def energy(x, x0, t):
        return -(x - unet(x, t.clamp(min=0)).sample).flatten(1).mean(1)

    return energy


def drawn(pipe):
    return pipe(2, generator=generator(5), num_inference_steps=3, output_type="pt").images


@pytest.mark.parametrize(
    ("surrogate", "dtype"),
    [
        (first_order, torch.float32),
        (first_order, torch.bfloat16),
        (first_order, torch.float16),
        SLOW(None, torch.float32),
        SLOW(None, torch.bfloat16),
        SLOW(None, torch.float16),
    ],
)
def test_an_energy_through_an_attending_denoiser(surrogate, dtype):
    pipe = attentive(dtype)
    plain = drawn(pipe)
    energy = through(pipe.unet)
    pipe.scheduler = AnnealedGuidance(
        pipe.scheduler, energy, PALINDROMIC, 1e3, K=16, surrogate=surrogate
    )
    images = drawn(pipe)
    info = pipe.scheduler.info
    assert images.isfinite().all() and images.mean() > plain.mean()
    assert info["network"] == 6 and len(info["acceptance"]) == 2
    assert info["hessian_vectors"] == (0 if surrogate else 2 * 2 * 16)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_attending_denoiser_in_half_precision_is_guided_as_in_single(dtype):
    """Of the same mean brightness, to the rounding of the network; a spin may turn near 0."""
    means = []
    for each in (dtype, torch.float32):
        pipe = attentive(each)
        pipe.scheduler = AnnealedGuidance(
            pipe.scheduler, through(pipe.unet), PALINDROMIC, 1e3, K=16, moves=0
        )
        means.append(float(drawn(pipe).double().mean()))
    assert abs(means[0] - means[1]) < 20 * torch.finfo(dtype).eps
