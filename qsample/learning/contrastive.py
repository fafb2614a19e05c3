"""Contrastive divergence: the surrogate loss, and the module that keeps its chains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from qsample.annealers.gibbs import Gibbs
from qsample.learning import by_products, jarzynski, sharded
from qsample.learning import exact_sums as exact
from qsample.learning.columns import Columns, Place
from qsample.learning.distributed import (
    Agreement,
    Ranks,
    gathered,
    mean_of_ranks,
    own_generator,
    share,
)
from qsample.learning.products import Products
from qsample.models.rbm.bernoulli import BernoulliRBM
from qsample.sampling.random import draw_seed, mix
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.sampling.samples import Estimate, Samples, check_samples
from qsample.support.autocast import factor_dtype
from qsample.support.checks import check_choice, check_tensors, whole
from qsample.support.faces import public
from qsample.support.transforms import numbers, uncompiled
from qsample.support.wrapped import bare

if TYPE_CHECKING:
    from qsample.models import EnergyModel

Start = Literal["data", "persistent", "fresh", "jarzynski"]


@public("qsample")
def cd_loss(
    model: EnergyModel,
    data: Tensor,
    samples: Samples,
    *,
    positive: Samples | None = None,
    data_weight: Tensor | None = None,
) -> Tensor:
    r"""A scalar whose gradient is that of contrastive divergence; its value is not a likelihood.

    $$L = \langle F(x) \rangle_{\mathrm{data}} - \langle F(x) \rangle_{\mathrm{samples}}$$

    with F the free energy, so that hidden units are summed out in both phases (Rao-Blackwell).
    Where F is intractable, the joint energy stands in its place, averaged over `positive` and
    `samples`. With exact samples the gradient is that of the negative log-likelihood (Hinton 2002;
    Younes 1999).

    Under `torch.autocast` with bfloat16 an RBM's two large products take half the time of torch's
    own; a CPU that cannot multiply such numbers multiplies the rounded factors in single
    precision, in its usual time. Units that are 0 or 1 are exact there; weights and hidden
    probabilities are rounded to 8 bits, and so is the gradient: after data and samples were
    subtracted, so its error stays near 2^-9 of itself. `ContrastiveDivergence` samples in full
    precision all the same.

    On a CPU the loss of a `BernoulliRBM` of 1,024 weights or more, of float32 or bfloat16, is by
    products with W itself, by sums that are looked up (`learning.by_products`), except under
    autocast, and so are the chains of `Gibbs` of up to four sweeps. Of 2^24 weights or more all of
    that is so, on any device and autocast or not: nothing copies them, and their gradient is added
    to `W.grad` in place where there is one.

    Args:
        model: an energy model.
        data: rows `[N, n_visible]` in the model's coding.
        samples: reads `[R, n]` of `model.ising()`; their weights are honoured.
        positive: reads `[N, R', n_hidden]` of `model.ising(visible=data)`, needed where F is
            intractable; None where it is not.
        data_weight: non-negative weights `[N]` of the rows; None means equal ones.

    Raises:
        ValueError: shapes do not fit, or F is intractable and `positive` is missing (the message
            says how to make it).
        TypeError: data or weights that are no tensors, or samples that are none.
    """
    check_samples(samples, "samples")
    if positive is not None:
        check_samples(positive, "positive")
    model = bare(model)
    sharded.check_whole(model, "cd_loss")
    _check_batch(model, data, data_weight)
    with model.acting(model.weights()):
        return _checked_loss(model, data, samples, positive=positive, data_weight=data_weight)


def _checked_loss(
    model: EnergyModel,
    data: Tensor,
    samples: Samples,
    *,
    positive: Samples | None,
    data_weight: Tensor | None,
    fields: Tensor | None = None,
) -> Tensor:
    """`cd_loss` of a batch that was checked before; `fields` as in `by_products.free_energies`."""
    if samples.spins.dim() != 2:
        raise ValueError(
            f"expected samples of one problem, [R, n]; got {list(samples.spins.shape)}"
        )
    if positive is not None:
        data_energies = _joint_energies(model, data, positive)
        if model.tractable:
            read_energies = model.free_energy(model.split(samples.spins)[0])
        else:
            read_energies = model.ising().energy(samples.spins)
    elif model.tractable:
        data_energies, read_energies = _free_energies(model, data, samples, fields)
    else:
        raise ValueError(
            "hidden units are coupled, so the positive phase must be sampled: pass "
            "positive=sampler.sample(model.ising(visible=data), num), or use "
            "ContrastiveDivergence(model, sampler), which does it"
        )
    if data_weight is None:
        data_mean = data_energies.mean()
    else:
        data_mean = _normalised(data_weight, data_energies) @ data_energies
    if samples.log_weight is None:
        return data_mean - read_energies.mean()
    return data_mean - samples.weight.to(read_energies) @ read_energies


def _joint_energies(model: EnergyModel, data: Tensor, positive: Samples) -> Tensor:
    """The energy of each row `[N]`, averaged over its reads of the hidden units."""
    shape = (len(data), positive.num, model.num_hidden)
    if positive.spins.shape != shape:
        raise ValueError(
            f"expected positive spins of shape [{len(data)}, R, {model.num_hidden}], one problem "
            f"per row of data; got {list(positive.spins.shape)}"
        )
    energy = model.ising(visible=data).energy(positive.spins)
    return (positive.weight.to(energy) * energy).sum(-1)


def _free_energies(
    model: EnergyModel, data: Tensor, samples: Samples, fields: Tensor | None
) -> tuple[Tensor, Tensor]:
    """F of the rows `[N]` and of the reads `[R]`, at once: the same products, but large ones."""
    if by_products.holds(model):
        return by_products.free_energies(model, data, samples, fields)
    # units are exact in any dtype
    dtype = factor_dtype(data.device.type, model.weights()[0].dtype)
    units = model.rows(data, samples.spins, dtype)
    data_energies, read_energies = model.free_energy_of_units(units).split([len(data), samples.num])
    return data_energies, read_energies


def _check_batch(model: EnergyModel, data: Tensor, weight: Tensor | None) -> None:
    """An error unless these are rows of the model, with weights that can be normalised."""
    model.check_rows(data)
    if weight is None:
        return
    check_tensors(data_weight=weight)
    if weight.shape != data.shape[:1]:
        raise ValueError(f"expected data_weight of shape {[len(data)]}; got {list(weight.shape)}")
    values = numbers(weight)
    total = float(values.sum())
    if not bool((values >= 0).all()) or not 0 < total < math.inf:
        raise ValueError(
            f"expected finite data_weight >= 0, not all zero; got {values.flatten().tolist()[:8]}"
        )


def _weighted(samples: Samples, data_weight: Tensor | None) -> Samples:
    """Reads with the weights of their rows: else weighted data would meet unweighted negatives."""
    if data_weight is None:
        return samples
    log_weight = data_weight.to(samples.energy).log()
    if samples.log_weight is not None:
        log_weight = log_weight + samples.log_weight
    return replace(samples, log_weight=log_weight)


def _normalised(weight: Tensor, like: Tensor) -> Tensor:
    """Weights (counts too) that sum to 1, in the dtype of what they weigh."""
    weight = weight.to(like)
    return weight / weight.sum()


class _Drawn(NamedTuple):
    """What a loss needs beside the reads of the joint problem."""

    positive: Samples | None
    offsets: Tensor  # of this call, [n]
    fields: Tensor | None = None  # of hidden units given the rows, where they are known


class _Reads:
    """A rank's reads, which are told to the others together with what is known of them.

    Args:
        own: reads of this rank's chains.
        ranks: those that have the other chains.
        rows: rows of data of this rank.
    """

    def __init__(self, own: Samples, ranks: Ranks, rows: int) -> None:
        self.own = own
        self.ranks = ranks
        self.rows = rows
        self.all = own

    def told(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Free energies of the rows `[N]` and of the reads `[R]` of all ranks, float64.

        In the same exchange `all` becomes the reads of all, in the order of their numbers.

        Args:
            free: free energies of this rank's rows, then of its reads, float64.
        """
        if self.ranks.size == 1:
            return free[: self.rows], free[self.rows :]
        energy = self.own.energy.to(torch.float32).contiguous()
        parts = [self.own.spins.reshape(-1), energy.view(torch.int8), free.view(torch.int8)]
        sizes = [len(part) for part in parts]
        whole = gathered(torch.cat(parts)[None], self.ranks)
        spins, energy, free = whole.split(sizes, 1)
        self.all = replace(
            self.own,
            spins=spins.reshape(-1, self.own.spins.shape[1]),
            energy=energy.contiguous().view(torch.float32).reshape(-1),
        )
        of_ranks = free.contiguous().view(torch.float64)
        return of_ranks[:, : self.rows].reshape(-1), of_ranks[:, self.rows :].reshape(-1)


