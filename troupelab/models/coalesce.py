"""Single flight: the same thing asked for by several at once is done once, and all get its outcome.

The work runs in a task of its own, since nothing else can outlive the one who asked first: a coroutine that a cancelled
task was running cannot go on in another one. It belongs to one event loop and is called there only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

__all__ = ["Flights"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Flight(Generic[T]):
    """Work under way, and those who wait for it; a waiter's future only wakes it, so that no outcome is left unread."""

    __slots__ = ("task", "waiters")

    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.waiters: dict[asyncio.Future[None], None] = {}


class Flights(Generic[K, T]):
    """What is under way, by its key.

    >>> async def twice() -> list[tuple[str, bool]]:
    ...     async def work() -> str:
    ...         await asyncio.sleep(0)
    ...         return "done"
    ...     flights: Flights[str, str] = Flights()
    ...     return await asyncio.gather(flights.do("key", work), flights.do("key", work))
    >>> asyncio.run(twice())
    [('done', True), ('done', False)]
    """

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[T]] = {}

    def __len__(self) -> int:
        """How many keys have work under way."""
        return len(self._flights)

    async def do(self, key: K, start: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """Wait for the work of this key, and start it where none is under way.

        Somebody who is cancelled leaves the work to the others. The last one to be cancelled cancels the work and waits
        for its end; who comes after that starts anew.

        Args:
            key: what makes two askings the same.
            start: begins the work; called for the first asking only, and in a task of its own.

        Returns:
            What the work brought, and whether this asking started it.

        Raises:
            BaseException: what the work raised, for each who waits for it.
        """
        flight = self._flights.get(key)
        led = flight is None
        if flight is None:
            flight = self._take_off(key, start)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        flight.waiters[waiter] = None
        try:
            await waiter
        except asyncio.CancelledError:
            del flight.waiters[waiter]
            if not flight.waiters and not flight.task.done():
                self._forget(key, flight)
                await _call_off(flight.task)
            raise
        return flight.task.result(), led

    def _take_off(self, key: K, start: Callable[[], Awaitable[T]]) -> _Flight[T]:
        flight = self._flights[key] = _Flight(asyncio.get_running_loop().create_task(_run(start)))
        # Not at the end of the coroutine: a task that is cancelled before its first step never gets into it.
        flight.task.add_done_callback(lambda task: self._land(key, flight, task))
        return flight

    def _land(self, key: K, flight: _Flight[T], task: asyncio.Task[T]) -> None:
        self._forget(key, flight)
        if not task.cancelled():
            task.exception()  # seen, even where all who waited were cancelled in the same moment
        for waiter in flight.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _forget(self, key: K, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


async def _run(start: Callable[[], Awaitable[T]]) -> T:
    return await start()


async def _call_off(task: asyncio.Task[T]) -> None:
    """Cancel a task and wait for its end, even where whoever waits is cancelled again."""
    task.cancel()
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
