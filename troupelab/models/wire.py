"""The wire: what OpenAI-compatible endpoints take and send, as bodies, replies and errors. Pure; any thread may call it.

Endpoints differ in what they take: newer models want `max_completion_tokens`, some take no temperature, no seed or no schema. What
one refuses by name is left out from then on (`Dialect`), so that no table of models is needed here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import orjson

from troupelab.errors import (
    ModelBusyError,
    ModelError,
    ModelRequestError,
    ModelServerError,
    ModelSetupError,
)
from troupelab.models.model import Request

__all__ = [
    "Answered",
    "Dialect",
    "error_of",
    "parse_error",
    "read_answer",
    "read_event",
    "request_body",
    "retry_after_s",
]

_BUSY = frozenset({408, 409, 429})
_MAX_MESSAGE = 300
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "access_terminated"})
_OPTIONAL = ("response_format", "max_completion_tokens", "max_tokens", "temperature", "seed", "stream_options")
_MAX_RETRY_AFTER_S = 3_600.0


class Answered(NamedTuple):
    """What an endpoint answered; tokens are None where it does not tell."""

    text: str
    tokens_in: int | None
    tokens_out: int | None
    tokens_cached: int
    model: str


class Dialect:
    """What one endpoint takes, learned from what it refuses; any thread may use it, since each change is one assignment.

    >>> dialect = Dialect("json_schema")
    >>> dialect.learn(400, {"param": "max_tokens", "message": "use 'max_completion_tokens' instead"})
    True
    >>> dialect.length
    'max_completion_tokens'
    """

    def __init__(self, structured: str) -> None:
        self.structured = structured
        self.length: str | None = "max_tokens"
        self.temperature = True
        self.seed = True
        self.usage_in_stream = True
        self.version = 0
        """Counts what was learned: a request that was made before the last lesson is worth another try."""

    def learn(self, status: int, error: dict[str, Any]) -> bool:
        """Leave out what an error names; tells whether there is something new to try."""
        if status not in (400, 422):
            return False
        message = f"{error.get('param') or ''} {error.get('message') or ''}".lower()
        named = next((name for name in _OPTIONAL if name in message), "")
        if "schema" in message and self.structured == "json_schema":
            named = "response_format"
        if named == "response_format" and self.structured:
            self.structured = "json_object" if self.structured == "json_schema" else ""
        elif self.length == "max_tokens" and "max_tokens" in message:
            self.length = "max_completion_tokens"
        elif named.startswith("max_") and self.length is not None:
            self.length = None
        elif named == "temperature" and self.temperature:
            self.temperature = False
        elif named == "seed" and self.seed:
            self.seed = False
        elif named == "stream_options" and self.usage_in_stream:
            self.usage_in_stream = False
        else:
            return False
        self.version += 1
        return True


def request_body(request: Request, model: str, dialect: Dialect, *, stream: bool) -> bytes:
    """The JSON body that asks for a request's reply; lone surrogates, which JSON cannot carry, become question marks."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
    }
    if dialect.length is not None:
        body[dialect.length] = request.max_tokens
    if dialect.temperature:
        body["temperature"] = request.temperature
    if dialect.seed:
        body["seed"] = request.seed % 2**31
    if request.schema is not None and request.schema.schema and dialect.structured == "json_schema":
        schema = {"name": request.schema.name, "schema": request.schema.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.schema is not None and dialect.structured:
        body["response_format"] = {"type": "json_object"}
    if stream:
        body["stream"] = True
        if dialect.usage_in_stream:
            body["stream_options"] = {"include_usage": True}
    body.update(request.extra)
    try:
        return orjson.dumps(body)
    except TypeError:
        for message in body["messages"]:
            message["content"] = message["content"].encode("utf-8", "replace").decode()
        return orjson.dumps(body)


def read_answer(body: bytes) -> Answered:
    """Read a chat completion.

    Raises:
        ModelServerError: the body is none.
        ModelRequestError: the endpoint refused to answer for what was asked.
    """
    try:
        found = orjson.loads(body)
        choice = found["choices"][0]
        message = choice["message"]
        text = message.get("content")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise ModelServerError("the endpoint answered with something that is no chat completion") from None
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        raise ModelRequestError(
            f"the endpoint refused: {_shorten(message.get('refusal') or 'filtered for its content')}"
        )
    model = found.get("model")
    return Answered(_as_text(text), *_usage(found.get("usage")), model if isinstance(model, str) else "")


def read_event(line: bytes) -> tuple[str, Answered | None] | None:
    """Read one line of a streamed reply: the text it adds, and, in the last ones, the usage; None where it says nothing.

    Raises:
        ModelServerError: it is no event of a chat completion.

    >>> read_event(b'data: {"choices": [{"delta": {"content": "Hel"}}]}')
    ('Hel', None)
    """
    if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
        return None
    try:
        found = orjson.loads(line[5:])
        choices = found.get("choices") or []
        text = _as_text(choices[0]["delta"].get("content")) if choices else ""
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise ModelServerError("the endpoint streamed something that is no chat completion") from None
    if "error" in found:
        raise ModelServerError(f"the endpoint broke off: {_shorten(_error_in(found).get('message'))}")
    model = found.get("model")
    usage = found.get("usage")
    return text, Answered("", *_usage(usage), model if isinstance(model, str) else "") if usage else None


def _usage(usage: Any) -> tuple[int | None, int | None, int]:
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), _count(cached) or 0


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else None


