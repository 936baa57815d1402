"""What the rehearsal server counts: every request once, and how it ended once.

A reset begins a new `Stats`; a request belongs to the one in which it began. It belongs to the server's loop.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

import numpy as np

__all__ = ["CLIENT_GONE", "DROPPED", "HUNG", "Stats"]

DROPPED, HUNG, CLIENT_GONE = "dropped", "hung", "client_gone"

_KEPT_TIMES = 20_000


class Stats:
    """Counts requests, connections, bytes, tokens and times since the last reset.

    Args:
        open_connections: how many are open already.

    >>> stats = Stats()
    >>> began = stats.begin("models")
    >>> stats.end(began, "200")
    >>> stats.to_dict()["by_status"]
    {'200': 1}
    """

    def __init__(self, open_connections: int = 0) -> None:
        self.since = time.monotonic()
        self.by_path: Counter[str] = Counter()
        self.by_status: Counter[str] = Counter()
        self.in_flight = self.in_flight_peak = 0
        self.opened = 0
        self.open = self.open_peak = open_connections
        self.bytes_in = self.bytes_out = 0
        self.tokens_in = self.tokens_out = self.tokens_cached = self.embedding_texts = 0
        self._seconds: deque[float] = deque(maxlen=_KEPT_TIMES)
        self._longest = 0.0
        self._area = 0.0
        self._first: float | None = None
        self._last = self.since

    def begin(self, path: str) -> float:
        """Count a request in; returns the moment, which `end` wants back."""
        now = time.monotonic()
        if self._first is None:
            self._first = self._last = now
        self.by_path[path] += 1
        self._move(now, +1)
        if self.in_flight > self.in_flight_peak:
            self.in_flight_peak = self.in_flight
        return now

    def end(self, began: float, status: str) -> None:
        """Count a request out, with how it ended."""
        now = time.monotonic()
        self.by_status[status] += 1
        self._move(now, -1)
        seconds = now - began
        self._seconds.append(seconds)
        if seconds > self._longest:
            self._longest = seconds

    def connected(self) -> None:
        """Count a connection that carries its first request."""
        self.opened += 1
        self.open += 1
        self.open_peak = max(self.open_peak, self.open)

    def disconnected(self) -> None:
        """Count a connection out."""
        self.open -= 1

    def _move(self, now: float, by: int) -> None:
        self._area += self.in_flight * (now - self._last)
        self._last = now
        self.in_flight += by

    def to_dict(self) -> dict[str, Any]:
        """All figures; times are in seconds, and their quantiles those of the last 20,000 requests."""
        now = time.monotonic()
        if self.in_flight:
            self._move(now, 0)
        span = 0.0 if self._first is None else self._last - self._first
        quantiles = np.quantile(self._seconds, (0.5, 0.95)).tolist() if self._seconds else (None, None)
        return {
            "requests": self.by_path.total(),
            "by_path": dict(self.by_path),
            "by_status": dict(self.by_status),
            "in_flight": {
                "now": self.in_flight,
                "peak": self.in_flight_peak,
                "mean": self._area / span if span else 0.0,
            },
            "connections": {"opened": self.opened, "open": self.open, "peak": self.open_peak},
            "bytes": {"in": self.bytes_in, "out": self.bytes_out},
            "service_s": {
                "p50": quantiles[0],
                "p95": quantiles[1],
                "max": self._longest if self._seconds else None,
            },
            "tokens": {"in": self.tokens_in, "out": self.tokens_out, "cached": self.tokens_cached},
            "embedding_texts": self.embedding_texts,
            "span_s": span,
            "since_reset_s": now - self.since,
        }
