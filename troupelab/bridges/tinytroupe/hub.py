"""The hub: runs synchronous code in greenlets on one event loop, so that a hundred agents wait for the model at once on one thread.

A function that runs in a greenlet may `wait` for something of the loop as if it blocked; meanwhile the others go on. Between two waits
it has the thread to itself, so that nothing it does is torn apart by another. Whatever is spawned here (greenlets, work on threads) runs in a copy of the
spawner's context variables. Whoever resumes a greenlet becomes its parent for that time, wherever the loop happens to be run
from (nest_asyncio runs it inside greenlets, too).

`wait`, `do` and `spawn` may be called in any thread; the rest belongs to the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from troupelab.engine.handover import settle
from troupelab.errors import BridgeError, MissingPackageError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["GreenletExecutor", "Hub", "Turns"]

T = TypeVar("T")

_MOST_THREADS = 256
_START_TIMEOUT_S = 10.0


class Hub:
    """Runs synchronous code on an event loop.

    >>> async def main() -> list[int]:
    ...     hub = Hub()
    ...     hub.open()
    ...     slow = lambda n: hub.wait(lambda: asyncio.sleep(0.01 * n, n))
    ...     try:
    ...         return list(await asyncio.gather(*(hub.run(partial(slow, n)) for n in (2, 1))))
    ...     finally:
    ...         hub.close()
    >>> asyncio.run(main())
    [2, 1]
    """

    def __init__(self) -> None:
        try:
            import greenlet
        except ImportError as error:
            raise MissingPackageError(
                'TinyTroupe\'s agents need greenlet: pip install "troupelab[tinytroupe]"'
            ) from error
        self._greenlet = greenlet.greenlet
        self._current = greenlet.getcurrent
        self._drivers: dict[Any, asyncio.Task[Any] | None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._threads: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def open(self) -> None:
        """Take the running loop, and this thread."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def close(self) -> None:
        """Let go of both; whoever waits from then on is told so."""
        self._loop = None
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    @property
    def is_open(self) -> bool:
        """Whether there is a loop to work on."""
        return self._loop is not None

    @property
    def is_here(self) -> bool:
        """Whether the caller is on the loop's thread."""
        return threading.get_ident() == self._thread and self._loop is not None

    # ------------------------------------------------------------------ on the loop

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function in a greenlet of its own, and return what it returns."""
        made = self._greenlet(partial(_going_on, work))
        made.gr_context = contextvars.copy_context()
        self._drivers[made] = asyncio.current_task()
        resume: Callable[[], Any] = made.switch
        try:
            while True:
                # The loop may be run from another greenlet than last time; what comes out of this one must come here.
                made.parent = self._current()
                given = resume()
                if made.dead:
                    result: T = given
                    return result
                try:
                    resume = partial(made.switch, await given)
                except BaseException as error:
                    resume = partial(made.throw, error)
        finally:
            del self._drivers[made]

    # ------------------------------------------------------------------ from anywhere

    def wait(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Wait for something of the loop, from a greenlet of this hub or from another thread.

        Raises:
            BridgeError: there is no loop any more, or the caller is on its thread outside any greenlet, where waiting would stop all.
        """
        current = self._current()
        if (driver := self._drivers.get(current)) is not None and driver is asyncio.current_task():
            # A task of its own, since what is awaited is to see the context of who waits, not of who runs the greenlet.
            task = asyncio.get_running_loop().create_task(_awaited(begin), context=contextvars.copy_context())
            waited: T = current.parent.switch(task)
            return waited
        loop = self._loop
        if loop is None:
            raise BridgeError("the bridge is closed: nothing runs on it any more")
        if self.is_here:
            if hasattr(loop, "_nest_patched"):  # a coroutine that was run on the loop amid other work
                nested: T = loop.run_until_complete(_awaited(begin))
                return nested
            raise BridgeError(
                "this would stop the event loop that it waits for: call it in a function that the hub runs"
            )
        future = asyncio.run_coroutine_threadsafe(_awaited(begin), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupted cell leaves no call behind
            raise

    def do(self, action: Callable[[], T]) -> T:
        """Do something quick on the loop's thread, and wait for it; in place where this is that thread or the hub is closed."""
        loop = self._loop
        if loop is None or threading.get_ident() == self._thread:
            return action()
        outcome: Future[T] = Future()
        loop.call_soon_threadsafe(settle, outcome, action)
        return outcome.result()

    def spawn(self, work: Callable[[], T]) -> Future[T]:
        """Begin a function in a greenlet of its own, and go on; the future tells what became of it.

        Raises:
            BridgeError: there is no loop any more.
        """
        loop, outcome, context = self._loop, Future[T](), contextvars.copy_context()
        if loop is None:
            raise BridgeError("the bridge is closed: nothing runs on it any more")

        async def finish() -> None:
            try:
                outcome.set_result(await self.run(work))
            except BaseException as error:
                outcome.set_exception(error)

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(finish(), context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        loop.call_soon_threadsafe(begin)
        return outcome

    def aside(self, work: Callable[[], T]) -> T:
        """Run a function on a thread and wait for it: there it may run event loops of its own, and hold up nobody."""
        if not self.is_here:
            return work()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="troupelab-tool")
        threads, context = self._threads, contextvars.copy_context()
        return self.wait(lambda: asyncio.get_running_loop().run_in_executor(threads, context.run, _going_on, work))

    def cancel(self) -> None:
        """End everything that was spawned. On the loop."""
        for task in list(self._tasks):
            task.cancel()

    async def drain(self) -> None:
        """Wait for everything that was spawned."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    # ------------------------------------------------------------------ a thread of its own

    @contextlib.contextmanager
    def thread(self) -> Iterator[None]:
        """Have a loop on a thread of its own while the with-block lasts."""
        ready, end = Future[asyncio.Event](), Future[None]()

        async def live() -> None:
            self.open()
            over = asyncio.Event()
            ready.set_result(over)
            try:
                await over.wait()
            finally:
                self.close()

        def run() -> None:
            with asyncio.Runner() as runner:  # asyncio.run may be another's by now (nest_asyncio)
                runner.run(live())

        thread = threading.Thread(target=settle, args=(end, run), name="troupelab", daemon=True)
        thread.start()
        over = ready.result(_START_TIMEOUT_S)
        loop = self._loop
        try:
            yield
        finally:
            assert loop is not None
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(over.set)
            end.result()
            thread.join()


class GreenletExecutor(Executor):
    """Stands in for a ThreadPoolExecutor: as many workers as there is work, all of them greenlets of one hub.

    Args:
        hub: where they run.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._futures: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Begin a call; the future tells what became of it."""
        future = self._hub.spawn(partial(fn, *args, **kwargs))
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for all that was begun."""
        for future in list(self._futures) if wait else ():
            with contextlib.suppress(BaseException):  # whoever has the future is told
                future.result()


class Turns:
    """Stands in for a lock: one after another, in greenlets as well as threads.

    Whoever holds it may let others go on while it waits for something that needs no turn (`paused`).
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = asyncio.Lock()
        self._holder: object = None

    def __enter__(self) -> Turns:
        self._hub.wait(self._lock.acquire)
        self._holder = self._me()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._holder = None
        self._hub.do(self._lock.release)

    def _me(self) -> object:
        return self._hub._current()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let others have their turn while the with-block lasts, where it is the caller's now."""
        if self._holder is not self._me():
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()


async def _awaited(begin: Callable[[], Awaitable[T]]) -> T:
    return await begin()


def _going_on(work: Callable[[], T]) -> T:
    """Do something that may not end the process: on a loop's thread that would end the loop, and with it everybody's work."""
    try:
        return work()
    except (SystemExit, KeyboardInterrupt) as error:
        raise BridgeError(f"this wanted to end the process: {error!r}") from error
