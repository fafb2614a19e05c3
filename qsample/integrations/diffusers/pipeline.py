"""A diffusers pipeline for bits: denoiser, scheduler and, for binary latents, an autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from qsample.diffusion.denoiser import check_denoiser
from qsample.integrations.diffusers.latents import decode, encode
from qsample.integrations.diffusers.scheduler import IsingScheduler
from qsample.support.checks import as_numbers, check_tensors, whole
from qsample.support.faces import public
from qsample.support.optional import needs

with needs("diffusion", "IsingDiffusionPipeline"):
    from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
    from diffusers.image_processor import VaeImageProcessor
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
    from diffusers.utils.torch_utils import randn_tensor

Generators = torch.Generator | list[torch.Generator]


@public("qsample.diffusion")
class IsingDiffusionPipeline(DiffusionPipeline):
    """Images from bits that an Ising sampler draws, step by step.

        scheduler = IsingScheduler(16, neighbours=[[0, 1], [1, 0]], pair_features=4)
        pipe = IsingDiffusionPipeline(unet, scheduler)
        pipe.scheduler.sampler = Gibbs(sweeps=20)  # or any other
        image = pipe(generator=torch.Generator().manual_seed(0)).images[0]
        pipe.save_pretrained("mine")  # IsingDiffusionPipeline.from_pretrained("mine") loads it

    Args:
        unet: a denoiser such as diffusers' `UNet2DModel`: it takes spins `[B, C, H, W]` and times,
            and answers as `IsingScheduler` says. Its `config.in_channels` and `config.sample_size`
            are the sample's shape.
        scheduler: the steps.
        vqvae: an autoencoder whose latents are the bits, see
            `qsample.integrations.diffusers.latents`; without one the bits are pixels.
        time_scale: factor between the timestep, a fraction, and the time that the denoiser sees.

    Raises:
        TypeError: a denoiser that is no module.
    """

    model_cpu_offload_seq = "unet->vqvae"
    _optional_components = ["vqvae"]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self, unet: Any, scheduler: IsingScheduler, vqvae: Any = None, time_scale: float = 1000.0
    ) -> None:
        check_denoiser("unet", unet)
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vqvae=vqvae)
        self.register_to_config(time_scale=time_scale)
        # a number of channels that no image has: images are never taken for latents
        self.image_processor = VaeImageProcessor(do_resize=False, vae_latent_channels=0)
        self.mask_processor = VaeImageProcessor(
            do_resize=False,
            vae_latent_channels=0,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )
        self._interrupt = False
        self._num_timesteps = 0

    @property
    def num_timesteps(self) -> int:
        """Steps of the last call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to leave out the remaining steps."""
        return self._interrupt

    def encode(self, images: Any) -> Tensor:
        """Images (PIL, NumPy or a tensor) as the denoiser's spins `[B, C, H, W]`.

        Pixels are 0 or 1, black or white in PIL; those of a `vqvae` are anything between.

        Raises:
            ValueError: other pixels, or another number of channels.
        """
        return self._encoded(self._pixels(images))

    def _pixels(self, images: Any) -> Tensor:
        """Images in -1..1, `[B, C, height, width]`; a ValueError for what the model cannot take."""
        pictures = images if isinstance(images, list | tuple) else [images]
        if not pictures:
            raise ValueError("expected an image, or several; got an empty list")
        if any(isinstance(picture, Tensor) and picture.dim() < 3 for picture in pictures):
            raise ValueError(
                "expected images as a tensor [B, C, H, W]; got "
                f"{list(pictures[0].shape)}: image[None, None] makes one of [H, W]"
            )
        if any(getattr(picture, "mode", "") == "1" for picture in pictures):
            images = [picture.convert("L") for picture in pictures]  # white is 255, not 1
        pixels = self.image_processor.preprocess(images)  # pyright: ignore[reportArgumentType]
        channels = _channels(self.unet if self.vqvae is None else self.vqvae)
        if pixels.shape[1] != (channels or pixels.shape[1]):
            colours = hasattr(pictures[0], "convert") and channels == 1
            remedy = ': picture.convert("L") makes one channel' if colours else ""
            raise ValueError(
                f"expected images of shape [B, {channels}, H, W]; got {list(pixels.shape)}{remedy}"
            )
        if self.vqvae is None:
            wrong = pixels.abs() != 1
            expected = "pixels 0 and 1, black and white"
            remedy = 'image > 0.5 makes it of 0..1, picture.convert("1", dither=0) of PIL'
        else:
            wrong = ~pixels.isfinite()
            expected = "finite pixels"
            remedy = "image.nan_to_num() makes it"
        if wrong.any():
            odd = (float(pixels[wrong][0]) + 1) / 2
            raise ValueError(f"expected an image of {expected}; got {odd:g}: {remedy}")
        return pixels.to(self._execution_device, self.unet.dtype)

    def _encoded(self, pixels: Tensor) -> Tensor:
        """Images in -1..1 as spins."""
        return pixels if self.vqvae is None else encode(self.vqvae, pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Spins as images in -1..1."""
        return latents if self.vqvae is None else decode(self.vqvae, latents)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        generator: Generators | None = None,
        num_inference_steps: int = 32,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        timesteps: Sequence[float] | None = None,
        class_labels: Tensor | Sequence[int] | int | None = None,
        latents: Tensor | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        callback_on_step_end: Callable[..., Any]
        | PipelineCallback
        | MultiPipelineCallbacks
        | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw images.

        Args:
            batch_size: number of images; 1 by default, and as many as an `image` or `latents` hold.
            generator: one for the batch, or a list with one per image; None is torch's default.
            num_inference_steps: number of denoising steps.
            output_type: "pil", "np", "pt" or "latent" (the spins).
            return_dict: an `ImagePipelineOutput`, else a tuple of the images.
            timesteps: falling fractions in (0, 1] instead of `num_inference_steps` equal steps.
            class_labels: one, or one per image, for a denoiser with classes.
            latents: spins at the first timestep `[B, C, H, W]`; random by default.
            image: images to start from (PIL, NumPy or a tensor; 0 and 1, and what is between for a
                `vqvae`), as far back to noise as `strength` says.
            mask_image: what of `image` to draw anew (PIL, NumPy or a tensor of 0..1), white; what
                is black stays. One for all images, of their size. Each step is drawn given the bits
                that stay (`IsingScheduler.step`); those of a `vqvae`'s latents stay where all of
                their pixels do.
            strength: part of the steps that an `image` goes through, in (0, 1]; 0.8 by default, and
                1 with a mask.
            callback_on_step_end: called with (pipe, step, timestep, tensors) after each step;
                returns a dictionary, whose latents go on.
            callback_on_step_end_tensor_inputs: names of the tensors it is given.

        Returns:
            The images, as `output_type` and `return_dict` say.

        Raises:
            ValueError: a strength outside (0, 1], a mask without an image, an image that is grey,
                a mask of another size, another number of images than `batch_size`, of generators
                or classes, a callback that asks for other tensors.
        """
        callback = callback_on_step_end
        callback_inputs = callback_on_step_end_tensor_inputs
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            callback_inputs = callback.tensor_inputs
        self._check_inputs(callback_inputs)
        if batch_size is not None:
            batch_size = whole("batch_size", batch_size, 1)

        # where the steps begin
        device = self._execution_device
        dtype = self.unet.dtype
        self._interrupt = False
        steps = None if timesteps is not None else num_inference_steps
        self.scheduler.set_timesteps(steps, device=device, timesteps=timesteps)
        known: dict[str, Tensor] = {}
        if mask_image is not None and image is None:
            raise ValueError("a mask says what of an image stays: pass image too")
        if image is not None:
            pixels = self._pixels(image)
            bits = self._encoded(pixels)
            if mask_image is not None:
                known = {"original": bits, "keep": self._kept(mask_image, pixels, bits)}
            usual = 0.8 if mask_image is None else 1.0
            latents = self._noised(bits, usual if strength is None else strength, generator)
        elif latents is None:
            shape = (batch_size or 1, *self._shape)
            latents = self.scheduler.prior(shape, generator, device, dtype)
        x = self._checked(latents, batch_size).to(device, dtype)
        classes = self._classes(class_labels, len(x), device)
        times = self.scheduler.timesteps[self.scheduler.begin_index or 0 :]
        self._num_timesteps = len(times)

        # the denoiser answers, the scheduler draws
        progress: Any = self.progress_bar
        for i, t in enumerate(progress(times)):
            if self.interrupt:
                continue
            bits = self.scheduler.scale_model_input(x, t)
            output = self.unet(bits, t * self.config["time_scale"], **classes)
            output = getattr(output, "sample", output)
            x = self.scheduler.step(output, t, x, generator, return_dict=False, **known)[0]
            if callback is not None:
                tensors = dict.fromkeys(callback_inputs, x)  # "latents" is all one may ask for
                x = callback(self, i, t, tensors).pop("latents", x)

        # bits become images
        images: Any = x if output_type == "latent" else self.decode(x)
        images = self.image_processor.postprocess(images, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _check_inputs(self, names: Sequence[str]) -> None:
        """ValueError for tensors that no callback can have."""
        unknown = [name for name in names if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"a callback may ask for {', '.join(self._callback_tensor_inputs)}; got {unknown}"
            )

    @property
    def _shape(self) -> tuple[int, ...]:
        """Of a sample, `(C, H, W)`."""
        size = self.unet.config.sample_size
        sides = [size, size] if isinstance(size, int) else size
        return (self.unet.config.in_channels, *sides)

    def _checked(self, latents: Any, batch_size: int | None) -> Tensor:
        """Spins where the steps begin; an error unless they are `batch_size` samples."""
        check_tensors(latents=latents)
        channels = _channels(self.unet) or "C"
        if latents.dim() != 4 or channels not in ("C", latents.shape[1]) or not len(latents):
            raise ValueError(
                f"expected latents of shape [B, {channels}, H, W]; got {list(latents.shape)}"
            )
        if batch_size not in (None, len(latents)):
            raise ValueError(
                f"expected batch_size {len(latents)}, as many as the images given, or none; got "
                f"{batch_size}: image.repeat({batch_size}, 1, 1, 1) draws of an image several times"
            )
        return latents

    def _kept(self, mask: Any, pixels: Tensor, bits: Tensor) -> Tensor:
        """Which bits stay: those of whose pixels none is white. Bool `[C, H, W]`."""
        white = self.mask_processor.preprocess(mask).to(bits.device, torch.float32)
        if len(white) != 1 or white.shape[1] != 1:
            raise ValueError(
                f"expected one mask of one channel for all images; got {list(white.shape)}"
            )
        if white.shape[2:] != pixels.shape[2:]:
            raise ValueError(
                f"expected a mask of the image's size {list(pixels.shape[2:])}; got "
                f"{list(white.shape[2:])}"
            )
        if white.isnan().any():
            raise ValueError("expected a mask of 0 and 1, black and white; got nan")
        anywhere = adaptive_max_pool2d(white, bits.shape[2:])[0]
        return (anywhere < 0.5).expand(bits.shape[1:])

    def _noised(self, bits: Tensor, strength: float, generator: Generators | None) -> Tensor:
        """The bits of images at the time where their steps begin."""
        if not 0 < strength <= 1:
            raise ValueError(f"expected strength in (0, 1]; got {strength}")
        if isinstance(generator, list) and len(generator) != len(bits):
            raise ValueError(
                f"expected one generator, or one for each of {len(bits)} images; got "
                f"{len(generator)}"
            )
        times = self.scheduler.timesteps
        begin = len(times) - max(1, min(int(len(times) * strength), len(times)))
        self.scheduler.set_begin_index(begin)
        noise = randn_tensor(
            tuple(bits.shape), generator=generator, device=bits.device, dtype=torch.float32
        )
        return self.scheduler.add_noise(bits, noise, times[begin].expand(len(bits)))

    def _classes(self, labels: Any, count: int, device: torch.device) -> dict[str, Tensor]:
        """What a denoiser with classes is told."""
        if labels is None:
            return {}
        classes = as_numbers("class_labels", labels).to(device)
        if classes.shape not in ((), (1,), (count,)):
            raise ValueError(
                f"expected one of class_labels, or one for each of {count} images; got "
                f"{list(classes.shape)}"
            )
        return {"class_labels": classes.expand(count)}


def _channels(module: Any) -> int | None:
    """Channels that a module takes, as its config says; None where it does not."""
    return getattr(getattr(module, "config", None), "in_channels", None)
