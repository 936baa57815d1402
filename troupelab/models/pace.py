"""How many calls at once an endpoint takes without refusing, found out by trying: additive increase, multiplicative decrease.

It starts at 20 and doubles with each round until the first refusal (429); from then on each refusal takes a fifth and each round
without one adds a twentieth, as TCP's congestion avoidance does (Chiu and Jain, 1989). A round is as many answers as calls may be in
flight. A failing endpoint (5xx) only stops the growth of its round; answers from the cache never come here. One event loop.
"""

from __future__ import annotations

__all__ = ["START", "Pace"]

START = 20
_DECREASE = 0.8
_INCREASE = 1.05


class Pace:
    """The number of calls in flight that an endpoint seems to take.

    >>> pace = Pace()
    >>> for _ in range(20):
    ...     pace.answered()
    >>> pace.size
    40
    >>> pace.refused(pace.era)
    >>> pace.size
    32
    """

    def __init__(self, start: int = START) -> None:
        self._size = float(start)
        self._doubling = True
        self._answers = 0
        self._failed = False
        self.era = 0
        """Counts the decreases: a call remembers it, so that the refusals of one burst count once."""

    @property
    def size(self) -> int:
        """How many calls may be in flight."""
        return max(1, int(self._size))

    def answered(self) -> None:
        """Count an answer."""
        self._answers += 1
        if self._answers >= self.size:
            if not self._failed:
                self._size = self._size * 2 if self._doubling else max(self._size * _INCREASE, self._size + 1)
            self._answers, self._failed = 0, False

    def refused(self, era: int) -> None:
        """Count a refusal of a call that was sent in `era`; what was sent before the last decrease says nothing of the size now."""
        self._doubling = False
        if era == self.era:
            self._size = max(1.0, self._size * _DECREASE)
            self.era += 1
            self._answers, self._failed = 0, False

    def failed(self) -> None:
        """Count a failure of the endpoint: this round brings no growth."""
        self._failed = True

    def cap(self, ceiling: int) -> None:
        """Grow no further than a ceiling, so that a lower one is not left far behind."""
        self._size = min(self._size, float(ceiling))
