"""What every script shares: options, a report with its origin, clocks, pictures.

A script begins with `report = Report(options, __file__)`, ends with
`report.finish(result, figure)`, and runs by `command_line(main, Options)`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import random
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import matplotlib
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from qsample.support.optional import DISTRIBUTION
from qsample.support.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
OURS = "#2166ac"
"""the colour of what is ours"""
THEIRS = "#b35806"
"""the colour of a peer"""
T = TypeVar("T")


# ---- options ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommonOptions:
    """What every script asks."""

    out: Path | None = None
    """folder for results.json and report.png; runs/ and the script's name by default"""
    publish: bool = False
    """copy both to experiments/results/ under the script's name"""
    threads: int = 1
    """torch threads"""


def command_line(main: Callable[[T], None], options: type[T]) -> None:
    """Run a script on its options from the command line."""
    main(tyro.cli(options, description=sys.modules[main.__module__].__doc__))


def check_choices(option: str, given: Iterable[str], known: Iterable[str]) -> None:
    """A SystemExit of one line for none, or for one that is not known, before anything is run.

    Args:
        option: name of the option.
        given: what it was given.
        known: what it can be.
    """
    given = tuple(given)
    known = tuple(known)
    if not given or not set(given) <= set(known):
        names = ", ".join(map(repr, known))
        got = ", ".join(map(repr, given)) or "none"
        raise SystemExit(f"--{option} needs some of {names}; got {got}")


def check_range(option: str, given: Iterable[int], low: int, high: int | None = None) -> None:
    """A SystemExit of one line for no number, or for one out of range, before anything is run.

    Args:
        option: name of the option.
        given: the numbers.
        low: the least that it can be.
        high: the most; None where there is none.
    """
    given = tuple(given)
    top = math.inf if high is None else high
    if not given or not all(low <= number <= top for number in given):
        expected = f"{low} or more" if high is None else f"{low} to {high}"
        got = ", ".join(map(str, given)) or "none"
        raise SystemExit(f"--{option} needs {expected}; got {got}")


# ---- the report -------------------------------------------------------------------------------


