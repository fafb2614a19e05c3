"""Samples become learning: the contrastive-divergence surrogate loss, and the module that keeps its chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from qsample.learning.distributed import mean_of_ranks, own_generator
from qsample.sampling.sampler import Sampler, check_is_sampler, draw_seed, mix
from qsample.sampling.samples import Samples, check_samples
from qsample.support.checks import check_tensors, whole
from qsample.support.transforms import numbers, uncompiled
from qsample.support.wrapped import bare

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
    model = bare(model)
    _check_batch(model, data, data_weight)
    with model.acting(model.weights()):
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
        dtype = model.weights()[0].dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:  # which it leaves as it is
            dtype = torch.get_autocast_dtype(device)  # of the products; units are exact in any
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
    seen = numbers(weight)
    if not (bool((seen >= 0).all()) and 0 < float(seen.sum()) < float("inf")):
        raise ValueError(f"expected finite data_weight >= 0, not all zero; got {seen.flatten().tolist()[:8]}")


def _normalised(weight: Tensor, like: Tensor) -> Tensor:
    """Weights (counts too) that sum to 1, in the dtype of what they weigh."""
    weight = weight.to(like)
    return weight / weight.sum()


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

    State: `chains` `[num, n]` int8 (zeros before the first call) and `offsets` `[n]`. They are in
    `state_dict` and move with `.to()`, and are no buffers: each rank has its own. The last reads
    stay in `samples`, for diagnostics.

    In `eval()` chains, offsets and `generator` stay where they are: reads start from the chains and
    are then dropped, so the loss is that of the present chains on other data.

    Under `torch.distributed` wrap this module (`DistributedDataParallel(cd)`, `fully_shard(cd)`),
    not the model. Each rank then has `num` chains, replicas rank num .. rank num + num - 1 of all,
    drawn from one seed but no copies; offsets are those of all ranks' data (a collective call: all
    ranks must make it). A checkpoint of rank 0 holds rank 0's chains: save `chains` for each rank,
    or let the others begin anew.

    Raises:
        ValueError: an unknown start, or one that the sampler cannot serve.
    """

    chains: Tensor
    offsets: Tensor

    _STATE = ("chains", "offsets")  # kept by hand: what handles buffers would mix up the ranks' or average integers

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
        model = bare(model)
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
        self.chains = torch.zeros(shape, dtype=torch.int8, device=like.device)
        self.offsets = torch.full((n,), float("nan"), device=like.device, dtype=like.dtype)

    def forward(self, data: Tensor, data_weight: Tensor | None = None) -> Tensor:
        """The loss of one batch `[N, n_visible]`; call `.backward()` on it."""
        model = self.model
        _check_batch(model, data, data_weight)  # before chains or offsets move
        with torch.autocast(data.device.type, enabled=False):  # sampling keeps its precision
            weights = model.weights()
            with torch.no_grad(), model.acting(tuple(weight.detach() for weight in weights)):
                positive, offsets = self._draw(data, data_weight)
        if self.centred:
            weights = model.centred(weights, offsets)
        assert self.samples is not None
        with model.acting(weights):
            return _checked_loss(model, data, self.samples, positive=positive, data_weight=data_weight)

    @uncompiled
    def _draw(self, data: Tensor, data_weight: Tensor | None) -> tuple[Samples | None, Tensor]:
        """Draws the negative samples; the positive ones, where they are needed, and the offsets of this call."""
        generator, positive = self._generator(), None
        if not self.model.tractable:
            problem = self.model.ising(visible=data)
            positive = self.positive_sampler.sample(problem, self.positive_num, generator=generator)
        self.samples = self._negatives(data, positive, data_weight, generator)
        offsets = self._moved_offsets(data, positive, data_weight) if self.centred else self.offsets
        if self.training:
            self.offsets = offsets
        return positive, offsets

    def _generator(self) -> torch.Generator | None:
        """Of this call's draws; in eval mode one of its own, so that validation does not change training."""
        if self.training or self.generator is None:
            return own_generator(self.generator)
        copied = torch.Generator(self.generator.device)
        copied.set_state(self.generator.get_state())
        return own_generator(copied.manual_seed(mix(draw_seed(copied), -1)))  # not what training draws next

    def _negatives(
        self,
        data: Tensor,
        positive: Samples | None,
        data_weight: Tensor | None,
        generator: torch.Generator | None,
    ) -> Samples:
        problem, num, initial = self.model.ising(), self.num, None
        if self.start == "data":
            num = len(data)
            hidden = self._draw_hidden(data, generator) if positive is None else self.model.decode(positive.spins[:, 0])
            initial = self._as_initial(self.model.join(data, hidden))
        elif self.start == "persistent" and bool(self.chains[0, 0]):
            initial = self._as_initial(self.chains)
        samples = self.sampler.sample(problem, num, initial=initial, generator=generator)
        if self.start == "data" and data_weight is not None:  # else weighted data would meet unweighted negatives
            weight = data_weight.to(samples.energy).log()
            samples = replace(samples, log_weight=weight + (0 if samples.log_weight is None else samples.log_weight))
        if self.start == "persistent" and self.training:
            # the parameters will have changed when the chains go on, and weights with them: spend them here
            kept = samples if samples.log_weight is None else samples.resample(generator=generator)
            self.chains = kept.spins.to(torch.int8).clone()
            self.carry = None if kept.carry is None else dict(kept.carry)
        return samples

    def _as_initial(self, spins: Tensor) -> Samples:
        """Starting points: the parameters have changed, so energies and weights of the last call mean nothing."""
        energy = torch.full(spins.shape[:-1], float("nan"), device=spins.device)
        return Samples(spins, energy, carry=self.carry if self.start == "persistent" else None)

    def _draw_hidden(self, data: Tensor, generator: torch.Generator | None) -> Tensor:
        mean = (1 + self._hidden_mean_spin(data)) / 2
        device = mean.device if generator is None else generator.device
        u = torch.rand(mean.shape, generator=generator, device=device, dtype=mean.dtype)
        return self.model.decode((u.to(mean.device) < mean).to(torch.int8) * 2 - 1)

    def _hidden_mean_spin(self, data: Tensor) -> Tensor:
        return -self.model.ising(visible=data).h.tanh()

    def _moved_offsets(self, data: Tensor, positive: Samples | None, data_weight: Tensor | None) -> Tensor:
        """The moving average of the units' means over the data, hidden ones given the visible, after this batch.

        In eval mode the average so far; this batch's means where there is none.
        """
        old = self.offsets
        if not self.training and not old.isnan().any():
            return old
        hidden = self._hidden_mean_spin(data) if positive is None else positive.mean()
        units = torch.empty(len(data), self.model.graph.num_spins, device=data.device, dtype=hidden.dtype)
        units[:, self.model.visible_index] = data.to(units)
        units[:, self.model.hidden_index] = self.model.decode(hidden)
        mean = units.mean(0) if data_weight is None else _normalised(data_weight, units) @ units
        mean = (mean_of_ranks(mean) if self.training else mean).to(old)
        return torch.where(old.isnan(), mean, old.lerp(mean, self.centring_rate))

    # ---- the state: moved, saved and loaded as buffers are ---------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ContrastiveDivergence:
        super()._apply(fn, recurse)
        for name in self._STATE:
            setattr(self, name, fn(getattr(self, name)))
        return self

    def to_empty(self, *, device: Any, recurse: bool = True) -> ContrastiveDivergence:
        """As any module's; the chains begin anew."""
        super().to_empty(device=device, recurse=recurse)
        self.chains.zero_()
        self.offsets.fill_(float("nan"))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._STATE:
            destination[prefix + name] = getattr(self, name)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        lists = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
        for name in self._STATE:
            key, own = prefix + name, getattr(self, name)
            if key in unexpected_keys:
                unexpected_keys.remove(key)
            if key not in state_dict:
                missing_keys.append(key)
            elif (given := state_dict[key]).shape != own.shape:
                error_msgs.append(f"{key} has shape {list(given.shape)}, this module's {list(own.shape)}")
            elif local_metadata.get("assign_to_params_buffers", False):
                setattr(self, name, given)
            else:
                setattr(self, name, given.detach().to(own, copy=True))
