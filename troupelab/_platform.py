"""What differs between operating systems: the one module with calls that POSIX alone has.

Look-ups, and locks on files; any thread may call them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

__all__ = ["is_root", "lock_file", "peak_rss_bytes", "sync_folder", "trim_heap", "unlock_file"]


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


def lock_file(path: Path) -> int:
    """Take the exclusive lock that a file stands for, without waiting, and write this process's id into it.

    The lock belongs to what is returned, not to the process: a second call fails in the same process as well. It ends
    with `unlock_file`, and with the process, however that ends.

    Returns:
        A file descriptor that holds the lock.

    Raises:
        BlockingIOError: somebody else holds it.
        OSError: the file cannot be made or locked.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle)
            # A holder that ended just now has removed the file we opened: a lock on that would keep nobody out.
            if _is_at(handle, path):
                with contextlib.suppress(OSError):  # a full disk; the id is only for people
                    os.ftruncate(handle, 0)
                    os.write(handle, str(os.getpid()).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def unlock_file(handle: int, path: Path) -> None:
    """Give back what `lock_file` returned, and remove the file."""
    if sys.platform != "win32":
        # Removed while still locked, so that nobody can hold a lock on it already.
        with contextlib.suppress(OSError):
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


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        # One byte far behind the content, so that the process id stays readable.
        os.lseek(handle, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from error
        os.lseek(handle, 0, os.SEEK_SET)
        return
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
