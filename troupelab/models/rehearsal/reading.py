"""Reads the bodies that the rehearsal server is sent, with a limit on everything, or says in OpenAI's words what is wrong.

Pure; any thread may call it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

__all__ = ["MAX_BODY_BYTES", "EmbeddingAsk", "ChatAsk", "Refused", "read_chat", "read_embedding", "read_object"]

MAX_BODY_BYTES = 8 * 1_024 * 1_024
"""A longer body is answered 413."""

_MAX_PROMPT_CHARS = 2_000_000
_MAX_TEXTS = 2_048
_MAX_TEXT_CHARS = 32_768
_MAX_TEXTS_CHARS = 1_200_000
_MAX_DIMENSIONS = 4_096
_MAX_VALUES = 2_097_152
_DEFAULT_DIMENSIONS = 256
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """A request that is answered with an error: its status and what OpenAI's error object says.

    With `close` the connection ends after the answer, since nobody can tell where a next request would begin.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        close: bool = False,
    ) -> None:
        self.status = status
        self.close = close
        self.error = {"message": message, "type": kind, "param": param, "code": code}
        super().__init__(message)

    def body(self) -> bytes:
        """The answer's body."""
        return orjson.dumps({"error": self.error})


class ChatAsk(NamedTuple):
    """What of a chat request matters here; `prompt` is the messages' texts in one."""

    model: str
    messages: tuple[tuple[str, str], ...]
    prompt: str
    seed: int | None
    max_tokens: int | None
    stream: bool
    with_usage: bool
    format: str
    schema_name: str
    schema: dict[str, Any]


class EmbeddingAsk(NamedTuple):
    """What of an embedding request matters here."""

    model: str
    texts: list[str]
    dims: int
    base64: bool


def read_object(body: bytes) -> dict[str, Any]:
    """Read a body as a JSON object.

    Raises:
        Refused: it is none, or nested deeper than 1,024.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"We could not parse the JSON body of your request: {error}.") from error
    if not isinstance(found, dict):
        raise _wrong("the body", "a JSON object", None)
    return found


def read_chat(found: dict[str, Any], deployment: str | None) -> ChatAsk:
    """Read a chat request.

    Args:
        found: its body.
        deployment: the model's name where the path has it.

    Raises:
        Refused: it is not one, or the prompt is too long.
    """
    model = _model(found, deployment)
    raw = found.get("messages")
    if not isinstance(raw, list) or not raw:
        raise _wrong("messages", "a list with at least one message", "messages")
    messages = tuple(_message(each, place) for place, each in enumerate(raw))
    prompt = "".join([text for _, text in messages])
    if len(prompt) > _MAX_PROMPT_CHARS:
        raise Refused(
            400,
            f"The prompt has {len(prompt):,} characters, and this model's context ends at {_MAX_PROMPT_CHARS:,}.",
            param="messages",
            code="context_length_exceeded",
        )
    temperature = found.get("temperature")
    if temperature is not None and (
        not isinstance(temperature, int | float) or isinstance(temperature, bool) or not 0 <= temperature <= 2
    ):
        raise _wrong("temperature", "a number from 0 to 2", "temperature")
    seed = found.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise _wrong("seed", "a whole number", "seed")
    if found.get("n") not in (None, 1):
        raise _wrong("n", "1: this server gives one choice", "n")
    stream = found.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong("stream", "true or false", "stream")
    options = found.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "an object", "stream_options")
    kind, name, schema = _format(found.get("response_format"))
    return ChatAsk(
        model,
        messages,
        prompt,
        seed,
        _max_tokens(found),
        bool(stream),
        bool(options and options.get("include_usage")),
        kind,
        name,
        schema,
    )


def read_embedding(found: dict[str, Any], deployment: str | None) -> EmbeddingAsk:
    """Read an embedding request.

    Args:
        found: its body.
        deployment: the model's name where the path has it.

    Raises:
        Refused: it is not one, or asks for too much.
    """
    model = _model(found, deployment)
    raw = found.get("input")
    if isinstance(raw, str) or (isinstance(raw, list) and raw and _is_token(raw[0])):
        raw = [raw]
    if not isinstance(raw, list) or not 0 < len(raw) <= _MAX_TEXTS:
        raise _wrong("input", f"a text, or a list of 1 to {_MAX_TEXTS} texts", "input")
    texts = [_text(each) for each in raw]
    if sum(map(len, texts)) > _MAX_TEXTS_CHARS:
        raise _wrong("input", f"at most {_MAX_TEXTS_CHARS} characters in all", "input")
    dims = found.get("dimensions")
    if dims is None:
        dims = _DEFAULT_DIMENSIONS
    if not isinstance(dims, int) or isinstance(dims, bool) or not 1 <= dims <= _MAX_DIMENSIONS:
        raise _wrong("dimensions", f"a whole number from 1 to {_MAX_DIMENSIONS}", "dimensions")
    if len(texts) * dims > _MAX_VALUES:
        raise _wrong("dimensions", f"at most {_MAX_VALUES} numbers in one answer", "dimensions")
    encoding = found.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise _wrong("encoding_format", "float or base64", "encoding_format")
    return EmbeddingAsk(model, texts, dims, encoding == "base64")


def _wrong(what: str, expected: str, param: str | None) -> Refused:
    return Refused(400, f"Invalid request: {what} must be {expected}.", param=param)


def _model(found: dict[str, Any], deployment: str | None) -> str:
    model = deployment or found.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 200:
        raise _wrong("model", "a name of 1 to 200 characters", "model")
    return model


def _message(raw: object, place: int) -> tuple[str, str]:
    where = f"messages[{place}]"
    if not isinstance(raw, dict):
        raise _wrong(where, "an object", where)
    role, content = raw.get("role"), raw.get("content")
    if role not in _ROLES:
        raise _wrong(f"{where}.role", f"one of {', '.join(_ROLES)}", f"{where}.role")
    if isinstance(content, str):
        return role, content
    if content is None and role == "assistant":
        return role, ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        # Of pictures and the like nothing is read.
        return role, "".join(text for part in content if isinstance(text := part.get("text"), str))
    raise _wrong(f"{where}.content", "a text or a list of parts", f"{where}.content")


def _max_tokens(found: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = found.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _wrong(name, "a whole number from 1", name)
        return value
    return None


def _format(raw: object) -> tuple[str, str, dict[str, Any]]:
    if raw is None:
        return "text", "", {}
    kind = raw.get("type") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or kind not in ("text", "json_object", "json_schema"):
        raise _wrong("response_format.type", "text, json_object or json_schema", "response_format")
    if kind != "json_schema":
        return kind, "", {}
    held = raw.get("json_schema")
    name, schema = (held.get("name"), held.get("schema", {})) if isinstance(held, dict) else (None, None)
    if not isinstance(name, str) or not 0 < len(name) <= 200 or not isinstance(schema, dict):
        raise _wrong("response_format.json_schema", "an object with a name and a schema", "response_format")
    return kind, name, schema


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(raw: object) -> str:
    """One input as a text; tokens, which some clients send instead, count as words of their own."""
    if isinstance(raw, list) and raw and all(map(_is_token, raw)):
        raw = " ".join(f"token{number}" for number in raw)
    if not isinstance(raw, str) or not 0 < len(raw) <= _MAX_TEXT_CHARS:
        raise _wrong("input", f"texts of 1 to {_MAX_TEXT_CHARS} characters", "input")
    return raw
