"""IsingDiffusionPipeline: diffusers' manners, and the same image from a seed in another process."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d import UNet2DModel

from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.diffusion import IsingDiffusionPipeline, IsingScheduler
from qsample.integrations.diffusers.latents import decode, encode, index_of, spins_of
from tests.support.seeds import generator

GRID = [[0, 1], [1, 0]]
SMALL: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}


def unet(channels=1, features=0, **options) -> Any:
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels * (1 + features),
        **SMALL,
        **options,
    )
    with torch.no_grad():  # couplings and logits that matter, from a network that never learnt
        model.conv_out.weight.mul_(5)
    return model.eval()


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, count: int | None = 2, generator=None, **options) -> Any:
    if "image" in options or "latents" in options:
        count = None  # as many as they hold
    options = {"num_inference_steps": 3, "output_type": "pt"} | options
    return pipe(
        count, torch.Generator().manual_seed(7) if generator is None else generator, **options
    ).images


@pytest.fixture(scope="module")
def network():
    return unet(features=2)


@pytest.fixture
def pipe(network):
    scheduler = IsingScheduler(neighbours=GRID, pair_features=2, sampler_settings={"sweeps": 5})
    return quiet(IsingDiffusionPipeline(network, scheduler))


@pytest.fixture(scope="module")
def vqvae():
    torch.manual_seed(1)
    options: dict[str, Any] = dict(
        **{"in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8), "norm_num_groups": 4},
        **{
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
        },
        **{
            "latent_channels": 4,
            "num_vq_embeddings": 16,
            "vq_embed_dim": 4,
            "mid_block_add_attention": False,
        },
    )
    return VQModel(**options).eval()


@pytest.fixture(scope="module")
def latent_pipe(vqvae):
    scheduler = IsingScheduler(schedule="cosine")
    return quiet(
        IsingDiffusionPipeline(unet(4, num_class_embeds=10), scheduler, vqvae, time_scale=100.0)
    )


class Recorder(nn.Module):
    """A denoiser that notes what it was asked, and answers with what it saw."""

    def __init__(self, channels=1):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.config, self.asked = SimpleNamespace(in_channels=channels, sample_size=(4, 6)), []

    @property
    def dtype(self):
        return self.weight.dtype

    @property
    def device(self):
        return self.weight.device

    def forward(self, x, t):
        self.asked.append((x.clone(), float(t)))
        return 20 * x


def test_outputs(pipe):
    images = draw(pipe)
    assert images.shape == (2, 1, 8, 8) and set(images.unique().tolist()) == {0.0, 1.0}
    spins, arrays, pictures = (draw(pipe, output_type=kind) for kind in ("latent", "np", "pil"))
    assert torch.equal(spins, 2 * images - 1) and spins.dtype == pipe.unet.dtype
    assert np.array_equal(arrays[..., 0], images[:, 0].numpy())
    assert isinstance(pictures[0], PIL.Image.Image) and np.array_equal(
        np.array(pictures[1]), 255 * arrays[1, ..., 0]
    )
    (alone,) = pipe(2, generator(7), 3, "pt", return_dict=False)
    assert torch.equal(alone, images) and not torch.equal(
        draw(pipe, generator=generator(8)), images
    )
    assert pipe.num_timesteps == 3 and IsingDiffusionPipeline.model_cpu_offload_seq == "unet->vqvae"


def test_a_generator_for_each_image(pipe):
    together = draw(pipe, 4, [generator(k) for k in range(4)])
    for k in range(4):
        assert torch.equal(together[k : k + 1], draw(pipe, 1, generator(k)))


def test_steps_and_times():
    denoiser = Recorder()
    pipe = quiet(IsingDiffusionPipeline(denoiser, IsingScheduler(), time_scale=10.0))
    assert draw(pipe, timesteps=[1.0, 0.4]).shape == (2, 1, 4, 6)
    assert [t for _, t in denoiser.asked] == [10.0, pytest.approx(4.0)]
    start = pipe.scheduler.prior((2, 1, 4, 6), generator())
    found = draw(pipe, latents=start, output_type="latent")
    assert torch.equal(denoiser.asked[2][0], start)
    assert torch.equal(found, denoiser.asked[-1][0]), (
        "at the last step x_0 is what the logits say, what it saw"
    )


def test_callbacks(pipe):
    seen = []

    def watch(pipe, i, t, tensors):
        seen.append((i, float(t), tensors["latents"].clone()))
        return tensors

    images = draw(pipe, callback_on_step_end=watch)
    assert [(i, round(t, 3)) for i, t, _ in seen] == [(0, 1.0), (1, 0.667), (2, 0.333)]
    assert torch.equal(seen[2][2], 2 * images - 1)

    class Up(PipelineCallback):
        tensor_inputs = ["latents"]  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            return (
                {"latents": torch.ones_like(callback_kwargs["latents"])}
                if step_index == 2
                else callback_kwargs
            )

    def stop(pipe, i, t, tensors):
        pipe._interrupt = i == 1
        return {}

    for callback in (Up(), MultiPipelineCallbacks([Up()])):
        assert draw(pipe, callback_on_step_end=callback).min() == 1
    stopped = draw(pipe, callback_on_step_end=stop)
    assert torch.equal(stopped, (seen[1][2] + 1) / 2) and pipe.interrupt
    assert torch.equal(draw(pipe), images), "the next call is not interrupted"
    with pytest.raises(ValueError, match=r"a callback may ask for latents; got \['noise'\]"):
        draw(pipe, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=["noise"])


def test_image_to_image(pipe):
    denoiser = Recorder()
    plain = quiet(IsingDiffusionPipeline(denoiser, IsingScheduler()))
    image = (torch.rand(3, 1, 4, 6, generator=generator()) > 0.5).float()
    draw(
        plain,
        image=image,
        strength=0.5,
        num_inference_steps=4,
        generator=[generator(k) for k in range(3)],
    )
    assert plain.scheduler.begin_index == 2 and plain.num_timesteps == 2
    (first, t), _ = denoiser.asked
    assert t == 500.0 and 0 < (first != 2 * image - 1).float().mean() < 0.5
    for k in range(3):  # a quarter of the bits flips, those that the image's own generator says
        draw(
            plain,
            image=image[k : k + 1],
            strength=0.5,
            num_inference_steps=4,
            generator=generator(k),
        )
        assert torch.equal(denoiser.asked[-2][0], first[k : k + 1])
    draw(plain, image=image, strength=1e-9)
    assert plain.num_timesteps == 1
    pictures = [PIL.Image.fromarray((255 * np.ones((8, 8))).astype("uint8"))] * 2
    assert torch.equal(pipe.encode(pictures), torch.ones(2, 1, 8, 8))
    assert draw(pipe, image=pictures).shape == (2, 1, 8, 8) and pipe.scheduler.begin_index == 1
    with pytest.raises(ValueError, match=r"strength in \(0, 1\]; got 1\.5"):
        draw(pipe, image=image, strength=1.5)


def test_a_mask_says_what_is_drawn_anew(pipe):
    """Black stays, whatever the kind of the mask; white is drawn given it, for each image alone."""
    image = (torch.rand(3, 1, 8, 8, generator=generator()) > 0.5).float()
    white = torch.zeros(8, 8)
    white[:, 3:] = 1
    images = draw(pipe, image=image, mask_image=white[None, None])
    assert torch.equal(images[..., :3], image[..., :3])
    assert not torch.equal(images[..., 3:], image[..., 3:])
    assert pipe.num_timesteps == 3, "with a mask all steps are gone through"
    picture = PIL.Image.fromarray((255 * white.numpy()).astype("uint8"))
    assert torch.equal(draw(pipe, image=image, mask_image=picture), images)
    generators = [generator(k) for k in range(3)]
    together = draw(pipe, image=image, mask_image=picture, generator=generators)
    alone = draw(pipe, image=image[1:2], mask_image=picture, generator=generator(1))
    assert torch.equal(alone, together[1:2])
    with pytest.raises(ValueError, match="pass image too"):
        draw(pipe, mask_image=picture)
    with pytest.raises(ValueError, match=r"one mask of one channel.*got \[3, 1, 8, 8\]"):
        draw(pipe, image=image, mask_image=image)


IMAGE = (torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5).float()
WHITE = (torch.arange(8) > 2).expand(1, 1, 8, 8)
PICTURE = PIL.Image.fromarray((255 * IMAGE[0, 0].numpy()).astype("uint8"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": IMAGE * torch.nan}, r"pixels 0 and 1.*; got nan: image > 0\.5 makes"),
        ({"image": IMAGE / 2}, r'got 0\.5: .* picture\.convert\("1", dither=0\) of PIL'),
        ({"image": 255 * IMAGE.to(torch.uint8)}, "got 255"),
        ({"image": PICTURE.convert("RGB")}, r'got \[1, 3, 8, 8\]: picture\.convert\("L"\)'),
        ({"image": IMAGE[:, 0]}, r"of shape \[B, 1, H, W\]; got \[1, 3, 8, 8\]$"),
        ({"image": IMAGE[0, 0]}, r"got \[8, 8\]: image\[None, None\]"),
        ({"image": []}, "got an empty list"),
        ({"image": IMAGE, "mask_image": WHITE * torch.nan}, "mask of 0 and 1.*got nan"),
        ({"image": IMAGE, "mask_image": WHITE[..., 1:]}, r"size \[8, 8\]; got \[8, 7\]"),
        ({"image": IMAGE, "generator": [generator()] * 2}, "each of 3 images; got 2"),
        ({"image": IMAGE, "class_labels": [1, 2]}, r"each of 3 images; got \[2\]"),
        ({"latents": IMAGE[0]}, r"latents of shape \[B, 1, H, W\]; got \[1, 8, 8\]"),
    ],
)
def test_images_that_are_no_bits_are_refused(pipe, options, message):
    with pytest.raises(ValueError, match=message) as error:
        draw(pipe, **options)
    assert "\n" not in str(error.value)


def test_black_and_white_of_any_kind(pipe):
    images = draw(pipe, image=IMAGE[:1], mask_image=WHITE.float())
    for mask in (WHITE, WHITE.to(torch.uint8), 255 * WHITE.to(torch.uint8), WHITE[0, 0].numpy()):
        assert torch.equal(draw(pipe, image=IMAGE[:1], mask_image=mask), images)
    for image in (PICTURE, PICTURE.convert("1", dither=PIL.Image.Dither.NONE), IMAGE[:1] > 0.5):
        assert torch.equal(draw(pipe, image=image, mask_image=WHITE), images)


def test_four_channels_are_no_latents_of_another_model():
    pipe = quiet(IsingDiffusionPipeline(Recorder(channels=4), IsingScheduler()))
    image = IMAGE[:1, :, :4, :6].expand(1, 4, 4, 6)
    assert torch.equal(pipe.encode(image), 2 * image - 1)


def test_the_number_of_images(pipe):
    assert len(pipe(num_inference_steps=1, output_type="latent").images) == 1
    for options in ({"image": IMAGE}, {"latents": 2 * IMAGE - 1}):
        settings = {"num_inference_steps": 1, "output_type": "latent", **options}
        assert len(pipe(**settings).images) == len(pipe(3, **settings).images) == 3
        with pytest.raises(ValueError, match="expected batch_size 3, as many as.*got 2"):
            pipe(2, **settings)
    for wrong in (0, True, 2.5):
        with pytest.raises(ValueError, match=rf"batch_size >= 1; got {wrong}"):
            pipe(wrong)


def test_a_denoiser_is_a_module():
    with pytest.raises(TypeError, match="expected unet as an nn.Module.*; got function"):
        IsingDiffusionPipeline(lambda x, t: x, IsingScheduler())


def test_latents_stay_where_their_pixels_do(latent_pipe):
    image = torch.rand(2, 1, 16, 16, generator=generator())
    white = torch.zeros(1, 1, 16, 16)
    white[..., :7] = 1  # half a latent's pixels are enough to draw it anew
    spins = draw(latent_pipe, image=image, mask_image=white, class_labels=3, output_type="latent")
    with torch.no_grad():
        bits = latent_pipe.encode(image)
    assert torch.equal(spins[..., 4:], bits[..., 4:])
    assert not torch.equal(spins[..., 3], bits[..., 3])


def test_bits_of_a_codebook(vqvae):
    index = torch.arange(16).reshape(1, 4, 4)
    spins = spins_of(index, 4)
    assert spins[0, :, 3, 1].tolist() == [1.0, -1.0, 1.0, 1.0], "13 is 1101"
    assert spins.shape == (1, 4, 4, 4) and torch.equal(index_of(spins), index)
    images = torch.randn(2, 1, 16, 16, generator=generator())
    with torch.no_grad():
        bits = encode(vqvae, images)
        assert bits.shape == (2, 4, 8, 8) and (bits.abs() == 1).all()
        torch.testing.assert_close(decode(vqvae, bits), vqvae(images).sample)
        lookup: Any = VQModel.from_config(vqvae.config, lookup_from_codebook=True)
        lookup.load_state_dict(vqvae.state_dict())
        torch.testing.assert_close(decode(lookup.eval(), bits), vqvae(images).sample)
    with pytest.raises(ValueError, match=r"indices have 4 bits and the latents 3 channels"):
        decode(vqvae, bits[:, :3])
    odd: Any = VQModel.from_config(vqvae.config, num_vq_embeddings=12)
    with pytest.raises(ValueError, match=r"codebook of 12 entries: expected a power of two"):
        decode(odd, bits)


def test_signs_of_latents():
    torch.manual_seed(2)
    options: dict[str, Any] = {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "latent_channels": 3,
    }
    blocks: dict[str, Any] = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    tiny: Any = AutoencoderTiny(in_channels=1, out_channels=1, **options, **blocks).eval()
    pipe = quiet(IsingDiffusionPipeline(unet(3), IsingScheduler(), tiny))
    images = torch.rand(2, 1, 16, 16, generator=generator())
    with torch.no_grad():
        bits = pipe.encode(images)
        assert torch.equal(bits, torch.where(tiny.encode(2 * images - 1).latents > 0, 1.0, -1.0))
        assert torch.equal(pipe.decode(bits), tiny.decode(bits).sample)
    assert draw(pipe, image=images).shape == (2, 1, 16, 16)


def test_latents_and_classes(latent_pipe):
    images = draw(latent_pipe, class_labels=[3, 4])
    assert images.shape == (2, 1, 16, 16) and 0 <= images.min() and images.max() <= 1
    assert torch.equal(
        draw(latent_pipe, class_labels=3), draw(latent_pipe, class_labels=torch.tensor([3, 3]))
    )
    assert not torch.equal(draw(latent_pipe, class_labels=3), images)
    spins = draw(latent_pipe, class_labels=3, output_type="latent")
    assert spins.shape == (2, 4, 8, 8) and (spins.abs() == 1).all()


def test_types_are_kept():
    pipe = quiet(IsingDiffusionPipeline(unet().to(torch.bfloat16), IsingScheduler()))
    assert draw(pipe, output_type="latent").dtype == torch.bfloat16


def test_a_saved_pipeline_is_loaded(pipe, tmp_path):
    """By the names in its `model_index.json`, which are faces."""
    pipe.save_pretrained(tmp_path)
    loaded = quiet(IsingDiffusionPipeline.from_pretrained(tmp_path))
    assert type(loaded.scheduler) is IsingScheduler
    assert torch.equal(draw(loaded), draw(pipe))


FRESH = """
import sys, torch
torch.set_num_threads(1)
from qsample.diffusion import IsingDiffusionPipeline
for name, options in (("pixels", {}), ("latents", {"class_labels": 3})):
    pipe = IsingDiffusionPipeline.from_pretrained(f"{sys.argv[1]}/{name}")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(2, torch.Generator().manual_seed(7), 3, "pt", **options).images
    torch.save(images, f"{sys.argv[1]}/{name}.pt")
print(pipe.config["time_scale"])
"""


@pytest.mark.long
def test_another_process_draws_the_same_images(pipe, latent_pipe, tmp_path):
    pipe.scheduler.sampler = Gibbs(sweeps=7)  # set, not in the config it was made with
    pipe.save_pretrained(tmp_path / "pixels")
    latent_pipe.save_pretrained(tmp_path / "latents")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "100.0"
    assert torch.equal(torch.load(tmp_path / "pixels.pt"), draw(pipe))
    assert torch.equal(torch.load(tmp_path / "latents.pt"), draw(latent_pipe, class_labels=3))


def test_any_sampler_by_one_line(pipe):
    before = draw(pipe)
    pipe.scheduler.sampler = SimulatedAnnealing(sweeps=20)
    assert draw(pipe).shape == before.shape and not torch.equal(draw(pipe), before)
