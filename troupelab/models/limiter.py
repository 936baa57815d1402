"""A limiter of how many may be under way at once, in the order of their priority, whose size may change at any time.

Besides the number of slots, gates decide whether the next in the queue may go: a rate, a budget. While the limiter is held (a
paused run), only urgent ones are let in and those under way finish. Cancelling a waiter never loses a slot. It belongs to
one event loop at a time and is called there only.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol

from troupelab.models.model import Request

__all__ = ["FREE", "Ask", "Gate", "Limiter", "Priority", "Slot", "usual_estimate"]

_CHARACTERS_A_TOKEN = 3

Priority = tuple[float, ...]
"""Who goes first: the smallest; equals in the order of their coming."""


class Ask(NamedTuple):
    """The most that one request may take, so that it can be counted before it is sent."""

    tokens: int = 0
    cost_usd: float = 0.0


def usual_estimate(request: Request) -> Ask:
    """The most that a request may take, as far as its length tells: no money.

    Four characters a token are usual in English; three here, since what is reserved for a call should rather be too much.
    """
    chars = sum(len(message.content) for message in request.messages)
    return Ask(chars // _CHARACTERS_A_TOKEN + 1 + request.max_tokens)


FREE = Ask()
"""What takes nothing that is counted."""


class Gate(Protocol):
    """Something else than the number of slots that decides whether a request may go."""

    def wait_s(self, ask: Ask) -> float:
        """Seconds after which to ask again: 0 when it may go now, infinity when only a change can let it go."""

    def take(self, ask: Ask) -> None:
        """Count a request that goes now."""


class Limiter:
    """At most `size` slots are out at once.

    Args:
        size: how many.
        gates: what else must agree to each slot, asked in this order.

    >>> async def two_at_once() -> int:
    ...     limiter = Limiter(2)
    ...     async with limiter.slot(), limiter.slot():
    ...         return limiter.in_flight
    >>> asyncio.run(two_at_once())
    2
    """

    def __init__(self, size: int, gates: Sequence[Gate] = ()) -> None:
        self._size = size
        self._gates = tuple(gates)
        self._held = False
        self._closed = False
        self._came = 0
        self._waiting: list[tuple[bool, Priority, int, Slot]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.in_flight = 0
        self.queued = 0

    @property
    def size(self) -> int:
        """How many slots there are now."""
        return self._size

    def resize(self, size: int) -> None:
        """Change the number of slots; where it shrinks, those under way finish first."""
        self._size = size
        self.wake()

    def hold(self, held: bool) -> None:
        """Let nobody in who is not urgent (True), or let them in again (False)."""
        self._held = held
        self.wake()

    def close(self) -> None:
        """Cancel all who wait, and whoever comes from now on; those under way finish."""
        self._closed = True
        for *_, slot in self._waiting:
            slot.turn_away()
        self.wake()

    def reopen(self) -> None:
        """Undo `close`, and forget what belonged to a loop that is over."""
        self._closed = self._held = False
        self._waiting.clear()
        self.queued = self.in_flight = 0

    def slot(self, priority: Priority = (), ask: Ask = FREE, *, urgent: bool = False) -> Slot:
        """A slot to wait for: `async with limiter.slot():` waits, and gives it back at the end of the block.

        Args:
            priority: who goes first among those who wait.
            ask: what the gates count it with.
            urgent: goes before all who are not, and also while the limiter is held.
        """
        return Slot(self, priority, ask, urgent)

    def wake(self) -> None:
        """Let in whoever may go; to be called whenever a gate may have changed its mind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            slot = self._waiting[0][-1]
            if slot.gone:
                heapq.heappop(self._waiting)
                continue
            if not self._free(urgent=slot.urgent):
                return
            if (wait_s := self._wait_s(slot.ask)) > 0:
                if wait_s < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(wait_s, self.wake)
                return
            heapq.heappop(self._waiting)
            self._give(slot)
            slot.let_in()

    def _free(self, *, urgent: bool) -> bool:
        return self.in_flight < self._size and (urgent or not self._held)

    def _wait_s(self, ask: Ask) -> float:
        longest = 0.0
        for gate in self._gates:
            longest = max(longest, gate.wait_s(ask))
        return longest

    def _give(self, slot: Slot) -> None:
        self.in_flight += 1
        for gate in self._gates:
            gate.take(slot.ask)

    async def enter(self, slot: Slot) -> None:
        """Wait until a slot may go; what `async with` does."""
        if self._closed:
            raise asyncio.CancelledError("the run is being stopped")
        if not self.queued and self._free(urgent=slot.urgent) and self._wait_s(slot.ask) <= 0:
            self._give(slot)
            return
        self._came += 1
        heapq.heappush(self._waiting, (not slot.urgent, slot.priority, self._came, slot))
        self.queued += 1
        self.wake()
        try:
            await slot.wait()
        except asyncio.CancelledError:
            if slot.is_in:
                self.leave()  # it had been given in the same moment
            raise
        finally:
            self.queued -= 1
            slot.gone = True

    def leave(self) -> None:
        """Give a slot back."""
        self.in_flight -= 1
        self.wake()


class Slot:
    """One place among those under way; made by `Limiter.slot`."""

    __slots__ = ("_limiter", "_waiter", "ask", "gone", "is_in", "priority", "urgent")

    def __init__(self, limiter: Limiter, priority: Priority, ask: Ask, urgent: bool) -> None:
        self._limiter = limiter
        self._waiter: asyncio.Future[None] | None = None
        self.priority = priority
        self.ask = ask
        self.urgent = urgent
        self.is_in = False
        self.gone = False

    async def wait(self) -> None:
        """Wait until the limiter lets it in."""
        if not self.is_in:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def let_in(self) -> None:
        """Tell whoever waits that the slot is theirs."""
        self.is_in = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def turn_away(self) -> None:
        """Cancel whoever waits."""
        self.gone = True
        if self._waiter is not None:
            self._waiter.cancel()

    async def __aenter__(self) -> Slot:
        await self._limiter.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limiter.leave()
