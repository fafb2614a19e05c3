"""Training: `fit` makes a trained model of a model, data and a sampler, and may be stopped."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qsample.learning.folder import Metrics
from qsample.learning.run import Run
from qsample.learning.saved import former_settings
from qsample.learning.settings import Settings as Settings
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import warned_once
from qsample.support.faces import public
from qsample.support.interrupts import Cut, Stopper
from qsample.support.progress import progress_bar
from qsample.support.wrapped import bare

if TYPE_CHECKING:
    from qsample.models import EnergyModel


@public("qsample")
def fit(
    model: EnergyModel,
    data: Tensor,
    sampler: Sampler,
    settings: Settings | Mapping[str, Any] | None = None,
    *,
    validation: Tensor | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
) -> list[dict[str, float | int]]:
    """Train `model` in place by contrastive divergence; returns the metrics.

    With `out`, metrics go to `metrics.jsonl` (and TensorBoard, if installed) and checkpoints to the
    same folder. Each update's randomness is a function of (seed, update), so a run that resumes
    from a checkpoint equals one that was never stopped, bit for bit; but for one that was saved
    under other draws of the native kernels, which goes on with a warning. One run at a time writes
    a folder; readers are free.

    Ctrl-C, SIGTERM and SIGHUP finish the update, write a checkpoint and then end: by
    KeyboardInterrupt or by a SystemExit of 143 or 129. After a SIGTERM or SIGHUP this takes at
    most 5 seconds: an update that needs longer is given up, and the checkpoint is of the one
    before. A second signal ends at once.

    Args:
        model: an energy model; its parameters are the starting point.
        data: rows `[N, n_visible]` in the model's coding.
        sampler: draws the negative phase, and hidden units given data where these are coupled.
        settings: how to train, or a mapping of the arguments of `Settings`. None means those of
            the checkpoint when a run is resumed, else the defaults.
        validation: rows `[M, n_visible]` for the likelihood in the metrics; None means the data.
        out: folder of the run; None writes nothing.
        resume: whether to go on from the checkpoint in `out`, if there is one. More updates extend
            a run whose learning rate stays; one whose rate fell to zero goes on with `decay_from`.
            How often to evaluate and to save may change.
        progress: whether to show a bar.
        config: JSON values kept in the checkpoint, such as what made the model; None keeps those
            of a resumed run.

    Returns:
        The metrics, one dict per evaluation: "update", "loss" (no likelihood), "log_likelihood" or
        "pseudo_log_likelihood" in nats per row of validation, "beta" of the reads and
        "beta_stderr" (1 is right), "ess" (independent reads per update), "seconds" of training,
        and what the sampler says that it has spent so far, such as "qpu_seconds".

    Raises:
        ValueError: bad data or settings; weights of 16 bits; a checkpoint that is damaged
            (`CheckpointError`), of other settings or of another model; a folder that cannot be
            written, that already holds a run when `resume` is not set, or that another run is
            writing (`FolderInUse`).
        TypeError: data that are no tensor, or a sampler that is none.
        FloatingPointError: training diverged (`Diverged`): the loss or the weights are no longer
            finite, or the data are far less likely than under coins; the last good checkpoint
            stands.
        KeyboardInterrupt: Ctrl-C, after the update and its checkpoint.
        SystemExit: SIGTERM or SIGHUP, likewise.
    """
    folder = None if out is None else Path(out).expanduser()
    settings = _settings(settings, folder if resume else None)
    model = bare(model)
    data = model.check_rows(data)
    run = Run(
        model,
        data,
        sampler,
        settings,
        validation=validation,
        out=folder,
        config=None if config is None else dict(config),
    )
    try:
        run.open(resume)
        with warned_once():
            _loop(run, settings, progress)
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


def _loop(run: Run, settings: Settings, progress: bool) -> None:
    """Update, show, save; until done or told to stop."""
    bar = progress_bar(
        total=settings.updates, initial=run.update, disable=not progress, unit="update"
    )
    rescue = None if run.folder is None else run.save
    with bar, Stopper(rescue) as stopper:
        run.stopper = stopper
        # a part whose time is over after a signal is left by `Cut`
        with suppress(Cut):
            if run.pending is not None:
                run.evaluate()
            while run.update < settings.updates and stopper.number is None:
                metrics = run.step()
                bar.update()
                if metrics:
                    bar.set_postfix(_shown(metrics), refresh=False)
                if run.update % settings.checkpoint_every == 0 or run.update == settings.updates:
                    run.save()
        if stopper.number is not None:
            run.save()
            stopper.leave(f"after update {run.update}")


def _shown(metrics: Metrics) -> dict[str, str]:
    """The metrics beside the bar."""
    names = ("loss", "log_likelihood", "pseudo_log_likelihood", "beta", "ess")
    return {name: f"{metrics[name]:.3f}" for name in names if name in metrics}
