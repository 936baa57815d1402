"""ChatModel: any OpenAI-compatible endpoint (OpenAI, Azure, Ollama, vLLM, llama-server) over one pooled session.

One aiohttp session for each event loop, made when first used: its connections are kept and shared by all calls. How many calls
there are at once, what is tried again and for how long is the pipeline's business; here a failure is an error of the right kind.

The key is sent to the endpoint and shown nowhere: not in a repr, an error, a log or an event. `complete` is awaited on any event
loop; `release` ends what belongs to the running one.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from troupelab.errors import (
    InputError,
    ModelConnectionError,
    ModelServerError,
    ModelSetupError,
)
from troupelab.models.limiter import Ask, usual_estimate
from troupelab.models.model import Reply, Request
from troupelab.models.prices import Price, cost_usd, price_of
from troupelab.models.wire import (
    Answered,
    Dialect,
    error_of,
    parse_error,
    read_answer,
    read_event,
    request_body,
    retry_after_s,
)

if TYPE_CHECKING:
    import aiohttp

__all__ = ["ChatModel"]

OPENAI_URL = "https://api.openai.com/v1"
MAX_BODY_BYTES = 4_000_000
"""No reply's body is read beyond this: JSON and escapes included, many times the longest sensible reply."""

_CONNECT_S = 10.0
_KEEPALIVE_S = 60.0
_MAX_ADAPTATIONS = 6


