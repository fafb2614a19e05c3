"""The metrics of a run in TensorBoard."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsample.learning.callbacks import Callback
from qsample.learning.folder import Metrics
from qsample.support.faces import public

if TYPE_CHECKING:
    from qsample.learning.run import Run


@public("qsample")
class TensorBoard(Callback):
    """Writes each number of the metrics as a scalar over updates.

    `fit` adds one by itself where the run has a folder and TensorBoard is installed. A resumed run
    goes on in the same files: what comes after its checkpoint is forgotten.

    Args:
        folder: folder of the files; None means `tensorboard` in the folder of the run.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._make = _writer_class()
        if self._make is None:
            raise ImportError("TensorBoard needs the package tensorboard: pip install tensorboard")
        self._given = None if folder is None else Path(folder).expanduser()
        self._writer: Any = None
        self._folder = Path()

    @staticmethod
    def installed() -> bool:
        """Whether it can be used."""
        return _writer_class() is not None

    def on_begin(self, run: Run) -> None:
        """Open the files.

        Raises:
            ValueError: there is no folder.
        """
        if self._given is not None:
            self._folder = self._given
        elif run.folder is not None:
            self._folder = run.folder.path / "tensorboard"
        else:
            raise ValueError("TensorBoard() writes to the folder of the run: pass out= or a folder")
        self._open(run.update)

    def on_evaluate(self, run: Run, metrics: Metrics) -> None:
        """Write the numbers; all of the run's where the folder was deleted."""
        lines = [metrics]
        if not self._folder.exists():
            self._writer.close()
            self._open(0)
            lines = run.history
        for line in lines:
            for name, number in line.items():
                self._writer.add_scalar(name, number, int(line["update"]))

    def on_end(self, run: Run) -> None:
        """Write what is left."""
        self._writer.close()

    def _open(self, update: int) -> None:
        assert self._make is not None
        self._writer = self._make(self._folder, purge_step=update)


def _writer_class() -> Any:
    """TensorBoard's writer; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter
