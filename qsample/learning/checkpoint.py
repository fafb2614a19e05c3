"""Checkpoints that survive any crash: tensors first, then a JSON manifest that commits them.

A save writes `checkpoint-00000012.safetensors`, then `checkpoint.json` with that file's name, size
and SHA-256; tensors are written and read where they lie, without a copy of all. Each file goes to a
temporary file, fsync, rename, fsync of the folder. Renaming the manifest is the commit: until then
the last checkpoint is untouched, and its tensors are deleted only afterwards. One process at a time
may save into a folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from itertools import count
from mmap import mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsample.learning.tensor_pieces import DTYPES, mapped, pieces, tensors_of
from qsample.support.checks import whole
from qsample.support.files import sync_folder, write_whole

LATEST = "checkpoint.json"
FORMAT = "qsample checkpoint"
VERSION = 1
_OURS = re.compile(r"(?P<stem>checkpoint-(?P<step>\d{8,})(-\d+)?)\.(?P<kind>safetensors|json)")
_TEMPORARY = re.compile(r"\.checkpoint.*\.tmp")


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; one line with the path and what is wrong with it."""


class NoCheckpoint(CheckpointError):
    """There is no checkpoint at the path (yet)."""


def save(
    folder: str | os.PathLike[str], state: dict[Any, Any], *, step: int, keep: int = 1
) -> Path:
    """Make `state` the folder's checkpoint, durably and all or nothing.

    Args:
        folder: folder of the checkpoint, made if missing.
        state: a nested dict, list or tuple of tensors (any dtype safetensors has; device and
            sharing are not kept) and None, bool, int, float or str. Key types, tuples, nan,
            infinities and long integers come back as they were.
        step: training step, >= 0.
        keep: number of checkpoints that stay: this one and the keep - 1 before it. With keep > 1
            each also has a manifest of its own, `checkpoint-{step:08d}.json`, to give to `load`.

    Returns:
        The manifest's path.

    Raises:
        CheckpointError: a value that cannot be stored, a folder that cannot be written, a full
            disk. The last checkpoint is then still there.
        ValueError: a step or a number that is none.
    """
    folder = Path(folder).expanduser()
    step = whole("step", step, 0)
    keep = whole("keep", keep, 1)
    tensors, tree = _pack(state)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # what a failed save may have left visible is durable before anything older goes
        sync_folder(folder)
        _prune(folder, _committed(folder))
        stem = _free_stem(folder, step)
        file = folder / f"{stem}.safetensors"
        written = _Written(pieces(tensors))
        write_whole(file, written)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "step": step,
            "tensors": {
                "file": file.name,
                "bytes": written.size,
                "sha256": written.digest.hexdigest(),
            },
            "state": tree,
        }
        text = _render(manifest)
        # the manifest is the commit point: it goes last
        if keep > 1:
            write_whole(folder / f"{stem}.json", text)
        write_whole(folder / LATEST, text)
    except OSError as error:
        raise CheckpointError(
            f"cannot save step {step} in {folder}: {error.strerror or error}"
        ) from error
    earlier = [name for name, number in _listed(folder).items() if number < step]
    _prune(folder, {stem, *earlier[: keep - 1]})
    return folder / LATEST


class _Written:
    """Pieces of a file, with the size and the SHA-256 of those that were taken."""

    def __init__(self, each: Iterator[memoryview | bytes]) -> None:
        self._each = each
        self.size = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[memoryview | bytes]:
        for piece in self._each:
            self.size += len(piece)
            self.digest.update(piece)
            yield piece


def _free_stem(folder: Path, step: int) -> str:
    """A name that no tensors have: saving a step again must not touch the committed file."""
    stem = f"checkpoint-{step:08d}"
    for k in count(1):
        if not (folder / f"{stem}.safetensors").exists():
            break
        stem = f"checkpoint-{step:08d}-{k}"
    return stem


def _prune(folder: Path, keep: set[str] | None) -> None:
    """Delete temporaries, and checkpoint files whose stem is not in `keep` (None: none of them)."""
    for path in list(folder.iterdir()):
        match = _OURS.fullmatch(path.name)
        old = match is not None and keep is not None and match["stem"] not in keep
        if old or _TEMPORARY.fullmatch(path.name):
            with suppress(OSError):  # tidying only: the next save tries again
                path.unlink()