class Report:
    """The folder of a run: strict JSON that names command, machine and versions, and a picture."""

    def __init__(
        self,
        options: CommonOptions,
        script: str,
        packages: Iterable[str] = ("dwave-samplers",),
        variant: str = "",
    ) -> None:
        """Make the folder and set torch's threads.

        Args:
            options: options of the run, which are written with its result.
            script: path of the script, `__file__`; its stem names the published files.
            packages: distributions whose versions matter, beside qsample, torch and numpy.
            variant: what the names end in, of a script that publishes several results.
        """
        torch.set_num_threads(options.threads)
        self.options = options
        self.name = Path(script).stem + variant
        self.packages = ("qsample", "torch", "numpy", *packages)
        self.folder = options.out or Path("runs") / self.name
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, result: Any) -> None:
        """Write results.json; also in between, so that a run that is ended leaves what it has."""
        document = {
            "command": command(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(self.options.threads),
            "versions": versions(self.packages),
            "options": self.options,
            "result": result,
        }
        text = json.dumps(strict(document), indent=1, allow_nan=False) + "\n"
        temporary = self.folder / "results.tmp.json"
        temporary.write_text(text)
        os.replace(temporary, self.folder / "results.json")

    def picture(self, figure: Figure, dpi: int = 120) -> None:
        """Write report.png in one step, and close the figure.

        Args:
            figure: picture of the run.
            dpi: resolution, dots per inch.
        """
        temporary = self.folder / "report.tmp.png"
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight")
        os.replace(temporary, self.folder / "report.png")
        plt.close(figure)

    def finish(self, result: Any, figure: Figure) -> None:
        """Write both, publish them if asked to, and say where they are."""
        self.write(result)
        self.picture(figure)
        if self.options.publish:
            shutil.copy(self.folder / "results.json", RESULTS / f"{self.name}.json")
            shutil.copy(self.folder / "report.png", RESULTS / f"{self.name}.png")
        print(self.folder / "results.json")
        print(self.folder / "report.png")


def published(name: str) -> dict[str, Any]:
    """The committed JSON of a script, by its name."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def strict(value: Any) -> Any:
    """What strict JSON can hold of a value: paths as `said`, no infinity or NaN (null instead)."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if is_dataclass(value):
        return strict(vars(value))
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, Tensor):
        return strict(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return said(value)
    return value


def command() -> str:
    """The command line of this process, from the checkout's root."""
    script = said(Path(sys.argv[0]).absolute())
    arguments = [said(Path(text)) if Path(text).is_absolute() else text for text in sys.argv[1:]]
    return shlex.join(["python", script, *arguments])


def said(path: Path) -> str:
    """A path as it is published: from the checkout's root, or a name; none of one machine."""
    if path.is_relative_to(ROOT):
        return os.path.relpath(path, ROOT)
    return path.name if path.is_absolute() else str(path)


def machine(threads: int) -> dict[str, Any]:
    """Where a figure was measured; family and model tell generations of one name apart."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    pairs = (line.partition(":") for line in reversed(lines))
    cpu = {key.strip(): value.strip() for key, _, value in pairs}
    numbers = [f"{key} {cpu[key]}" for key in ("cpu family", "model") if key in cpu]
    sets = instruction_sets()
    return {
        "processor": cpu.get("model name") or platform.processor() or platform.machine(),
        "model": ", ".join(numbers),
        "instruction_set": sets[0],
        "instruction_sets": sets,
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def instruction_sets() -> list[str]:
    """Those that the native kernels can use on this machine, the best first."""
    return importlib.import_module("qsample.annealers._engine").instruction_sets()


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of Python and of packages; null for one that is not installed."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = version(DISTRIBUTION if package == "qsample" else package)
        except PackageNotFoundError:
            installed[package] = None
    return installed


# ---- clocks -----------------------------------------------------------------------------------


class Seconds(NamedTuple):
    """How long a call took."""

    wall: float
    cpu: float


class Stopwatch:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def read(self) -> Seconds:
        """Seconds so far."""
        return Seconds(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def timed(call: Callable[[], Any]) -> Seconds:
    """Seconds of a call."""
    watch = Stopwatch()
    call()
    return watch.read()


def paired_rounds(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    pause: float = 0.0,
    what: str = "rounds",
    quiet: bool = False,
) -> dict[str, list[Seconds]]:
    """Seconds of calls in rounds: each round makes every call once, in random order.

    A slow hour of the machine so slows all calls alike; see `ratio`.

    Args:
        calls: calls by name; make each once before, so that nothing is loaded while it is timed.
        rounds: number of rounds.
        pause: seconds before each call, in which threads of the call before come to rest.
        what: text of the progress bar.
        quiet: whether there is none.
    """
    seconds: dict[str, list[Seconds]] = {name: [] for name in calls}
    order = random.Random(0)
    for _ in progress_bar(range(rounds), desc=what, disable=quiet):
        for name in order.sample(list(calls), len(calls)):
            time.sleep(pause)
            seconds[name].append(timed(calls[name]))
    return seconds


def medians(seconds: Sequence[Seconds]) -> Seconds:
    """Median over rounds of each clock."""
    return Seconds(*(statistics.median(values) for values in zip(*seconds, strict=True)))


def ratio(seconds: Sequence[Seconds], base: Sequence[Seconds], clock: str = "wall") -> float:
    """Median over rounds of the ratio within a round.

    Args:
        seconds: rounds of a call, of `paired_rounds`.
        base: the same rounds of the call that it is compared with.
        clock: wall or cpu.
    """
    pairs = zip(seconds, base, strict=True)
    return statistics.median(getattr(a, clock) / getattr(b, clock) for a, b in pairs)


# ---- pictures ---------------------------------------------------------------------------------


def mosaic(
    images: Tensor, shape: tuple[int, int], columns: int | None = None, fill: float = 0.5
) -> Tensor:
    """Images side by side in one frame, a line between them.

    Args:
        images: images `[N, rows * columns]`, or of any shape that can be seen so.
        shape: rows and columns of an image, pixels.
        columns: images in a row of the frame; by default the frame is nearly square.
        fill: value of the line and of empty places.
    """
    height, width = shape
    across = columns or math.ceil(len(images) ** 0.5)
    down = math.ceil(len(images) / across)
    frame = torch.full((down * (height + 1) - 1, across * (width + 1) - 1), fill)
    for k, image in enumerate(images.reshape(-1, height, width)):
        top = k // across * (height + 1)
        left = k % across * (width + 1)
        frame[top : top + height, left : left + width] = image
    return frame
