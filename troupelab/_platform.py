"""What differs between operating systems: the one module with calls that POSIX alone has.

Pure look-ups; any thread may call them.
"""

from __future__ import annotations

import os
import sys

__all__ = ["is_root", "peak_rss_bytes"]


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
