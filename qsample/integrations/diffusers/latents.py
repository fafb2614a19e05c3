"""Binary latents of an autoencoder: the bits of a codebook's indices, or the signs of a latent."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def spins_of(index: Int[Tensor, "*batch h w"], bits: int) -> Float[Tensor, "*batch {bits} h w"]:
    """Numbers 0..2^bits - 1 as spins: channel j is +1 where bit j (the lowest first) is set."""
    shifted = index[..., None, :, :] >> torch.arange(bits, device=index.device)[:, None, None]
    return 2.0 * (shifted & 1) - 1


def index_of(spins: Shaped[Tensor, "*batch bits h w"]) -> Int[Tensor, "*batch h w"]:
    """The inverse of `spins_of`."""
    powers = 1 << torch.arange(spins.shape[-3], device=spins.device)
    return ((spins > 0) * powers[:, None, None]).sum(-3)


def encode(
    autoencoder: Any, images: Float[Tensor, "B c height width"]
) -> Float[Tensor, "B bits h w"]:
    """Images as spins: bits of the codebook's indices (`VQModel`), else signs of the latents.

    The second serves any autoencoder whose `encode` gives `.latents` or a `.latent_dist` (its mode
    is taken) and whose decoder was trained on signs.
    """
    encoded = autoencoder.encode(images)
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    if not hasattr(autoencoder, "quantize"):
        return torch.where(latents > 0, 1.0, -1.0).to(images)
    index = autoencoder.quantize(latents)[2][2].reshape(len(images), *latents.shape[2:])
    return spins_of(index, _bits(autoencoder)).to(images)


def decode(
    autoencoder: Any, spins: Shaped[Tensor, "B bits h w"]
) -> Float[Tensor, "B c height width"]:
    """The images of spins, as the autoencoder's decoder gives them.

    Raises:
        ValueError: a codebook whose size is no power of two, or another number of bits per site.
    """
    if not hasattr(autoencoder, "quantize"):
        return autoencoder.decode(spins).sample
    bits = _bits(autoencoder)
    if spins.shape[1] != bits:
        raise ValueError(
            f"the codebook's indices have {bits} bits and the latents {spins.shape[1]} channels: "
            "one each"
        )
    index = index_of(spins)
    shape = (*index.shape, autoencoder.quantize.embedding.embedding_dim)
    if autoencoder.config.lookup_from_codebook:  # then decode looks up itself
        return autoencoder.decode(index.flatten(), force_not_quantize=True, shape=shape).sample
    entries = autoencoder.quantize.get_codebook_entry(index.flatten(), shape)
    return autoencoder.decode(entries, force_not_quantize=True).sample


def _bits(autoencoder: Any) -> int:
    """Bits of an index of its codebook."""
    size = autoencoder.quantize.n_e
    if size & (size - 1) or size < 2:
        raise ValueError(
            f"a codebook of {size} entries: expected a power of two, so that all bit patterns "
            "name one"
        )
    return size.bit_length() - 1
