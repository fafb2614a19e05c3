"""Whether what is about to be allocated will fit, said before it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

GIB = 2**30


def check_room(what: str, parts: Mapping[str, int], device: torch.device) -> None:
    """A MemoryError with the numbers where parts of so many bytes do not fit beside what is there.

    Args:
        what: what needs them, for the message.
        parts: bytes by the name of what takes them.
        device: where they are to lie.

    Raises:
        MemoryError: they are more than `available` says.
    """
    needed = sum(parts.values())
    if device.type == "cuda" and needed <= _kept(device):
        return  # to ask the driver takes longer than a small step
    free = available(device)
    if free is None or needed <= free:
        return
    each = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    raise MemoryError(
        f"{what} needs {needed / GIB:.2f} GiB more ({each}) and {free / GIB:.2f} GiB are free on "
        f"{device}: use fewer rows or chains, fewer units, or weights of bfloat16"
    )


def available(device: torch.device) -> int | None:
    """Bytes that can still be allocated there; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + _kept(device)
    if device.type != "cpu":
        return None
    free = [_of_machine(), _of_group()]
    return min((size for size in free if size is not None), default=None)


def _kept(device: torch.device) -> int:
    """Bytes that torch keeps of tensors that are gone."""
    return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _of_machine() -> int | None:
    file = Path("/proc/meminfo")
    if not file.exists():
        return None
    for line in file.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_group() -> int | None:
    """What a container's limit leaves (cgroups, version 2); cached files make room."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
