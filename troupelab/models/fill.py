"""Fills a JSON Schema with plain values: what the scripted model answers where a form is asked for that it does not know.

Made for the schemas that pydantic writes: objects, arrays, texts, numbers, enumerations, `$ref` and `anyOf`. What is drawn depends on
the caller's draw and on the place alone. Bounded in depth and size, whatever the schema. Pure; any thread may call it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["fill"]

_MAX_DEPTH = 24
_LEAN_DEPTH = 6
_MAX_FILLED = 400
_MAX_TEXT = 2_000
_MAX_ITEMS = 1_000
_INSIDE = 1e-3
_SHARES = ("confidence", "score", "probability", "share", "proximity", "similarity")
_COMMON_SPANS = {"age": (18, 80)}


def fill(
    schema: object,
    said: str | Sequence[str],
    draw: Callable[[str], int] | None = None,
    root: dict[str, Any] | None = None,
) -> Any:
    """A value that a JSON Schema describes.

    Args:
        schema: what is asked for.
        said: what stands where a text is wanted: one sentence, or several of which each place gets one.
        draw: a whole number for a place's name; without it, the first of each enumeration and the least of each number is taken.
        root: the whole schema that this one is a part of; None: it is the whole.

    >>> fill({"type": "object", "properties": {"ok": {"type": "boolean"}, "tags": {"items": {"enum": ["a"]}, "type": "array"}}}, "Hm.")
    {'ok': True, 'tags': ['a']}
    """
    sentences = [said] if isinstance(said, str) else [*said] or [""]
    whole = root if root is not None else schema if isinstance(schema, dict) else {}
    return _Filling(whole, sentences, draw).value(schema, "", 0)


class _Filling:
    """Fills one schema, and counts what it has written; when that is much, or deep, only what must be is written."""

    def __init__(self, root: dict[str, Any], said: list[str], draw: Callable[[str], int] | None) -> None:
        self._root = root
        self._said = said
        self._draw = draw
        self._left = _MAX_FILLED

    def value(self, schema: object, place: str, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth > _MAX_DEPTH or self._left < -_MAX_FILLED:
            return None
        if "const" in schema:
            return _shallow(schema["const"])
        among = schema.get("enum")
        if isinstance(among, list) and among:
            return _shallow(among[self._drawn(place, len(among))])
        if isinstance(reference := schema.get("$ref"), str):
            return self.value(self._find(reference), place, depth + 1)
        for word in ("anyOf", "oneOf", "allOf"):
            if isinstance(among := schema.get(word), list) and among:
                return self.value(self._chosen(among, depth), place, depth + 1)
        return self._plain(schema, place, depth)

    def _plain(self, schema: dict[str, Any], place: str, depth: int) -> Any:
        kinds = schema.get("type")
        kind = kinds[0] if isinstance(kinds, list) and kinds else kinds
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, place, depth)
        if kind in ("integer", "number"):
            return self._number(schema, place, whole=kind == "integer")
        if kind == "boolean":
            return self._drawn(place, 4) < 3
        return None if kind == "null" else self._text(schema, place)

    def _lean(self, depth: int) -> bool:
        return depth > _LEAN_DEPTH or self._left < 0

    def _drawn(self, place: str, count: int) -> int:
        return self._draw(f"fill {place}") % count if self._draw else 0

    def _chosen(self, among: list[Any], depth: int) -> object:
        """The first, but deep inside the shortest way out of a schema that contains itself."""
        if not self._lean(depth):
            return among[0]
        simple = [
            each for each in among if isinstance(each, dict) and not {"$ref", "properties", "items"} & each.keys()
        ]
        return {"type": "null"} if {"type": "null"} in among else (simple or among)[-1]

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties"), schema.get("required")
        needed = required if isinstance(required, list) else None
        lean = self._lean(depth) and needed is not None
        found: dict[str, Any] = {}
        for name, inner in properties.items() if isinstance(properties, dict) else ():
            if self._left < -_MAX_FILLED:
                break
            if not lean or name in (needed or ()):
                found[name] = self.value(inner, str(name)[:60], depth + 1)
        return found

    def _array(self, schema: dict[str, Any], place: str, depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        least = min(_whole(schema.get("minItems"), 0), _MAX_ITEMS)
        most = min(_whole(schema.get("maxItems"), 1), 1)
        found = [self.value(each, place, depth + 1) for each in first[:_MAX_ITEMS]] if isinstance(first, list) else []
        inner = schema.get("items")
        count = max(least, 0 if self._lean(depth) or found or not isinstance(inner, dict) else most) - len(found)
        found += [self.value(inner, f"{place} {number}", depth + 1) for number in range(count)]
        return found

    def _number(self, schema: dict[str, Any], place: str, *, whole: bool) -> float:
        low, high = _bounds(schema, whole=whole)
        if low is None and high is None and self._draw:
            share = not whole and place.lower().endswith(_SHARES)
            low, high = (0.5, 0.95) if share else _COMMON_SPANS.get(place.lower(), (1, 9))
        if low is None or high is None or not self._draw:
            return _stepped(schema, low if low is not None else 1 if high is None else min(1, high), high)
        part = self._drawn(place, 1_001) / 1_000
        if float(low).is_integer() and float(high).is_integer() and high - low > 1:
            return _stepped(schema, int(low) + round(part * (high - low)), high)
        return _stepped(schema, low if whole else round(low + part * (high - low), 3), high)

    def _text(self, schema: dict[str, Any], place: str) -> str:
        text = self._said[self._drawn(place, len(self._said))]
        text = text.ljust(min(_whole(schema.get("minLength"), 0), _MAX_TEXT), ".")
        return text[: max(0, _whole(schema.get("maxLength"), _MAX_TEXT))]

    def _find(self, reference: str) -> object:
        place: object = self._root
        for name in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            place = place.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(place, dict) else None
        return place


def _shallow(value: Any) -> Any:
    """A value that a schema holds; None where it is nested too deep to be written."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return value
    return None


def _inside(value: Any) -> list[Any]:
    return [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []


def _whole(value: object, otherwise: int) -> int:
    return int(value) if isinstance(value, int | float) and abs(value) < 1e9 else otherwise


def _bounds(schema: dict[str, Any], *, whole: bool) -> tuple[float | None, float | None]:
    """The least and the most that a number may be, with what lies just inside an excluded bound."""
    low, above = _number(schema.get("minimum")), _number(schema.get("exclusiveMinimum"))
    high, below = _number(schema.get("maximum")), _number(schema.get("exclusiveMaximum"))
    if above is not None:
        above = math.floor(above) + 1 if whole else above + _INSIDE
        low = above if low is None else max(low, above)
    if below is not None:
        below = math.ceil(below) - 1 if whole else below - _INSIDE
        high = below if high is None else min(high, below)
    if not whole:
        return low, high
    return None if low is None else math.ceil(low), None if high is None else math.floor(high)


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else None


def _stepped(schema: dict[str, Any], value: float, high: float | None) -> float:
    """The number, moved to a multiple where one is asked for; it stays below the most that it may be where it can."""
    step = _number(schema.get("multipleOf"))
    if step is None or step <= 0:
        return value
    above = math.ceil(value / step) * step
    return math.floor(high / step) * step if high is not None and above > high else above
