"""Which alerts somebody has seen and put aside. Only the dashboard's UI thread calls it."""

from __future__ import annotations

__all__ = ["Acknowledged"]


class Acknowledged:
    """Numbers of alerts: all before some number, and single ones after it.

    >>> seen = Acknowledged()
    >>> seen.add(3)
    >>> 3 in seen, 2 in seen, seen.left(of=5)
    (True, False, 4)
    >>> seen.add_all(of=5)
    >>> 2 in seen, 5 in seen, seen.left(of=6)
    (True, False, 1)
    """

    def __init__(self) -> None:
        self._before = 0
        self._single: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number < self._before or number in self._single

    def add(self, number: int) -> None:
        """Put one aside."""
        if number >= self._before:
            self._single.add(number)

    def add_all(self, *, of: int) -> None:
        """Put all of the first so many aside."""
        self._before = max(self._before, of)
        self._single = {number for number in self._single if number >= self._before}

    def left(self, *, of: int) -> int:
        """How many of the first so many were not put aside."""
        return max(0, of - self._before - len(self._single))
