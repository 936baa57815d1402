"""The way of every model call: slot, model under a time-out, bounded parse, and another attempt where one failed.

One event for each call, and one for each failed attempt. It belongs to the engine's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Generic, NamedTuple, TypeVar

from troupelab.errors import ModelError, ModelTimeoutError
from troupelab.events import CallDone, Emit, Failed
from troupelab.limits import LiveLimits
from troupelab.models.limiter import Limiter
from troupelab.models.model import Model, Reply, Request
from troupelab.models.parse import parse_object

__all__ = ["Answer", "Pipeline"]

T = TypeVar("T")


class Answer(NamedTuple, Generic[T]):
    """What was read from a reply, and the tokens of all attempts together."""

    value: T
    tokens: int


class Pipeline:
    """Takes requests to a model, and accounts for each.

    Args:
        model: what answers.
        limits: max_attempts, timeout_s, response_max_bytes and response_max_depth are read at each call.
        emit: is told each call and each failed attempt.
        clock: seconds since the run's start.
    """

    def __init__(self, model: Model, limits: LiveLimits, *, emit: Emit, clock: Callable[[], float]) -> None:
        self.model = model
        self.limiter = Limiter(limits.max_concurrency)
        self._limits = limits
        self._emit = emit
        self._clock = clock

    async def complete(
        self,
        make_request: Callable[[int], Request],
        read: Callable[[dict[str, Any]], T],
        expected: Collection[str],
        *,
        queue_s: float = 0.0,
    ) -> Answer[T]:
        """Ask until a reply can be read, at most `max_attempts` times.

        Args:
            make_request: the request for an attempt, by its number from 0.
            read: turns the reply's object into what is wanted; raises ReplyError where it does not fit.
            expected: keys of which the reply's object must have one.
            queue_s: how long the caller has waited for its slot, for the call's event.

        Raises:
            ModelError: no attempt brought a usable reply; the last one's reason.
        """
        began = self._clock()
        tokens_in = tokens_out = attempt = 0
        cost_usd = 0.0
        request = make_request(0)
        while True:
            error: ModelError | None = None
            try:
                reply = await self._ask(request)
                tokens_in, tokens_out = tokens_in + reply.tokens_in, tokens_out + reply.tokens_out
                cost_usd += reply.cost_usd
                value = read(self._parse(reply, expected))
            except ModelError as failure:
                error = failure
            except asyncio.CancelledError:
                self._account(request, began, queue_s, tokens_in, tokens_out, cost_usd, attempt + 1, "CancelledError")
                raise
            attempt += 1
            again = error is not None and attempt < self._limits.max_attempts
            if error is not None:
                what = "asked again" if again else "given up"
                message = f"{error}; {what} after attempt {attempt}"
                self._emit(Failed(self._clock(), request.step, request.agent, type(error).__name__, message, attempt))
            if again:
                request = make_request(attempt)
                continue
            name = "" if error is None else type(error).__name__
            self._account(request, began, queue_s, tokens_in, tokens_out, cost_usd, attempt, name)
            if error is not None:
                raise error
            return Answer(value, tokens_in + tokens_out)

    def _account(
        self,
        request: Request,
        began: float,
        queue_s: float,
        tokens_in: int,
        tokens_out: int,
        cost_usd: float,
        attempts: int,
        error: str,
    ) -> None:
        now = self._clock()
        self._emit(
            CallDone(
                now, request.step, request.agent, request.purpose, now - began, queue_s, tokens_in, tokens_out,
                cost_usd, False, attempts, error,
            )
        )  # fmt: skip

    async def _ask(self, request: Request) -> Reply:
        timeout_s = self._limits.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self.model.complete(request)
        except TimeoutError as error:
            raise ModelTimeoutError(f"no reply within timeout_s ({timeout_s:g} s)") from error
        except ModelError:
            raise
        except Exception as error:
            # Whatever else a model raises (it may be the user's own) is a failed call like any other, and is shown.
            raise ModelError(f"the model raised {type(error).__name__}: {error}") from error

    def _parse(self, reply: Reply, expected: Collection[str]) -> dict[str, Any]:
        limits = self._limits.current
        return parse_object(
            reply.text, expected, max_bytes=limits.response_max_bytes, max_depth=limits.response_max_depth
        )
