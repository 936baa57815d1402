"""The hub: synchronous code in greenlets on one event loop, what waits there, and what passes through."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from troupelab.bridges.tinytroupe.hub import GreenletExecutor, Hub, Turns
from troupelab.errors import BridgeError

MARK: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="nobody")


def on_loop(play: Callable[[Hub], Coroutine[Any, Any, Any]]) -> Any:
    """What a coroutine returns that has an open hub on its loop."""

    async def main() -> Any:
        hub = Hub()
        hub.open()
        try:
            return await play(hub)
        finally:
            hub.close()

    return asyncio.run(main())


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with a loop on a thread of its own."""
    hub = Hub()
    with hub.thread():
        yield hub


# ------------------------------------------------------------------ greenlets on the loop


def test_many_wait_at_once_on_one_thread():
    """Five hundred functions wait for one another, on the loop's thread alone: none could end before the last has begun."""

    async def play(hub: Hub) -> tuple[list[int], set[int]]:
        begun, threads, go = 0, set(), asyncio.Event()

        def work(number: int) -> int:
            nonlocal begun
            begun += 1
            threads.add(threading.get_ident())
            if begun == 500:
                go.set()
            hub.wait(go.wait)
            hub.wait(lambda: asyncio.sleep(0))
            return number

        return list(await asyncio.gather(*(hub.run(partial(work, number)) for number in range(500)))), threads

    results, threads = on_loop(play)
    assert results == list(range(500))
    assert threads == {threading.get_ident()}


def test_waits_nest_and_functions_run_functions():
    """A function that waits for another function of the hub gets what that one returns, however deep they are nested."""

    async def play(hub: Hub) -> int:
        def deep(level: int) -> int:
            return 0 if not level else 1 + hub.wait(lambda: hub.run(partial(deep, level - 1)))

        return await hub.run(partial(deep, 50))

    assert on_loop(play) == 50


def test_what_is_awaited_comes_back_or_is_raised_where_it_was_waited_for():
    """Results and exceptions of the loop reach the function; what it raises itself reaches whoever runs it."""

    async def fail() -> None:
        raise KeyError("lost")

    async def play(hub: Hub) -> tuple[Any, ...]:
        def catching() -> str:
            try:
                hub.wait(fail)
            except KeyError as error:
                return f"caught {error.args[0]}, then {hub.wait(lambda: asyncio.sleep(0, 'went on'))}"
            return "nothing came"

        def raising() -> None:
            hub.wait(lambda: asyncio.sleep(0))
            raise ZeroDivisionError("mine")

        return await hub.run(catching), await asyncio.gather(hub.run(raising), hub.run(raising), return_exceptions=True)

    caught, raised = on_loop(play)
    assert caught == "caught lost, then went on"
    assert [type(each) for each in raised] == [ZeroDivisionError] * 2


