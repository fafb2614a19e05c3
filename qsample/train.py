"""Training: `fit` turns a model, data and a sampler into a trained model, and survives being stopped."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm import tqdm

from qsample.run import Run
from qsample.sampler import Sampler
from qsample.settings import Settings as Settings
from qsample.wrapped import bare

if TYPE_CHECKING:
    from qsample.models import EnergyModel


def fit(
    model: EnergyModel,
    data: Tensor,
    sampler: Sampler,
    settings: Settings | None = None,
    *,
    validation: Tensor | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
) -> list[dict[str, float | int]]:
    """Train `model` in place on `data` [N, n_visible] by contrastive divergence; returns the metrics.

    With `out`, metrics go to `metrics.jsonl` (and TensorBoard, if installed) and checkpoints to the same folder.
    Each update's randomness is a function of (seed, update), so a run that resumes from a checkpoint equals one that
    was never stopped, bit for bit. Ctrl-C finishes the update, writes a checkpoint and then interrupts.

    Args:
        model: its parameters are the starting point.
        data: rows in the model's coding.
        sampler: draws the negative phase.
        settings: see `Settings`.
        validation: rows for the likelihood in the metrics; the data by default.
        out: folder of the run.
        resume: go on from the checkpoint in `out`, if there is one.
        progress: show a bar.
        config: JSON values kept in the checkpoint, such as what made the model.

    Raises:
        ValueError: bad data; a checkpoint of other settings or another model; a folder that already holds a run
            when `resume` is not set.
        FloatingPointError: the loss or the weights are no longer finite; the last checkpoint stands.
    """
    settings = settings or Settings()
    model = bare(model)
    data = model.check_rows(data)
    run = Run(model, data, sampler, settings, validation, None if out is None else Path(out), dict(config or {}))
    try:
        run.open(resume)
        _loop(run, settings, progress)
    finally:
        run.close()
    return run.history


def _loop(run: Run, settings: Settings, progress: bool) -> None:
    """Update, show, save; until done or interrupted."""
    pace = 0.1 if sys.stderr.isatty() else 10.0  # a log file wants a line now and then
    bar = tqdm(total=settings.updates, initial=run.update, disable=not progress, unit="update", mininterval=pace)
    with bar, _deferred_interrupt() as interrupted:
        while run.update < settings.updates:
            metrics = run.step()
            bar.update()
            if metrics:
                shown = ("loss", "log_likelihood", "pseudo_log_likelihood", "beta", "ess")
                bar.set_postfix({k: f"{metrics[k]:.3f}" for k in shown if k in metrics}, refresh=False)
            stop = interrupted.is_set()
            if stop or run.update % settings.checkpoint_every == 0 or run.update == settings.updates:
                run.save()
            if stop:
                raise KeyboardInterrupt(f"stopped after update {run.update}")


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that an update is never torn; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
