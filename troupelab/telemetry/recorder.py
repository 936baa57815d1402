"""The recorder: every event of a run, kept in columns that any thread may read while they grow.

Each family has a ring of sealed blocks of 1,024 rows (numpy arrays, never changed again) and a short open tail. A reader
keeps a cursor of its own (the number of rows it has seen) and reading removes nothing. When a ring is full its oldest
block goes; what was lost so far is counted, never hidden.

`emit` may be called from any thread, `read` too; neither waits for the other for longer than it takes to append a row.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from troupelab.events import FAMILIES, ActionTaken, Event

__all__ = ["BLOCK_ROWS", "Batch", "Recorder"]

BLOCK_ROWS = 1024
"""Rows in a sealed block."""

DTYPES: dict[str, str] = {"int": "int64", "float": "float64", "bool": "bool", "str": "object"}


class Batch(NamedTuple):
    """Rows of one family: those with numbers `start` to `next - 1`, as columns."""

    start: int
    next: int
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return self.next - self.start


class _State(NamedTuple):
    """All that a reader needs, swapped as a whole so that it never sees a half-made change."""

    first: int
    blocks: tuple[dict[str, NDArray[Any]], ...]
    tail: list[Event]


class _Ring:
    def __init__(self, kind: type[Event], max_rows: int) -> None:
        self.names = kind.__struct_fields__
        types = {name: str(kind.__annotations__.get(name, "float")) for name in self.names}
        self.dtypes = {name: DTYPES[types[name]] for name in self.names}
        self.max_blocks = max(1, max_rows // BLOCK_ROWS)
        self.state = _State(0, (), [])

    def append(self, event: Event) -> None:
        state = self.state
        state.tail.append(event)
        if len(state.tail) == BLOCK_ROWS:
            blocks = (*state.blocks, self.columns(state.tail))
            over = len(blocks) - self.max_blocks
            self.state = _State(state.first + max(0, over) * BLOCK_ROWS, blocks[max(0, over) :], [])

    def columns(self, rows: list[Event]) -> dict[str, NDArray[Any]]:
        values = zip(*map(msgspec.structs.astuple, rows), strict=True) if rows else [()] * len(self.names)
        return {
            name: np.array(column, dtype=self.dtypes[name]) for name, column in zip(self.names, values, strict=True)
        }

    def read(self, since: int) -> Batch:
        first, blocks, tail = self.state
        rows = tail.copy()  # one step under the interpreter's lock: the writer only ever appends to it
        start = max(since, first)
        end = first + len(blocks) * BLOCK_ROWS + len(rows)
        start = min(start, end)
        skip_blocks, skip_rows = divmod(start - first, BLOCK_ROWS)
        if skip_blocks >= len(blocks):
            return Batch(start, end, self.columns(rows[start - first - len(blocks) * BLOCK_ROWS :]))
        parts = [*blocks[skip_blocks:], self.columns(rows)]
        joined = {name: np.concatenate([part[name] for part in parts])[skip_rows:] for name in self.names}
        return Batch(start, end, joined)


class Recorder:
    """Keeps the events of one run.

    Args:
        max_rows: rows kept for each family; the oldest go first (`lost` counts them).

    >>> from troupelab.events import RunChanged
    >>> recorder = Recorder()
    >>> recorder.emit(RunChanged(0.0, 0, "running", ""))
    >>> batch = recorder.read("runs")
    >>> len(batch), batch.columns["state"].tolist(), len(recorder.read("runs", since=batch.next))
    (1, ['running'], 0)
    """

    def __init__(self, *, max_rows: int = 262_144) -> None:
        self._rings = {family: _Ring(kind, max_rows) for family, kind in FAMILIES.items()}
        self._lock = threading.Lock()
        self._chains: dict[int, bytes] = {}

    def emit(self, event: Event) -> None:
        """Keep an event: the callable that every part of a run is given."""
        with self._lock:
            self._rings[event.family].append(event)
            if type(event) is ActionTaken:
                self._chain(event)

    def read(self, family: str, since: int = 0) -> Batch:
        """Rows of a family from row number `since` on (or from the oldest that is still kept)."""
        return self._rings[family].read(since)

    def count(self, family: str) -> int:
        """How many rows a family ever had; differs when, and only when, there is something new to read."""
        first, blocks, tail = self._rings[family].state
        return first + len(blocks) * BLOCK_ROWS + len(tail)

    def lost(self, family: str) -> int:
        """How many of a family's oldest rows have left the ring."""
        return self._rings[family].state.first

    def _chain(self, event: ActionTaken) -> None:
        row = f"{event.step}\x1f{event.sequence}\x1f{event.action}\x1f{event.target}\x1f{event.content}\x1e"
        link = hashlib.sha256(self._chains.get(event.agent, b"") + row.encode("utf-8", "surrogatepass"))
        self._chains[event.agent] = link.digest()

    def transcript_sha256(self) -> str:
        """A digest of everything that was done, independent of the order in which agents came to act.

        Each agent has a chain of SHA-256 over its own actions; this is the SHA-256 over the chains by agent. It covers
        also what has left the ring.
        """
        with self._lock:
            chains = sorted(self._chains.items())
        return hashlib.sha256(b"".join(agent.to_bytes(4, "big") + link for agent, link in chains)).hexdigest()
