"""From a model's text to a JSON object, in bounded time, or a `ReplyError` that says why not.

The ladder; each rung is tried when the one before it found nothing:

1. A text longer than the cap is refused.
2. Strict JSON.
3. Objects in what models write around them (prose, fences, lists, a JSON string). Models think aloud and end with what they mean:
   of several objects the one with the most expected keys counts, then the last. Different ones with nothing in between are no draft
   and its final form but a row, and nobody can say which was meant: refused. A last brace that is missing after a whole list or
   object is added.
4. json-repair, on at most 4,096 bytes with few brackets and quotes, since its time grows with the square of each. Its result is
   taken only if it merely moved quotes, commas, backslashes, blanks and comments: every other character of the reply must come
   out, in its order. So nothing is invented, left out or cut short.

A reply that breaks off is refused, and not closed where it ends: half a sentence would pass for a whole one, and what should have
followed is not known. Of a key that stands twice in an object the last counts, as everywhere in JSON.
Lone surrogates become U+FFFD, and numbers that JSON cannot write become null. Pure; any thread may call it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from typing import Any

import orjson

from troupelab.errors import ReplyError

__all__ = ["check_length", "parse_object"]

_MAX_STARTS = 256
_MAX_WORK = 500_000
"""How many characters are read in vain, all starts together, before a text full of unfinished objects is given up."""
_MAX_REPAIR_BYTES = 4_096
_MAX_REPAIR_WORK = 300_000
"""Its bytes times its signs, opening brackets counted six times: what json-repair does in 25 ms at worst. A usual turn has 60,000."""
_SIGNS = "{}[]()\"'`“”‘’＂:," + "{[(" * 5
_AROUND = 80
"""How much of a text an error shows before and after the offending place."""


def _whole(digits: str) -> int | float:
    """Like orjson: what does not fit into 64 bits is a float (Python also refuses to read a number of many thousand digits)."""
    return int(digits) if len(digits) < 19 else float(digits)


# strict=False: line breaks inside texts are no reason to refuse a reply.
_decoder = json.JSONDecoder(strict=False, parse_int=_whole)
_OBJECT = re.compile(r"""\{\s*+\\?["'“”„‘’＂]?[\w-]{1,40}+\\?["'“”‘’＂]?\s*+[:：]""")
"""What looks like an object, and not like a word in braces."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)|(?<![:\w])//[^\n]*|(?<=[\s,])#[^\n]*", re.DOTALL)
_MOVABLE = re.compile(r"""[\s,"'`“”„‟‘’‚＂，\\]+""")
_SWALLOWED = re.compile(r"""["'“”‘’＂]\s*+[:：]""")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"|([\[{])|[\]}]', re.DOTALL)


def parse_object(text: str, expected: Collection[str], *, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """Read the JSON object in a model's reply.

    Args:
        text: what the model wrote.
        expected: keys of which the object must have at least one.
        max_bytes: the longest text that is looked at.
        max_depth: the deepest nesting of objects and lists that is accepted.

    Returns:
        The object, or the one inside it where a model wrapped it (`{"response": {"actions": …}}`).

    Raises:
        ReplyError: too long, too deep, broken off, not JSON, several objects, or none with an expected key.

    >>> parse_object('Sure: {"actions": []}', ["actions"], max_bytes=1_000, max_depth=5)
    {'actions': []}
    >>> parse_object("{actions: ['wave',]}", ["actions"], max_bytes=1_000, max_depth=5)
    {'actions': ['wave']}
    """
    check_length(text, max_bytes)
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict):
        for key in expected:
            if key in found:
                if text.count("{") + text.count("[") > max_depth:  # with fewer brackets it cannot be that deep
                    _check_depth(found, max_depth, text)
                return found
    is_json = isinstance(found, dict | list)
    lenient: dict[str, Any] = _lenient(_search(found if isinstance(found, str) else text, expected, max_depth, is_json))
    return lenient


def check_length(text: str, max_bytes: int) -> str:
    """A text as it is, where it is no longer than so many bytes.

    Raises:
        ReplyError: it is.
    """
    # A character is one to four bytes: only what may be too long has to be counted.
    if len(text) * 4 > max_bytes and len(text.encode("utf-8", "surrogatepass")) > max_bytes:
        raise _refusal(f"the reply is longer than response_max_bytes ({max_bytes})", text, 0)
    return text


# ---------------------------------------------------------------------- the scan


def _search(text: str, expected: Collection[str], max_depth: int, is_json: bool) -> dict[str, Any]:
    """The object that is meant, out of all that stand in the text."""
    best: dict[str, Any] | None = None
    rank, end_of_best, row = (0, False), 0, False
    broken, problem, key, hopeless = -1, -1, "", False
    start, work = text.find("{"), 0
    for _ in range(_MAX_STARTS):
        if start < 0 or work > _MAX_WORK:
            break
        try:
            value, end = _decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            place = error.pos if isinstance(error, json.JSONDecodeError) else start
            place = len(text) if str(error).startswith("Unterminated") else place  # a text that never ends
            work += place - start if place > start else _MAX_WORK // 32
            if broken < 0 and not hopeless and _OBJECT.match(text, start):
                key = _first_key(text, start, expected)
                broken, problem, hopeless = (start, place, False) if key else (-1, -1, True)
            start = text.find("{", start + 1)
            continue
        is_json = True
        candidate, this = _wanted(value, expected)
        # Inside a broken object, an object is only taken for the one that is meant if it has that one's key.
        if candidate is not None and this >= rank and (broken < 0 or key in candidate):
            _check_depth(candidate, max_depth, text)
            between = text[end_of_best:start]
            if best is not None and this == rank and not between.strip(" \t\r\n,;"):
                row = row or candidate != best
            else:
                row = False
            best, rank, end_of_best, broken = candidate, this, end, -1
        start = text.find("{", end)
    if start >= 0:
        raise _refusal("the reply is not JSON: it has more unfinished objects than are looked into", text, start)
    if broken >= 0:
        found = _repair(text, broken, problem, expected)
        _check_depth(found, max_depth, text)
        return found
    if row:
        raise _refusal("the reply has several different objects in a row where one was asked for", text, end_of_best)
    if best is not None:
        return best
    if not is_json:
        raise _refusal("the reply is not JSON", text, 0)
    raise _refusal(f"the reply is no JSON object with {' or '.join(expected)}", text, max(0, text.find("{")))


def _wanted(value: Any, expected: Collection[str]) -> tuple[dict[str, Any] | None, tuple[int, bool]]:
    """The object with expected keys that a value is or wraps, and its rank: how many of them, and whether it is unwrapped."""
    count = sum(key in value for key in expected)
    if count:
        return value, (count, True)
    inside = [each for each in value.values() if isinstance(each, dict) and any(key in each for key in expected)]
    if len(inside) == 1:
        return inside[0], (sum(key in inside[0] for key in expected), False)
    return None, (0, False)


def _first_key(text: str, start: int, expected: Collection[str]) -> str:
    """The expected key that comes first after a place, or the empty text where none does."""
    keys = "|".join(re.escape(key) for key in expected)
    found = re.compile(rf"""(?<!\w)({keys})\\?["'”’＂]?\s*+[:：]""").search(text, start)
    return found[1] if found else ""


# ---------------------------------------------------------------------- the repair


def _repair(text: str, start: int, problem: int, expected: Collection[str]) -> dict[str, Any]:
    """Mend a broken object, if that takes no guessing."""
    rest = text[start:].rstrip(" \t\r\n`")
    if rest.endswith(("]", "}")):  # not after a text or a number, which may have been cut short
        try:
            found, _ = _decoder.raw_decode(rest + "}")  # the last brace is what models forget
        except (ValueError, RecursionError):
            pass
        else:
            if isinstance(found, dict) and any(key in found for key in expected):
                return found
    end = text.rfind("}", start) + 1 or text.rfind("]", start) + 1 or len(text)
    region = text[start:end]
    cut = problem >= len(text.rstrip())
    size = len(region.encode("utf-8", "surrogatepass"))
    if size > _MAX_REPAIR_BYTES or size * sum(map(region.count, _SIGNS)) > _MAX_REPAIR_WORK:
        why = "it breaks off" if cut else "too long, or too full of brackets, quotes and commas, to be mended"
        raise _refusal(f"the reply is not JSON: {why}", text, problem)
    from json_repair import loads  # takes a while to import, and most runs never need it

    try:
        found = loads(region, skip_json_loads=True)
    except Exception as error:  # whatever a library raises on what it was not made for
        raise _refusal("the reply is not JSON, and cannot be mended", text, problem) from error
    if not isinstance(found, dict) or not any(key in found for key in expected):
        raise _refusal("the reply is not JSON, and cannot be mended", text, problem)
    mended = _essence("".join(_characters(found)))
    given = {_essence(_unescaped(region)), _essence(_unescaped(_COMMENT.sub(" ", region)))}
    if mended not in given:
        cut = cut or any(mended.startswith(each) and not mended[len(each) :].strip("]}") for each in given)
        raise _refusal(
            "the reply is not JSON: " + ("it breaks off" if cut else "mending it would be guessing"), text, problem
        )
    if any(_SWALLOWED.search(each) for each in _texts(found)):
        raise _refusal("the reply is not JSON: mending it would be guessing", text, problem)
    return found


def _characters(value: Any) -> Iterator[str]:
    """What a value would look like without quotes and commas."""
    if isinstance(value, dict):
        yield "{"
        for key, inner in value.items():
            yield f"{key}:"
            yield from _characters(inner)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for inner in value:
            yield from _characters(inner)
        yield "]"
    elif value is None or isinstance(value, bool):
        yield {None: "null", True: "true", False: "false"}[value]
    else:
        yield str(value)


def _essence(text: str) -> str:
    """What a repair must not change: all but quotes, commas, backslashes, blanks, capitals and how Python writes null."""
    return _MOVABLE.sub("", text).casefold().replace("none", "null").replace("：", ":")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(
        lambda found: chr(int(found[1], 16)) if found[1] else " " if found[2] in "bfnrt" else found[2], text
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


# ---------------------------------------------------------------------- checks


def _check_depth(found: dict[str, Any], max_depth: int, text: str) -> None:
    level: list[Any] = [found]
    for _ in range(max_depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    depth, place = 0, 0
    for bracket in _BRACKET.finditer(text):
        depth += 1 if bracket[1] else -1 if bracket[0] in "]}" else 0
        place = bracket.start()
        if depth > max_depth:
            break
    raise _refusal(f"the reply is nested deeper than response_max_depth ({max_depth})", text, place)


def _lenient(value: Any) -> Any:
    """What the rungs below strict JSON let through, and nothing after this could write down."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_lenient(key): _lenient(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_lenient(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refusal(reason: str, text: str, place: int) -> ReplyError:
    return ReplyError(reason, text[max(0, place - _AROUND) : place + _AROUND])
