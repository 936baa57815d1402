"""Hedging: a second request for what takes unusually long, and the first answer of the two counts (Dean and Barroso, 2013).

Opt-in, and for at most a stated share of the calls. Unusually long is longer than nineteen of twenty recent calls. It belongs to
the engine's loop.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Hedge"]

_QUANTILE = 0.95
_RECENT = 256
_ENOUGH = 20
_RENEW_EVERY = 16


class Hedge:
    """Knows after how long a call is worth a second request, and how many there were.

    >>> hedge = Hedge()
    >>> for latency_s in range(1, 101):
    ...     hedge.note(float(latency_s))
    >>> hedge.after_s(0.05), hedge.after_s(0.0)
    (92.0, None)
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._calls = 0
        self._hedged = 0
        self._after_s = 0.0

    def note(self, latency_s: float) -> None:
        """Count a call that was answered."""
        self._calls += 1
        self._recent.append(latency_s)
        if self._calls % _RENEW_EVERY == 0:
            ordered = sorted(self._recent)
            self._after_s = ordered[int(_QUANTILE * len(ordered))]

    def after_s(self, most_fraction: float) -> float | None:
        """After how many seconds the next call gets a second request; None where it gets none."""
        allowed = self._calls >= _ENOUGH and self._hedged + 1 <= most_fraction * self._calls
        return self._after_s if allowed else None

    def hedged(self) -> None:
        """Count a second request."""
        self._hedged += 1
