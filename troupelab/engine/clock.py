"""A run's clock: seconds since its start, over all its lives. Any thread may read it; whoever plays the run sets it."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Stands at 0 before the start, goes on from where an earlier life ended, and stands still at the end.

    >>> clock = Clock()
    >>> clock.now()
    0.0
    >>> clock.start(12.5)
    >>> clock.set(3.0)
    >>> clock.now(), clock.live() >= 12.5
    (3.0, True)
    """

    def __init__(self) -> None:
        self._zero = time.monotonic()
        self._stands_at: float | None = 0.0

    def start(self, from_s: float = 0.0) -> None:
        """Go on from a time."""
        self._zero = time.monotonic() - from_s
        self._stands_at = None

    def set(self, at_s: float) -> None:
        """Stand at a time, while the past is lived through again."""
        self._stands_at = at_s

    def end(self) -> None:
        """Stand still from now on."""
        self._stands_at = self.live()

    def now(self) -> float:
        """The time of the run, for events."""
        return self.live() if self._stands_at is None else self._stands_at

    def live(self) -> float:
        """The time as it goes on, also while the clock stands: for what happens after the end."""
        return time.monotonic() - self._zero
