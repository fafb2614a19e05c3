"""Callbacks: what others do while a run goes on, and what happens when they fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsample.learning.folder import Metrics
from qsample.support.faces import public

if TYPE_CHECKING:
    from qsample.learning.run import Run


@public("qsample")
class Callback:
    """What is called while `fit` goes on: override what you need.

    A run, the first argument of each method, has `model`, `averaged` (the model that is evaluated:
    with averaged weights, where there are some), `settings`, `update` (number of updates made),
    `history` (the metrics so far), `samples` (the last reads) and `stop()`, which ends the run
    after this update, with a checkpoint. Weights and chains are not to be changed.

    An error that a callback raises ends the run, as it is; a checkpoint of the present update is
    written first, so that nothing is lost. After SIGTERM or SIGHUP a callback that needs longer
    than a second is cut short, like an update.
    """

    def on_begin(self, run: Run) -> None:
        """Called before the first update, or before the first one of a resumed run."""

    def on_update(self, run: Run) -> None:
        """Called after each update, and after its evaluation where one is due."""

    def on_evaluate(self, run: Run, metrics: Metrics) -> None:
        """Called with the metrics, each time that there are new ones."""

    def on_checkpoint(self, run: Run, folder: Path) -> None:
        """Called after each checkpoint, with the folder that holds it."""

    def on_end(self, run: Run) -> None:
        """Called once for every `on_begin`, however the run ends: the place to close files.

        The model has the weights that `fit` returns, unless the run ends by an error.
        """


class OnMetrics(Callback):
    """A plain function of the metrics as a callback; it stops the run where it returns True."""

    def __init__(self, function: Callable[[Metrics], Any]) -> None:
        self.function = function

    def on_evaluate(self, run: Run, metrics: Metrics) -> None:
        """Call it with a copy: the history stays as it is."""
        if self.function(dict(metrics)) is True:
            run.stop()


class Callbacks:
    """Several callbacks as one.

    Args:
        callbacks: callbacks, or functions of the metrics.

    Raises:
        TypeError: something else.
    """

    def __init__(self, callbacks: Sequence[Callback | Callable[[Metrics], Any]]) -> None:
        self.all = [_as_callback(callback) for callback in callbacks]
        self._begun: list[Callback] = []

    def begin(self, run: Run) -> None:
        """Before the first update."""
        for callback in self.all:
            callback.on_begin(run)
            self._begun.append(callback)

    def end(self, run: Run, error: BaseException | None) -> None:
        """At the end: each that has begun, whatever the others do; the first error is raised.

        Args:
            run: the run.
            error: what ends the run, which goes first; None where it ends as it should.
        """
        ends_well = error is None
        for callback in self._begun:
            try:
                callback.on_end(run)
            except Exception as late:
                if error is None:
                    error = late
                else:
                    error.add_note(f"{type(callback).__name__}.on_end raised {late!r} then")
        self._begun = []
        if ends_well and error is not None:
            raise error

    def tell(self, run: Run, what: str, *arguments: Any) -> None:
        """Call `on_{what}` of all; where one raises, the run is saved first."""
        for callback in self.all:
            with run.stopper.cuttable("callback"), saved_on_error(run):
                getattr(callback, f"on_{what}")(run, *arguments)


@contextmanager
def saved_on_error(run: Run) -> Iterator[None]:
    """Inside, code of others runs between two updates: on its error the run is saved.

    The error goes on as it is, whether or not there is a folder and the state is good.
    """
    try:
        yield
    except Exception as error:
        if run.folder is not None:
            run.judged = -1  # whatever was changed in it
            with suppress(ValueError, ArithmeticError, OSError):
                run.save()
                error.add_note(f"{run.folder.path} holds a checkpoint of update {run.update}")
        raise


def _as_callback(given: Any) -> Callback:
    """A callback, of one or of a function."""
    if isinstance(given, Callback):
        return given
    if isinstance(given, type) or not callable(given):
        name = given.__name__ if isinstance(given, type) else type(given).__name__
        raise TypeError(
            f"expected callbacks as objects of qs.Callback, or functions of the metrics; got {name}"
        )
    return OnMetrics(given)
