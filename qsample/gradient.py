"""Samples become learning: the contrastive-divergence surrogate loss, and the module that keeps its chains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from qsample.checks import check_tensors, whole
from qsample.sampler import Sampler, check_is_sampler
from qsample.samples import Samples, check_samples

if TYPE_CHECKING:
    from qsample.models import EnergyModel

Start = Literal["data", "persistent", "fresh"]


def cd_loss(
    model: EnergyModel,
    data: Tensor,
    samples: Samples,
    *,
    positive: Samples | None = None,
    data_weight: Tensor | None = None,
) -> Tensor:
    r"""A scalar whose gradient is the contrastive-divergence gradient; its value is not a likelihood.

    $$L = \langle F(x) \rangle_{\mathrm{data}} - \langle F(x) \rangle_{\mathrm{samples}}$$

    with F the free energy, so that hidden units are summed out in both phases (Rao-Blackwell). Where F is
    intractable, the joint energy stands in its place, averaged over `positive` and `samples`. With exact samples
    the gradient is that of the negative log-likelihood (Hinton 2002; Younes 1999).

    Under `torch.autocast` with bfloat16 an RBM's two large products, half of a training step, take half the time. Units
    that are 0 or 1 are exact there; weights and hidden probabilities are rounded to 8 bits, and so is the gradient:
    after data and samples were subtracted, so its error stays near 2^-9 of itself. `ContrastiveDivergence` samples
    in full precision all the same.

    Args:
        model: an energy model.
        data: `[N, n_visible]` in the model's coding.
        samples: reads of `model.ising()`, `[R, n]`; their weights are honoured.
        positive: reads of `model.ising(visible=data)`, `[N, R', n_hidden]`; needed where F is intractable.
        data_weight: non-negative weights `[N]`; equal by default.

    Raises:
        ValueError: shapes do not fit, or F is intractable and `positive` is missing (the message says how to make it).
    """
    for name, reads in (("samples", samples), ("positive", positive)):
        if name == "samples" or reads is not None:
            check_samples(reads, name)
    _check_batch(model, data, data_weight)
    return _checked_loss(model, data, samples, positive=positive, data_weight=data_weight)


def _checked_loss(
    model: EnergyModel, data: Tensor, samples: Samples, *, positive: Samples | None, data_weight: Tensor | None
) -> Tensor:
    """`cd_loss` of a batch that was checked before."""
    if samples.spins.dim() != 2:
        raise ValueError(f"expected samples of one problem, [R, n]; got {list(samples.spins.shape)}")
    free = None
    if positive is not None:
        if positive.spins.shape != (len(data), positive.num, model.num_hidden):
            wanted = f"[{len(data)}, R, {model.num_hidden}], one problem a row of data"
            raise ValueError(f"expected positive spins of shape {wanted}; got {list(positive.spins.shape)}")
        energy = model.ising(visible=data).energy(positive.spins)
        bound = (positive.weight.to(energy) * energy).sum(-1)
    elif model.tractable:  # data and samples at once: the same products, but large ones
        device = data.device.type
        auto = torch.is_autocast_enabled(device)  # products will be taken in its dtype: units are exact in any
        dtype = torch.get_autocast_dtype(device) if auto else next(model.parameters()).dtype
        rows = model.rows(data, samples.spins, dtype)
        bound, free = model.free_energy_of_units(rows).split([len(data), samples.num])
    else:
        raise ValueError(
            "hidden units are coupled, so the positive phase must be sampled: pass positive=sampler.sample("
            "model.ising(visible=data), num), or use ContrastiveDivergence(model, sampler), which does it"
        )
    if free is None:
        tractable = model.tractable
        free = model.free_energy(model.split(samples.spins)[0]) if tractable else model.ising().energy(samples.spins)
    if data_weight is not None:
        data_mean = _normalised(data_weight, bound) @ bound
    else:
        data_mean = bound.mean()
    return data_mean - (free.mean() if samples.log_weight is None else samples.weight.to(free) @ free)


def _check_batch(model: EnergyModel, data: Tensor, weight: Tensor | None) -> None:
    model.check_rows(data)
    if weight is None:
        return
    check_tensors(data_weight=weight)
    if weight.shape != data.shape[:1]:
        raise ValueError(f"expected data_weight of shape {[len(data)]}; got {list(weight.shape)}")
    if not (bool((weight >= 0).all()) and 0 < float(weight.sum()) < float("inf")):
        raise ValueError(f"expected finite data_weight >= 0, not all zero; got {weight.tolist()[:8]}")


def _normalised(weight: Tensor, like: Tensor) -> Tensor:
    """Weights (counts too) that sum to 1, in the dtype of what they weigh."""
    weight = weight.to(like)
    return weight / weight.sum()


class _Loss(nn.Module):
    """The loss as a module, so that `functional_call` can put centred parameters in the model's place."""

    def __init__(self, model: EnergyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return _checked_loss(self.model, *args, **kwargs)


class ContrastiveDivergence(nn.Module):
    """Draws the negative (and, where needed, the positive) samples and returns `cd_loss` of them.

    Args:
        model: an energy model.
        sampler: any sampler; "data" and "persistent" need one that can continue chains.
        start: where chains begin: "data" (CD-k: one chain a row, hidden units from their conditional first),
            and each chain keeps its row's weight), "persistent" (PCD: the last call's reads), "fresh" (the sampler's
            own start, for annealers and `Exact`).
        num: chains; unused by "data".
        positive_sampler: draws hidden units given data where they are coupled; the sampler itself by default.
        positive_num: reads a row of data in that phase.
        centred: use the centred gradient, with offsets that are moving averages of the data's unit means.
        centring_rate: weight of a new batch in that average.
        generator: randomness of everything drawn; None is torch's default.

    Buffers: `chains` `[num, n]` int8 (zeros before the first call) and `offsets` `[n]`. The last reads stay in
    `samples`, for diagnostics.

    Raises:
        ValueError: an unknown start, or one that the sampler cannot serve.
    """

    chains: Tensor
    offsets: Tensor

    def __init__(
        self,
        model: EnergyModel,
        sampler: Sampler,
        *,
        start: Start = "persistent",
        num: int = 512,
        positive_sampler: Sampler | None = None,
        positive_num: int = 1,
        centred: bool = False,
        centring_rate: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for one in (sampler, *([] if positive_sampler is None else [positive_sampler])):
            check_is_sampler(one)
        if start not in get_args(Start):
            raise ValueError(f"unknown start {start!r}; expected one of {', '.join(get_args(Start))}")
        if start != "fresh" and not sampler.warm_start:
            name = type(sampler).__name__
            raise ValueError(
                f"start={start!r} continues chains and {name} cannot: use start='fresh', Gibbs(...), or "
                f"Corrected({name}(...), Gibbs(...))"
            )
        num, positive_num = whole("num", num, 1), whole("positive_num", positive_num, 1)
        if not 0 < centring_rate <= 1:
            raise ValueError(f"expected 0 < centring_rate <= 1; got {centring_rate}")
        self.model, self.sampler, self.start, self.num = model, sampler, start, num
        self.positive_sampler, self.positive_num = positive_sampler or sampler, positive_num
        self.centred, self.centring_rate, self.generator = centred, centring_rate, generator
        self.samples: Samples | None = None
        self.carry: dict[str, Tensor] | None = None
        n, like = model.graph.num_spins, next(model.parameters())
        shape = (num, n) if start == "persistent" else (0, n)
        self.register_buffer("chains", torch.zeros(shape, dtype=torch.int8, device=like.device))
        self.register_buffer("offsets", torch.full((n,), float("nan"), device=like.device, dtype=like.dtype))

    def forward(self, data: Tensor, data_weight: Tensor | None = None) -> Tensor:
        """The loss of one batch `[N, n_visible]`; call `.backward()` on it."""
        model = self.model
        _check_batch(model, data, data_weight)  # before chains or offsets move
        with torch.no_grad(), torch.autocast(data.device.type, enabled=False):  # sampling keeps its precision
            positive = None
            if not model.tractable:
                problem = model.ising(visible=data)
                positive = self.positive_sampler.sample(problem, self.positive_num, generator=self.generator)
            self.samples = samples = self._negatives(data, positive, data_weight)
            if self.centred:
                self._move_offsets(data, positive, data_weight)
        if not self.centred:
            return _checked_loss(model, data, samples, positive=positive, data_weight=data_weight)
        parameters = {f"model.{name}": p for name, p in model.centred(self.offsets).items()}
        arguments = {"positive": positive, "data_weight": data_weight}
        return torch.func.functional_call(_Loss(model), parameters, (data, samples), arguments)

    def _negatives(self, data: Tensor, positive: Samples | None, data_weight: Tensor | None) -> Samples:
        problem, num, initial = self.model.ising(), self.num, None
        if self.start == "data":
            num = len(data)
            hidden = self._draw_hidden(data) if positive is None else self.model.decode(positive.spins[:, 0])
            initial = self._as_initial(self.model.join(data, hidden))
        elif self.start == "persistent" and bool(self.chains[0, 0]):
            initial = self._as_initial(self.chains)
        samples = self.sampler.sample(problem, num, initial=initial, generator=self.generator)
        if self.start == "data" and data_weight is not None:  # else weighted data would meet unweighted negatives
            weight = data_weight.to(samples.energy).log()
            samples = replace(samples, log_weight=weight + (0 if samples.log_weight is None else samples.log_weight))
        if self.start == "persistent":
            # the parameters will have changed when the chains go on, and weights with them: spend them here
            kept = samples if samples.log_weight is None else samples.resample(generator=self.generator)
            self.chains.copy_(kept.spins)
            self.carry = None if kept.carry is None else dict(kept.carry)
        return samples

    def _as_initial(self, spins: Tensor) -> Samples:
        """Starting points: the parameters have changed, so energies and weights of the last call mean nothing."""
        energy = torch.full(spins.shape[:-1], float("nan"), device=spins.device)
        return Samples(spins, energy, carry=self.carry if self.start == "persistent" else None)

    def _draw_hidden(self, data: Tensor) -> Tensor:
        mean = (1 + self._hidden_mean_spin(data)) / 2
        u = torch.rand(mean.shape, generator=self.generator, device=mean.device, dtype=mean.dtype)
        return self.model.decode((u < mean).to(torch.int8) * 2 - 1)

    def _hidden_mean_spin(self, data: Tensor) -> Tensor:
        return -self.model.ising(visible=data).h.tanh()

    def _move_offsets(self, data: Tensor, positive: Samples | None, data_weight: Tensor | None) -> None:
        """The moving average of the units' means over the data, hidden ones given the visible."""
        hidden = self._hidden_mean_spin(data) if positive is None else positive.mean()
        units = torch.empty(len(data), self.model.graph.num_spins, device=data.device, dtype=hidden.dtype)
        units[:, self.model.visible_index] = data.to(units)
        units[:, self.model.hidden_index] = self.model.decode(hidden)
        mean = units.mean(0) if data_weight is None else _normalised(data_weight, units) @ units
        first = self.offsets.isnan()
        self.offsets.lerp_(mean.to(self.offsets), self.centring_rate)
        self.offsets[first] = mean.to(self.offsets)[first]
