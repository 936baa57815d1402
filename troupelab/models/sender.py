"""Sending: queue, limiter, budget, rates, time-out, hedge and retry, for one request until it has a reply or is given up.

Every attempt is counted, and every one that fails is an event which says what was done about it. It belongs to the engine's loop.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from troupelab.errors import (
    ModelBusyError,
    ModelError,
    ModelRequestError,
    ModelServerError,
    ModelSetupError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from troupelab.events import Alerted, Emit, Failed
from troupelab.limits import FIELDS
from troupelab.livelimits import LiveLimits
from troupelab.models.account import Account
from troupelab.models.budget import Budget
from troupelab.models.hedge import Hedge
from troupelab.models.limiter import Ask, Limiter, Priority, usual_estimate
from troupelab.models.model import Model, Reply, Request
from troupelab.models.pace import Pace
from troupelab.models.rates import Rates
from troupelab.models.retry import wait_before_retry

__all__ = ["Sender"]

_MOST_THREADS = int(FIELDS["max_concurrency"].high)
_LOOK_AGAIN_S = 0.25
_SETUP_FIRST: Priority = (-math.inf,)


class Sender:
    """Takes requests to the model.

    Args:
        model: what answers; where its `complete` is a plain function, it is called on threads.
        limits: read at each attempt.
        emit: is told each failed attempt, and what needs the user's eye.
        clock: seconds since the run's start.
    """

    def __init__(self, model: Model, limits: LiveLimits, *, emit: Emit, clock: Callable[[], float]) -> None:
        self.model = model
        self.budget = Budget(limits)
        self.pace = Pace()
        self.hedge = Hedge()
        self.on_halt: Callable[[str, str], bool] = lambda kind, sentence: False
        """Is told, with a kind and a sentence, what no call can get past; true when it holds the limiter until that is mended."""
        self._rates = Rates(clock)
        self.limiter = Limiter(limits.max_concurrency, (self._rates, self.budget))
        self._limits = limits
        self._emit = emit
        self._clock = clock
        self._estimate: Callable[[Request], Ask] = getattr(model, "estimate", usual_estimate)
        self._call: Callable[[Request], Awaitable[Reply]] = model.complete
        self._parallel: int = getattr(
            model, "parallel", _MOST_THREADS
        )  # what waits inside a model would look like slow calls
        self._threads: ThreadPoolExecutor | None = None
        if not inspect.iscoroutinefunction(model.complete):
            self._call = self._on_thread
        self._unpriced_told = False
        self.follow_limits()

    def follow_limits(self) -> None:
        """Take up limits that have changed."""
        limits = self._limits.current
        self._rates.set(limits.requests_per_minute, limits.tokens_per_minute)
        self._resize()
        self.limiter.wake()

    def _resize(self) -> None:
        size = min(self._limits.max_concurrency, self._parallel)
        if self._limits.adaptive_concurrency:
            self.pace.cap(size)
            size = min(size, self.pace.size)
        if size != self.limiter.size:
            self.limiter.resize(size)

    async def send(self, request: Request, account: Account, *, priority: Priority = (), urgent: bool = False) -> Reply:
        """Send a request until it is answered.

        Args:
            request: what is asked.
            account: counts what it takes.
            priority: who goes first among those who wait for a slot.
            urgent: goes before them, and also while the run is paused.

        Raises:
            ModelError: it was given up; the last attempt's reason.
        """
        ask = self._estimate(request)
        if urgent and (lack := self.budget.lack(ask)) is not None:
            # Nobody may be there to raise it: an interview after the end must not wait for that.
            raise ModelRequestError(f"{lack[1]}: raise {lack[0]}")
        again = False
        while True:
            account.wait(self._clock())
            async with self.limiter.slot(priority, ask, urgent=urgent or again):
                account.begin(self._clock())
                outcome = await self._attempt(request, ask, account)
                # Within the slot, so that nobody else is let in to hear the same.
                halted = isinstance(outcome, ModelSetupError) and not urgent and self.on_halt("model", str(outcome))
            if isinstance(outcome, Reply):
                return outcome
            if halted:
                self.tell(request, account, outcome, "the run pauses, and it is sent again when the run goes on")
                again, priority = False, _SETUP_FIRST
                continue
            wait_s = self._wait_s(outcome, request, account)
            if wait_s == math.inf:
                self.tell(request, account, outcome, f"given up after attempt {account.attempts}")
                raise outcome
            self.tell(request, account, outcome, f"sent again in {wait_s:.2g} s, after attempt {account.attempts}")
            await asyncio.sleep(wait_s)
            account.active_s += wait_s
            again = True

    def _wait_s(self, error: ModelError, request: Request, account: Account) -> float:
        if not isinstance(error, ModelBusyError):
            account.failures += 1
        limits = self._limits.current
        return wait_before_retry(
            error,
            attempt=account.attempts,
            failures=account.failures,
            max_attempts=limits.max_attempts,
            left_s=(limits.deadline_s or math.inf) - account.active_s,
            seed=request.seed,
        )

    async def _attempt(self, request: Request, ask: Ask, account: Account) -> Reply | ModelError:
        limits, era, began = self._limits.current, self.pace.era, self._clock()
        timeout_s = min(limits.timeout_s or math.inf, (limits.deadline_s or math.inf) - account.active_s)
        tokens, cost_usd = 0, 0.0
        outcome: Reply | ModelError
        account.attempts += 1
        try:
            async with asyncio.timeout(None if timeout_s == math.inf else timeout_s):
                hedge = limits.max_hedged_fraction > 0
                outcome = await (self._hedged(request, ask, account) if hedge else self._call(request))
            latency_s = self._clock() - began
            outcome = msgspec.structs.replace(outcome, latency_s=latency_s)
            tokens, cost_usd = outcome.tokens_in + outcome.tokens_out, outcome.cost_usd
            account.answered(outcome)
            self.hedge.note(latency_s)
        except TimeoutError:
            outcome = ModelTimeoutError(f"no reply within {timeout_s:g} s (timeout_s, or what was left of deadline_s)")
        except ModelError as error:
            outcome = error
        except Exception as error:
            # Whatever else a model raises (it may be the user's own) is a failed call like any other, and is shown.
            outcome = ModelServerError(f"the model raised {type(error).__name__}: {error}")
        finally:
            account.active_s += self._clock() - began
            self.budget.settle(ask, tokens, cost_usd)
            self._rates.settle(ask, tokens)
        self._learn(outcome, era)
        if limits.adaptive_concurrency:
            self._resize()
        return outcome

    async def _hedged(self, request: Request, ask: Ask, account: Account) -> Reply:
        """Ask the model, and once more where the answer takes unusually long."""
        began = self._clock()
        asked = [asyncio.ensure_future(self._call(request))]
        done: set[asyncio.Future[Reply]] = set()
        try:
            while not done and len(asked) == 1:
                after_s = self.hedge.after_s(self._limits.max_hedged_fraction)
                wait_s = math.inf if after_s is None else after_s - (self._clock() - began)
                if wait_s <= 0:
                    self.hedge.hedged()
                    asked.append(asyncio.ensure_future(self._second(request, ask, account)))
                else:  # not yet, or too little is known: look again
                    done, _ = await asyncio.wait(asked, timeout=min(wait_s, _LOOK_AGAIN_S))
            while len(done) < len(asked) and all(each.exception() is not None for each in done):
                when = asyncio.ALL_COMPLETED if done else asyncio.FIRST_COMPLETED
                done, _ = await asyncio.wait(asked, return_when=when)
            return min(done, key=lambda each: each.exception() is not None).result()
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _second(self, request: Request, ask: Ask, account: Account) -> Reply:
        """The second request for a slow one, in a slot of its own, before those who have not begun."""
        async with self.limiter.slot((), ask, urgent=True):
            account.attempts += 1
            try:
                return await self._call(request)
            finally:
                self.budget.settle(ask, 0, 0.0)

    async def _on_thread(self, request: Request) -> Reply:
        if self._threads is None:
            # A thread is made when a call finds none idle: there are as many as max_concurrency lets be under way.
            self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="troupelab-model")
        loop = asyncio.get_running_loop()
        reply: Reply = await loop.run_in_executor(self._threads, self.model.complete, request)  # type: ignore[arg-type]
        return reply

    def _learn(self, outcome: Reply | ModelError, era: int) -> None:
        if isinstance(outcome, Reply):
            self.pace.answered()
            if math.isnan(outcome.cost_usd) and not self._unpriced_told:
                self._unpriced_told = True
                sentence = (
                    f"the price of {self.model.name} is not known: its cost is NaN, and max_cost_usd cannot hold it"
                )
                self._emit(Alerted(self._clock(), -1, "price", sentence))
        elif isinstance(outcome, ModelBusyError):
            self.pace.refused(era)
        elif isinstance(outcome, ModelUnavailableError):
            self.pace.failed()

    def tell(self, request: Request, account: Account, error: ModelError, what: str) -> None:
        """Tell of an attempt that failed, and what was done about it."""
        kind = type(error).__name__
        self._emit(Failed(self._clock(), request.step, request.agent, kind, f"{error}; {what}", account.attempts))

    async def release(self) -> None:
        """Let the model free what belongs to the running loop, and end the threads of a synchronous one."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        if (release := getattr(self.model, "release", None)) is not None:
            await release()
