"""Training: `fit` turns a model, data and a sampler into a trained model, and survives being stopped."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

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
    """Train `model` in place on `data` [N, n_visible] by contrastive divergence; returns the metrics.

    With `out`, metrics go to `metrics.jsonl` (and TensorBoard, if installed) and checkpoints to the
    same folder. Each update's randomness is a function of (seed, update), so a run that resumes
    from a checkpoint equals one that was never stopped, bit for bit. One run at a time writes a
    folder; readers are free.

    Ctrl-C, SIGTERM and SIGHUP finish the update, write a checkpoint and then end: by
    KeyboardInterrupt or by a SystemExit of 143 or 129. After a SIGTERM or SIGHUP this takes 5
    seconds at most: an update that needs longer is given up, and the checkpoint is of the one
    before. A second signal ends at once.

    Args:
        model: its parameters are the starting point.
        data: rows in the model's coding.
        sampler: draws the negative phase.
        settings: see `Settings`; a mapping holds its arguments. None: those of the checkpoint when
            a run is resumed, else the defaults.
        validation: rows for the likelihood in the metrics; the data by default.
        out: folder of the run.
        resume: go on from the checkpoint in `out`, if there is one. More updates extend a run whose
            learning rate stays; one whose rate fell to zero goes on with `decay_from`. How often to
            evaluate and to save may change.
        progress: show a bar.
        config: JSON values kept in the checkpoint, such as what made the model; None keeps a
            resumed run's.

    Raises:
        ValueError: bad data; weights of 16 bits; a checkpoint of other settings or another model; a
            folder that already holds a run when `resume` is not set, or that another run is writing
            (`FolderInUse`).
        FloatingPointError: training diverged (`Diverged`): the loss or the weights are no longer
            finite, or the data are far less likely than under coins; the last good checkpoint
            stands.
    """
    folder = None if out is None else Path(out).expanduser()
    if isinstance(settings, Mapping):
        settings = Settings.of(settings)
    if settings is None and resume and folder is not None:
        settings = former_settings(folder)
    settings = settings or Settings()
    model = bare(model)
    data = model.check_rows(data)
    kept = None if config is None else dict(config)
    run = Run(model, data, sampler, settings, validation, folder, kept)
    try:
        run.open(resume)
        with warned_once():
            _loop(run, settings, progress)
    finally:
        run.close()
    return run.history


def _loop(run: Run, settings: Settings, progress: bool) -> None:
    """Update, show, save; until done or told to stop."""
    bar = progress_bar(
        total=settings.updates, initial=run.update, disable=not progress, unit="update"
    )
    with bar, Stopper(None if run.folder is None else run.save) as stopper:
        run.stopper = stopper
        with suppress(Cut):
            if run.pending is not None:
                run.evaluate()
            while run.update < settings.updates and stopper.number is None:
                metrics = run.step()
                bar.update()
                if metrics:
                    shown = ("loss", "log_likelihood", "pseudo_log_likelihood", "beta", "ess")
                    show = {key: f"{metrics[key]:.3f}" for key in shown if key in metrics}
                    bar.set_postfix(show, refresh=False)
                if run.update % settings.checkpoint_every == 0 or run.update == settings.updates:
                    run.save()
        if stopper.number is not None:
            run.save()
            stopper.leave(f"after update {run.update}")
