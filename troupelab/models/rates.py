"""Requests and tokens a minute: token buckets in front of the model, retuned while they are in use.

A bucket holds one second's worth of requests (ten of tokens) and is refilled so that no minute has more than its number, the
bucket's own content included; the provider's buckets are then never found empty. What a call takes in tokens is estimated when
it goes and put right when it is answered. One event loop.
"""

from __future__ import annotations

from collections.abc import Callable

from troupelab.models.limiter import Ask

__all__ = ["Bucket", "Rates"]

_REQUEST_BURST_S = 1.0
_TOKEN_BURST_S = 10.0


class Bucket:
    """So many a minute, and never more in any minute.

    Args:
        burst_s: how many seconds' worth may go at once.
        clock: monotonic seconds.
    """

    def __init__(self, burst_s: float, clock: Callable[[], float]) -> None:
        self._burst_s = burst_s
        self._clock = clock
        self._per_minute: int | None = None
        self._room = self._rate = self._level = 0.0
        self._as_of = clock()

    def set(self, per_minute: int | None) -> None:
        """Change the rate; None is no limit. What is in the bucket stays, up to the new room."""
        if per_minute == self._per_minute:
            return
        self._refill()
        unlimited, self._per_minute = self._per_minute is None, per_minute
        if per_minute is None:
            return
        self._room = max(1.0, per_minute * self._burst_s / 60)
        self._rate = (per_minute - self._room) / 60 if per_minute > self._room else per_minute / 60
        self._level = self._room if unlimited else min(self._level, self._room)

    def wait_s(self, amount: float) -> float:
        """Seconds until so much may be taken; more than the room is let go when the bucket is full."""
        if self._per_minute is None:
            return 0.0
        self._refill()
        lacking = min(amount, self._room) - self._level
        # A nanosecond of rounding must not make a timer ring in vain.
        return lacking / self._rate if lacking > 1e-9 else 0.0

    def take(self, amount: float) -> None:
        """Take so much out (or, negative, put it back); the level may fall below zero."""
        self._level = min(self._room, self._level - amount)

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self._room, self._level + (now - self._as_of) * self._rate)
        self._as_of = now


class Rates:
    """Two buckets, of requests and of tokens: a gate of the limiter.

    >>> rates = Rates(lambda: 0.0)
    >>> rates.set(60, None)
    >>> rates.take(Ask(tokens=100))
    >>> round(rates.wait_s(Ask(tokens=100)), 3)
    1.017
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._requests = Bucket(_REQUEST_BURST_S, clock)
        self._tokens = Bucket(_TOKEN_BURST_S, clock)

    def set(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        """Change the rates; None is no limit."""
        self._requests.set(requests_per_minute)
        self._tokens.set(tokens_per_minute)

    def wait_s(self, ask: Ask) -> float:
        """Seconds until the request may go."""
        return max(self._requests.wait_s(1), self._tokens.wait_s(ask.tokens))

    def take(self, ask: Ask) -> None:
        """Count a request that goes now."""
        self._requests.take(1)
        self._tokens.take(ask.tokens)

    def settle(self, ask: Ask, tokens: int) -> None:
        """Put right what a request was counted with, now that it is known."""
        self._tokens.take(tokens - ask.tokens)