class _Share(NamedTuple):
    """What a loss needs of one rank, where chains are spread over ranks."""

    terms: exact.Terms
    offsets: Tensor
    reads: _Reads


def _agreements(
    data: Tensor, weights: tuple[Tensor, ...], numbers: dict[str, int], place: Place
) -> list[Agreement]:
    """What ranks must have alike, whichever hidden units they have."""
    same = exact.checksums(data) | numbers
    if place.hidden.size == 1:
        same |= {"weights": exact.checksum(weights)}
        return [Agreement(same, data.device, place.chains)]
    same |= {"visible biases": exact.checksum(weights[1:2])}
    of_rank = {"weights": exact.checksum(weights)}
    return [Agreement(same, data.device), Agreement(of_rank, data.device, place.chains)]


@public("qsample")
class ContrastiveDivergence(nn.Module):
    """Draws the negative (and, where needed, the positive) samples and returns `cd_loss` of them.

    Args:
        model: an energy model.
        sampler: any sampler; "data" and "persistent" need one that can continue chains.
        start: where chains begin: "data" (CD-k: one chain per row, its hidden units drawn from
            their conditional first; each chain keeps its row's weight), "persistent" (PCD: the
            last call's reads), "fresh" (the sampler's own start, for annealers and `Exact`),
            "jarzynski" (persistent, with weights that make up for every change of the parameters
            and give log Z as it goes: `log_partition`; the sampler is a kernel, such as `Gibbs`).
        num: number of chains; unused by "data".
        positive_sampler: draws hidden units given data where they are coupled; None means the
            sampler itself.
        positive_num: number of reads per row of data in that phase.
        centred: whether to use the centred gradient, with offsets that are moving averages of the
            data's unit means.
        centring_rate: weight of a new batch in that average, > 0 and <= 1.
        resample_below: effective fraction of the weighted chains of "jarzynski" below which they
            are resampled, from 0 (never) to 1.
        exact_sums: whether statistics are sums that have no rounding, of probabilities that have
            (`learning.exact_sums`), and chains draw by their number among all: then chains, loss
            and gradient are the same on any number of ranks, bit for bit. For a `BernoulliRBM` of
            float32 and `Gibbs`.
        generator: randomness of everything drawn; None is torch's default generator.

    State: `chains` `[num, n]` int8 (zeros before the first call) and `offsets` `[n]`. They are in
    `state_dict` and move with `.to()`, and are no buffers: each rank has its own. What the chains
    carry beside (hot replicas, weights) is in `carry`, which checkpoints of `fit` hold; weights
    that were lost begin anew by annealed importance sampling. The last reads stay in `samples`, for
    diagnostics.

    In `eval()` chains, offsets and `generator` stay where they are: reads start from the chains and
    are then dropped, so the loss is that of the present chains on other data.

    Under `torch.distributed` wrap this module (`DistributedDataParallel(cd)`, `fully_shard(cd)`),
    not the model. Each rank then has `num` chains, replicas rank num .. rank num + num - 1 of all,
    drawn from one seed but no copies; offsets are those of all ranks' data (a collective call: all
    ranks must make it). A checkpoint of rank 0 holds rank 0's chains: save `chains` for each rank,
    or let the others begin anew.

    With `exact_sums` do not wrap it: every rank calls it on the same rows, moves its own part of
    `num` chains, adds its own part of the statistics, and is left with the loss, the gradient, the
    reads and the chains of all. So all ranks take the same step, and any of them may write the
    checkpoint, which goes on with another number of ranks. Weights may be spread over ranks too
    (`learning.sharded`); each is then left with the gradient of its own.

    Raises:
        ValueError: an unknown start, or one that the sampler cannot serve; a number out of range;
            rows or chains that do not divide over ranks, or ranks that differ in what they are
            given.
        TypeError: a sampler that is none.
        RankLost: another rank has ended.
    """

    chains: Tensor
    offsets: Tensor

    # kept by hand: what handles buffers would mix up the ranks' or average integers
    _STATE = ("chains", "offsets")

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
        resample_below: float = 0.5,
        exact_sums: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        model = bare(model)
        check_is_sampler(sampler)
        if positive_sampler is not None:
            check_is_sampler(positive_sampler)
        check_choice("start", start, Start)
        if start != "fresh" and not sampler.warm_start:
            name = type(sampler).__name__
            raise ValueError(
                f"start={start!r} continues chains and {name} cannot: use start='fresh', "
                f"Gibbs(...), or Corrected({name}(...), Gibbs(...))"
            )
        if not 0 < centring_rate <= 1:
            raise ValueError(f"expected 0 < centring_rate <= 1; got {centring_rate}")
        if not 0 <= resample_below <= 1:
            raise ValueError(f"expected 0 <= resample_below <= 1; got {resample_below}")
        if exact_sums:
            exact.check_served(model, sampler, start)
        if sharded.is_sharded(model):
            if not exact_sums:
                sharded.check_whole(model, "ContrastiveDivergence without exact_sums=True")
            sharded.check_served(sampler, centred)
        self.model = model
        self.sampler = sampler
        self.start = start
        self.num = whole("num", num, 1)
        self.positive_sampler = positive_sampler or sampler
        self.positive_num = whole("positive_num", positive_num, 1)
        self.centred = centred
        self.centring_rate = centring_rate
        self.resample_below = resample_below
        self.exact_sums = exact_sums
        self.generator = generator
        self.samples: Samples | None = None
        self.carry: dict[str, Tensor] | None = None
        n = model.graph.num_spins
        like = next(model.parameters())
        chains = self.num if start in ("persistent", "jarzynski") else 0
        self.chains = torch.zeros((chains, n), dtype=torch.int8, device=like.device)
        self.offsets = torch.full((n,), float("nan"), device=like.device, dtype=like.dtype)

    def forward(self, data: Tensor, data_weight: Tensor | None = None) -> Tensor:
        """The loss of one batch; call `.backward()` on it.

        Args:
            data: rows `[N, n_visible]` in the model's coding.
            data_weight: non-negative weights `[N]` of the rows; None means equal ones.
        """
        model = self.model
        _check_batch(model, data, data_weight)  # before chains or offsets move
        if self.exact_sums:
            return self._exact_loss(data, data_weight)
        with torch.autocast(data.device.type, enabled=False):  # sampling keeps its precision
            weights = model.weights()
            with torch.no_grad(), model.acting(tuple(weight.detach() for weight in weights)):
                drawn = self._draw(data, data_weight)
        if self.centred:
            weights = model.centred(weights, drawn.offsets)
        assert self.samples is not None
        with model.acting(weights):
            return _checked_loss(
                model,
                data,
                self.samples,
                positive=drawn.positive,
                data_weight=data_weight,
                fields=drawn.fields,
            )

    @uncompiled
    def _draw(self, data: Tensor, data_weight: Tensor | None) -> _Drawn:
        """Draw the negative samples; the positive ones, where needed, and this call's offsets."""
        generator = own_generator(self._generator())
        if by_products.serves(self.model, self.sampler, self.start):
            return self._draw_by_products(data, data_weight, generator)
        positive = None
        if not self.model.tractable:
            problem = self.model.ising(visible=data)
            positive = self.positive_sampler.sample(problem, self.positive_num, generator=generator)
        self.samples = self._negatives(data, positive, data_weight, generator)
        offsets = self._moved_offsets(data, positive, data_weight) if self.centred else self.offsets
        if self.training:
            self.offsets = offsets
        return _Drawn(positive, offsets)

    def _draw_by_products(
        self, data: Tensor, data_weight: Tensor | None, generator: torch.Generator | None
    ) -> _Drawn:
        """As `_draw`, by products with W itself; the fields of the data serve three times."""
        model = self.model
        assert isinstance(model, BernoulliRBM) and isinstance(self.sampler, Gibbs)
        from_data = self.start == "data"
        num = len(data) if from_data else self.num
        if by_products.is_large(model):
            by_products.check_memory(model, len(data), num)
        products, fields = by_products.fields_of(model, data)
        visible = None
        if from_data:
            visible = data
        elif self.start == "persistent" and bool(self.chains[0, 0]):
            visible = model.split(self.chains)[0]
        known = fields if from_data else None
        first = self.sampler.first_replica
        samples = by_products.chains(
            model, self.sampler, visible, num, generator, products, known, first
        )
        self.samples = _weighted(samples, data_weight) if from_data else samples
        if self.start == "persistent" and self.training:
            self._keep_chains(samples, generator)
        offsets = self.offsets
        if self.centred:
            offsets = self._moved_offsets(data, None, data_weight, (fields / 2).tanh())
        if self.training:
            self.offsets = offsets
        return _Drawn(None, offsets, fields)

    def _generator(self) -> torch.Generator | None:
        """The generator of this call's draws; in eval mode a copy: training goes on as it was."""
        if self.training or self.generator is None:
            return self.generator
        copied = torch.Generator(self.generator.device)
        copied.set_state(self.generator.get_state())
        # not what training draws next
        return copied.manual_seed(mix(draw_seed(copied), -1))

    def _negatives(
        self,
        data: Tensor,
        positive: Samples | None,
        data_weight: Tensor | None,
        generator: torch.Generator | None,
    ) -> Samples:
        """The reads of the joint problem, from the start that was chosen."""
        problem = self.model.ising()
        if self.start == "data":
            initial = self._data_start(data, positive, generator)
            samples = self.sampler.sample(problem, len(data), initial=initial, generator=generator)
            return _weighted(samples, data_weight)
        if self.start == "jarzynski":
            return self._weighted_negatives(generator)
        # chains are zeros before the first call
        initial = None
        if self.start == "persistent" and bool(self.chains[0, 0]):
            initial = self._as_initial(self.chains)
        samples = self.sampler.sample(problem, self.num, initial=initial, generator=generator)
        if self.start == "persistent" and self.training:
            self._keep_chains(samples, generator)
        return samples

    def _keep_chains(self, samples: Samples, generator: torch.Generator | None) -> None:
        """Keep where the next call goes on; its parameters are others, so weights are spent now."""
        if samples.log_weight is not None:
            samples = samples.resample(generator=generator)
        self.chains = samples.spins.to(torch.int8).clone()
        self.carry = None if samples.carry is None else dict(samples.carry)

    # ---- spread over ranks ----------------

    def _exact_loss(self, data: Tensor, data_weight: Tensor | None) -> Tensor:
        """The loss of all ranks, of which this one draws and adds up its share."""
        if data_weight is not None:
            raise ValueError("exact_sums is for rows of equal weight: leave data_weight out")
        model = self.model
        assert isinstance(model, BernoulliRBM)
        place = sharded.place_of(model)
        with torch.autocast(data.device.type, enabled=False):
            weights = model.weights()
            if place.total:
                weights = sharded.local(weights)
            with torch.no_grad(), model.acting(tuple(weight.detach() for weight in weights)):
                drawn = self._draw_share(data, place)
        if self.centred:
            weights = model.centred(weights, drawn.offsets)
        loss = exact.loss(weights, drawn.terms)
        self.samples = drawn.reads.all
        if self.start == "persistent" and self.training:
            self.chains = self.samples.spins.clone()
        return loss

    @uncompiled
    def _draw_share(self, data: Tensor, place: Place) -> _Share:
        """Draw this rank's chains, and let them be on their way to all ranks."""
        model = self.model
        assert isinstance(model, BernoulliRBM)
        seed = draw_seed(self._generator())
        num = len(data) if self.start == "data" else self.num
        numbers = {"numbers of chains": num, "seeds": seed}
        agreements = _agreements(data, model.weights(), numbers, place)
        mine = share(num, "chains", place.chains)
        rows = data[share(len(data), "rows of data", place.chains)].to(torch.float32)

        W, _, c = model.weights()
        if place.total:
            # whose ranks exchange while they draw
            for agreement in agreements:
                agreement.check()
        by_products.check_biases(model)
        # draws are those of a chain's number, from one seed on all ranks
        products = Columns(W, place) if place.total else Products(W)
        fields = products.from_left(rows) + c.detach()
        visible = None
        if self.start == "data":
            visible = rows
        elif self.start == "persistent" and bool(self.chains[0, 0]):
            visible = model.split(self.chains[mine])[0]
        own = self._own_reads(visible, mine, seed, products, fields)
        if not place.total:
            for agreement in agreements:
                agreement.check()
        reads = _Reads(own, place.chains, len(rows))

        counts = exact.Counts(len(data), num)
        offsets = self.offsets
        if self.centred:
            means = exact.hidden_means(fields, counts)
            offsets = self._moved_towards(torch.cat([data.mean(0, dtype=torch.float64), means]))
        if self.training:
            self.offsets = offsets
        visible = model.split(own.spins)[0]
        terms = exact.Terms(rows, visible, fields, counts, products, place, reads.told)
        return _Share(terms, offsets, reads)

    def _own_reads(
        self,
        visible: Tensor | None,
        mine: slice,
        seed: int,
        products: Products | Columns,
        fields: Tensor,
    ) -> Samples:
        """Reads of the chains `mine`, started at visible units (None: at random)."""
        model = self.model
        sampler = self.sampler
        assert isinstance(model, BernoulliRBM) and isinstance(sampler, Gibbs)
        num = mine.stop - mine.start
        first = sampler.first_replica + mine.start
        known = fields if self.start == "data" else None
        if isinstance(products, Columns):
            weights = model.weights()
            sharded.check_memory(weights[0], len(fields), num)
            return sharded.chains(
                weights, sampler, visible, num, seed, products, known, first_replica=first
            )
        generator = torch.Generator().manual_seed(seed)
        if by_products.serves(model, sampler, self.start):
            if by_products.is_large(model):
                by_products.check_memory(model, len(fields), num)
            return by_products.chains(
                model, sampler, visible, num, generator, products, known, first
            )
        initial = None
        if visible is not None:
            # hidden units are drawn first, given the visible ones alone
            hidden = visible.new_zeros(num, model.num_hidden)
            initial = self._as_initial(model.join(visible, hidden))
        numbered = replace(sampler, first_replica=first)
        return numbered.sample(model.ising(), num, initial=initial, generator=generator)

    # ---- chains with weights ----------------

    def _weighted_negatives(self, generator: torch.Generator | None) -> Samples:
        """The chains, carried to the present parameters and moved there."""
        walkers = self._walkers()
        if walkers is None:
            walkers = jarzynski.first_walkers(self.model, self.num, generator)
        samples, walkers = jarzynski.step(
            walkers, self.model, self.sampler, self.resample_below, generator
        )
        if self.training:
            self.chains = walkers.spins.to(torch.int8).clone()
            self.carry = walkers.carry()
        return samples

    def _walkers(self) -> jarzynski.Walkers | None:
        """The chains with their weights; None before the first call, or where these were lost."""
        if not len(self.chains) or not bool(self.chains[0, 0]):
            return None
        return jarzynski.Walkers.of(self.chains, self.carry)

    @torch.no_grad()
    def log_partition(self) -> Estimate:
        """Log Z of the model as it is now, by the chains of "jarzynski" and their weights.

        So the log-likelihood of rows is `-model.free_energy(rows).mean() - log_partition().value`,
        at no cost but this. The error is that of chains which are independent; where few of them
        are effective the note says so.

        Raises:
            ValueError: another start, or no call before.
        """
        walkers = self._walkers() if self.start == "jarzynski" else None
        if walkers is None:
            raise ValueError(
                "log_partition is known to weighted chains after their first call: use "
                f"start='jarzynski' and call the module once; got start={self.start!r}"
            )
        return walkers.moved_to(self.model).log_partition()

    # ---- from data ----------------

    def _data_start(
        self, data: Tensor, positive: Samples | None, generator: torch.Generator | None
    ) -> Samples:
        """The rows, with hidden units drawn from their conditional."""
        sampler = self.sampler
        at_least_one = type(sampler) is Gibbs and sampler.time_limit is None
        if isinstance(self.model, BernoulliRBM) and at_least_one:
            # a sweep draws them first, given the rows alone
            hidden = data.new_zeros(len(data), self.model.num_hidden)
        elif positive is None:
            hidden = self._draw_hidden(data, generator)
        else:
            hidden = self.model.decode(positive.spins[:, 0])
        return self._as_initial(self.model.join(data, hidden))

    def _as_initial(self, spins: Tensor) -> Samples:
        """Starting points; the last call's energies and weights are of other parameters."""
        energy = torch.full(spins.shape[:-1], float("nan"), device=spins.device)
        return Samples(spins, energy, carry=self.carry if self.start == "persistent" else None)

    def _draw_hidden(self, data: Tensor, generator: torch.Generator | None) -> Tensor:
        """Uncoupled hidden units given the rows, `[N, n_hidden]` in the model's coding."""
        mean = (1 + self._hidden_mean_spin(data)) / 2
        device = mean.device if generator is None else generator.device
        u = torch.rand(mean.shape, generator=generator, device=device, dtype=mean.dtype)
        return self.model.decode((u.to(mean.device) < mean).to(torch.int8) * 2 - 1)

    def _hidden_mean_spin(self, data: Tensor) -> Tensor:
        """Their mean spins given the rows, `[N, n_hidden]`."""
        return -self.model.ising(visible=data).h.tanh()

    def _moved_offsets(
        self,
        data: Tensor,
        positive: Samples | None,
        data_weight: Tensor | None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """The moving average, after this batch, of the units' means over the data.

        Means of hidden units are those given the visible ones, their spins' `hidden` where these
        are known. In eval mode it is the average so far, or this batch's means where there is none.
        """
        old = self.offsets
        if not self.training and not old.isnan().any():
            return old
        if positive is not None:
            hidden = positive.mean()
        elif hidden is None:
            hidden = self._hidden_mean_spin(data)
        shape = (len(data), self.model.graph.num_spins)
        units = torch.empty(shape, device=data.device, dtype=hidden.dtype)
        units[:, self.model.visible_index] = data.to(units)
        units[:, self.model.hidden_index] = self.model.decode(hidden)
        if data_weight is None:
            mean = units.mean(0)
        else:
            mean = _normalised(data_weight, units) @ units
        if self.training:
            mean = mean_of_ranks(mean)
        return self._moved_towards(mean)

    def _moved_towards(self, mean: Tensor) -> Tensor:
        """The average after a batch of these means; in eval mode as it is, if there is one."""
        old = self.offsets
        if not self.training and not old.isnan().any():
            return old
        mean = mean.to(old)
        return torch.where(old.isnan(), mean, old.lerp(mean, self.centring_rate))

    # ---- the state: moved, saved and loaded as buffers are ----------------

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

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
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
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        for name in self._STATE:
            key = prefix + name
            present = getattr(self, name)
            if key in unexpected_keys:
                unexpected_keys.remove(key)
            if key not in state_dict:
                missing_keys.append(key)
            elif (given := state_dict[key]).shape != present.shape:
                error_msgs.append(
                    f"{key} has shape {list(given.shape)}, this module's {list(present.shape)}"
                )
            elif local_metadata.get("assign_to_params_buffers", False):
                setattr(self, name, given)
            else:
                setattr(self, name, given.detach().to(present, copy=True))
