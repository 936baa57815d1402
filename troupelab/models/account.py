"""What one question to a model has taken so far: time, requests, tokens, money. One row of the calls' frame at its end.

It belongs to the engine's loop.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from troupelab.events import CallDone
from troupelab.models.model import Reply, Request

__all__ = ["Account", "Source"]

Source: TypeAlias = Literal["model", "cache", "flight", "semantic", "pack"]
"""Where an answer came from."""


class Account:
    """Adds up what a question takes, over all its attempts.

    Args:
        came_s: when it came, in seconds since the run's start.

    >>> account = Account(1.0)
    >>> account.begin(3.0)
    >>> account.queue_s, account.begun_s
    (2.0, 3.0)
    """

    __slots__ = (
        "active_s", "attempts", "begun_s", "came_s", "cost_usd", "failures", "first_token_s", "queue_s", "source", "taken",
        "tokens_cached", "tokens_in", "tokens_out", "waits_since_s",
    )  # fmt: skip

    def __init__(self, came_s: float) -> None:
        self.came_s = self.waits_since_s = came_s
        self.begun_s = math.nan
        self.queue_s = 0.0
        self.active_s = 0.0
        self.attempts = 0
        self.failures = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.tokens_cached = 0
        self.cost_usd = 0.0
        self.first_token_s = math.nan
        self.source: Source = "model"
        self.taken = False

    @property
    def tokens(self) -> int:
        """Tokens of all attempts, in and out."""
        return self.tokens_in + self.tokens_out

    def wait(self, now_s: float) -> None:
        """It begins to wait for a slot."""
        self.waits_since_s = now_s

    def begin(self, now_s: float) -> None:
        """It has its slot."""
        self.queue_s += now_s - self.waits_since_s
        if math.isnan(self.begun_s):
            self.begun_s = now_s

    def begin_at(self, begun_s: float) -> None:
        """It had its slot then, in a call that was made for several."""
        if math.isnan(self.begun_s):
            self.begun_s = begun_s

    def answered(self, reply: Reply) -> None:
        """Count a reply, usable or not."""
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.tokens_cached += reply.tokens_cached
        self.cost_usd += reply.cost_usd
        self.first_token_s = reply.first_token_s

    def include(self, other: Account) -> None:
        """Take over what another account has counted, once: whoever asks second finds it taken."""
        if other.taken:
            return
        other.taken = True
        self.queue_s += other.queue_s
        self.active_s += other.active_s
        self.attempts += other.attempts
        self.failures += other.failures
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.tokens_cached += other.tokens_cached
        self.cost_usd += other.cost_usd
        self.first_token_s = other.first_token_s
        if math.isnan(self.begun_s):
            self.begun_s = other.begun_s

    def event(self, request: Request, now_s: float, error: str) -> CallDone:
        """The question's row in the calls' frame."""
        return CallDone(
            now_s, request.step, request.agent, request.purpose, now_s - self.came_s - self.queue_s, self.queue_s,
            self.tokens_in, self.tokens_out, self.cost_usd, self.source in ("cache", "flight", "semantic"), self.attempts, error,
            self.source, self.tokens_cached, self.first_token_s,
        )  # fmt: skip
