"""What stands for a call in a trace, and what TinyTroupe kept of its calls in a file of its own.

A call is recognised by its name and arguments as they show as text (TinyTroupe's own way, so that its files can be read),
and by who is in the simulation. An address in memory does not count, it is another one in each process.

Functions without state, for the recorder alone. Any thread may call them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from troupelab.bridges.tinytroupe.trace_file import digest
from troupelab.errors import BridgeError

__all__ = ["MAX_STOCK_BYTES", "SEGMENT", "Segment", "call_hash", "names_in", "read_stock", "text_of"]

MAX_STOCK_BYTES = 256_000_000
"""A larger file of TinyTroupe's is not taken over."""

SEGMENT = digest("a parallel segment")
"""Stands for every call that makes people in parallel."""

_AFTER = "after a parallel segment"
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+>")
_BLANKS = re.compile(r"[ \t\n\r]*")
_log = logging.getLogger("troupelab.bridges")


class Segment:
    """What is called while people are made in parallel: only what each call gives back is kept, in no order."""

    def __init__(self, known: dict[str, list[Any]]) -> None:
        self.known = known
        self.left = {call: list(outputs) for call, outputs in known.items()}
        self.pairs: list[str] = []
        self.grown = False

    def take(self, call: str) -> tuple[Any] | None:
        """What a call gave back before, each once."""
        outputs = self.left.get(call)
        return (outputs.pop(0),) if outputs else None

    def note(self, call: str, output: object) -> None:
        """Remember that a call was made, or replayed."""
        self.pairs.append(f"{call} {json.dumps(output, sort_keys=True)}")

    def add(self, call: str, output: object) -> None:
        """Remember what a call gave back just now."""
        self.note(call, output)
        self.known.setdefault(call, []).append(output)
        self.grown = True

    def call_after(self) -> bytes:
        """What stands for the state behind the segment: everything that was called in it and what it gave back."""
        return digest(json.dumps([_AFTER, sorted(self.pairs)]))


def text_of(transaction: Any) -> str:
    """A call of a `Transaction` as TinyTroupe writes it in its own file, but for addresses."""
    args = [_shown(value) for value in transaction.args]
    kwargs = {name: _shown(value) for name, value in transaction.kwargs.items()}
    return _scrubbed(str((transaction.function.__name__, args, kwargs)))


def call_hash(text: str, names: list[list[str]]) -> bytes:
    """What stands for a top-level call.

    Args:
        text: the call, from `text_of`.
        names: who is in the simulation: agents, environments, factories, each sorted.
    """
    return digest(json.dumps([text, names]))


def names_in(state: Mapping[str, Any]) -> list[list[str]]:
    """Who is in a state of a simulation, as `call_hash` takes it.

    >>> names_in({"agents": [{"name": "Oscar"}, {"name": "Lisa"}], "environments": [], "factories": []})
    [['Lisa', 'Oscar'], [], []]
    """
    return [sorted(one["name"] for one in state[kind]) for kind in ("agents", "environments", "factories")]


def read_stock(path: Path) -> Iterator[tuple[bytes, Any, Any]]:
    """The calls in a file of TinyTroupe's own, each with what it gave back and the state behind it (None: a segment).

    Raises:
        BridgeError: it is something else, or is broken; the message says what to do.
    """
    if path.stat().st_size > MAX_STOCK_BYTES:
        _log.warning("%s is not taken over: it has more than %s bytes", path, MAX_STOCK_BYTES)
        return
    segment: Segment | None = None
    try:
        for entry in _entries_of(path.read_text(encoding="utf-8", errors="replace")):
            if isinstance(entry, dict):
                calls = [(digest(_scrubbed(text)).hex(), kept["encoded_output"]) for text, kept in entry.items()]
                segment = Segment({})
                for call, output in calls:
                    segment.add(call, output)
                yield SEGMENT, segment.known, None
            else:
                _, text, output, state = entry
                if segment is None:
                    yield call_hash(_scrubbed(text), names_in(state)), output, state
                else:
                    yield segment.call_after(), None, state
                segment = None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        what = "move it away, or name another cache_path"
        raise BridgeError(f"{path} is not a cache that TinyTroupe wrote ({error!r}): {what}") from error


def _shown(value: object) -> str:
    name = getattr(value, "__name__", None)
    return name if callable(value) and isinstance(name, str) else str(value)


def _scrubbed(text: str) -> str:
    return _ADDRESS.sub(">", text)


def _entries_of(text: str) -> Iterator[Any]:
    """The items of a JSON list, one at a time."""
    decoder, place = json.JSONDecoder(), _past_blanks(text, 0)
    if text[place : place + 1] != "[":
        raise ValueError("it is no list")
    place = _past_blanks(text, place + 1)
    while text[place : place + 1] != "]":
        entry, place = decoder.raw_decode(text, place)
        yield entry
        place = _past_blanks(text, place)
        if text[place : place + 1] == ",":
            place = _past_blanks(text, place + 1)
        elif text[place : place + 1] != "]":
            raise ValueError("it ends in the middle")


def _past_blanks(text: str, place: int) -> int:
    blanks = _BLANKS.match(text, place)
    return blanks.end() if blanks else place
