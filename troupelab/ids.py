"""Names that repeat: ids and random draws that depend on who and when, never on timing.

An id packs (agent, step, sequence, attempt) into one integer, so that two runs of the same world name the same thing
alike and ids sort by agent, then by time. A draw hashes (run seed, purpose, agent, step, call, attempt) with xxh3, so
that no draw depends on how many others were made before it. Pure functions; any thread may call them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import xxhash
from numpy.typing import NDArray

__all__ = ["TOLD", "WORLD", "IdParts", "draw", "make_id", "split_id", "step_of", "uniform"]

_STEP_BITS, _SEQUENCE_BITS, _ATTEMPT_BITS = 22, 14, 6
_Id = TypeVar("_Id", int, NDArray[Any])
_MAX = (1 << 20, 1 << _STEP_BITS, 1 << _SEQUENCE_BITS, 1 << _ATTEMPT_BITS)

WORLD = -1
"""The sender's index of what no agent said: scene openings, scheduled events, and what a run is told while it is played."""

TOLD = _MAX[2] // 2
"""The first sequence number of what a run is told: in an inbox, it comes after what the world had scheduled."""


class IdParts(NamedTuple):
    """What an id is made of."""

    agent: int
    step: int
    sequence: int
    attempt: int


def make_id(agent: int, step: int, sequence: int, attempt: int = 0) -> int:
    """Pack four small numbers into one id below 2**62 (it fits SQLite's signed integers).

    Raises:
        OverflowError: a part is beyond its room (2**20 - 1 agents, 2**22 steps, 2**14 a step, 2**6 attempts).

    >>> split_id(make_id(3, 14, 2))
    IdParts(agent=3, step=14, sequence=2, attempt=0)
    """
    if not (-1 <= agent < _MAX[0] - 1 and 0 <= step < _MAX[1] and 0 <= sequence < _MAX[2] and 0 <= attempt < _MAX[3]):
        raise OverflowError(f"no id for agent {agent}, step {step}, sequence {sequence}, attempt {attempt}")
    # The agent is stored off by one, so that WORLD (-1) has ids as well.
    packed = ((agent + 1) << _STEP_BITS | step) << _SEQUENCE_BITS | sequence
    return packed << _ATTEMPT_BITS | attempt


def split_id(packed: int) -> IdParts:
    """Undo `make_id`."""
    rest, attempt = divmod(packed, _MAX[3])
    rest, sequence = divmod(rest, _MAX[2])
    agent, step = divmod(rest, _MAX[1])
    return IdParts(agent - 1, step, sequence, attempt)


def step_of(packed: _Id) -> _Id:
    """The step in an id, or the steps in an array of ids: the part of `split_id` that is wanted most often.

    >>> step_of(make_id(3, 14, 2))
    14
    """
    steps: _Id = packed >> _SEQUENCE_BITS + _ATTEMPT_BITS & _MAX[1] - 1
    return steps


def draw(seed: int, purpose: str, agent: int = 0, step: int = 0, call: int = 0, attempt: int = 0) -> int:
    """Draw a 64-bit integer that depends on nothing but the arguments.

    >>> draw(7, "latency", agent=1, step=2) == draw(7, "latency", agent=1, step=2)
    True
    """
    return xxhash.xxh3_64_intdigest(f"{seed}|{purpose}|{agent}|{step}|{call}|{attempt}".encode())


def uniform(seed: int, purpose: str, agent: int = 0, step: int = 0, call: int = 0, attempt: int = 0) -> float:
    """Draw a float in [0, 1) from the same hash as `draw`.

    >>> 0.0 <= uniform(7, "latency") < 1.0
    True
    """
    return (draw(seed, purpose, agent, step, call, attempt) >> 11) * 2.0**-53
