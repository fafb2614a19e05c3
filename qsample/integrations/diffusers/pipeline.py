"""A diffusers pipeline for bits: denoiser, scheduler and, for binary latents, an autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from qsample.integrations.diffusers.latents import decode, encode
from qsample.integrations.diffusers.scheduler import IsingScheduler
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
    """

    model_cpu_offload_seq = "unet->vqvae"
    _optional_components = ["vqvae"]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self, unet: Any, scheduler: IsingScheduler, vqvae: Any = None, time_scale: float = 1000.0
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vqvae=vqvae)
        self.register_to_config(time_scale=time_scale)
        self.image_processor = VaeImageProcessor(do_resize=False)
        self.mask_processor = VaeImageProcessor(
            do_resize=False, do_normalize=False, do_binarize=True, do_convert_grayscale=True
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
        """Images (PIL, NumPy or a tensor of 0..1) as the denoiser's spins `[B, C, H, W]`."""
        pixels = self.image_processor.preprocess(images).to(self._execution_device, self.unet.dtype)
        if self.vqvae is not None:
            return encode(self.vqvae, pixels)
        return torch.where(pixels > 0, 1.0, -1.0).to(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Spins as images in -1..1."""
        return latents if self.vqvae is None else decode(self.vqvae, latents)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
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
            batch_size: number of images (of an `image`: as many as it holds).
            generator: one for the batch, or a list with one per image; None is torch's default.
            num_inference_steps: number of denoising steps.
            output_type: "pil", "np", "pt" or "latent" (the spins).
            return_dict: an `ImagePipelineOutput`, else a tuple of the images.
            timesteps: falling fractions in (0, 1] instead of `num_inference_steps` equal steps.
            class_labels: one, or one per image, for a denoiser with classes.
            latents: spins at the first timestep `[B, C, H, W]`; random by default.
            image: images to start from (PIL, NumPy or a tensor of 0..1), as far back to noise as
                `strength` says.
            mask_image: what of `image` to draw anew (PIL, NumPy or a tensor of 0..1), white; what
                is black stays. One for all images. Each step is drawn given the bits that stay
                (`IsingScheduler.step`); those of a `vqvae`'s latents stay where all of their pixels
                do.
            strength: part of the steps that an `image` goes through, in (0, 1]; 0.8 by default, and
                1 with a mask.
            callback_on_step_end: called with (pipe, step, timestep, tensors) after each step;
                returns a dictionary, whose latents go on.
            callback_on_step_end_tensor_inputs: names of the tensors it is given.

        Returns:
            The images, as `output_type` and `return_dict` say.

        Raises:
            ValueError: a strength outside (0, 1], a mask without an image, a callback that asks for
                other tensors.
        """
        callback = callback_on_step_end
        callback_inputs = callback_on_step_end_tensor_inputs
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            callback_inputs = callback.tensor_inputs
        self._check_inputs(callback_inputs)

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
            bits = self.encode(image)
            if mask_image is not None:
                known = {"original": bits, "keep": self._kept(mask_image, bits)}
            usual = 0.8 if mask_image is None else 1.0
            latents = self._noised(bits, usual if strength is None else strength, generator)
        elif latents is None:
            latents = self.scheduler.prior((batch_size, *self._shape), generator, device, dtype)
        x: Tensor = latents.to(device, dtype)  # pyright: ignore[reportOptionalMemberAccess]
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

    def _kept(self, mask: Any, bits: Tensor) -> Tensor:
        """Which bits stay: those of whose pixels none is white. Bool `[C, H, W]`."""
        white = self.mask_processor.preprocess(mask).to(bits.device)
        if len(white) != 1 or white.shape[1] != 1:
            raise ValueError(
                f"expected one mask of one channel for all images; got {list(white.shape)}"
            )
        anywhere = adaptive_max_pool2d(white, bits.shape[2:])[0]
        return (anywhere < 0.5).expand(bits.shape[1:])

    def _noised(self, bits: Tensor, strength: float, generator: Generators | None) -> Tensor:
        """The bits of images at the time where their steps begin."""
        if not 0 < strength <= 1:
            raise ValueError(f"expected strength in (0, 1]; got {strength}")
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
        return {"class_labels": torch.as_tensor(labels, device=device).expand(count)}
