"""Handing work over to the engine's loop from other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from troupelab.errors import RunError

__all__ = ["Handover", "settle"]

T = TypeVar("T")

_TIMEOUT_S = 10.0


class Handover:
    """The way onto an event loop, while there is one. Any thread may call it.

    >>> Handover().do(lambda: None)
    False
    """

    def __init__(self) -> None:
        self.new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
        """Makes the loop for work that has none; None for one as asyncio makes them."""
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a loop now."""
        return self._loop is not None

    def open(self) -> None:
        """From now on, work goes to the running loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """There is no loop any more."""
        self._loop = None

    def do(self, action: Callable[[], None]) -> bool:
        """Have an action done on the loop and wait for it; false where there is no loop.

        Raises:
            BaseException: what the action raised.
            TimeoutError: the loop did not get to it within ten seconds.
        """
        loop = self._loop
        if loop is None:
            return False
        if _running_loop() is loop:
            action()
            return True
        outcome: Future[None] = Future()
        try:
            loop.call_soon_threadsafe(settle, outcome, action)
        except RuntimeError:  # the loop closed in this very moment
            return False
        outcome.result(_TIMEOUT_S)
        return True

    def tell(self, action: Callable[..., None], *arguments: object) -> None:
        """Have an action done on the loop soon, where there is one."""
        if (loop := self._loop) is not None:
            loop.call_soon_threadsafe(action, *arguments)

    def submit(
        self, work: Callable[[], Coroutine[Any, Any, T]], end: Callable[[], Coroutine[Any, Any, None]]
    ) -> Future[T]:
        """Begin work on the loop; where there is none, on one that is made for it, in a thread that ends with it.

        Args:
            work: begins it.
            end: frees what work on a loop of its own leaves there.
        """
        if (loop := self._loop) is not None:
            begun = _until_cancelled(work)
            try:
                return asyncio.run_coroutine_threadsafe(begun, loop)
            except RuntimeError:  # the loop closed in this very moment
                begun.close()

        async def alone() -> T:
            try:
                return await work()
            finally:
                await end()

        def run() -> T:
            with asyncio.Runner(loop_factory=self.new_loop) as runner:
                return runner.run(alone())

        outcome: Future[T] = Future()
        threading.Thread(target=settle, args=(outcome, run), daemon=True).start()
        return outcome


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _until_cancelled(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do work, and say in our own words when the loop ends before it is done."""
    try:
        return await work()
    except asyncio.CancelledError:
        raise RunError("the run ended before that was done; ask again, now that it has") from None


def settle(outcome: Future[T], action: Callable[[], T]) -> None:
    """Run an action and put what came of it into a future that another thread waits for."""
    try:
        result = action()
    except BaseException as error:
        outcome.set_exception(error)
    else:
        outcome.set_result(result)
