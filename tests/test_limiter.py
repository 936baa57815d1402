"""The limiter's queue, its gates (rates and budget), and the pace that it finds by trying."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.livelimits import LiveLimits
from troupelab.models.budget import Budget
from troupelab.models.hedge import Hedge
from troupelab.models.limiter import Ask, Limiter
from troupelab.models.pace import START, Pace
from troupelab.models.rates import Bucket, Rates
from troupelab.models.retry import BASE_S, MOST_S, wait_before_retry


async def _queue(limiter, *slots):
    """Have slots waited for in this order, each letting the next one in at once; returns who came in when."""
    came = []

    async def work(name, priority, urgent):
        async with limiter.slot(priority, urgent=urgent):
            came.append(name)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(work(*slot)) for slot in slots]
    await asyncio.sleep(0)
    return tasks, came


def test_whoever_holds_up_the_most_goes_first_and_the_urgent_before_all():
    """The queue is left in the order of urgency, then priority, then coming."""

    async def main():
        limiter = Limiter(1)
        limiter.hold(True)
        tasks, came = await _queue(
            limiter, ("c", (2, -1), False), ("b", (1, -1), False), ("a", (1, -5), False), ("b2", (1, -1), False)
        )
        assert came == []
        more, urgent = await _queue(limiter, ("u", (9,), True))
        await asyncio.gather(*more)
        assert urgent == ["u"]
        limiter.hold(False)
        await asyncio.gather(*tasks)
        return came

    assert asyncio.run(main()) == ["a", "b", "b2", "c"]


def test_a_closed_limiter_cancels_who_waits_and_who_comes_and_lets_the_others_finish():
    """Stopping a run leaves nobody in the queue; the one under way finishes; reopened, it works again."""

    async def main():
        limiter, leave = Limiter(1), asyncio.Event()

        async def work():
            async with limiter.slot():
                await leave.wait()
                return "done"

        tasks = [asyncio.create_task(work()) for _ in range(3)]
        await asyncio.sleep(0)
        limiter.close()
        late = asyncio.create_task(work())
        await asyncio.sleep(0)
        leave.set()
        outcomes = await asyncio.gather(*tasks, late, return_exceptions=True)
        limiter.reopen()
        return outcomes, await work(), limiter.queued, limiter.in_flight

    outcomes, again, queued, in_flight = asyncio.run(main())
    assert [outcome if outcome == "done" else type(outcome).__name__ for outcome in outcomes] == [
        "done",
        *["CancelledError"] * 3,
    ]
    assert (again, queued, in_flight) == ("done", 0, 0)


# ---------------------------------------------------------------------- rates


class Time:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 3_000),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 40)), min_size=1, max_size=120),
    st.sampled_from([1.0, 10.0]),
)
def test_no_minute_has_more_than_its_number(per_minute, plan, burst_s):
    """Whatever is asked for when, no window of a minute has more than the rate, but for one that alone is more than the bucket."""
    time = Time()
    bucket = Bucket(burst_s, time)
    bucket.set(per_minute)
    taken = []
    for pause, amount in plan:
        time.now += pause
        while (wait_s := bucket.wait_s(amount)) > 0:
            time.now += wait_s
        bucket.take(amount)
        taken.append((time.now, amount))
    room = max(1.0, per_minute * burst_s / 60)
    for start, _ in taken:
        window = [amount for at, amount in taken if start <= at < start + 60 - 1e-6]
        assert sum(window) <= per_minute + max(0, max(window) - room) + 1 + 1e-6


def test_a_rate_that_is_raised_or_lifted_is_felt_by_who_waits():
    """Retuning the rate while a request waits lets it go when the new rate says so."""
    time = Time()
    rates = Rates(time)
    rates.set(6, None)
    rates.take(Ask())
    slow = rates.wait_s(Ask())
    rates.set(600, None)
    faster = rates.wait_s(Ask())
    rates.set(None, None)
    assert slow > 9
    assert 0 < faster <= 0.2
    assert rates.wait_s(Ask()) == 0


def test_tokens_that_were_not_needed_are_given_back():
    """What a reply did not take of its estimate is there for the next request."""
    time = Time()
    rates = Rates(time)
    rates.set(None, 6_000)
    rates.take(Ask(tokens=1_000))
    before = rates.wait_s(Ask(tokens=500))
    rates.settle(Ask(tokens=1_000), 100)
    assert before > 0
    assert rates.wait_s(Ask(tokens=500)) == 0


def test_the_queue_moves_by_itself_when_a_rate_allows_the_next():
    """Requests beyond the burst wait for their time without anybody waking the limiter."""

    async def main():
        loop = asyncio.get_running_loop()
        rates = Rates(loop.time)
        rates.set(1_200, None)  # 20 at once, then about 19 a second
        limiter = Limiter(100, (rates,))
        began = loop.time()

        async def work():
            async with limiter.slot():
                return loop.time() - began

        return sorted(await asyncio.gather(*(work() for _ in range(26))))

    at = asyncio.run(main())
    assert at[25] - at[19] > 0.2


# ---------------------------------------------------------------------- budget


@settings(max_examples=100, deadline=None)
@given(
    st.integers(50, 2_000),
    st.lists(st.tuples(st.integers(1, 300), st.floats(0, 1)), max_size=60),
    st.integers(1, 6),
)
def test_no_call_goes_beyond_the_budget(most, calls, at_once):
    """Estimated as high as they can get, calls never take more than the budget in all, in whatever order they end."""
    budget = Budget(LiveLimits(tl.Limits(max_tokens=most)))
    reached = []
    budget.on_reached = lambda limit, sentence: reached.append(limit)
    open_ = []
    for tokens, share in calls:
        ask = Ask(tokens)
        while open_ and (len(open_) >= at_once or budget.wait_s(ask) > 0):
            done, part = open_.pop(0)
            budget.settle(done, int(done.tokens * part), 0.0)
        if budget.wait_s(ask) > 0:
            assert reached
            assert budget.tokens + tokens > most
            break
        budget.take(ask)
        open_.append((ask, share))
    for done, part in open_:
        budget.settle(done, int(done.tokens * part), 0.0)
    assert budget.tokens <= most


def test_a_budget_is_not_reached_while_something_in_flight_may_take_less():
    """The next call waits for those under way before anybody is told."""
    budget = Budget(LiveLimits(tl.Limits(max_cost_usd=1.0)))
    reached = []
    budget.on_reached = lambda limit, sentence: reached.append((limit, sentence))
    budget.take(Ask(10, 0.8))
    assert budget.wait_s(Ask(10, 0.5)) == math.inf
    assert reached == []
    budget.settle(Ask(10, 0.8), 10, 0.7)
    assert budget.wait_s(Ask(10, 0.5)) == math.inf
    assert reached[0][0] == "max_cost_usd"
    assert "$0.7000 of $1 are spent" in reached[0][1]


def test_a_call_without_a_price_is_counted_as_such():
    """NaN dollars do not spoil the sum."""
    budget = Budget(LiveLimits())
    budget.take(Ask(10))
    budget.settle(Ask(10), 10, math.nan)
    assert (budget.unpriced_calls, budget.cost_usd, budget.tokens) == (1, 0.0, 10)


# ---------------------------------------------------------------------- pace


def _round(pace):
    for _ in range(pace.size):
        pace.answered()


def test_the_pace_doubles_until_the_first_refusal_and_then_creeps():
    """20, 40, 80; a refusal takes a fifth; from then on five per cent a round."""
    pace = Pace()
    sizes = [pace.size]
    for _ in range(2):
        _round(pace)
        sizes.append(pace.size)
    pace.refused(pace.era)
    sizes.append(pace.size)
    _round(pace)
    sizes.append(pace.size)
    assert sizes == [START, 40, 80, 64, 67]


def test_a_burst_of_refusals_counts_once():
    """Calls that were sent before the last decrease do not decrease again."""
    pace, era = Pace(100), 0
    for _ in range(30):
        pace.refused(era)
    assert pace.size == 80
    pace.refused(pace.era)
    assert pace.size == 64


def test_a_failing_endpoint_stops_the_growth_of_its_round_only():
    """After a round with a 5xx the size is the same; after the next it has grown."""
    pace = Pace()
    pace.failed()
    _round(pace)
    assert pace.size == 20
    _round(pace)
    assert pace.size == 40


def test_the_pace_never_falls_below_one():
    """However often it is refused, one call may be in flight."""
    pace = Pace()
    for _ in range(100):
        pace.refused(pace.era)
    assert pace.size == 1
    _round(pace)
    assert pace.size == 2


# ---------------------------------------------------------------------- hedge and retry


def test_hedges_stay_within_their_share_of_the_calls():
    """A second request is allowed once there are enough calls, and never for more than the share."""
    hedge = Hedge()
    hedged = 0
    for number in range(1, 1_001):
        if hedge.after_s(0.05) is not None:
            hedge.hedged()
            hedged += 1
        hedge.note(0.1)
        assert hedged <= 0.05 * number
    assert hedged >= 45


@given(st.integers(1, 30), st.integers(0, 2**63), st.one_of(st.none(), st.floats(0, 100)))
def test_waits_are_jittered_bounded_and_honour_what_the_endpoint_asks(attempt, seed, retry_after_s):
    """A wait begins at Retry-After and adds at most the backoff; the same seed gives the same wait."""
    error = tl.ModelBusyError("later", retry_after_s=retry_after_s)
    facts = {"attempt": attempt, "failures": 0, "max_attempts": 5, "left_s": 1_000.0, "seed": seed}
    wait_s = wait_before_retry(error, **facts)
    floor = retry_after_s or 0.0
    assert floor <= wait_s <= floor + min(MOST_S, BASE_S * 2 ** (attempt - 1))
    assert wait_s == wait_before_retry(error, **facts)


@pytest.mark.parametrize(
    ("error", "failures", "again"),
    [
        (tl.ModelBusyError("x"), 99, True),
        (tl.ModelServerError("x"), 4, True),
        (tl.ModelServerError("x"), 5, False),
        (tl.ModelConnectionError("x"), 5, False),
        (tl.ModelTimeoutError("x"), 1, True),
        (tl.ModelSetupError("x"), 1, False),
        (tl.ModelRequestError("x"), 1, False),
        (tl.ReplyError("x"), 1, False),
        (tl.ModelBusyError("x", retry_after_s=61.0), 0, False),
    ],
)
def test_what_may_pass_is_tried_again_and_what_cannot_is_not(error, failures, again):
    """Busy endpoints until the deadline, failing ones max_attempts times, wrong keys and requests never."""
    wait_s = wait_before_retry(error, attempt=failures, failures=failures, max_attempts=5, left_s=60.0, seed=1)
    assert (wait_s < math.inf) is again
