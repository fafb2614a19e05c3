"""Files written all or nothing, and folders that one process writes at a time."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import uuid
import warnings
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

LOCK = ".lock"  # the file in a folder that its writer holds
_FAR = 1 << 30  # Windows locks bytes, also against readers: one that nobody reads


# Errors of file systems, many network ones among them, that cannot make a folder durable, and of
# folders that may be written but not read.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES)


def write_whole(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Put `data`, or its pieces one after the other, at `path` durably.

    Readers see the old file or the whole new one, also after a power cut. Threads and processes,
    of other hosts too, may write one path at once: the last one wins.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.tmp")
    try:
        with open(temporary, "wb") as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the system can."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    try:
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


class FolderInUse(ValueError):
    """Another run writes the folder; one line that names it and its process."""


class FolderLock:
    """The right to write a folder: one holder at a time, until `release` or the end of the process.

    The operating system holds it (`flock`, on Windows `msvcrt.locking`), so that a `kill -9` lets
    go of it and readers are never kept out. On NFS Linux turns it into a lock of the server, which
    other hosts see, unless the mount says `nolock` or `local_lock`: then it holds among the
    processes of one host. Where a file system has no locks at all, a warning says so.

    Raises:
        FolderInUse: a run of this process or another one holds it.
        OSError: the lock's file cannot be written.
    """

    _held: dict[tuple[int, int], weakref.ref[FolderLock]] = {}  # by device and inode
    _guard = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LOCK
        self._file: int | None = None
        self._key = (0, 0)
        while not self._take():
            pass

    def _take(self) -> bool:
        """Take it, or raise; False where the file was replaced before it was locked."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        file = os.open(self.path, flags, 0o644)
        try:
            key = _identity(os.fstat(file))
            with FolderLock._guard:
                # on a network file system a lock may be the process's, not the file's: look here
                # first
                other = FolderLock._held.get(key)
                if other is not None and other() is not None:
                    raise FolderInUse(self._refusal(file))
                if not self._lock(file):
                    raise FolderInUse(self._refusal(file))
                if not _is(self.path, key):
                    os.close(file)
                    return False
                FolderLock._held[key] = weakref.ref(self)
                self._file = file
                self._key = key
        except BaseException:
            os.close(file)
            raise
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        with suppress(OSError):  # a full disk: the lock holds, and only its holder's name is lost
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(holder).encode(), 0) if hasattr(os, "pwrite") else None
        return True

    def _lock(self, file: int) -> bool:
        """Whether the system gave the lock."""
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif msvcrt is not None:
                os.lseek(file, _FAR, os.SEEK_SET)
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # pyright: ignore
            else:
                raise OSError(errno.ENOSYS, "this system has no file locks")
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
                return False
            unprotected = f"{self.folder} is not protected against a second run: {error.strerror}"
            warnings.warn(unprotected, RuntimeWarning, stacklevel=5)
        return True

    def _refusal(self, file: int) -> str:
        """What stands in the way."""
        who = "another process"
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            holder = json.loads(os.pread(file, 4096, 0))
            who = f"process {int(holder['pid'])} on {str(holder['host'])[:64]}"
            if (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname()):
                who = f"this process ({os.getpid()})"
        return (
            f"{self.folder} is being written by another run of {who}: "
            "wait for it, stop it, or choose another output folder"
        )

    def intact(self) -> bool:
        """Whether the folder at the path is still the one that was locked."""
        return self._file is not None and _is(self.path, self._key)

    def release(self) -> None:
        """Let another run write the folder."""
        with FolderLock._guard:
            if self._file is None:
                return
            file = self._file
            self._file = None
            held = FolderLock._held.get(self._key)
            if held is not None and held() is self:
                del FolderLock._held[self._key]
            with suppress(OSError):
                os.ftruncate(file, 0)  # nobody's
            if fcntl is not None:
                # by name: closing leaves the lock to a child forked a moment ago
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def __del__(self) -> None:
        self.release()

    @classmethod
    def _forget(cls) -> None:
        """In a forked child: the lock is the parent's, and must not outlive it here."""
        cls._guard = threading.Lock()
        held = cls._held
        cls._held = {}
        for lock in held.values():
            if (own := lock()) is not None and own._file is not None:
                os.close(own._file)
                own._file = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=FolderLock._forget)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is(path: Path, key: tuple[int, int]) -> bool:
    """Whether the file at the path is that one."""
    try:
        return _identity(os.stat(path)) == key
    except OSError:
        return False