class _Secret:
    """A key that does not show."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***" if self.value else "none"


class ChatModel:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        model: the model's name, as the endpoint knows it.
        base_url: the endpoint's address up to and with /v1; None for OPENAI_BASE_URL, or else OpenAI's own.
        key: the API key; None for OPENAI_API_KEY, which is not sent to an endpoint on one's own machine.
        headers: more headers for each request.
        structured: hold replies to the schema of the request ("json_schema"), to JSON ("json_object"), or not ("off"). What an
            endpoint refuses is not asked of it again.
        stream: have replies streamed, which tells the time to the first token.
        price: US dollars per million tokens; None looks the model up among the known prices, and where it is not there, cost is NaN.

    Raises:
        InputError: the address or the key cannot be used.
        ModelSetupError: OpenAI's own address, and no key.

    >>> ChatModel("llama3.2", base_url="http://localhost:11434/v1")
    ChatModel('llama3.2', base_url='http://localhost:11434/v1', key=none)
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        structured: Literal["json_schema", "json_object", "off"] = "json_schema",
        stream: bool = False,
        price: Price | None = None,
    ) -> None:
        self.name = model
        self.base_url = _checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        self.stream = stream
        self._is_local = urlsplit(self.base_url).hostname in {"localhost", "127.0.0.1", "::1"}
        usual = "" if self._is_local else os.environ.get("OPENAI_API_KEY", "")
        self._key = _Secret(_checked_key(usual if key is None else key))
        if self.base_url == OPENAI_URL and not self._key.value:
            raise ModelSetupError(
                "there is no key: set OPENAI_API_KEY, or pass key=…, or the base_url of another endpoint"
            )
        self._extra = dict(headers or {})
        self._auth = ("Authorization", "Bearer ")
        self._query = ""
        known = price or price_of(model)
        self.price = known or (Price(0.0, 0.0, 0.0) if self._is_local else None)
        self._dialect = Dialect("" if structured == "off" else structured)
        importlib.import_module("aiohttp")  # a fifth of a second, which the first call must not take on the loop
        self._sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession]
        self._sessions = weakref.WeakKeyDictionary()
        self._has_answered = False

    @classmethod
    def azure(
        cls,
        deployment: str,
        *,
        endpoint: str | None = None,
        key: str | None = None,
        api_version: str | None = None,
        **options: Any,
    ) -> ChatModel:
        """A deployment on Azure OpenAI.

        Args:
            deployment: its name.
            endpoint: the resource's address; None for AZURE_OPENAI_ENDPOINT.
            key: None for AZURE_OPENAI_API_KEY.
            api_version: None for OPENAI_API_VERSION, or else 2024-10-21.
            **options: as for ChatModel.

        Raises:
            InputError: there is no endpoint or no key, or one cannot be used.
        """
        endpoint = endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT") or ""
        key = key or os.environ.get("AZURE_OPENAI_API_KEY") or ""
        if not endpoint or not key:
            missing = "endpoint" if not endpoint else "key"
            raise InputError(
                "ChatModel.azure", missing, f"it, or AZURE_OPENAI_{'ENDPOINT' if not endpoint else 'API_KEY'}"
            )
        url = f"{endpoint.rstrip('/')}/openai/deployments/{deployment}"
        made = cls(deployment, base_url=url, key=key, **options)
        made._auth = ("api-key", "")
        made._query = f"?api-version={api_version or os.environ.get('OPENAI_API_VERSION') or '2024-10-21'}"
        return made

    def __repr__(self) -> str:
        return f"ChatModel({self.name!r}, base_url={self.base_url!r}, key={self._key!r})"

    def __getstate__(self) -> Any:
        raise TypeError("a ChatModel holds a key and is not pickled; make another one where it is needed")

    def use_key(self, key: str) -> None:
        """Use another key from now on: a run that paused for a refused one goes on with `run.resume()`.

        Raises:
            InputError: it cannot be a key.
        """
        self._key = _Secret(_checked_key(key))

    @property
    def identity(self) -> str:
        """What distinguishes its replies from another's: the model's name and the address."""
        return f"{self.name}@{self.base_url}"

    def estimate(self, request: Request) -> Ask:
        """The most that a request may take; what has no known price is counted as free."""
        tokens = usual_estimate(request).tokens
        if self.price is None:
            return Ask(tokens)
        return Ask(tokens, cost_usd(self.price, tokens - request.max_tokens, 0, request.max_tokens))

    # ------------------------------------------------------------------ calls

    async def complete(self, request: Request) -> Reply:
        """Answer one request with one HTTP request (more while it is learned what the endpoint takes).

        Raises:
            ModelError: the subclass says whether it may pass.
        """
        for _ in range(_MAX_ADAPTATIONS):
            version = self._dialect.version
            body = request_body(request, self.name, self._dialect, stream=self.stream)
            began = time.perf_counter()
            status, found, first_token_s, retry_after = await self._post("/chat/completions", body, stream=self.stream)
            if status == 200:
                answered = found if isinstance(found, Answered) else read_answer(found)
                self._has_answered = True
                return self._reply(request, answered, first_token_s - began)
            error = parse_error(found) if isinstance(found, bytes) else {}
            # Many calls may meet the same refusal at once: the first one learns from it, the others only try again.
            if self._dialect.version == version and not self._dialect.learn(status, error):
                break
        raise error_of(status, self._scrubbed(error), model=self.name, url=self.base_url, retry_after=retry_after)

    async def embed(self, texts: list[str], model: str) -> list[list[float]]:
        """Ask the endpoint's /embeddings for the vectors of some texts, in their order.

        Raises:
            ModelError: it did not answer with as many vectors.
        """
        import orjson

        body = orjson.dumps({"model": model, "input": [text.encode("utf-8", "replace").decode() for text in texts]})
        status, found, _, retry_after = await self._post("/embeddings", body, stream=False)
        assert isinstance(found, bytes)
        self._has_answered = self._has_answered or status == 200
        if status != 200:
            error = self._scrubbed(parse_error(found))
            raise error_of(status, error, model=model, url=self.base_url, retry_after=retry_after)
        try:
            rows = sorted(orjson.loads(found)["data"], key=lambda row: row["index"])
            vectors = [[float(value) for value in row["embedding"]] for row in rows]
        except (orjson.JSONDecodeError, LookupError, TypeError, ValueError, AttributeError):
            vectors = []
        if len(vectors) != len(texts) or len({len(vector) for vector in vectors}) > 1:
            raise ModelServerError("the endpoint answered with something that is no list of embeddings")
        return vectors

    def _reply(self, request: Request, answered: Answered, first_token_s: float) -> Reply:
        tokens_in = answered.tokens_in
        if tokens_in is None:  # as many as are usual for so much text
            tokens_in = sum(len(message.content) for message in request.messages) // 4 + 1
        tokens_out = len(answered.text) // 4 + 1 if answered.tokens_out is None else answered.tokens_out
        cached = min(answered.tokens_cached, tokens_in)
        return Reply(
            answered.text, tokens_in, tokens_out, cost_usd(self.price, tokens_in, cached, tokens_out),
            answered.model or self.name, cached, first_token_s if self.stream else math.nan,
        )  # fmt: skip

    def _scrubbed(self, error: dict[str, Any]) -> dict[str, Any]:
        """An endpoint may send the key back in what it says of it."""
        key = self._key.value
        message = str(error.get("message") or "")
        return {**error, "message": message.replace(key, "***") if len(key) > 3 else message}

    # ------------------------------------------------------------------ HTTP

    async def _post(self, path: str, body: bytes, *, stream: bool) -> tuple[int, bytes | Answered, float, float | None]:
        """Status, what was read, when the first of it came, and what Retry-After asks for."""
        import aiohttp

        session = self._session()
        name, prefix = self._auth
        headers = {"Content-Type": "application/json", **self._extra}
        if self._key.value:
            headers[name] = prefix + self._key.value
        problem = ""
        refused = False
        try:
            async with session.post(
                f"{self.base_url}{path}{self._query}", data=body, headers=headers, allow_redirects=False
            ) as response:
                retry_after = retry_after_s(response.headers.get("Retry-After"))
                if stream and response.status == 200 and "event-stream" in response.headers.get("Content-Type", ""):
                    answered, first = await _read_stream(response)
                    return 200, answered, first, None
                found = await _read_bounded(response)
                return response.status, found, time.perf_counter(), retry_after
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            refused = True
            problem = str(getattr(error, "os_error", None) or type(error).__name__)
        except (aiohttp.ClientError, OSError) as error:
            problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        # Raised out here, since aiohttp's own errors hold the request's headers, and with them the key.
        if refused and not self._has_answered:
            raise ModelSetupError(
                f"nothing answers at {self.base_url} ({problem}): check base_url, or start the endpoint"
            )
        raise ModelConnectionError(f"the connection to {self.base_url} was lost ({problem})")

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp

        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            # The limiter says how many calls there are at once; a second limit here would only queue them unseen.
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=_KEEPALIVE_S)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
            session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
            self._sessions[loop] = session
        return session

    async def release(self) -> None:
        """Close the connections that belong to the running event loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) <= MAX_BODY_BYTES and "Content-Encoding" not in response.headers:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_chunked(65_536):
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_BYTES:
            response.close()
            raise ModelServerError(f"the endpoint's answer is longer than {MAX_BODY_BYTES} bytes")
    return b"".join(parts)


