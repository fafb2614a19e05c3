"""What a machine draws: measured, stated, or not known. Watts of a busy core, and of a QPU."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

POWERCAP = Path("/sys/class/powercap")
STATED = "QSAMPLE_TDP"
"""the environment variable that states watts of a package and its cores, as in 280/64"""
QPU_WATTS = 25_000.0
QPU_SOURCE = (
    "QPU: 25 kW while it is asked, refrigerator included: D-Wave's word on a 2X, slightly less, to "
    "stay so for generations (IEEE Spectrum, 2015)"
)
REFRESH = 1.0  # seconds between readings of the counter
LEAST = 0.1  # seconds over which a first mean is taken


class Power(NamedTuple):
    """Power of one busy core.

    Attributes:
        watts: the power; None where it is not known.
        source: where that is from, in words.
    """

    watts: float | None
    source: str


NOT_KNOWN = Power(
    None, f"CPU: not known (no power counter can be read; {STATED}=watts/cores states it)"
)


class Counter:
    """The energy counters of the machine's CPU packages (RAPL, by Linux' powercap).

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._packages: list[tuple[Path, int]] = []
        for package in sorted(folder.glob("intel-rapl:*")):
            if package.name.count(":") > 1:  # a part of a package
                continue
            try:
                whole = int((package / "max_energy_range_uj").read_text())
                int((package / "energy_uj").read_text())  # root's alone on many machines
            except (OSError, ValueError):
                continue
            self._packages.append((package / "energy_uj", whole))
        self.cores = os.cpu_count() or 1
        self._energies: list[int] = []
        self._at = 0.0
        self._watts: float | None = None

    def watts(self) -> float | None:
        """Power of all packages, the mean of a second or more; None where none can be read."""
        if not self._packages:
            return None
        now = time.monotonic()
        waited = now - self._at
        if self._energies and waited < (LEAST if self._watts is None else REFRESH):
            return self._watts
        try:
            energies = [int(path.read_text()) for path, _ in self._packages]
        except (OSError, ValueError):
            return self._watts
        if self._energies:
            used = 0
            for (_, whole), before, after in zip(
                self._packages, self._energies, energies, strict=True
            ):
                used += after - before if after >= before else after - before + whole
            self._watts = used / 1e6 / waited
        self._energies = energies
        self._at = now
        return self._watts


@lru_cache(maxsize=1)
def counter() -> Counter:
    """The counters of this machine."""
    return Counter()


def core_power() -> Power:
    """Power of one busy core: the packages' by their counter, else as stated, over the cores.

    Cheap: the counter is read once a second.

    Raises:
        ValueError: `QSAMPLE_TDP` holds something else than watts and cores.
    """
    machine = counter()
    watts = machine.watts()
    if watts is not None:
        source = f"CPU: package power by its counter (RAPL), over {machine.cores} CPUs"
        return Power(watts / machine.cores, source)
    text = os.environ.get(STATED)
    return stated_power(text) if text else NOT_KNOWN


@lru_cache(maxsize=4)
def stated_power(text: str) -> Power:
    """What `QSAMPLE_TDP` states, "watts/cores"."""
    try:
        watts, _, cores = text.partition("/")
        power = float(watts) / int(cores)
        if not 0 < power < 1e4:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"expected {STATED} as watts of a package and its cores, as in 280/64; got {text!r}"
        ) from None
    return Power(power, f"CPU: {float(watts):g} W over {int(cores)} cores, as {STATED} states")
