"""Single flight: who asks for the same at once is answered by one piece of work, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troupelab.models.coalesce import Flights


def run(main):
    """Run a coroutine; anything that the loop would have logged (an outcome that nobody read) fails the test."""
    told = []

    async def watched():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        found = await main()
        await asyncio.sleep(0)
        return found

    found = asyncio.run(watched())
    gc.collect(1)  # what is young enough to be of this run
    assert told == []
    return found


class Work:
    """Work that counts how often it began, and ends when it is told to."""

    def __init__(self, failure=None):
        self.began = self.called_off = 0
        self.failure = failure
        self.finish = asyncio.Event()

    async def __call__(self):
        """Wait for the end."""
        self.began += 1
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            await settled(5)  # putting things away takes a moment
            self.called_off += 1
            raise
        if self.failure:
            raise self.failure
        return self.began


async def settled(times=3):
    """Let everything that can go on do so."""
    for _ in range(times):
        await asyncio.sleep(0)


def test_identical_requests_are_answered_once():
    """Fifty ask while the work is under way; it runs once, the first of them led, and the key is free afterwards."""

    async def main():
        flights, work = Flights(), Work()
        tasks = [asyncio.create_task(flights.do("key", work)) for _ in range(50)]
        await settled()
        assert len(flights) == 1
        work.finish.set()
        assert await asyncio.gather(*tasks) == [(1, True)] + [(1, False)] * 49
        assert len(flights) == 0
        assert await flights.do("key", work) == (2, True)

    run(main)


def test_other_keys_do_not_wait_for_each_other():
    """Each key has its own work."""

    async def main():
        flights, slow, quick = Flights(), Work(), Work()
        waiting = asyncio.create_task(flights.do(1, slow))
        quick.finish.set()
        assert await flights.do(2, quick) == (1, True)
        assert not waiting.done()
        slow.finish.set()
        assert await waiting == (1, True)

    run(main)


def test_a_failure_goes_to_all_who_waited():
    """Everybody gets the work's own exception, and the next one starts anew."""

    async def main():
        flights, work = Flights(), Work(failure=LookupError("gone"))
        tasks = [asyncio.create_task(flights.do("key", work)) for _ in range(5)]
        await settled()
        work.finish.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert found == [work.failure] * 5
        assert len(flights) == 0
        with pytest.raises(LookupError, match="gone"):
            await flights.do("key", work)
        assert work.began == 2

    run(main)


def test_a_start_that_fails_by_itself_is_a_failure_like_any_other():
    """What raises before there is anything to await leaves the key free."""

    async def main():
        flights = Flights()

        def start():
            raise ValueError("no such thing")

        with pytest.raises(ValueError, match="no such thing"):
            await flights.do("key", start)
        assert len(flights) == 0

    run(main)


def test_the_work_goes_on_for_others_when_the_first_is_cancelled():
    """The leader leaves; the one who waits with it gets the answer of the same work."""

    async def main():
        flights, work = Flights(), Work()
        leader, other = (asyncio.create_task(flights.do("key", work)) for _ in range(2))
        await settled()
        leader.cancel()
        await settled()
        assert leader.cancelled()
        work.finish.set()
        assert await other == (1, False)
        assert (work.began, work.called_off) == (1, 0)

    run(main)


def test_the_last_one_who_is_cancelled_takes_the_work_along():
    """Both leave; the work has ended before the second one's cancellation is through, and the key is free."""

    async def main():
        flights, work = Flights(), Work()
        tasks = [asyncio.create_task(flights.do("key", work)) for _ in range(2)]
        await settled()
        for task in tasks:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (work.began, work.called_off, len(flights)) == (1, 1, 0)

    run(main)


def test_who_comes_while_work_is_being_called_off_starts_anew():
    """Nobody is given the end of work that was called off for others."""

    async def main():
        flights, work = Flights(), Work()
        first = asyncio.create_task(flights.do("key", work))
        await settled()
        first.cancel()
        await asyncio.sleep(0)  # the work has been told, and is not done yet
        assert work.called_off == 0
        second = asyncio.create_task(flights.do("key", work))
        await settled(10)
        assert (work.began, work.called_off) == (2, 1)
        third = asyncio.create_task(flights.do("key", work))  # the end of the old work did not take the new one's key
        await settled()
        work.finish.set()
        assert await asyncio.gather(second, third) == [(2, True), (2, False)]
        assert len(flights) == 0

    run(main)


def test_who_joins_between_a_cancellation_and_its_arrival_keeps_the_work_going():
    """The last waiter was told to leave but has not left; one more joins, and the work goes on."""

    async def main():
        flights, work = Flights(), Work()
        first = asyncio.create_task(flights.do("key", work))
        await settled()
        second = asyncio.ensure_future(flights.do("key", work))  # its first step comes before the cancelled one's next
        first.cancel()
        await settled()
        assert first.cancelled()
        work.finish.set()
        assert await second == (1, False)
        assert work.called_off == 0

    run(main)


