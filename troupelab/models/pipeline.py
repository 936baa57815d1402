"""The way of every model call: from a question, past all that makes a request needless, to an answer that can be read.

In this order: exact cache → single flight → semantic cache → packer → sender (queue, budget, rates, limiter → model → retry) → bounded parse →
cache write. Each stage is a module of its own, and may be missing. One event tells each question's end, whatever became of
it. The pipeline belongs to the engine's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import xxhash

from troupelab.errors import ModelError, ReplyError, StoreError
from troupelab.events import CacheUsed, Emit, Failed
from troupelab.livelimits import LiveLimits
from troupelab.models.account import Account, Source
from troupelab.models.cache import ReplyCache, reply_key
from troupelab.models.coalesce import Flights
from troupelab.models.limiter import Priority
from troupelab.models.model import ChatMessage, Model, Reply, Request
from troupelab.models.pack import Packer
from troupelab.models.parse import check_length, parse_object
from troupelab.models.semantic import Hit, SemanticCache
from troupelab.models.sender import Sender

__all__ = ["Pipeline"]

T = TypeVar("T")

_CALLED_OFF = "CancelledError"
_SHADOW: Priority = (float("inf"),)


class Pipeline:
    """Takes questions to a model, and accounts for each.

    Args:
        model: what answers.
        limits: read where they are used, at each call.
        emit: is told each question's end, each failed attempt, and each answer that needed no call.
        clock: seconds since the run's start.
        seed: the run's; another seed gets other kept answers.
        cache: keeps answers beyond the run; None for none.
        semantic: answers like questions alike, while `cache_similarity` is set; None for none.
        coalesce: whether the same request, asked several times at once, is sent once.
        share_identical: whether agents that ask the very same share one sampled answer.
    """

    def __init__(
        self,
        model: Model,
        limits: LiveLimits,
        *,
        emit: Emit,
        clock: Callable[[], float],
        seed: int = 0,
        cache: ReplyCache | None = None,
        semantic: SemanticCache | None = None,
        coalesce: bool = True,
        share_identical: bool = False,
    ) -> None:
        self.sender = Sender(model, limits, emit=emit, clock=clock)
        self._packer = Packer(self.sender, limits, emit=emit, clock=clock)
        self.cache = cache
        self._owns_cache = False
        self.semantic = semantic
        self._limits = limits
        self._emit = emit
        self._clock = clock
        self._seed = seed
        self._identity: str = getattr(model, "identity", model.name)
        self._share_identical = share_identical
        self._flights: Flights[bytes, Reply] | None = Flights() if coalesce else None
        self._spent: dict[bytes, Account] = {}
        self._shadows: set[asyncio.Task[None]] = set()

    def follow_limits(self) -> None:
        """Take up limits that have changed."""
        limits = self._limits.current
        self.sender.follow_limits()
        if self.cache is not None:
            self.cache.resize(max_bytes=limits.cache_max_bytes, max_age_s=limits.cache_max_age_s)

    async def complete(
        self,
        make_request: Callable[[int], Request],
        read: Callable[[dict[str, Any]], T],
        expected: Collection[str] | None,
        *,
        account: Account | None = None,
        priority: Priority = (),
        urgent: bool = False,
    ) -> T:
        """Ask until a reply can be read, at most `max_attempts` times.

        Args:
            make_request: the request, by how often it was asked before: 0 at first.
            read: turns the reply's object into what is wanted; raises ReplyError where it does not fit.
            expected: keys of which the reply's object must have one; None for a reply that is any text, read as {"text": …}.
            account: counts what it takes, for a caller who wants to know.
            priority: who goes first among those who wait for a slot; the smallest.
            urgent: goes before them, and also while the run is paused.

        Raises:
            ModelError: no attempt brought a usable reply; the last one's reason.
        """
        account = account or Account(self._clock())
        request = make_request(0)
        error = _CALLED_OFF
        asked = 0
        try:
            while True:
                key = self._key(request)
                reply = await self._reply(key, request, account, priority, urgent)
                try:
                    value = read(self._parse(reply, expected))
                except ReplyError as failure:
                    account.failures += 1
                    again = account.failures < self._limits.max_attempts
                    what = "asked again" if again else f"given up after attempt {account.attempts}"
                    self.sender.tell(request, account, failure, what)
                    if not again:
                        raise
                    asked += 1
                    request = _with_reason(make_request(asked), failure)
                    continue
                self._keep(key, request, reply, account.source)
                error = ""
                return value
        except Exception as failure:
            error = type(failure).__name__
            raise
        finally:
            # A question that was called off before it was sent is no call.
            if account.attempts or error != _CALLED_OFF:
                self._emit(account.event(request, self._clock(), error))

    def _can_share(self, request: Request) -> bool:
        """Whether others may be asking for the same reply now; a drawn one is for one agent's one call."""
        return self._flights is not None and (request.temperature <= 0 or self._share_identical)

    def _key(self, request: Request) -> bytes:
        if self.cache is None and not self._can_share(request):
            return b""
        return reply_key(request, model=self._identity, seed=self._seed, share_identical=self._share_identical)

    async def _reply(self, key: bytes, request: Request, account: Account, priority: Priority, urgent: bool) -> Reply:
        """Exact cache, then single flight."""
        if self.cache is not None and (kept := self.cache.find(key)) is not None:
            account.source = "cache"
            self._used(request, "exact", 1.0, kept.reply, kept.latency_s)
            return kept.reply
        if self._flights is None or not self._can_share(request):
            return await self._fetch(request, account, priority, urgent)
        # What a flight takes is counted once, by whoever of its askers is first to take it over.
        spent = self._spent.setdefault(key, Account(self._clock()))
        try:
            work = self._flight(key, request, spent, priority, urgent)
            reply, led = await self._flights.do(key, work)
        finally:
            if self._spent.get(key) is not spent:  # it has ended
                account.source = spent.source
                account.include(spent)
        if not led:
            account.source = "flight"
            self._used(request, "flight", 1.0, reply, 0.0)
        return reply

    def _flight(
        self, key: bytes, request: Request, spent: Account, priority: Priority, urgent: bool
    ) -> Callable[[], Awaitable[Reply]]:
        async def work() -> Reply:
            try:
                return await self._fetch(request, spent, priority, urgent)
            finally:
                self._spent.pop(key, None)

        return work

    async def _fetch(self, request: Request, account: Account, priority: Priority, urgent: bool) -> Reply:
        """Semantic cache, then the model."""
        account.source = "model"
        similarity = self._limits.current.cache_similarity
        if self.semantic is not None and similarity is not None and request.gist:
            hit = self.semantic.find(self._scope(request), request.gist, similarity)
            if hit is not None:
                account.source = "semantic"
                self._used(request, "semantic", hit.similarity, hit.reply, hit.reply.latency_s)
                if self.semantic.wants_shadow(request.seed):
                    self._check_in_shadow(request, hit)
                return hit.reply
        return await self._packer.send(request, account, priority=priority, urgent=urgent)

    def _scope(self, request: Request) -> int:
        """All that must be the same for a like question to get a like question's answer: whoever answers, and as whom."""
        schema = "" if request.schema is None else request.schema.name
        parts = [self._identity, request.purpose, schema, str(request.temperature), str(request.max_tokens)]
        parts += [message.content for message in request.messages if message.role == "system"]
        return xxhash.xxh3_64_intdigest("\x00".join(parts).encode("utf-8", "surrogatepass"), self._seed & 2**63 - 1)

    def _check_in_shadow(self, request: Request, hit: Hit) -> None:
        """Put the question to the model all the same, beside the run, and tell whether the kept answer was another."""
        semantic = self.semantic
        assert semantic is not None

        async def check() -> None:
            fresh = await self._send_aside(request, "shadow", _SHADOW)
            if fresh is None:
                return
            try:
                await semantic.prepare(hit.reply.text, fresh.text)
            except ModelError:
                return  # its vectors cannot be had: nothing depends on the check
            false_hit, spent = semantic.check(hit.reply.text, fresh.text), fresh.tokens_in + fresh.tokens_out
            now = self._clock()
            self._emit(CacheUsed(now, request.step, request.agent, "shadow", hit.similarity, -spent, 0.0, false_hit))

        task = asyncio.get_running_loop().create_task(check())
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    def _parse(self, reply: Reply, expected: Collection[str] | None) -> dict[str, Any]:
        limits = self._limits.current
        if expected is None:
            return {"text": check_length(reply.text, limits.response_max_bytes)}
        return parse_object(
            reply.text, expected, max_bytes=limits.response_max_bytes, max_depth=limits.response_max_depth
        )

    def _keep(self, key: bytes, request: Request, reply: Reply, source: Source) -> None:
        if source not in ("model", "pack"):
            return
        if self.cache is not None:
            self.cache.put(key, reply, latency_s=reply.latency_s)
        if self.semantic is not None and request.gist and self._limits.current.cache_similarity is not None:
            self.semantic.put(self._scope(request), request.gist, reply)

    def _used(self, request: Request, kind: str, similarity: float, reply: Reply, seconds: float) -> None:
        now, tokens = self._clock(), reply.tokens_in + reply.tokens_out
        self._emit(CacheUsed(now, request.step, request.agent, kind, similarity, tokens, seconds, False))

    async def warm_up(self, messages: tuple[ChatMessage, ...]) -> None:
        """Send what many prompts begin with, so that a provider that caches prompts has it; the reply does not matter."""
        await self._send_aside(Request("warm-up", -1, 0, 0, 0, 0, messages, max_tokens=1), "warm-up")

    async def _send_aside(self, request: Request, purpose: str, priority: Priority = ()) -> Reply | None:
        """Send a request on whose reply no act depends, with a row of its own; None where none came, and the sender has told why."""
        account, error = Account(self._clock()), _CALLED_OFF
        try:
            reply = await self.sender.send(request, account, priority=priority)
        except ModelError as failure:
            error = type(failure).__name__
            return None
        else:
            error = ""
            return reply
        finally:
            if account.attempts:
                self._emit(account.event(msgspec.structs.replace(request, purpose=purpose), self._clock(), error))

    async def drain(self) -> None:
        """Wait for what still goes on beside the run, and free what belongs to this loop."""
        await self._packer.drain()
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)
        if self.cache is not None:
            try:
                await asyncio.to_thread(self.cache.flush)
            except (StoreError, TimeoutError) as error:
                message = f"not all replies were kept: {error}"
                self._emit(Failed(self._clock(), -1, -1, type(error).__name__, message, 0))
        await self.sender.release()

    def open_cache(self, cache: str | Path | ReplyCache | Literal[False] | None, *, parent: Path | None = None) -> None:
        """Keep replies in a file from now on, or in a cache that is open already; look into a parent's file as well.

        Raises:
            StoreError: the file cannot be used; the message says what to do.
        """
        limits = self._limits.current
        self._owns_cache = isinstance(cache, str | Path)
        if isinstance(cache, str | Path):
            self.cache = ReplyCache.open(
                cache, max_bytes=limits.cache_max_bytes, max_age_s=limits.cache_max_age_s, parent=parent
            )
        else:
            self.cache = cache if isinstance(cache, ReplyCache) else None  # an empty one is falsy

    def close_cache(self) -> None:
        """Go on without a cache, and close it where it was opened here."""
        cache, self.cache = self.cache, None
        if cache is not None and self._owns_cache:
            cache.close()


def _with_reason(request: Request, failure: ReplyError) -> Request:
    """The request with what was wrong with the last reply to it at its end, where it leaves a provider's cached prefix whole."""
    told = f"Your last answer could not be used: {failure.reason}. Answer again, with the JSON object alone."
    return msgspec.structs.replace(request, messages=(*request.messages, ChatMessage("user", told)))