def _listed(folder: Path) -> dict[str, int]:
    """Stem and step of the checkpoints with a manifest of their own, newest first."""
    steps = {}
    for path in folder.glob("*.json"):
        match = _OURS.fullmatch(path.name)
        if match:
            steps[match["stem"]] = int(match["step"])
    return dict(sorted(steps.items(), key=lambda item: item[1], reverse=True))


def _committed(folder: Path) -> set[str] | None:
    """The stems that a manifest refers to; None where the latest manifest cannot tell."""
    stems = set(_listed(folder))
    try:
        return stems | {Path(_manifest(folder)[1]["tensors"]["file"]).stem}
    except CheckpointError as error:
        return stems if isinstance(error, NoCheckpoint) else None


def load(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """The state last saved in a folder, or that of the given manifest file; tensors on the CPU.

    Raises:
        NoCheckpoint: there is none.
        CheckpointError: the manifest or the tensors are truncated, corrupt, or of another format
            version.
    """
    path, manifest = _manifest(Path(path).expanduser())
    data = _tensors_of(path, manifest)
    if data is None:
        return load(path)  # a running save replaced both files between the two reads
    try:
        stored = tensors_of(data)
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        file = path.parent / manifest["tensors"]["file"]
        raise CheckpointError(f"{file} is corrupt: no safetensors ({reason})") from None
    try:
        state = _decode(manifest["state"], stored)
    except (LookupError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: its state cannot be read ({error})") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is damaged: its state is no dict")
    return state


def _tensors_of(path: Path, manifest: dict[str, Any]) -> mmap | bytes | None:
    """The checked bytes of the tensors' file; None where the path's manifest is another by now."""
    tensors = manifest["tensors"]
    file = path.parent / tensors["file"]
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe or a device would never end
            raise CheckpointError(f"{path} needs {file.name}: it is no plain file")
        with file.open("rb") as opened:
            data = mapped(opened)
    except OSError as error:
        if _manifest(path)[1] != manifest:
            return None
        raise CheckpointError(f"{path} needs {file.name}: {error.strerror or error}") from error
    if len(data) != tensors["bytes"]:
        raise CheckpointError(
            f"{file} is truncated or damaged: expected {tensors['bytes']} bytes; got {len(data)}"
        )
    if hashlib.sha256(data).hexdigest() != tensors["sha256"]:
        raise CheckpointError(f"{file} is corrupt: its SHA-256 is not the one in {path.name}")
    return data


def last_step(path: str | os.PathLike[str]) -> int:
    """The step of a folder's checkpoint, or of a manifest, without reading tensors.

    Raises:
        CheckpointError: as `load`.
    """
    return _manifest(Path(path).expanduser())[1]["step"]


def _manifest(path: Path) -> tuple[Path, dict[str, Any]]:
    """The manifest at `path` or of the folder `path`, each byte checked against its own hash."""
    path = path / LATEST if path.is_dir() else path
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NoCheckpoint(f"no checkpoint at {path}") from None
    except OSError as error:
        raise CheckpointError(
            f"cannot read checkpoint {path}: {error.strerror or error}"
        ) from error
    try:
        manifest = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is corrupt: not JSON ({reason})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a {FORMAT}, or is corrupt: expected format {FORMAT!r}"
        )
    if (got := manifest.get("version")) != VERSION:
        raise CheckpointError(
            f"{path} has format version {got!r}: expected {VERSION}; a newer qsample may read it"
        )
    manifest.pop("sha256", None)
    try:
        same = _render(manifest) == raw  # not the hash alone: a change of white space is damage too
    except (RecursionError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt: not to be written again ({error})") from None
    if not same:
        raise CheckpointError(
            f"{path} is corrupt or edited: its SHA-256 is not that of its contents"
        )
    if fault := _fault(manifest):
        raise CheckpointError(f"{path} is damaged: {fault}")
    return path, manifest


def _fault(manifest: dict[str, Any]) -> str:
    """What is wrong with the structure of a manifest whose hash is right, in words."""
    step = manifest.get("step")
    tensors = manifest.get("tensors")
    if type(step) is not int or not 0 <= step < 1 << 63:
        return f"expected a step >= 0; got {str(step)[:40]}"
    if not isinstance(tensors, dict) or "state" not in manifest:
        return "it lacks its tensors or its state"
    file = tensors.get("file")
    size = tensors.get("bytes")
    digest = tensors.get("sha256")
    match = _OURS.fullmatch(file) if isinstance(file, str) else None
    if match is None or match["kind"] != "safetensors":  # a plain name: nothing outside the folder
        return f"expected a file checkpoint-N.safetensors beside it; got {str(file)[:80]!r}"
    if type(size) is not int or size < 0 or not isinstance(digest, str):
        return (
            f"expected the size and SHA-256 of {file}; got {str(size)[:40]}, {str(digest)[:80]!r}"
        )
    return ""


def _no_constant(name: str) -> None:
    """JSON proper has no NaN and no infinities."""
    raise ValueError(f"{name} is no number of JSON")


def _render(manifest: dict[str, Any]) -> bytes:
    """The one way to write a manifest: its JSON with the SHA-256 of that JSON added."""
    digest = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1).encode() + b"\n"