def test_a_second_cancellation_does_not_leave_the_work_behind():
    """Whoever waits for the end of called-off work and is cancelled again still waits for it."""

    async def main():
        flights, work = Flights(), Work()
        task = asyncio.create_task(flights.do("key", work))
        await settled()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (work.called_off, len(flights)) == (1, 0)

    run(main)


def test_work_that_somebody_else_cancels_ends_for_all_and_frees_the_key():
    """A task that is cancelled before its first step, as at the end of a loop, leaves nobody waiting."""

    async def main():
        flights, work = Flights(), Work()
        asking = [asyncio.create_task(flights.do("key", work)) for _ in range(2)]
        await asyncio.sleep(0)
        (under_way,) = asyncio.all_tasks() - {asyncio.current_task(), *asking}
        under_way.cancel()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(each) for each in found] == [asyncio.CancelledError] * 2
        assert (work.began, len(flights)) == (0, 0)

    run(main)


def test_a_time_out_of_one_asking_is_its_own():
    """One gives up after a while; the other gets the answer."""

    async def main():
        flights, work = Flights(), Work()
        other = asyncio.create_task(flights.do("key", work))
        await settled()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await flights.do("key", work)
        work.finish.set()
        assert await other == (1, True)

    run(main)


def test_a_failure_in_the_moment_of_a_cancellation_is_not_lost_in_the_log():
    """The work fails and its only waiter is cancelled in the same turn of the loop: no outcome is left unread."""

    async def main():
        flights, work = Flights(), Work(failure=LookupError("gone"))
        task = asyncio.create_task(flights.do("key", work))
        await settled()
        work.finish.set()
        for _ in range(3):  # the work's step, its landing, and then the waiter's waking
            await asyncio.sleep(0)
            if len(flights) == 0:
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(flights) == 0

    run(main)


def test_a_loop_that_ends_takes_all_along():
    """asyncio.run cancels what is left at its end, in any order, and nothing hangs."""
    flights = Flights()

    async def main():
        work = Work()
        asking = [asyncio.create_task(flights.do("key", work)) for _ in range(3)]
        await settled()
        asking.append(asyncio.create_task(flights.do("other", work)))
        await asyncio.sleep(0)
        return asking

    assert all(task.cancelled() for task in asyncio.run(main()))
    assert len(flights) == 0


# ---------------------------------------------------------------------- at random

callers = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 25), st.none() | st.integers(0, 30)),  # key, arrives, is cancelled at
    min_size=1,
    max_size=40,
)
works = st.lists(
    st.tuples(st.integers(0, 12), st.booleans(), st.integers(0, 4), st.booleans()),  # takes, fails, to stop, fails then
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(callers, works)
def test_whatever_happens_everybody_gets_what_is_due(plan, kinds):
    """Each gets the outcome of its flight's one work, or its own cancellation and no other; nothing is left over."""
    begun, outcome = [], []

    async def work(key):
        number = len(begun)
        takes, fails, to_stop, fails_then = kinds[number % len(kinds)]
        twice = (key, "under way") in zip(begun, outcome, strict=True)
        begun.append(key)
        outcome.append("begun beside another" if twice else "under way")
        try:
            await settled(takes)
        except asyncio.CancelledError:
            if outcome[number] == "under way":
                outcome[number] = "called off"
            await settled(to_stop)
            if fails_then:
                raise OSError(number) from None
            raise
        if outcome[number] == "under way":
            outcome[number] = "failed" if fails else "done"
        if fails:
            raise LookupError(number)
        return number

    async def main():
        flights, tasks, cancelled = Flights(), {}, set()
        for tick in range(32):
            for place, (key, arrives, leaves) in enumerate(plan):
                if arrives == tick:
                    tasks[place] = asyncio.create_task(flights.do(key, partial(work, key)))
                if leaves == tick and place in tasks and tasks[place].cancel():
                    cancelled.add(place)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert len(flights) == 0
        return tasks, cancelled

    tasks, cancelled = run(main)
    assert set(outcome) <= {"done", "failed", "called off"}
    led = Counter()
    for place, task in tasks.items():
        if task.cancelled():
            assert place in cancelled
        elif error := task.exception():
            assert type(error) is LookupError
            assert (outcome[error.args[0]], begun[error.args[0]]) == ("failed", plan[place][0])
        else:
            number, leads = task.result()
            assert (outcome[number], begun[number]) == ("done", plan[place][0])
            led[number] += leads
    assert all(times <= 1 for times in led.values())
