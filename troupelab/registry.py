"""What is still going on in this process, and is stopped when the process ends. Any thread may call it."""

from __future__ import annotations

import atexit
import concurrent.futures.thread as _pools
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Generic, TypeVar

from troupelab.errors import TroupeLabError

__all__ = ["Registry"]

T = TypeVar("T")

_log = logging.getLogger("troupelab")
_EXIT_S = 5.0


class Registry(Generic[T]):
    """Holds what has been started until it has ended; leaving the process stops what is still in it.

    Args:
        stop: ends one, at once.
        wait: waits for its end, so many seconds at most.

    >>> going_on: Registry[list[int]] = Registry(lambda each: None, lambda each, timeout_s: None)
    >>> run = [1]
    >>> going_on.add(run)
    >>> going_on.discard(run)
    >>> list(going_on)
    []
    """

    def __init__(self, stop: Callable[[T], object], wait: Callable[[T, float], object]) -> None:
        self._stop = stop
        self._wait = wait
        self._lock = threading.Lock()
        self._held: dict[int, T] = {}
        # A run needs its threads to end well, and Python closes thread pools before it calls what atexit knows. What is told to
        # threading is called earlier, and before the pools, which were told first: by the import above.
        assert _pools
        getattr(threading, "_register_atexit", atexit.register)(self._stop_all)

    def add(self, each: T) -> None:
        """Hold something that has been started."""
        with self._lock:
            self._held[id(each)] = each

    def discard(self, each: T) -> None:
        """Let go of something that has ended."""
        with self._lock:
            self._held.pop(id(each), None)

    def __iter__(self) -> Iterator[T]:
        with self._lock:
            return iter(list(self._held.values()))

    def _stop_all(self) -> None:
        for each in self:
            with contextlib.suppress(TroupeLabError):  # it is ending already
                self._stop(each)
            try:
                self._wait(each, _EXIT_S)
            except (TroupeLabError, TimeoutError, FutureTimeoutError):
                _log.warning("%r did not stop in time", each)