def _pack(state: dict[Any, Any]) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a state by name, and the rest of it as JSON values."""
    tensors: dict[str, Tensor] = {}
    try:
        tree = _encode(state, "", tensors)
        json.dumps(tree, indent=1)  # as `_render` will: fails here on integers too long to print
        return tensors, tree
    except CheckpointError:
        raise
    except (ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"cannot store state: {str(error).splitlines()[0]}") from error


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON of a value, its tensors put into `tensors`; what JSON lacks is {"$kind": ...}."""
    if isinstance(value, Tensor):
        return {"$tensor": _put(value, name, tensors)}
    if isinstance(value, dict):
        items = {}
        for key, item in value.items():
            items[key] = _encode(item, f"{name}.{key}" if name else str(key), tensors)
        if all(type(key) is str and not key.startswith("$") for key in items):
            return items
        pairs = []
        for key, item in items.items():
            pairs.append([_encode_scalar(key, f"key {key!r} of {name!r}"), item])
        return {"$dict": pairs}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{name}.{k}", tensors) for k, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    return _encode_scalar(value, repr(name))


def _encode_scalar(value: Any, name: str) -> Any:
    """The JSON of what holds nothing else; `name` says in the error where it stands."""
    if isinstance(value, float):  # and numpy.float64, which is one
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if value is None or isinstance(value, bool | int | str) and not isinstance(value, Enum):
        return value
    raise CheckpointError(
        f"cannot store {type(value).__name__} at {name}: "
        "expected tensors, None, bool, int, float, str, dict, list or tuple"
    )


def _put(tensor: Tensor, name: str, tensors: dict[str, Tensor]) -> str:
    """Put a tensor among the others; the name it has there."""
    dense = tensor.layout is torch.strided and not tensor.is_meta
    if not dense or tensor.dtype not in DTYPES:
        kind = f"{tensor.layout} {tensor.dtype} on {tensor.device}"
        raise CheckpointError(
            f"cannot store tensor {name!r} ({kind}): expected a dense one of a safetensors type"
        )
    name = name.encode(errors="replace").decode()  # a readable name; which one does not matter
    while name in tensors or name == "__metadata__":
        name += "'"
    tensors[name] = tensor.detach()
    return name


def _decode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that `_encode` made JSON of."""
    if isinstance(tree, list):
        return [_decode(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1 and (kind := next(iter(tree))).startswith("$"):
        value = tree[kind]
        if kind == "$dict":
            return {_decode(key, tensors): _decode(item, tensors) for key, item in value}
        if kind == "$tuple":
            return tuple(_decode(item, tensors) for item in value)
        if kind == "$tensor":
            return tensors[value]
        if kind != "$float" or value not in ("nan", "inf", "-inf"):
            raise ValueError(f"unknown {str(tree)[:80]}")
        return float(value)
    return {key: _decode(item, tensors) for key, item in tree.items()}
