"""A limiter of how many may be under way at once, first come first served, whose size may change at any time.

Cancelling a waiter never loses a slot. While it is held (a paused run), nobody new is let in and those under way finish. It
belongs to one event loop and is called there only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Limiter"]


class Limiter:
    """At most `size` slots are out at once.

    >>> async def two_at_once() -> int:
    ...     limiter = Limiter(2)
    ...     async with limiter.slot(), limiter.slot():
    ...         return limiter.in_flight
    >>> asyncio.run(two_at_once())
    2
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    @property
    def queued(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    def resize(self, size: int) -> None:
        """Change the number of slots; where it shrinks, those under way finish first."""
        self._size = size
        self._wake()

    def hold(self, held: bool) -> None:
        """Let nobody in (True), or let them in again (False)."""
        self._held = held
        self._wake()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, and give it back at the end of the block."""
        await self._acquire()
        try:
            yield
        finally:
            self.in_flight -= 1
            self._wake()

    def _free(self) -> bool:
        return not self._held and self.in_flight < self._size

    async def _acquire(self) -> None:
        if self._free() and not self._waiting:
            self.in_flight += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.in_flight -= 1  # the slot had been given in the same moment
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._free():
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self.in_flight += 1
