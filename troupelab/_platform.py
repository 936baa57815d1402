"""What differs between operating systems: the one module with calls that POSIX alone has.

Look-ups, and locks on files; any thread may call them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

__all__ = ["is_root", "lock_file", "peak_rss_bytes", "sync_folder", "trim_heap", "unlock_file"]

_READERS_TRIES = 40


def trim_heap() -> None:
    """Give memory back that was freed in pieces, where the system's allocator (glibc) keeps it; a few ms at most."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes

    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


def is_root() -> bool:
    """Tell whether this process runs as the superuser (never, on Windows)."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def peak_rss_bytes() -> int:
    """The most memory that this process has had resident, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes (getrusage(2) of each).
    return peak if sys.platform == "darwin" else peak * 1024


def lock_file(path: Path, *, shared: bool = False) -> int:
    """Take the lock that a file stands for, without waiting, and write this process's id into it.

    The lock belongs to what is returned, not to the process: a second call fails in the same process as well. It ends
    with `unlock_file`, and with the process, however that ends.

    Args:
        path: the file; it is made where it is missing. What a symbolic link names is not touched.
        shared: whether others may share it, who then keep out whoever wants it alone; nothing is written into the file.

    Returns:
        A file descriptor that holds the lock.

    Raises:
        BlockingIOError: somebody else holds it.
        OSError: the file cannot be made or locked, or is no file.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        handle = os.open(path, flags, 0o644)
        try:
            _refuse_other(handle, path)
            _lock(handle, shared)
            # A holder that ended just now has removed the file we opened: a lock on that would keep nobody out.
            if _is_at(handle, path):
                if not shared:
                    with contextlib.suppress(OSError):  # a full disk; the id is only for people
                        os.ftruncate(handle, 0)
                        os.write(handle, str(os.getpid()).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def unlock_file(handle: int, path: Path) -> None:
    """Give back what `lock_file` returned, and remove the file where nobody shares it."""
    if sys.platform != "win32":
        # Removed while locked by us alone, so that nobody can hold a lock on it already.
        with contextlib.suppress(OSError):
            _lock(handle, shared=False)
            path.unlink()
        os.close(handle)
        return
    os.close(handle)
    with contextlib.suppress(OSError):  # Windows: impossible while it is open, and another may have opened it
        path.unlink()


def sync_folder(path: Path) -> None:
    """Make new names in a folder survive a loss of power (Windows does so by itself)."""
    if sys.platform != "win32":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _refuse_other(handle: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, "not a file that can be locked", str(path))


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int, shared: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        # One byte far behind the content, so that the process id stays readable. There are no shared locks: readers wait for each other.
        for attempt in range(_READERS_TRIES if shared else 1):
            if attempt:
                time.sleep(0.05)
            os.lseek(handle, 1 << 30, os.SEEK_SET)
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            except OSError as error:
                if attempt + 1 == (_READERS_TRIES if shared else 1):
                    raise BlockingIOError(*error.args) from error
            else:
                break
        os.lseek(handle, 0, os.SEEK_SET)
        return
    import fcntl

    fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
