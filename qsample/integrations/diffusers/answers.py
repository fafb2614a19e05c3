"""What a denoiser is asked and answers: spins or tokens in, logits and couplings out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qsample.diffusion.known import Known
from qsample.diffusion.reverse_step import Denoised, feature_couplings
from qsample.problem.graph import Graph
from qsample.support.checks import check_spins, check_tensors


def read(output: Any, sample: Tensor, graph: Graph, pair_features: int = 0) -> Denoised:
    r"""What a denoiser says of a sample.

    Args:
        output: a tensor of logits, or an object with `.logits` and `.coupling`.
        sample: what it was asked about, `[B, ...]`.
        graph: the couplings of the next sample.
        pair_features: r; the channels from C on are features u `[B, rC, ...]` and $J_{ij} =
            -\tfrac12 u_i \cdot u_j$ on the graph's edges.

    Raises:
        ValueError: a shape that does not fit the sample, or couplings where the graph has no edges.
        TypeError: logits that are no tensor.
    """
    logits = getattr(output, "logits", output)
    coupling = getattr(output, "coupling", None)
    if not isinstance(logits, Tensor):
        raise TypeError(
            "expected logits from the denoiser, or an object that has them; got "
            f"{type(output).__name__}"
        )
    logits = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    B = len(sample)
    n = graph.num_spins

    # channels of features are couplings
    if pair_features:
        C = sample.shape[1]
        channels = C * (1 + pair_features)
        numbers = sample.numel() * (1 + pair_features)
        if logits.shape[:2] != (B, channels) or logits.numel() != numbers:
            raise ValueError(
                f"expected {channels} channels from the denoiser, {C} of logits and "
                f"{pair_features} features for each, {[B, channels, *sample.shape[2:]]}; got "
                f"{list(logits.shape)}"
            )
        features = logits[:, C:].reshape(B, pair_features, n)
        logits = logits[:, :C]
        coupling = feature_couplings(features, graph, sites=2)

    # two logits per token are one of their difference
    if not sample.is_floating_point() and logits.shape == (*sample.shape, 2):
        logits = logits[..., 1] - logits[..., 0]
    if logits.shape not in (sample.shape, (B, n)):
        expected = list(sample.shape) if sample.is_floating_point() else [*sample.shape, 2]
        raise ValueError(
            f"expected logits of shape {expected} from the denoiser; got {list(logits.shape)}"
        )
    if coupling is not None:
        coupling = coupling.to(logits)
        if not graph.num_edges:
            raise ValueError(
                "the denoiser gives couplings and the scheduler has no graph for them: "
                "scheduler.graph = graph, or "
                "IsingScheduler(neighbours=[[0, 1], [1, 0]])"
            )
    return Denoised(logits.reshape(B, n), coupling)


def to_spins(sample: Tensor) -> Tensor:
    """A sample `[B, ...]` as spins `[B, n]`.

    Floating-point spins stay as they are; integer tokens 0 and 1 are -1 and +1.
    """
    check_tensors(sample=sample)
    if sample.dim() < 2:
        raise ValueError(f"expected a sample of shape [B, ...]; got {list(sample.shape)}")
    flat = sample.flatten(1)
    if sample.is_floating_point():
        return flat
    if not ((flat == 0) | (flat == 1)).all():
        odd = flat[(flat != 0) & (flat != 1)][0]
        raise ValueError(
            f"expected tokens 0 and 1 in a sample of {sample.dtype}; got {int(odd)}: spins are "
            "floats, which sample.float() makes"
        )
    return 2.0 * flat - 1


def to_sample(spins: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_spins`, shaped and typed as `like`.

    Means of spins become means of tokens, which stay floats.
    """
    spins = spins.reshape(like.shape)
    if like.is_floating_point():
        return spins.to(like.dtype)
    return (1 + spins) / 2 if spins.is_floating_point() else (spins > 0).to(like.dtype)


def known_bits(original: Tensor | None, keep: Tensor | None, sample: Tensor) -> Known | None:
    """Bits of x_0 that are known; None where none are.

    Args:
        original: x_0, coded as the sample, `[B, ...]`.
        keep: which bits of it are known, bool `[...]`.
        sample: x_t.

    Raises:
        ValueError: one without the other, another shape, known bits that are no spins or tokens.
    """
    if original is None and keep is None:
        return None
    if original is None or keep is None:
        raise ValueError("expected original and keep, x_0 and which bits of it are known, or none")
    check_tensors(original=original, keep=keep)
    shape = sample.shape
    if original.shape != shape or keep.shape != shape[1:] or keep.dtype != torch.bool:
        raise ValueError(
            f"expected an original of shape {list(shape)} and keep, bool, of {list(shape[1:])}; "
            f"got {list(original.shape)}, and {keep.dtype} of {list(keep.shape)}"
        )
    known = keep.flatten()
    spins = to_spins(original)
    check_spins("an original", spins[:, known])
    spins = torch.where(known, spins, 0.0)
    return Known.of(spins, len(sample), keep.numel(), sample.device)
