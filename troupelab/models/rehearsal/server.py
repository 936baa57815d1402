"""The rehearsal server: takes HTTP requests, draws their faults and latencies, answers, and counts.

A request's fault and latency are drawn from the seed, a hash of its body, and how often this body came before: they depend on no
timing. Only `capacity` and `requests_per_s` do, and what they turn away is not counted as seen.

It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from typing import Any
from urllib.parse import unquote

import orjson
import xxhash
from aiohttp import web

from troupelab.errors import InputError
from troupelab.ids import draw, uniform
from troupelab.models.rehearsal.answers import ChatAnswer, embeddings
from troupelab.models.rehearsal.counters import Bucket, Prefixes, Seen
from troupelab.models.rehearsal.http import hang_up, read_body
from troupelab.models.rehearsal.reading import Refused, read_chat, read_embedding, read_object
from troupelab.models.rehearsal.replies import SHORT_REPLY, spoil, write_reply
from troupelab.models.rehearsal.settings import MALFORMED, Latency, Settings
from troupelab.models.rehearsal.stats import CLIENT_GONE, DROPPED, HUNG, Stats
from troupelab.models.scripted import ScriptedModel

__all__ = ["RehearsalServer"]

_CHAT, _EMBEDDINGS, _MODELS, _OTHER = "chat", "embeddings", "models", "other"
_PATHS = {
    f"{prefix}{path}": name
    for prefix in ("/v1", "")
    for path, name in (("/chat/completions", _CHAT), ("/embeddings", _EMBEDDINGS), ("/models", _MODELS))
}
_AZURE = re.compile(r"/openai/deployments/([^/]{1,200})(/chat/completions|/embeddings)")
_CONTROL = {"/stats": ("GET",), "/reset": ("POST",), "/config": ("GET", "POST")}
_FAULTS = ("429", "500", "malformed", "drop", "hang")
_JSON = {"Content-Type": "application/json"}
_STREAM = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}

_log = logging.getLogger(__name__)


class _Call:
    """One request on its way: what it counts towards, and how it would end if its client left now."""

    __slots__ = ("began", "stats", "status")

    def __init__(self, stats: Stats, path: str) -> None:
        self.stats = stats
        self.began = stats.begin(path)
        self.status = CLIENT_GONE


class RehearsalServer:
    """Answers requests as its settings say.

    Args:
        settings: what to begin with; `configure` changes it.
    """

    def __init__(self, settings: Settings) -> None:
        self._carrying: set[object] = set()
        self._in_service = 0
        self.configure(settings)
        self.reset()

    def configure(self, settings: Settings) -> None:
        """Follow other settings from the next request on."""
        self.settings = settings
        self._latency = Latency.parse(settings.latency)
        self._model = ScriptedModel(settings.seed, latency_s=0.0, repeat_rate=settings.repeat_rate)
        self._bucket = Bucket(settings.requests_per_s)
        self._faults = [(name, share) for name in _FAULTS if (share := getattr(settings, f"p{name}"))]
        self._key = None if settings.key is None else settings.key.encode()

    def reset(self) -> None:
        """Count from zero, and forget bodies and prompts; requests under way count towards neither side."""
        self.stats = Stats(len(self._carrying))
        self._seen = Seen()
        self._prefixes = Prefixes()
        self._bucket = Bucket(self.settings.requests_per_s)

    def lost(self, connection: object) -> None:
        """Note that a connection has ended."""
        if connection in self._carrying:
            self._carrying.remove(connection)
            self.stats.disconnected()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.raw_path.partition("?")[0]
        if path in _CONTROL:
            return await self._control(path, request)
        name, deployment = _PATHS.get(path, _OTHER), None
        if name is _OTHER and (azure := _AZURE.fullmatch(path)):
            name, deployment = _PATHS[azure[2]], unquote(azure[1])
        if request.protocol not in self._carrying:
            self._carrying.add(request.protocol)
            self.stats.connected()
        call = _Call(self.stats, name)
        self._in_service += 1
        try:
            return await self._answer(request, call, name, deployment)
        except Refused as refused:
            return self._refusal(refused, call)
        except ConnectionError:
            return await hang_up(request)
        except RecursionError:
            return self._refusal(Refused(400, "The request is nested too deep."), call)
        except Exception:
            _log.exception("a fault of the rehearsal server itself")
            return self._refusal(Refused(500, "The rehearsal server failed.", kind="server_error"), call)
        finally:
            self._in_service -= 1
            call.stats.end(call.began, call.status)

    async def _answer(
        self, request: web.BaseRequest, call: _Call, name: str, deployment: str | None
    ) -> web.StreamResponse:
        if name == _OTHER:
            raise Refused(404, f"Unknown request URL: {request.method} {request.raw_path[:200]}.", code="unknown_url")
        expected = "GET" if name == _MODELS else "POST"
        if request.method != expected:
            raise Refused(405, f"This path takes {expected}, not {request.method[:20]}.", code="method_not_supported")
        body = await read_body(request)
        call.stats.bytes_in += len(body)
        self._check_key(request)
        if name == _MODELS:
            return self._ok(call, self._models())
        found = read_object(body)
        for parameter in self.settings.refuse_parameters:
            if found.get(parameter) is not None:
                raise Refused(
                    400,
                    f"Unsupported parameter: '{parameter}' is not supported with this model.",
                    param=parameter,
                    code="unsupported_parameter",
                )
        if name == _CHAT:
            return await self._chat(request, call, body, found, deployment)
        return await self._embed(request, call, body, found, deployment)

    # ------------------------------------------------------------------ chat and embeddings

    async def _chat(
        self, request: web.BaseRequest, call: _Call, body: bytes, found: dict[str, Any], deployment: str | None
    ) -> web.StreamResponse:
        ask = read_chat(found, deployment)
        fault, digest, times = self._admit(ask.model, body)
        await self._fail_early(request, call, fault)
        cached, blocks = self._prefixes.look_up(ask.model, ask.prompt) if self.settings.prefix_cache else (0, [])
        text = SHORT_REPLY if self.settings.reply == "short" else await write_reply(self._model, ask)
        if fault == "malformed":
            text = spoil(text, self._how(digest, times))
        answer = ChatAnswer(f"chatcmpl-{digest:016x}-{times}", ask, text, cached)
        delay = self._delay(digest, times, answer.tokens_out)
        if ask.stream:
            response = await self._stream(request, call, answer, delay, cut=fault == "drop")
        else:
            await self._wait(request, call, fault, delay)
            response = self._ok(call, answer.body())
        self._prefixes.keep(blocks)
        stats = call.stats
        stats.tokens_in += answer.tokens_in
        stats.tokens_out += answer.tokens_out
        stats.tokens_cached += cached
        return response

    async def _stream(
        self, request: web.BaseRequest, call: _Call, answer: ChatAnswer, delay: float, *, cut: bool
    ) -> web.StreamResponse:
        """Send the answer in pieces: the first after a third of the time, the others evenly over the rest."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        response = web.StreamResponse(headers=_STREAM)
        await response.prepare(request)
        pieces = answer.pieces()
        for number, piece in enumerate(pieces):
            due = began + delay * (1 + 2 * number / max(1, len(pieces) - 1)) / 3
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if cut and number >= len(pieces) // 2:
                call.status = DROPPED
                return await hang_up(request)
            await response.write(piece)
            call.stats.bytes_out += len(piece)
        await response.write_eof()
        call.status = "200"
        return response

    async def _embed(
        self, request: web.BaseRequest, call: _Call, body: bytes, found: dict[str, Any], deployment: str | None
    ) -> web.StreamResponse:
        ask = read_embedding(found, deployment)
        fault, digest, times = self._admit(ask.model, body)
        await self._fail_early(request, call, fault)
        answer, tokens = embeddings(ask)
        await self._wait(request, call, fault, self._delay(digest, times, 0))
        call.stats.embedding_texts += len(ask.texts)
        call.stats.tokens_in += tokens
        return self._ok(call, answer[: len(answer) * 3 // 5] if fault == "malformed" else answer)

    def _admit(self, model: str, body: bytes) -> tuple[str, int, int]:
        """Let a request in that can be served: its fault, the hash of its body, and how often that came before."""
        settings = self.settings
        if settings.models is not None and model not in settings.models:
            raise Refused(
                404,
                f"The model `{model}` does not exist or you do not have access to it.",
                param="model",
                code="model_not_found",
            )
        if settings.capacity is not None and self._in_service > settings.capacity:
            raise _too_many("too many requests are in service")
        if not self._bucket.take():
            raise _too_many("too many requests came in this second")
        digest = xxhash.xxh3_64_intdigest(body)
        times = self._seen.times(digest)
        if self._faults:
            share = uniform(settings.seed, "fault", agent=digest, attempt=times)
            for name, chance in self._faults:
                if share < chance:
                    return name, digest, times
                share -= chance
        return "", digest, times

    async def _fail_early(self, request: web.BaseRequest, call: _Call, fault: str) -> None:
        """Meet the faults that take no thought: too many requests, a failing server, and silence."""
        if fault == "429":
            raise _too_many("a rehearsed fault")
        if fault == "500":
            raise Refused(500, "The server had an error while processing your request.", kind="server_error")
        if fault == "hang":
            call.status = HUNG
            await asyncio.sleep(self.settings.hang_s)
            await hang_up(request)

    async def _wait(self, request: web.BaseRequest, call: _Call, fault: str, delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)
        if fault == "drop":
            call.status = DROPPED
            await hang_up(request)

    def _delay(self, digest: int, times: int, tokens: int) -> float:
        if self._latency.kind == "const":
            return self._latency.first
        share = uniform(self.settings.seed, "latency", agent=digest, attempt=times)
        return self._latency.seconds(share, tokens)

    def _how(self, digest: int, times: int) -> str:
        if self.settings.malformed != "mixed":
            return self.settings.malformed
        return MALFORMED[draw(self.settings.seed, "malformed", agent=digest, attempt=times) % len(MALFORMED)]

    def _models(self) -> bytes:
        names = ("scripted",) if self.settings.models is None else self.settings.models
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "troupelab"} for name in names]
        return orjson.dumps({"object": "list", "data": listed})

    def _check_key(self, request: web.BaseRequest) -> None:
        if self._key is None:
            return
        given = request.headers.get("api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not given:
            raise Refused(401, "You did not provide an API key.", code="invalid_api_key")
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._key):
            raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")

    # ------------------------------------------------------------------ answers and control

    def _ok(self, call: _Call, body: bytes) -> web.Response:
        call.status = "200"
        call.stats.bytes_out += len(body)
        return web.Response(body=body, headers=_JSON)

    def _refusal(self, refused: Refused, call: _Call | None) -> web.Response:
        body = refused.body()
        if call is not None:
            call.status = str(refused.status)
            call.stats.bytes_out += len(body)
        response = web.Response(status=refused.status, body=body, headers=_JSON)
        if refused.status == 429 and self.settings.retry_after_s:
            response.headers["Retry-After"] = f"{self.settings.retry_after_s:g}"
        if refused.close:
            response.force_close()
        return response

    async def _control(self, path: str, request: web.BaseRequest) -> web.StreamResponse:
        """Answer what is not counted: /stats, /reset and /config."""
        try:
            if request.method not in _CONTROL[path]:
                return self._refusal(Refused(405, f"This path takes {' and '.join(_CONTROL[path])}."), None)
            body = await read_body(request)
            if path == "/stats":
                found = self.stats.to_dict()
            elif path == "/reset":
                self.reset()
                found = {}
            else:
                if request.method == "POST":
                    self.configure(self.settings.changed(read_object(body)))
                found = self.settings.to_dict()
        except InputError as error:
            return self._refusal(Refused(400, str(error), param=error.field), None)
        except Refused as refused:
            return self._refusal(refused, None)
        return web.Response(body=orjson.dumps(found), headers=_JSON)


def _too_many(why: str) -> Refused:
    return Refused(429, f"Rate limit reached: {why}.", kind="rate_limit_error", code="rate_limit_exceeded")
