"""Errors that a command expects, as one line whose advice is flags."""

from __future__ import annotations

import re

from qsample.annealers.registry import CATALOGUE, CorrectedEntry
from qsample.learning.distributed import RankLost

EXPECTED = (ValueError, OSError, ImportError, FloatingPointError, MemoryError, RuntimeError)


def line_of(error: Exception) -> str | None:
    """An error in one line, its advice as flags; None for one that nobody expects."""
    if isinstance(error, RankLost) or not isinstance(error, MemoryError | RuntimeError):
        return advice(" ".join(str(error).split()))
    if "GiB are free" in str(error):
        return str(error)  # what was seen to come, with its numbers
    if out_of_memory(error):
        return "not enough memory: ask for fewer reads, chains or hidden units"
    return None


def out_of_memory(error: Exception) -> bool:
    """Whether memory did not suffice, in the words of Python or of torch."""
    if isinstance(error, MemoryError):
        return True
    phrases = (
        "can't allocate memory",
        "out of memory",
        "Storage size calculation overflowed",
        "not enough memory",
    )
    return any(phrase in str(error) for phrase in phrases)


def advice(text: str) -> str:
    """A message of the library with its advice as flags, `Gibbs(sweeps=...)` as --sampler gibbs."""
    plain: dict[str, str] = {}  # names of the catalogue by class
    corrected: dict[str, str] = {}  # and of its composites, by the class of their first sampler
    for name, entry in CATALOGUE.items():
        if isinstance(entry, CorrectedEntry):
            corrected[CATALOGUE[entry.sampler].kind] = name
        else:
            plain[entry.kind] = name

    def pair(match: re.Match[str]) -> str:
        return f"--sampler {corrected.get(match[1], 'corrected-annealing')}"

    def single(match: re.Match[str]) -> str:
        return f"--sampler {plain[match[1]]}"

    text = re.sub(r"Corrected\((\w+)\([^()]*\), Gibbs\([^()]*\)\)", pair, text)
    text = re.sub(rf"\b({'|'.join(plain)})\([^()]*\)", single, text)
    text = re.sub(r"\bresume=True\b", "--resume", text)
    text = re.sub(r"\b(start|decay|binarise)='(\w+)'", r"--\1 \2", text)
    return text