def _as_text(content: Any) -> str:
    """Some endpoints send parts instead of one text."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _error_in(found: Any) -> dict[str, Any]:
    error = found.get("error", found) if isinstance(found, dict) else found
    return error if isinstance(error, dict) else {"message": str(error)}


def parse_error(body: bytes) -> dict[str, Any]:
    """The error object in a body, in whichever of the usual shapes it comes; plain text becomes its message."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:_MAX_MESSAGE].decode("utf-8", "replace").strip()
        return {"message": "" if text.startswith("<") else text}
    if isinstance(found, dict) and "error" not in found and "detail" in found:
        return {"message": str(found["detail"])}
    return _error_in(found)


def error_of(status: int, error: dict[str, Any], *, model: str, url: str, retry_after: float | None) -> ModelError:
    """The error that an HTTP status and an error object stand for, as a sentence that names what to do.

    >>> error_of(401, {"message": "bad key"}, model="m", url="http://localhost/v1", retry_after=None)
    ModelSetupError('http://localhost/v1 refused the key (401: bad key): check OPENAI_API_KEY, or give another with model.use_key()')
    """
    said = _shorten(error.get("message"))
    told = f"{status}: {said}" if said else str(status)
    if status in (401, 403):
        return ModelSetupError(
            f"{url} refused the key ({told}): check OPENAI_API_KEY, or give another with model.use_key()"
        )
    if status == 402 or (status == 429 and {error.get("code"), error.get("type")} & _NO_CREDIT):
        return ModelSetupError(f"{url} says that the account has no credit ({told}): waiting does not help")
    if status == 404 and ("model" in said.lower() or error.get("code") == "model_not_found"):
        return ModelSetupError(f"{url} has no model {model!r} ({told}): check the model's name")
    if status in (404, 405) or 300 <= status < 400:
        return ModelSetupError(
            f"{url} is not the address of a chat endpoint ({told}): check base_url; it usually ends in /v1"
        )
    if status in _BUSY:
        return ModelBusyError(f"the endpoint is busy ({told})", retry_after_s=retry_after)
    if status >= 500:
        return ModelServerError(f"the endpoint failed ({told})", retry_after_s=retry_after)
    return ModelRequestError(f"the endpoint does not take this request ({told})")


def retry_after_s(value: str | None) -> float | None:
    """The seconds in a Retry-After header; a date, or nonsense, is None.

    >>> retry_after_s("1.5"), retry_after_s("soon")
    (1.5, None)
    """
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return min(seconds, _MAX_RETRY_AFTER_S) if math.isfinite(seconds) and seconds >= 0 else None


def _shorten(text: object) -> str:
    told = " ".join(str(text or "").split())
    return told if len(told) <= _MAX_MESSAGE else told[:_MAX_MESSAGE] + " …"
