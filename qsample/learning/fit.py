"""Training: `fit` makes a trained model of a model, data and a sampler, and may be stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from qsample.learning.best import SCORES
from qsample.learning.callbacks import Callback
from qsample.learning.distributed import RankLost, largest_of_ranks
from qsample.learning.folder import Metrics
from qsample.learning.metrics import Evaluates, Evaluation
from qsample.learning.run import Run
from qsample.learning.saved import former_settings
from qsample.learning.settings import Settings as Settings
from qsample.learning.steps import MakesOptimizer, MakesScheduler
from qsample.learning.tensorboard import TensorBoard
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import warned_once
from qsample.support.faces import public
from qsample.support.interrupts import Cut, Stopper
from qsample.support.progress import progress_bar
from qsample.support.wrapped import bare

if TYPE_CHECKING:
    from qsample.models import EnergyModel


STOP = 1 << 16  # a callback's wish among numbers of signals


@public("qsample")
def fit(
    model: EnergyModel,
    data: Tensor | Iterable[Any],
    sampler: Sampler,
    settings: Settings | Mapping[str, Any] | None = None,
    *,
    validation: Tensor | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback | Callable[[Metrics], Any]] = (),
    optimizer: Optimizer | MakesOptimizer | None = None,
    scheduler: MakesScheduler | None = None,
    evaluate: Evaluation | Evaluates = "auto",
    device: str | torch.device | None = None,
) -> list[dict[str, float | int]]:
    """Train `model` in place by contrastive divergence; returns the metrics.

    With `out`, metrics go to `metrics.jsonl` (and TensorBoard, if installed) and checkpoints to the
    same folder. Each update's randomness is a function of (seed, update), so a run that resumes
    from a checkpoint equals one that was never stopped, bit for bit; but for one that was saved
    under other draws of the native kernels, which goes on with a warning. So does one on batches of
    a loader, which are read again up to the present update, where they come in another order. One
    run at a time writes a folder; readers are free.

    Ctrl-C, SIGTERM and SIGHUP finish the update, write a checkpoint and then end: by
    KeyboardInterrupt or by a SystemExit of 143 or 129. After a SIGTERM or SIGHUP this takes at
    most 5 seconds: an update that needs longer is given up, and the checkpoint is of the one
    before. A second signal ends at once.

    Args:
        model: an energy model; its parameters are the starting point.
        data: rows `[N, n_visible]` in the model's coding; or a `DataLoader`, or whatever else can
            be iterated over, of batches of such rows or of tuples that begin with them, one batch
            per update, of any size; or a `Dataset` of torch, which is loaded in the batches of the
            settings. A loader that runs dry is begun again.
        sampler: draws the negative phase, and hidden units given data where these are coupled.
        settings: how to train, or a mapping of the arguments of `Settings`. None means those of
            the checkpoint when a run is resumed, else the defaults.
        validation: rows `[M, n_visible]` for the likelihood in the metrics; None means the data,
            of a loader its first batch.
        out: folder of the run; None writes nothing.
        resume: whether to go on from the checkpoint in `out`, if there is one. More updates extend
            a run whose learning rate stays; one whose rate fell to zero goes on with `decay_from`.
            How often to evaluate and to save may change.
        progress: whether to show a bar.
        config: JSON values kept in the checkpoint, such as what made the model; None keeps those
            of a resumed run.
        callbacks: `Callback` objects, or functions of the metrics, which stop the run by returning
            True. Their errors end the run after a checkpoint.
        optimizer: a `torch.optim.Optimizer` of the model's parameters, or a function that makes one
            of them, in place of that of the settings.
        scheduler: a function that makes an `LRScheduler` of the optimiser, stepped after each
            update (`ReduceLROnPlateau`: after each evaluation, with the likelihood, so that it
            needs `mode="max", threshold_mode="abs"`), in place of the rates of the settings.
        evaluate: what to measure on the validation rows: "exact" or "pseudo" likelihood, "bracket"
            (its two ends, by some thousand sweeps each time), "auto" (exact where that is quick,
            else pseudo), or a function of model and rows that returns numbers by names. Patience
            looks at "score", or else at a log-likelihood.
        device: where to train: model and rows are moved there; None leaves the model where it is.

    Returns:
        The metrics, one dict per evaluation: "update", "loss" (no likelihood), "log_likelihood" or
        "pseudo_log_likelihood" or "log_likelihood_low" and "log_likelihood_high" in nats per row of
        validation, with start="jarzynski" "running_log_likelihood" too, "beta" of the reads and
        "beta_stderr" (1 is right), "ess" (independent reads per update), "seconds" of training,
        and what the sampler says that it has spent so far, "spin_updates" or "qpu_seconds".

    Raises:
        ValueError: bad data or settings; weights of 16 bits; a checkpoint that is damaged
            (`CheckpointError`), of other settings or of another model; a folder that cannot be
            written, that already holds a run when `resume` is not set, or that another run is
            writing (`FolderInUse`).
        TypeError: data that are no tensors, a sampler, callback, optimizer or scheduler that is
            none.
        FloatingPointError: training diverged (`Diverged`): the loss or the weights are no longer
            finite, or the data are far less likely than under coins; the last good checkpoint
            stands.
        KeyboardInterrupt: Ctrl-C, after the update and its checkpoint.
        SystemExit: SIGTERM or SIGHUP, likewise.
    """
    folder = None if out is None else Path(out).expanduser()
    settings = _settings(settings, folder if resume else None)
    model = bare(model)
    if device is not None:
        model.to(device)
    run = Run(
        model,
        data,
        sampler,
        settings,
        validation=validation,
        out=folder,
        config=None if config is None else dict(config),
        callbacks=_with_board(callbacks, folder),
        optimizer=optimizer,
        scheduler=scheduler,
        evaluate=evaluate,
    )
    error = None
    try:
        run.open(resume)
        run.callbacks.begin(run)
        with warned_once():
            _loop(run, run.settings, progress)
    except BaseException as ends:
        error = ends
        raise
    finally:
        try:
            run.callbacks.end(run, error)
        finally:
            run.close()
    return run.history


def _settings(settings: Settings | Mapping[str, Any] | None, former: Path | None) -> Settings:
    """What was given; else the settings of the run in the folder `former`, else the defaults."""
    if isinstance(settings, Mapping):
        return Settings.of(settings)
    if settings is None and former is not None:
        settings = former_settings(former)
    return settings or Settings()


def _with_board(
    callbacks: Sequence[Callback | Callable[[Metrics], Any]], folder: Path | None
) -> Sequence[Callback | Callable[[Metrics], Any]]:
    """The callbacks, and TensorBoard for a folder, where it is installed and not among them."""
    given = any(isinstance(callback, TensorBoard) for callback in callbacks)
    if folder is None or given or not TensorBoard.installed():
        return callbacks
    return [TensorBoard(), *callbacks]


def _loop(run: Run, settings: Settings, progress: bool) -> None:
    """Update, show, save; until done or told to stop."""
    bar = progress_bar(
        total=settings.updates, initial=run.update, disable=not progress, unit="update"
    )
    # ranks end together, though one of them writes
    rescue = run.save if run.folder is not None or run.spread else None
    with bar, Stopper(rescue) as stopper:
        run.stopper = stopper
        # a part whose time is over after a signal is left by `Cut`
        with suppress(Cut):
            if run.pending is not None:
                run.evaluate()
            while not (run.done or _told_to_stop(run, stopper)):
                with _ended_together(stopper):
                    metrics = run.step()
                bar.update()
                if metrics:
                    bar.set_postfix(_shown(metrics), refresh=False)
                run.callbacks.tell(run, "update")
                if run.update % settings.checkpoint_every == 0 or run.done or run.stopping:
                    run.checkpoint()
        if stopper.number is not None or run.stopping:
            with suppress(Cut):
                run.checkpoint()
        run.finish()
        if stopper.number is not None:
            stopper.leave(f"after update {run.update}")


def _told_to_stop(run: Run, stopper: Stopper) -> bool:
    """Whether a callback or a signal says so; ranks that share a run end after the same update."""
    if run.spread:
        with _ended_together(stopper):
            wish = largest_of_ranks(stopper.number or STOP * run.stopping)
        if wish == STOP:
            run.stop()
        elif wish:
            stopper.number = wish
    return run.stopping or stopper.number is not None


@contextmanager
def _ended_together(stopper: Stopper) -> Iterator[None]:
    """`Cut` where another rank ended first, of the signal that ends this one."""
    try:
        yield
    except RankLost:
        if stopper.number is None:
            raise
        raise Cut from None


def _shown(metrics: Metrics) -> dict[str, str]:
    """The metrics beside the bar."""
    names = ("loss", *SCORES, "beta", "ess")
    return {name: f"{metrics[name]:.3f}" for name in names if name in metrics}
