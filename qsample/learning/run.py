"""A training run: one update, its metrics, and the judgement of what it led to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from qsample.learning import by_products, large_looks
from qsample.learning import metrics as measured
from qsample.learning.batches import Batches, batches_of
from qsample.learning.best import Best, check_score, score_of
from qsample.learning.callbacks import Callback, Callbacks, saved_on_error
from qsample.learning.contrastive import ContrastiveDivergence
from qsample.learning.distributed import world
from qsample.learning.divergence import Diverged, Judge, check_precision, strength_of
from qsample.learning.files import digest
from qsample.learning.folder import Metrics, RunFolder
from qsample.learning.metrics import Evaluates, Evaluation
from qsample.learning.settings import Settings
from qsample.learning.sharded import check_whole
from qsample.learning.state import before_update, restore, state_of
from qsample.learning.steps import MakesOptimizer, MakesScheduler, Steps
from qsample.sampling.random import mix
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.sampling.samples import Estimate, Samples
from qsample.sampling.temperature import beta_of_reads
from qsample.support.interrupts import Stopper

if TYPE_CHECKING:
    from qsample.models import EnergyModel

EVALUATING = -(1 << 41)  # numbers of the seeds of evaluations, from here down


class Run:
    """The moving parts of one training run.

    A run is a loop over `step`, with `save` now and then; `open` and `close` stand around it.

    Args:
        model: an energy model; its parameters are the starting point.
        data: rows `[N, n_visible]` in the model's coding, or a loader of batches of them.
        sampler: draws the negative phase.
        settings: how to train.
        validation: rows for the likelihood in the metrics; None means the data, or the first batch.
        out: folder of the run; None writes nothing.
        config: JSON values kept in the checkpoint; None keeps a resumed run's.
        callbacks: callbacks, or functions of the metrics.
        optimizer: an optimiser or what makes one, instead of that of the settings.
        scheduler: what makes a scheduler of it, instead of the rates of the settings.
        evaluate: what is measured on the validation rows.

    Attributes:
        update: number of updates made.
        stopping: whether a callback asked to stop.
        best: the weights that validation rows liked best; None without patience.
        seen: digest of the last update's rows, where their order is not ours.
        spread: whether the chains are spread over ranks.
        follows: whether another rank writes this run's folder.
        history: the metrics, one dict per evaluation.
        pending: metrics of the present update that wait for their likelihood.
        energies: energies `[R]` of the reads of the last updates.
        spent: totals of what the sampler has spent, by name, from its `Samples.info["spent"]`, and
            the spin updates of the negative phase.
        former: settings of the runs that this one continues.
        before: copy of what an update moves before it is done, while it is under way; else None.
        buffers: buffers of the model, which an update moves.
    """

    def __init__(
        self,
        model: EnergyModel,
        data: Any,
        sampler: Sampler,
        settings: Settings,
        validation: Tensor | None = None,
        out: Path | None = None,
        config: dict[str, Any] | None = None,
        *,
        callbacks: Sequence[Callback | Callable[[Metrics], Any]] = (),
        optimizer: Optimizer | MakesOptimizer | None = None,
        scheduler: MakesScheduler | None = None,
        evaluate: Evaluation | Evaluates = "auto",
    ) -> None:
        check_whole(model, "fit")
        check_precision(model)
        check_is_sampler(sampler)
        measured.check_evaluation(evaluate)
        large_looks.check_evaluation(model, evaluate)
        if settings.patience is not None and validation is None:
            raise ValueError(
                f"patience={settings.patience} waits for validation rows to become more likely: "
                "pass validation=, rows that are not trained on"
            )
        self.callbacks = Callbacks(callbacks)
        settings = settings.resolved(sampler)
        self.steps = Steps(model, settings, optimizer, scheduler)
        if self.steps.names:  # whose rates are not those of the settings
            settings = replace(settings, decay="none")
        assert settings.start != "auto"

        # what stays
        self.model = model
        self.batches: Batches = batches_of(model, data, settings)
        self.data = self.batches.known
        self.validation = self.data
        if validation is not None:
            self.validation = model.check_rows(validation, "validation").to(model.device)
        self.evaluates: Evaluation | Evaluates = evaluate
        self.settings = settings
        self.config = {} if config is None else config
        self.keeps_config = config is None  # on resume: the checkpoint's
        # ranks that share a run know the same: the first one writes
        self.spread = settings.exact_sums and world()[1] > 1
        self.follows = self.spread and world()[0] > 0
        self.out = out
        self.folder = None if out is None or self.follows else RunFolder(out)
        self.stopper = Stopper()
        self.doubts = measured.Doubts()

        # what each update moves
        self.cd = ContrastiveDivergence(
            model,
            sampler,
            start=settings.start,
            num=settings.chains,
            centred=settings.centred,
            exact_sums=settings.exact_sums,
            generator=torch.Generator(),
        )
        names = dict(model.named_buffers()).keys() & model.state_dict().keys()
        self.buffers = {name: model.get_buffer(name) for name in sorted(names)}
        self.update = 0
        self.before: dict[str, Any] | None = None
        self.stopping = False
        self.best = None if settings.patience is None else Best(settings.patience)
        self.seen: str | None = None

        # what is known of it
        self.history: list[Metrics] = []
        self.pending: dict[str, Any] | None = None
        self.energies: list[Tensor] = []
        self.spent: dict[str, float] = {}
        self.former: list[dict[str, Any]] = []
        self.began = time.perf_counter()
        self.judge = Judge(model, self.data, settings.seed)
        self.judged = -1  # the last update that was

    def open(self, resume: bool) -> None:
        """Prepare the folder, or take up the checkpoint in it.

        Raises:
            ValueError: the folder cannot be written, is being written by another run, or holds
                another one; it holds a run and `resume` is not set.
        """
        if self.follows and self.out is not None:
            if resume and RunFolder(self.out).holds_checkpoint():
                restore(self, self.out)
            return
        if self.folder is None:
            return
        path = self.folder.path
        self.folder.take()
        if self.folder.holds_checkpoint():
            if not resume:
                raise ValueError(
                    f"{path} already holds a run: give resume=True to resume it, or choose "
                    "another output folder"
                )
            restore(self, path)
            self.folder.saved = self.update
        self.folder.begin(self.history)

    def close(self) -> None:
        """Let others write the folder."""
        if self.folder is not None:
            self.folder.close()

    # ---- what others see and ask for ----------------

    @property
    def averaged(self) -> EnergyModel:
        """The model that is evaluated: with averaged weights, where there are some."""
        return self.steps.averaged

    @property
    def samples(self) -> Samples | None:
        """The last reads of the joint problem; None before the first update."""
        return self.cd.samples

    def stop(self) -> None:
        """End the run after this update, with a checkpoint that it may go on from."""
        self.stopping = True

    @property
    def done(self) -> bool:
        """Whether all updates are made, or patience is at its end."""
        return self.update >= self.settings.updates or (self.best is not None and self.best.over)

    def result(self) -> dict[str, Tensor] | None:
        """The weights that the run gives if it ends here; None where they are the model's own."""
        if self.best is not None and self.best.update is not None:
            return self.best.weights
        return None if self.averaged is self.model else self.averaged.state_dict()

    def finish(self) -> None:
        """Give the model the weights of the result."""
        result = self.result()
        if result is not None:
            self.model.load_state_dict(result)

    # ---- one update ----------------

    def rows(self) -> Tensor:
        """This update's batch, `[batch, n_visible]`."""
        with self.stopper.cuttable("loader"), saved_on_error(self):
            return self.batches.of_update(self.update)

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
        with self.steps.at_once():
            with self.stopper.cuttable("update"):
                loss = self.cd(rows)
                samples = self.cd.samples
                assert samples is not None
                value = float(loss.detach())
                good = math.isfinite(value)
                if due and good:
                    beta = self._beta(samples)
                if good and not settings.fused_update:
                    loss.backward()
            if good and settings.fused_update:
                loss.backward()  # new weights, which are not given up half-way
        if not good:
            self.update += 1
            raise self.diverged(f"the loss is {value}")
        self._end_update(samples, rows)
        if beta is None:
            return None
        self.pending = self._pending(value, beta)
        return None if self.stopper.number is not None else self.evaluate()

    def _beta(self, samples: Samples) -> Estimate:
        """The effective beta of this update's reads."""
        if by_products.is_large(self.model):
            return large_looks.beta_of_reads(self.model, samples)
        return beta_of_reads(self.model.ising().detach(), samples)

    def _begin_update(self) -> None:
        """Set what is a function of the update's number, and keep what it moves."""
        assert self.cd.generator is not None
        self.cd.generator.manual_seed(mix(self.settings.seed, self.update))
        self.steps.begin(self.update)
        self.before = before_update(self)

    def _end_update(self, samples: Samples, rows: Tensor) -> None:
        """Take the step; from here on there is no way back."""
        energy = samples.energy.detach().cpu().clone()  # those of a checkpoint are there too
        # a loader's last batch may be a small one, with as few chains
        alike = [e for e in self.energies if e.shape == energy.shape]
        self.energies = [*alike[1 - measured.WINDOW :], energy]
        self.spent = self.spent | samples.info.get("spent", {})
        if "cost" in samples.info:
            made = samples.info["cost"]["spin_updates"]
            if self.settings.exact_sums:  # ranks share the chains equally
                made *= world()[1]
            self.spent["spin_updates"] = self.spent.get("spin_updates", 0) + made
        self.update += 1
        self.steps.take(self.update)
        self.seen = None if self.batches.ordered else digest(rows)
        self.before = None
        # before the weights reach a checkpoint, or a sampler that cannot tell 1 from 0 beside them
        largest = strength_of(self.model)
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
        with (
            self.stopper.cuttable("evaluation"),
            self.doubts.of_estimators(),
            saved_on_error(self),
        ):
            likelihood = self.likelihood()
            self._judge(likelihood)
            if self.best is not None:
                check_score(likelihood, f"patience={self.settings.patience}")
            if self.steps.on_plateau:
                check_score(likelihood, "ReduceLROnPlateau")
            running = self._running_likelihood()
            ess = measured.independent_reads(self.energies, self.settings)
            seconds = time.perf_counter() - self.began
        metrics = {
            "update": pending["update"],
            "loss": pending["loss"],
            **likelihood,
            **running,
            "beta": pending["beta"],
            "beta_stderr": pending["beta_stderr"],
            "ess": ess,
            "seconds": seconds,
            **self.spent,
        }
        if self.best is not None:
            self.best.look(self.averaged, metrics)
        if self.steps.on_plateau:
            self.steps.plateau(score_of(metrics)[1])
        self.pending = None
        if self.folder is not None:
            self.folder.keep(self.update, self.history)
        self.history.append(metrics)
        if self.folder is not None:
            self.folder.add(self.history)
        self.doubts.say(measured.doubt_about_chains(ess, self.settings, self.update))
        self.callbacks.tell(self, "evaluate", metrics)
        return metrics

    def _running_likelihood(self) -> Metrics:
        """The likelihood of the validation rows under the weights of weighted chains, if any."""
        if self.settings.start != "jarzynski" or not self.model.tractable:
            return {}
        log_z = self.cd.log_partition()
        with torch.no_grad():
            free = float(self.model.free_energy(self.validation).mean())
        return {
            "running_log_likelihood": -free - float(log_z.value),
            "running_log_likelihood_stderr": float(log_z.stderr),
        }

    def likelihood(self) -> Metrics:
        """The exact likelihood of the validation rows, or what stands in its place."""
        generator = torch.Generator().manual_seed(mix(self.settings.seed, EVALUATING - self.update))
        return measured.evaluated(self.evaluates, self.averaged, self.validation, generator)

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
        remedy = f"lower the learning rate (lr={self.steps.rate:g})"
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

    def checkpoint(self) -> None:
        """Save, and tell the callbacks where that wrote a checkpoint."""
        if self.folder is None or self.folder.saved == self.update:
            return
        self.save()
        self.callbacks.tell(self, "checkpoint", self.folder.path)
