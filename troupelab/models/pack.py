"""Packing: several requests that share their beginning go out as one, with a keyed structured reply.

What they have in common is sent once, and one call is made for all. Those that come within `batch_window_ms` go together, `batch_max_size`
at most; one that stays alone goes as it is. What is missing or broken in the reply falls back to a call of its own.
The packed call is a row of its own in the calls' frame (purpose `pack`), with all that it took. It belongs to the engine's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import orjson

from troupelab.errors import ModelError, ModelRequestError, ReplyError
from troupelab.events import Emit, Failed
from troupelab.livelimits import LiveLimits
from troupelab.models.account import Account
from troupelab.models.limiter import Priority
from troupelab.models.model import Reply, Request, Schema, packed
from troupelab.models.parse import parse_object
from troupelab.models.sender import Sender

__all__ = ["Packer"]

_EVERYONE = -1
_Key = tuple[object, ...]


class _Item(NamedTuple):
    request: Request
    account: Account
    priority: Priority
    outcome: asyncio.Future[Reply | None]


class Packer:
    """Sends requests that have a `part` together with others like them.

    Args:
        sender: sends what goes out.
        limits: batch_window_ms and batch_max_size, and the limits of replies.
        emit: is told each packed call, and what was broken in its reply.
        clock: seconds since the run's start.
    """

    def __init__(self, sender: Sender, limits: LiveLimits, *, emit: Emit, clock: Callable[[], float]) -> None:
        self._sender = sender
        self._limits = limits
        self._emit = emit
        self._clock = clock
        self._gathering: dict[_Key, list[_Item]] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def send(self, request: Request, account: Account, *, priority: Priority, urgent: bool) -> Reply:
        """Send a request, with others where that is possible.

        Raises:
            ModelError: it was given up.
        """
        limits = self._limits.current
        alone = request.part is None or urgent or request.attempt > 0  # what was asked before gets a call of its own
        if not alone and limits.batch_window_ms > 0 and limits.batch_max_size > 1:
            item = _Item(request, account, priority, asyncio.get_running_loop().create_future())
            self._gather(item)
            if (reply := await item.outcome) is not None:
                return reply
        return await self._sender.send(request, account, priority=priority, urgent=urgent)

    def _gather(self, item: _Item) -> None:
        request, part = item.request, item.request.part
        assert part is not None
        schema = "" if request.schema is None else request.schema.name
        key = (request.purpose, schema, request.temperature, part.common)
        items = self._gathering.setdefault(key, [])
        items.append(item)
        if len(items) >= self._limits.batch_max_size:
            self._send_gathered(key, items)
        elif len(items) == 1:
            loop = asyncio.get_running_loop()
            loop.call_later(self._limits.batch_window_ms / 1000, self._send_gathered, key, items)

    def _send_gathered(self, key: _Key, items: list[_Item]) -> None:
        if self._gathering.get(key) is not items:
            return  # the window closes on what went out because it was full
        del self._gathering[key]
        items = [item for item in items if not item.outcome.done()]  # the others were called off meanwhile
        if len(items) == 1:
            items[0].outcome.set_result(None)
        elif items:
            task = asyncio.get_running_loop().create_task(self._send_packed(items))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send_packed(self, items: list[_Item]) -> None:
        request = _joined([item.request for item in items])
        account, error = Account(self._clock()), ""
        replies: list[Reply | None] = [None] * len(items)
        try:
            reply = await self._sender.send(request, account, priority=min(item.priority for item in items))
            replies = self._split(request, reply, len(items))
        except (ReplyError, ModelRequestError) as failure:
            error = type(failure).__name__  # each goes by itself then
        except ModelError as failure:
            error = type(failure).__name__
            for item in items:
                if not item.outcome.done():
                    item.outcome.set_exception(failure)
        except asyncio.CancelledError:
            error = "CancelledError"
            for item in items:
                item.outcome.cancel()
            raise
        finally:
            if account.attempts:
                self._emit(account.event(request, self._clock(), error))
        for item, found in zip(items, replies, strict=True):
            if not item.outcome.done():
                item.account.source = "pack" if found is not None else "model"
                item.account.queue_s += account.queue_s
                item.account.begin_at(account.begun_s)
                item.outcome.set_result(found)

    def _split(self, request: Request, reply: Reply, count: int) -> list[Reply | None]:
        """The replies to the parts; None for each that is missing or no object."""
        limits = self._limits.current
        keys = [str(number) for number in range(1, count + 1)]
        try:
            found = parse_object(
                reply.text, keys, max_bytes=limits.response_max_bytes * count, max_depth=limits.response_max_depth + 1
            )
        except ReplyError:
            self._tell(request, f"a packed reply has none of its {count} parts, which are asked for one by one")
            raise
        replies: list[Reply | None] = []
        for key in keys:
            part = found.get(key)
            if isinstance(part, dict):
                replies.append(_share(reply, part, count))
            else:
                self._tell(request, f"part {key} of {count} is missing or no object; it is asked for by itself")
                replies.append(None)
        return replies

    def _tell(self, request: Request, message: str) -> None:
        self._emit(Failed(self._clock(), request.step, _EVERYONE, "ReplyError", message, 1))

    async def drain(self) -> None:
        """Call off what has not come back, at a run's end."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


def _joined(requests: list[Request]) -> Request:
    """One request for several; its seed depends on theirs."""
    first = requests[0]
    parts = [request.part for request in requests if request.part is not None]
    keys = [str(number) for number in range(1, len(parts) + 1)]
    schema = None
    if first.schema is not None:
        each = first.schema.schema
        properties = dict.fromkeys(keys, each)
        whole = {"type": "object", "properties": properties, "required": keys, "additionalProperties": False}
        schema = Schema(f"{first.schema.name}_pack_{len(keys)}", whole)
    seed = 0
    for request in requests:
        seed ^= request.seed
    return Request(
        "pack", _EVERYONE, first.step, 0, 0, seed, packed(parts), first.temperature,
        sum(request.max_tokens for request in requests), schema,
    )  # fmt: skip


def _share(reply: Reply, part: dict[str, Any], count: int) -> Reply:
    """One part of a packed reply, with its share of what all of it took."""
    return msgspec.structs.replace(
        reply,
        text=orjson.dumps(part).decode(),
        tokens_in=reply.tokens_in // count,
        tokens_out=reply.tokens_out // count,
        tokens_cached=reply.tokens_cached // count,
        cost_usd=reply.cost_usd / count,
    )
