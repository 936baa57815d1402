"""What a run may use in all: tokens and money. A gate of the limiter, so that no call goes that the budget does not cover.

Each call is counted with the most that it may take before it goes, and with what it took when it is answered. When the
next one does not fit and nothing is in flight that could take less than it was counted with, the budget is reached: whoever
listens is told (the run pauses), and calls go on when a limit is raised. One event loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from troupelab.livelimits import LiveLimits
from troupelab.models.limiter import Ask

__all__ = ["Budget"]


class Budget:
    """The tokens and US dollars that a run has used, against `max_tokens` and `max_cost_usd`.

    Args:
        limits: read at each call.

    >>> from troupelab.limits import Limits
    >>> budget = Budget(LiveLimits(Limits(max_tokens=100)))
    >>> budget.take(Ask(tokens=80))
    >>> budget.settle(Ask(tokens=80), tokens=60, cost_usd=0.0)
    >>> budget.tokens, budget.wait_s(Ask(tokens=40)), budget.wait_s(Ask(tokens=41))
    (60, 0.0, inf)
    """

    def __init__(self, limits: LiveLimits) -> None:
        self._limits = limits
        self._open = 0
        self._open_tokens = 0
        self._open_cost_usd = 0.0
        self.tokens = 0
        self.cost_usd = 0.0
        self.unpriced_calls = 0
        self.on_reached: Callable[[str, str], object] = lambda limit, sentence: None

    def lack(self, ask: Ask) -> tuple[str, str] | None:
        """The limit that does not cover a request, and a sentence; None where all do."""
        limits = self._limits.current
        if limits.max_tokens is not None and self.tokens + self._open_tokens + ask.tokens > limits.max_tokens:
            used = f"{self.tokens:,} of {limits.max_tokens:,} tokens are used"
            return "max_tokens", f"{used}, and the next call may take {ask.tokens:,} more"
        spent = self.cost_usd + self._open_cost_usd + ask.cost_usd
        if limits.max_cost_usd is not None and spent > limits.max_cost_usd:
            used = f"${self.cost_usd:.4f} of ${limits.max_cost_usd:g} are spent"
            return "max_cost_usd", f"{used}, and the next call may take ${ask.cost_usd:.4f} more"
        return None

    def wait_s(self, ask: Ask) -> float:
        """0 when the request is covered, infinity when it is not."""
        lack = self.lack(ask)
        if lack is None:
            return 0.0
        if self._open == 0:
            self.on_reached(*lack)
        return math.inf

    def take(self, ask: Ask) -> None:
        """Count the most that a request may take."""
        self._open += 1
        self._open_tokens += ask.tokens
        self._open_cost_usd += ask.cost_usd

    def settle(self, ask: Ask, tokens: int, cost_usd: float) -> None:
        """Count what it took instead; NaN dollars are counted as calls without a price."""
        self._open -= 1
        self._open_tokens -= ask.tokens
        self._open_cost_usd = self._open_cost_usd - ask.cost_usd if self._open else 0.0
        self.tokens += tokens
        if math.isnan(cost_usd):
            self.unpriced_calls += 1
        else:
            self.cost_usd += cost_usd
