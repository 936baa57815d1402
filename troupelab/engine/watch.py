"""The watch: samples what the process takes, twice a second, and tells when a guardrail on time or memory is reached.

It lives on the engine's event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from troupelab.events import Emit, ProcessSampled
from troupelab.livelimits import LiveLimits
from troupelab.memory.pool import Pool
from troupelab.models.limiter import Limiter

if TYPE_CHECKING:
    import psutil

__all__ = ["watch_process"]

_EVERY_S = 0.5


async def watch_process(
    limits: LiveLimits,
    limiter: Limiter,
    pool: Pool,
    *,
    emit: Emit,
    clock: Callable[[], float],
    active_s: Callable[[], float],
    reached: Callable[[str, str], object],
    look: Callable[[], object],
) -> None:
    """Sample until cancelled; the last sample is how it ended.

    Args:
        limits: max_wall_s and max_rss_bytes.
        limiter: tells how many calls are in flight and how many wait.
        pool: tells what all memories take.
        emit: is told each sample.
        clock: seconds since the run's start.
        active_s: seconds of these that were no pause.
        reached: is told the limit and a sentence.
        look: is called at each sample.
    """
    import psutil

    process = psutil.Process(os.getpid())
    try:
        while True:
            sample = _sampled(process, limiter, pool, clock())
            emit(sample)
            look()
            wall_s, most_s, most_bytes = active_s(), limits.max_wall_s, limits.max_rss_bytes
            if most_s is not None and wall_s >= most_s:
                reached("max_wall_s", f"the run has taken {wall_s:.1f} of {most_s:g} s")
            if most_bytes is not None and sample.rss_bytes >= most_bytes:
                reached("max_rss_bytes", f"the process takes {sample.rss_bytes / 1e6:.0f} of {most_bytes / 1e6:.0f} MB")
            await asyncio.sleep(_EVERY_S)
    finally:
        emit(_sampled(process, limiter, pool, clock()))


def _sampled(process: psutil.Process, limiter: Limiter, pool: Pool, now_s: float) -> ProcessSampled:
    times, rss = process.cpu_times(), process.memory_info().rss
    return ProcessSampled(now_s, rss, times.user + times.system, limiter.in_flight, limiter.queued, pool.used_bytes)