async def _read_stream(response: aiohttp.ClientResponse) -> tuple[Answered, float]:
    """Put a streamed reply together; returns it and the moment of its first token."""
    texts, size, first = [], 0, math.nan
    usage = Answered("", None, None, 0, "")
    async for line in response.content:
        size += len(line)
        if size > MAX_BODY_BYTES:
            response.close()
            raise ModelServerError(f"the endpoint's answer is longer than {MAX_BODY_BYTES} bytes")
        if (event := read_event(line)) is None:
            continue
        text, told = event
        if text:
            first = time.perf_counter() if math.isnan(first) else first
            texts.append(text)
        usage = told or usage
    return usage._replace(text="".join(texts)), first


def _checked_url(text: str) -> str:
    text = text.strip().rstrip("/").removesuffix("/chat/completions")
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
        parts = urlsplit("")
    if not fits:
        raise InputError(
            "ChatModel", "base_url", "an address such as http://localhost:11434/v1", found=repr(text[:100])
        )
    if parts.username or parts.password or parts.query:
        raise InputError("ChatModel", "base_url", "an address without a user, password or query: pass key= or headers=")
    return text


def _checked_key(key: str) -> str:
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key or len(key) > 10_000:
        raise InputError("ChatModel", "key", "printable characters without spaces (it is not shown here)")
    return key
