"""What a memory cannot find in its blocks when it is opened again: a small state, kept with them.

Pure data; any thread may read it.
"""

from __future__ import annotations

import msgspec

__all__ = ["STATE_VERSION", "State", "read_state"]

STATE_VERSION = 1


class State(msgspec.Struct, array_like=True, frozen=True):
    """One memory's state.

    `recent` are the numbers of the blocks with the recent tier's records; records last heard of before step `floor` are gone;
    `dropped_notes` are pairs of block and places in it; a `diverged` memory has its own copy of what everybody knows.
    """

    version: int
    stored: int
    step: int
    floor: int
    hits: float
    diverged: bool
    recent: list[int]
    dropped_notes: list[tuple[int, list[int]]]


def read_state(kept: bytes | None) -> State:
    """Read what was kept; of a memory that never was, a state of nothing.

    >>> read_state(None).stored
    0
    """
    return State(STATE_VERSION, 0, 0, 0, 0.0, False, [], []) if kept is None else _read(kept)


_read = msgspec.msgpack.Decoder(State).decode
