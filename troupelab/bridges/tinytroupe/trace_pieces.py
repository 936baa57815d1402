"""How a state is cut in pieces, and put together again.

A piece is a JSON text in which {"~": …} stands for what lies elsewhere or reads otherwise: a number is another piece,
{"l": [numbers]} a list made of those lists, {"t": [numbers]} a text made of those texts, a list of pairs a dict that has
the key "~" itself. Long lists and texts are cut where their content says so, hence a list that grows at its end, or a
prompt with one new line in the middle, shares all but the piece that changed.

Functions without state but for what they are given. Any thread may call them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["MAX_STATE_CHARS", "fold", "parts_of", "unfold"]

MAX_STATE_CHARS = 512_000_000
"""A value that unfolds to more is taken for damaged."""

_PIECE_CHARS = 256  # smaller values stay in what they are a part of
_TEXT_CHARS = 2048  # longer texts are cut
_ITEMS = 32  # of a list, or numbers, in a piece on average: a power of two
_LINES = 8  # of a text
_FEW = 8
_MARK = "~"
_MARKED = '"~"'
_json = json.JSONEncoder(ensure_ascii=False).encode

Put = Callable[[str, bool], int]
"""Takes a piece's text and whether it is made of others; gives the piece's number."""


def fold(value: object, put: Put) -> int:
    """Cut a value in pieces.

    Args:
        value: dicts, lists and scalars; what JSON does not tell apart (tuples and lists, 1 and "1" as keys) becomes one.
        put: stores a piece, or finds it stored.

    Returns:
        The number of the piece that stands for the whole.

    Raises:
        TypeError: something in it is none of JSON's values.
        ValueError: it contains itself.
        RecursionError: it is nested too deeply.

    >>> pieces = []
    >>> number = fold({"memory": list(range(500))}, lambda text, made_of: pieces.append(text) or len(pieces))
    >>> unfold(number, lambda number: pieces[number - 1]) == {"memory": list(range(500))}
    True
    """
    return _put(_text_of(value, put), put)


def unfold(number: int, text_of: Callable[[int], str]) -> Any:
    """Put a value together.

    Args:
        number: what `fold` gave.
        text_of: a piece's text; asked once for each piece.

    Raises:
        ValueError: the pieces do not fit together, or unfold to more than `MAX_STATE_CHARS`.
        TypeError: the same.
        RecursionError: they are nested too deeply.
    """
    texts: dict[int, str] = {}
    left = MAX_STATE_CHARS

    def value(part: object, below: float) -> Any:
        nonlocal left
        if (
            not isinstance(part, int) or not 0 < part < below
        ):  # a piece is made of earlier ones: no way leads in a circle
            raise ValueError(f"there is no piece {part!r} before {below}")
        text = texts.get(part)
        if text is None:
            text = texts[part] = text_of(part)
        left -= len(text)
        if left < 0:
            raise ValueError(f"it has more than {MAX_STATE_CHARS} characters")

        def marked(found: dict[str, Any]) -> Any:
            if _MARK not in found:
                return found
            what = found[_MARK]
            if isinstance(what, int):
                return value(what, part)
            if isinstance(what, list):
                return dict(what)
            if "t" in what:
                return "".join([value(each, part) for each in what["t"]])
            return [item for each in what["l"] for item in value(each, part)]

        # Each time anew from the text: what stands at two places in a state shall not be one object there.
        return json.loads(text, object_hook=marked) if _MARK in text else json.loads(text)

    return value(number, float("inf"))


def parts_of(text: str) -> list[int]:
    """The numbers of the pieces that a piece is made of.

    >>> parts_of('{"name": "Lisa", "memory": {"~": {"l": [3, 4]}}, "prompt": {"~": 7}}')
    [3, 4, 7]
    """
    numbers: list[int] = []

    def marked(found: dict[str, Any]) -> None:
        what = found.get(_MARK)
        if isinstance(what, int):
            numbers.append(what)
        elif isinstance(what, dict):
            numbers.extend(what.get("t") or what["l"])

    # Innermost first: the dict behind a mark has to be there when the mark is read.
    json.loads(text, object_hook=lambda found: found if "t" in found or "l" in found else marked(found))
    return numbers


def _text_of(value: object, put: Put) -> str:
    if isinstance(value, str):
        return _text_of_string(value, put)
    if isinstance(value, dict):
        return _text_of_dict(value, put)
    if isinstance(value, (list, tuple)):
        return _text_of_list([_small(_text_of(item, put), put) for item in value], put)
    return _json(value)


def _text_of_string(value: str, put: Put) -> str:
    if len(value) <= _TEXT_CHARS:
        return _json(value)
    runs = ["".join(lines) for lines in _runs(value.splitlines(keepends=True), _LINES)]
    return _joined("t", [put(_json(run), False) for run in runs], put)


def _text_of_dict(value: dict[Any, Any], put: Put) -> str:
    if all(not isinstance(item, (dict, list, tuple)) or len(item) <= _FEW for item in value.values()):
        text = _json(value)  # a record of a memory, most likely: twenty times as fast as one value after another
        if len(text) <= _TEXT_CHARS and _MARKED not in text:
            return text
    pairs = []
    for key, item in value.items():
        if not isinstance(key, str):
            key = next(iter(json.loads(_json({key: 0}))))  # as JSON itself would have it
        pairs.append((key, _json(key), _small(_text_of(item, put), put)))
    if any(key == _MARK for key, _, _ in pairs):
        return f'{{"{_MARK}": [{", ".join(f"[{name}, {text}]" for _, name, text in pairs)}]}}'
    return f"{{{', '.join(f'{name}: {text}' for _, name, text in pairs)}}}"


def _text_of_list(items: list[str], put: Put) -> str:
    if len(items) <= 2 * _ITEMS:
        return f"[{', '.join(items)}]"
    return _joined("l", [_put(f"[{', '.join(run)}]", put) for run in _runs(items, _ITEMS)], put)


def _joined(kind: str, numbers: list[int], put: Put) -> str:
    """The mark for pieces one after another; where they are many, for pieces of such pieces."""
    while len(numbers) > 2 * _ITEMS:
        runs = _runs([str(number) for number in numbers], _ITEMS)
        numbers = [put(_mark(kind, run), True) for run in runs]
    return _mark(kind, [str(number) for number in numbers])


def _mark(kind: str, numbers: Iterable[str]) -> str:
    return f'{{"{_MARK}": {{"{kind}": [{", ".join(numbers)}]}}}}'


def _small(text: str, put: Put) -> str:
    """A value's text, or the mark for it where it is long enough to be a piece."""
    return text if len(text) < _PIECE_CHARS else f'{{"{_MARK}": {_put(text, put)}}}'


def _put(text: str, put: Put) -> int:
    return put(text, _MARKED in text)


def _runs(items: Sequence[str], average: int) -> list[Sequence[str]]:
    """Cut a list behind the items whose hash says so: what changes elsewhere does not move the cuts."""
    runs, start = [], 0
    for place, item in enumerate(items, 1):
        cut = not zlib.crc32(item.encode("utf-8", "surrogatepass")) & (average - 1)
        if (cut and place - start > 1) or place - start >= 4 * average or place == len(items):
            runs.append(items[start:place])
            start = place
    return runs
