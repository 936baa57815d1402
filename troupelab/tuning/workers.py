"""Points of a sweep on several cores.

Workers are fresh processes: a notebook's has threads and event loops, of which a forked one would inherit the locks and not the threads. They are
loky's, which do not run the user's script again as those of `multiprocessing` do. Each opens the recordings once, and its vectors stay with it. Only limits and rows of numbers go between the processes. Any thread may call it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from troupelab.errors import RunError
from troupelab.tuning.point import Baselines, measure, unlimited
from troupelab.tuning.stream import Stream

if TYPE_CHECKING:
    from troupelab.limits import Number

__all__ = ["Workers"]


class _Here:
    """What a worker has: made at its start."""

    streams: Sequence[Stream] = ()
    seeds: Sequence[int | None] = ()
    baselines: Baselines = {}  # noqa: RUF012 (one a process)


def _begin(sources: Sequence[str], seeds: Sequence[int | None]) -> None:
    _Here.streams, _Here.seeds, _Here.baselines = [Stream.of(source) for source in sources], seeds, {}


def _measure(limits: dict[str, Number], where: tuple[int, int | None]) -> dict[str, Any]:
    place, seed = where
    if where not in _Here.baselines:
        _Here.baselines[where] = unlimited(_Here.streams[place], seed)
    (row,) = measure([_Here.streams[place]], [seed], limits, {(0, seed): _Here.baselines[where]})
    return {**row, "replicate": f"{place}/{seed}"}


class Workers:
    """Measures points, here or in other processes.

    Args:
        streams: what is replayed.
        seeds: of the facts that are drawn; None for none.
        count: how many processes; 1 for none but this one.
    """

    def __init__(self, streams: Sequence[Stream], seeds: Sequence[int | None], count: int) -> None:
        self._streams = list(streams)
        self._seeds = list(seeds)
        self._baselines: Baselines = {}
        self._pool: Any = None
        if count > 1 and all(stream.folder is not None for stream in streams):
            from loky import ProcessPoolExecutor

            sources = [str(stream.folder) for stream in streams]
            self._pool = ProcessPoolExecutor(count, initializer=_begin, initargs=(sources, self._seeds))

    def run(
        self, points: Sequence[Mapping[str, Number]], progress: Callable[[int, int], object]
    ) -> list[list[dict[str, Any]]]:
        """Measure points: for each a row a replicate, in the order of the points.

        Raises:
            RunError: a worker died (of want of memory, say).
        """
        where = [(place, seed) for place in range(len(self._streams)) for seed in self._seeds]
        total = len(points) * len(where)
        if self._pool is None:
            return self._here(points, where, total, progress)
        tasks: dict[Future[dict[str, Any]], tuple[int, int]] = {}
        for each, limits in enumerate(points):
            for at, place in enumerate(where):
                tasks[self._pool.submit(_measure, dict(limits), place)] = (each, at)
        found: list[list[dict[str, Any]]] = [[{}] * len(where) for _ in points]
        try:
            for done, task in enumerate(as_completed(tasks), 1):
                each, at = tasks[task]
                found[each][at] = task.result()
                progress(done, total)
        except BrokenProcessPool as error:
            raise RunError("a worker of the sweep died, perhaps for want of memory: try fewer workers") from error
        except BaseException:
            self._pool.shutdown(wait=False, kill_workers=True)
            raise
        return found

    def _here(
        self,
        points: Sequence[Mapping[str, Number]],
        where: Sequence[tuple[int, int | None]],
        total: int,
        progress: Callable[[int, int], object],
    ) -> list[list[dict[str, Any]]]:
        found, done = [], 0
        for limits in points:
            rows = []
            for place, seed in where:
                if (place, seed) not in self._baselines:
                    self._baselines[place, seed] = unlimited(self._streams[place], seed)
                (row,) = measure([self._streams[place]], [seed], limits, {(0, seed): self._baselines[place, seed]})
                rows.append({**row, "replicate": f"{place}/{seed}"})
                done += 1
                progress(done, total)
            found.append(rows)
        return found

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
