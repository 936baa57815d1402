"""Reading JSON files from outside, with a cap on their size and depth, and errors that name file and field.

Pure but for the reading; any thread may call it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import orjson

from troupelab.errors import InputError

__all__ = ["MAX_DEPTH", "MAX_FILE_BYTES", "check_json", "read_object", "resolve", "typed"]

MAX_FILE_BYTES = 4_000_000
MAX_DEPTH = 24

_WORDS = {str: "a text", int: "a whole number", dict: "an object", list: "a list", float: "a number"}


def resolve(name: str | Path, folder: Path, suffix: str, error: type[InputError]) -> Path:
    """Find a file by its path, or by its name among those that ship with the package.

    Raises:
        InputError: (of the given type) there is neither; the message lists the names.
    """
    path = Path(name)
    if path.suffix == ".json" or len(path.parts) > 1:
        if path.is_file():
            return path
        raise error(str(name), "", "a file that exists")
    shipped = folder / f"{name}{suffix}"
    if shipped.is_file():
        return shipped
    names = sorted(file.name.removesuffix(suffix) for file in folder.glob(f"*{suffix}"))
    raise error(str(name), "", f"a file, or one of {', '.join(names)}")


def read_object(path: Path, error: type[InputError]) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        InputError: (of the given type) unreadable, too big, not JSON, or not an object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise error(str(path), "", f"at most {MAX_FILE_BYTES} bytes", found=f"{size}")
        found = orjson.loads(path.read_bytes())
    except OSError as problem:
        raise error(str(path), "", "a readable file", found=str(problem.strerror)) from problem
    except orjson.JSONDecodeError as problem:
        raise error(str(path), "", "valid JSON in UTF-8", found=str(problem)) from problem
    if not isinstance(found, dict):
        raise error(str(path), "", "an object", found=_short(found))
    return found


def check_json(value: object, source: str, error: type[InputError]) -> None:
    """Refuse what is nested deeper than `MAX_DEPTH`, and what could not be written as JSON (made in Python, say)."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
        ]
        if not level:
            break
    else:
        raise error(source, "", f"at most {MAX_DEPTH} levels of nesting")
    try:
        orjson.dumps(value)
    except TypeError as problem:
        raise error(source, "", "values that JSON has, and valid Unicode", found=str(problem)) from problem


def typed(
    found: dict[str, Any],
    field: str,
    kind: type,
    source: str,
    error: type[InputError],
    *,
    default: Any = ...,
    low: float | None = None,
    high: float | None = None,
    among: Collection[str] = (),
) -> Any:
    """Take a field of a certain type out of an object; `field` may be dotted only for the message's sake.

    Raises:
        InputError: (of the given type) missing without a default, of another type, or out of range.
    """
    key = field.rsplit(".", 1)[-1]
    expected = _WORDS.get(kind, kind.__name__)
    if low is not None:
        expected += f" from {low:g} to {high:g}"
    if among:
        expected = f"one of {', '.join(sorted(among))}"
    if key not in found:
        if default is ...:
            raise error(source, field, expected, found="nothing")
        return default
    value = found[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
    if wrong or (low is not None and not low <= value <= high) or (among and value not in among):
        raise error(source, field, expected, found=_short(value))
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