def test_a_coroutine_function_that_fails_at_once_raises_where_it_was_waited_for():
    """A failure before anything was awaited is raised in the function, too, and leaves nothing unawaited."""

    async def play(hub: Hub) -> str:
        def work() -> str:
            try:
                hub.wait(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
            except ZeroDivisionError:
                return "caught"
            return "nothing came"

        return await hub.run(work)

    assert on_loop(play) == "caught"


@pytest.mark.parametrize("end", [SystemExit(2), KeyboardInterrupt()])
def test_a_function_that_wants_to_end_the_process_does_not_end_the_loop(hub, end):
    """Asyncio would let such an exception end the loop and everybody on it: here it is an error of that function alone."""

    def leave() -> None:
        hub.wait(lambda: asyncio.sleep(0))
        raise end

    for work in (leave, lambda: hub.aside(leave)):
        found = hub.spawn(work).exception(10)
        assert isinstance(found, BridgeError)
        assert type(end).__name__ in str(found)
        assert hub.spawn(lambda: hub.wait(lambda: asyncio.sleep(0, "alive"))).result(10) == "alive"


def test_cancellation_passes_through_the_function_to_what_it_waits_for():
    """Cancelling the task cancels what is awaited; the function's `finally` runs, and it may wait there once more."""
    seen: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            seen.append("awaited was cancelled")

    async def play(hub: Hub) -> bool:
        def work() -> None:
            try:
                hub.wait(endless)
            finally:
                hub.wait(lambda: asyncio.sleep(0))
                seen.append("function ended")

        task = asyncio.ensure_future(hub.run(work))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert on_loop(play)
    assert seen == ["awaited was cancelled", "function ended"]


def test_whatever_is_spawned_sees_its_spawner_s_context_variables():
    """Functions, what they await, greenlets they spawn and threads they use see the spawner's variables; changes stay their own."""

    async def mark() -> str:
        return MARK.get()

    async def play(hub: Hub) -> tuple[dict[str, str], str]:
        def work(name: str) -> tuple[str, ...]:
            MARK.set(name)
            hub.wait(lambda: asyncio.sleep(0))
            spawned = hub.spawn(MARK.get)
            hub.wait(lambda: asyncio.wrap_future(spawned))
            in_loop, aside = hub.wait(mark), hub.aside(MARK.get)
            hub.aside(lambda: MARK.set("changed on the thread"))
            return MARK.get(), in_loop, spawned.result(), aside

        MARK.set("runner")
        found = await asyncio.gather(*(hub.run(partial(work, name)) for name in ("Elif", "Omar")))
        return dict(zip(("Elif", "Omar"), found, strict=True)), MARK.get()

    found, after = on_loop(play)
    assert found == {"Elif": ("Elif",) * 4, "Omar": ("Omar",) * 4}
    assert after == "runner"
    assert MARK.get() == "nobody"


def test_waiting_on_the_loop_outside_a_function_is_refused():
    """It would stop the loop for ever; the refusal says what to do, and no coroutine is left unawaited."""

    async def play(hub: Hub) -> None:
        with pytest.raises(BridgeError, match="would stop the event loop"):
            hub.wait(lambda: asyncio.sleep(0))

    on_loop(play)


def test_functions_run_on_when_the_loop_runs_inside_one_of_them():
    """A function that runs the loop itself, as nest_asyncio has it, lets others go on and end there, and ends itself."""
    order: list[str] = []

    async def play(hub: Hub) -> None:
        gate = asyncio.Event()

        def other() -> None:
            hub.wait(gate.wait)
            order.append("other")

        def looping() -> None:
            gate.set()
            loop = asyncio.get_running_loop()
            while "other" not in order:  # what nest_asyncio does: the loop's next round, from within a callback
                asyncio._leave_task(loop, task)  # type: ignore[attr-defined]
                handle = loop._ready.popleft()  # type: ignore[attr-defined]
                handle._run()
                asyncio._enter_task(loop, task)  # type: ignore[attr-defined]
            hub.wait(lambda: asyncio.sleep(0))
            order.append("looping")

        first = asyncio.ensure_future(hub.run(other))
        await asyncio.sleep(0)
        task = asyncio.ensure_future(hub.run(looping))
        await asyncio.gather(first, task)

    on_loop(play)
    assert order == ["other", "looping"]


def test_greenlets_that_ended_are_not_kept():
    """What a function held is free when it has ended, whether by a result, an error or a cancellation."""

    class Thing:
        pass

    async def play(hub: Hub) -> list[Any]:
        things = [Thing(), Thing(), Thing()]
        dead = [weakref.ref(each) for each in things]

        def work(thing: Thing, way: int) -> int:
            hub.wait(lambda: asyncio.sleep(3600 if way == 2 else 0))
            return id(thing) // way

        tasks = [asyncio.ensure_future(hub.run(partial(work, each, way))) for way, each in enumerate(things)]
        await asyncio.sleep(0.01)
        tasks[2].cancel()
        await asyncio.wait(tasks)
        assert [each.cancelled() for each in tasks] == [False, False, True]
        assert isinstance(tasks[0].exception(), ZeroDivisionError)
        del things, tasks
        await asyncio.sleep(0)
        gc.collect()
        return [each() for each in dead]

    assert on_loop(play) == [None] * 3


# ------------------------------------------------------------------ from other threads


def test_other_threads_wait_as_well(hub: Hub):
    """Thirty threads wait for the loop at once and each gets its own result, or its own error."""

    async def answer(number: int) -> int:
        await asyncio.sleep(0)
        return 100 // number

    def ask(number: int) -> Any:
        try:
            return hub.wait(lambda: answer(number))
        except ZeroDivisionError:
            return "error"

    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        found = list(pool.map(ask, range(30)))
    assert found == ["error", *(100 // number for number in range(1, 30))]


def test_an_interrupted_wait_leaves_nothing_behind(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    """A KeyboardInterrupt in the waiting thread cancels what it waited for."""
    begun, cancelled = threading.Event(), threading.Event()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupted(_self: object, timeout: float | None = None) -> None:
        assert begun.wait(10)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(concurrent.futures.Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hub.wait(endless)
    assert cancelled.wait(10)


def test_do_runs_on_the_loop_s_thread_and_in_place_when_closed(hub: Hub):
    """`do` acts on the loop's thread and brings result or error back; a closed hub, and the loop's thread, act in place."""
    assert hub.do(threading.get_ident) != threading.get_ident()
    assert hub.do(lambda: hub.do(lambda: hub.is_here))
    assert not hub.is_here
    with pytest.raises(ZeroDivisionError):
        hub.do(lambda: 1 // 0)
    assert Hub().do(threading.get_ident) == threading.get_ident()


def test_after_close_a_sentence_says_so():
    """Waiting, spawning and executors of a closed hub raise a BridgeError; so does one that never was open."""
    hub = Hub()
    with hub.thread():
        assert hub.is_open
    assert not hub.is_open
    for attempt in (
        lambda: hub.wait(lambda: asyncio.sleep(0)),
        lambda: hub.spawn(int),
        lambda: GreenletExecutor(hub).submit(int),
        lambda: Hub().wait(lambda: asyncio.sleep(0)),
    ):
        with pytest.raises(BridgeError, match="closed"):
            attempt()
    assert hub.do(lambda: 7) == 7


def test_a_hub_can_be_opened_again():
    """A hub that was closed works again on another loop."""
    hub = Hub()
    for _ in range(2):
        with hub.thread():
            assert hub.spawn(lambda: hub.wait(lambda: asyncio.sleep(0, 3))).result(10) == 3


def test_the_thread_ends_when_its_block_fails():
    """An exception in the with-block passes through, and the loop's thread is gone."""
    hub = Hub()
    with pytest.raises(LookupError), hub.thread():
        raise LookupError
    assert not [thread for thread in threading.enumerate() if thread.name == "troupelab"]


def test_drain_waits_for_what_was_spawned_by_what_was_spawned(hub: Hub):
    """Draining ends when nothing runs any more, also nothing that was spawned meanwhile; errors stay in their futures."""
    seen: list[int] = []

    def work(level: int) -> None:
        hub.wait(lambda: asyncio.sleep(0))
        seen.append(level)
        if level:
            hub.spawn(partial(work, level - 1))
        else:
            raise LookupError

    hub.spawn(partial(work, 5))
    hub.wait(hub.drain)
    assert seen == [5, 4, 3, 2, 1, 0]


def test_aside_runs_asyncio_run_on_a_thread_while_others_go_on(hub: Hub):
    """Three functions run event loops of their own at once, on threads, and wait there for one another."""
    together = threading.Barrier(3)

    async def inner(number: int) -> int:
        await asyncio.sleep(0)
        return number

    def tool(number: int) -> tuple[int, int]:
        together.wait(10)
        return asyncio.run(inner(number)), threading.get_ident()

    futures = [hub.spawn(partial(hub.aside, partial(tool, number))) for number in range(3)]
    found = [future.result(10) for future in futures]
    assert [number for number, _ in found] == [0, 1, 2]
    assert hub.do(threading.get_ident) not in {thread for _, thread in found}
    assert hub.aside(threading.get_ident) == threading.get_ident()  # not on the loop: in place


def test_aside_may_wait_for_the_loop_from_its_thread(hub: Hub):
    """What runs aside may ask the loop again, as a tool does that asks the model; errors come back."""

    def tool() -> int:
        return hub.wait(lambda: asyncio.sleep(0, 5))

    assert hub.spawn(lambda: hub.aside(tool)).result(10) == 5
    with pytest.raises(ZeroDivisionError):
        hub.spawn(lambda: hub.aside(lambda: 1 // 0)).result(10)


# ------------------------------------------------------------------ in place of executors and locks


def test_the_executor_stands_in_for_a_pool_of_threads(hub: Hub):
    """Submit, as_completed, wait and map work as with threads; all are under way at once, and errors come out of results."""
    begun, go = [], asyncio.Event()

    def work(number: int) -> int:
        begun.append(number)
        if len(begun) == 40:
            go.set()
        hub.wait(go.wait)
        return 10 // (number - 7)

    with GreenletExecutor(hub) as pool:
        futures = {pool.submit(work, number): number for number in range(40)}
        ended = {futures[future]: future for future in concurrent.futures.as_completed(futures, timeout=10)}
        assert set(ended) == set(range(40))
        assert ended[8].result() == 10
        assert isinstance(ended[7].exception(), ZeroDivisionError)
        assert list(pool.map(partial(pow, 2), range(5), timeout=10)) == [1, 2, 4, 8, 16]
        last = pool.submit(lambda: hub.wait(lambda: asyncio.sleep(0.02, "waited for")))
    assert last.done()
    assert last.result() == "waited for"


def test_turns_are_taken_one_at_a_time_by_greenlets_and_threads(hub: Hub):
    """Nobody enters while another is inside, wherever they come from, and everybody gets in."""
    turns = hub.do(lambda: Turns(hub))
    inside, most, entered = 0, 0, 0

    def work(_number: int) -> None:
        nonlocal inside, most, entered
        with turns:
            inside += 1
            entered += 1
            most = max(most, inside)
            hub.wait(lambda: asyncio.sleep(0.001))
            inside -= 1

    with GreenletExecutor(hub) as greenlets, concurrent.futures.ThreadPoolExecutor(5) as threads:
        for pool in (greenlets, threads):
            for number in range(10):
                pool.submit(work, number)
    assert (most, entered) == (1, 20)


def test_a_turn_that_fails_is_given_on(hub: Hub):
    """An exception inside passes through, and the next one gets its turn."""
    turns = Turns(hub)
    with pytest.raises(LookupError), turns:
        raise LookupError
    with turns:
        pass


def test_whoever_is_cancelled_while_waiting_for_its_turn_holds_up_nobody():
    """A function that is cancelled in the queue leaves it, and those behind it get their turns."""
    entered: list[int] = []

    async def play(hub: Hub) -> None:
        turns, go = Turns(hub), asyncio.Event()

        def work(number: int) -> None:
            with turns:
                hub.wait(go.wait)
                entered.append(number)

        tasks = [asyncio.ensure_future(hub.run(partial(work, number))) for number in range(4)]
        for _ in range(5):
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [False, True, False, False]

    on_loop(play)
    assert entered == [0, 2, 3]


def test_whoever_pauses_its_turn_lets_others_in(hub: Hub):
    """While a turn is paused others have theirs, all at once where they pause as well; afterwards it is the first one's again."""
    turns, waiting, go = Turns(hub), 0, asyncio.Event()
    inside: list[int] = []

    async def gathered() -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 12:
            go.set()
        await go.wait()

    def work(number: int) -> int:
        with turns:
            with turns.paused():
                hub.wait(gathered)
            assert not inside
            inside.append(number)
            hub.wait(lambda: asyncio.sleep(0))
            assert inside == [number]
            inside.clear()
        return number

    with GreenletExecutor(hub) as pool:
        futures = [pool.submit(work, number) for number in range(12)]
    assert [future.result() for future in futures] == list(range(12))


def test_pausing_where_it_is_not_one_s_turn_does_nothing(hub: Hub):
    """Whoever has no turn pauses nobody's: the holder's turn stays its own."""
    turns = Turns(hub)
    with turns.paused():
        pass
    entered: list[str] = []

    def other() -> None:
        with turns.paused():
            entered.append("not inside")
        with turns:
            entered.append("inside")

    with turns:
        future = hub.spawn(other)
        hub.wait(lambda: asyncio.sleep(0.01))
        assert entered == ["not inside"]
    future.result(10)
    assert entered == ["not inside", "inside"]
