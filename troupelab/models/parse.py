"""From a model's text to a JSON object, in bounded time, or a `ReplyError` that says why not.

The rungs: a cap on the size; strict JSON; a cap on the depth; and, where a model wrapped its object in prose or fences, a scan for the
first object with an expected key, from at most 32 opening braces; lone surrogates in it become U+FFFD. Pure; any thread may call it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import orjson

from troupelab.errors import ReplyError

__all__ = ["parse_object"]

_MAX_STARTS = 32
_decoder = json.JSONDecoder()


def parse_object(text: str, expected: Collection[str], *, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """Read the JSON object in a model's reply.

    Args:
        text: what the model wrote.
        expected: keys of which the object must have at least one.
        max_bytes: the longest text that is looked at.
        max_depth: the deepest nesting of objects and lists that is accepted.

    Raises:
        ReplyError: too long, too deep, not JSON, or without any expected key.

    >>> parse_object('Sure: {"actions": []}', ["actions"], max_bytes=1_000, max_depth=5)
    {'actions': []}
    """
    # Characters are at least a byte each, so that the cheap count settles the extreme cases first.
    if len(text) > max_bytes or len(text.encode("utf-8", "surrogatepass")) > max_bytes:
        raise ReplyError(f"the reply is longer than response_max_bytes ({max_bytes})", text)
    try:
        found = orjson.loads(text)
        strict = True
    except orjson.JSONDecodeError:
        found = _scan(text, expected)
        strict = False
    if not isinstance(found, dict) or not any(key in found for key in expected):
        raise ReplyError(f"the reply is no JSON object with {' or '.join(expected)}", text)
    if text.count("{") + text.count("[") > max_depth:  # with fewer brackets it cannot be that deep
        _check_depth(found, max_depth, text)
    # Strict JSON has no lone surrogates; the lenient rung lets them through, and nothing after this could write them down.
    return found if strict else _without_surrogates(found)


def _scan(text: str, expected: Collection[str]) -> Any:
    start = text.find("{")
    for _ in range(_MAX_STARTS):
        if start < 0:
            break
        try:
            found, end = _decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            end = start + 1
        else:
            if isinstance(found, dict) and any(key in found for key in expected):
                return found
        start = text.find("{", end)
    raise ReplyError("the reply is not JSON", text)


def _check_depth(value: Any, max_depth: int, text: str) -> None:
    level: list[Any] = [value]
    for _ in range(max_depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ReplyError(f"the reply is nested deeper than response_max_depth ({max_depth})", text)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    return [_without_surrogates(inner) for inner in value] if isinstance(value, list) else value
