"""A training run: one update, its metrics, and the judgement of what it led to."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qsample.learning import metrics as measured
from qsample.learning.contrastive import ContrastiveDivergence
from qsample.learning.divergence import Diverged, Judge, check_precision, strength
from qsample.learning.folder import Metrics, RunFolder
from qsample.learning.settings import Settings
from qsample.learning.state import before_update, restore, state_of
from qsample.sampling.random import mix
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.sampling.samples import Estimate, Samples
from qsample.sampling.temperature import beta_of_reads
from qsample.support.interrupts import Stopper

if TYPE_CHECKING:
    from qsample.models import EnergyModel

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


class Run:
    """The moving parts of one training run.

    A run is a loop over `step`, with `save` now and then; `open` and `close` stand around it.

    Args:
        model: an energy model; its parameters are the starting point.
        data: checked rows `[N, n_visible]` in the model's coding.
        sampler: draws the negative phase.
        settings: how to train.
        validation: rows for the likelihood in the metrics; None means the data.
        out: folder of the run; None writes nothing.
        config: JSON values kept in the checkpoint; None keeps a resumed run's.

    Attributes:
        update: number of updates made.
        history: the metrics, one dict per evaluation.
        pending: metrics of the present update that wait for their likelihood.
        energies: energies `[R]` of the reads of the last updates.
        spent: totals of what the sampler has spent, by name, from its `Samples.info["spent"]`.
        former: settings of the runs that this one continues.
        before: copy of what an update moves before it is done, while it is under way; else None.
        buffers: buffers of the model, which an update moves.
    """

    def __init__(
        self,
        model: EnergyModel,
        data: Tensor,
        sampler: Sampler,
        settings: Settings,
        validation: Tensor | None = None,
        out: Path | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        check_precision(model)
        check_is_sampler(sampler)
        settings = settings.resolved(sampler)
        assert settings.start != "auto"

        # what stays
        self.model = model
        self.data = data
        self.validation = data if validation is None else model.check_rows(validation, "validation")
        self.settings = settings
        self.config = {} if config is None else config
        self.keeps_config = config is None  # on resume: the checkpoint's
        self.folder = None if out is None else RunFolder(out)
        self.stopper = Stopper()
        self.doubts = measured.Doubts()

        # what each update moves
        self.cd = ContrastiveDivergence(
            model,
            sampler,
            start=settings.start,
            num=settings.chains,
            centred=settings.centred,
            generator=torch.Generator(),
        )
        self.optimizer = OPTIMIZERS[settings.optimizer](
            model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        names = dict(model.named_buffers()).keys() & model.state_dict().keys()
        self.buffers = {name: model.get_buffer(name) for name in sorted(names)}
        self.update = 0
        self.before: dict[str, Any] | None = None

        # what is known of it
        self.history: list[Metrics] = []
        self.pending: dict[str, Any] | None = None
        self.energies: list[Tensor] = []
        self.spent: dict[str, float] = {}
        self.former: list[dict[str, Any]] = []
        self.began = time.perf_counter()
        self.judge = Judge(model, data, settings.seed)
        self.judged = -1  # the last update that was

    def open(self, resume: bool) -> None:
        """Prepare the folder, or take up the checkpoint in it.

        Raises:
            ValueError: the folder cannot be written, is being written by another run, or holds
                another one; it holds a run and `resume` is not set.
        """
        if self.folder is None:
            return
        path = self.folder.path
        self.folder.take()
        if self.folder.holds_checkpoint():
            if not resume:
                raise ValueError(
                    f"{path} already holds a run: resume it, or choose another output folder"
                )
            restore(self, path)
            self.folder.saved = self.update
        self.folder.begin(self.history, self.update)

    def close(self) -> None:
        """Let others write the folder."""
        if self.folder is not None:
            self.folder.close()

    # ---- one update ----------------

    def rows(self) -> Tensor:
        """This update's batch, `[batch, n_visible]`, of an endless stream of shuffled epochs.

        The order of epoch e is a function of (seed, e).
        """
        N = len(self.data)
        first = self.update * self.settings.batch
        place = torch.arange(first, first + self.settings.batch)
        index = torch.empty_like(place)
        for epoch in range(int(place[0]) // N, int(place[-1]) // N + 1):
            generator = torch.Generator().manual_seed(mix(self.settings.seed, -1 - epoch))
            shuffle = torch.randperm(N, generator=generator)
            inside = place // N == epoch
            index[inside] = shuffle[place[inside] % N]
        return self.data[index.to(self.data.device)]

    def step(self) -> Metrics | None:
        """One update; the metrics, where they are due.

        Nothing that a checkpoint holds moves before the gradient is known, but what `before`
        keeps: until then the update may be given up.
        """
        settings = self.settings
        rows = self.rows()
        self._begin_update()
        # due are metrics of every k-th update, and of the last
        number = self.update + 1
        due = number % settings.evaluate_every == 0 or number == settings.updates
        beta = None
        with self.stopper.cuttable("update"):
            loss = self.cd(rows)
            samples = self.cd.samples
            assert samples is not None
            value = float(loss.detach())
            if due and math.isfinite(value):
                beta = beta_of_reads(self.model.ising().detach(), samples)
            loss.backward()
        if not math.isfinite(value):
            self.update += 1
            raise self.diverged(f"the loss is {value}")
        self._end_update(samples)
        if beta is None:
            return None
        self.pending = self._pending(value, beta)
        return None if self.stopper.number is not None else self.evaluate()

    def _begin_update(self) -> None:
        """Set what is a function of the update's number, and keep what it moves."""
        assert self.cd.generator is not None
        self.cd.generator.manual_seed(mix(self.settings.seed, self.update))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.update)
        self.optimizer.zero_grad()
        self.before = before_update(self)

    def _end_update(self, samples: Samples) -> None:
        """Take the step; from here on there is no way back."""
        self.energies = [*self.energies[1 - measured.WINDOW :], samples.energy.detach().clone()]
        self.spent = self.spent | samples.info.get("spent", {})
        self.update += 1
        self.optimizer.step()
        self.before = None
        # before the weights reach a checkpoint, or a sampler that cannot tell 1 from 0 beside them
        largest = strength(self.model.ising().detach())
        if not math.isfinite(largest):
            raise self.diverged("the weights are no longer finite")
        if largest > self.judge.strongest:
            raise self.diverged(f"fields have grown to {largest:.1e}")

    def _pending(self, loss: float, beta: Estimate) -> dict[str, Any]:
        """The metrics that only this update's reads can give."""
        return {
            "update": self.update,
            "loss": loss,
            "beta": beta.value,
            "beta_stderr": beta.stderr,
        }

    # ---- its metrics ----------------

    def evaluate(self) -> Metrics:
        """The metrics of the last update; they are recorded, and the state is judged."""
        pending = self.pending
        assert pending is not None
        with self.stopper.cuttable("evaluation"), self.doubts.of_estimators():
            likelihood = self.likelihood()
            self._judge(likelihood)
            ess = measured.independent_reads(self.energies, self.settings)
            seconds = time.perf_counter() - self.began
        metrics = {
            "update": pending["update"],
            "loss": pending["loss"],
            **likelihood,
            "beta": pending["beta"],
            "beta_stderr": pending["beta_stderr"],
            "ess": ess,
            "seconds": seconds,
            **self.spent,
        }
        self.pending = None
        if self.folder is not None:
            self.folder.keep(self.update, self.history)
        self.history.append(metrics)
        if self.folder is not None:
            self.folder.add(self.history)
        self.doubts.say(measured.doubt_about_chains(ess, self.settings, self.update))
        return metrics

    def likelihood(self) -> Metrics:
        """The exact likelihood of the validation rows, or what stands in its place."""
        return measured.likelihood(self.model, self.validation)

    # ---- what it led to ----------------

    def _judge(self, likelihood: Metrics | None = None) -> None:
        """`Diverged` where the state is one that nobody wants back.

        Args:
            likelihood: metrics of the validation rows, where they are known already.
        """
        if self.judged == self.update:
            return
        samples = self.cd.samples
        nats = self.judge.bound(None if samples is None else samples.spins)
        if likelihood and self.validation is self.data and "log_likelihood" in likelihood:
            nats = max(nats, -likelihood["log_likelihood"])
        limit = self.judge.limit(self.update == self.settings.updates)
        if not nats <= limit:  # nor where it is not a number
            raise self.diverged(
                f"training diverged: the data cost {nats:.4g} nats per row, beyond {limit:.4g}"
            )
        self.judged = self.update

    def diverged(self, reason: str) -> Diverged:
        """The error to raise."""
        remedy = f"lower the learning rate (lr={self.settings.lr:g})"
        if self.folder is not None:
            remedy += f"; the last checkpoint, if any, stands in {self.folder.path}"
        return Diverged(f"{reason} at update {self.update}: {remedy}")

    def save(self) -> None:
        """Write a checkpoint, unless that of this update stands.

        Raises:
            Diverged: the state is not good; the last checkpoint stands.
        """
        if self.folder is None or self.folder.saved == self.update:
            return
        self._judge()
        self.folder.save(state_of(self), self.update, self.history)
