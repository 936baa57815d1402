"""The rules of a memory, as pure functions: when to consolidate, and what ranks before what.

Any thread may call them. Scores are rounded to 1e-5 and ties go by id, so that the last bit of a float never decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from troupelab.limits import Limits
from troupelab.memory.record import Note, Record

__all__ = ["HALF_LIFE_STEPS", "best", "importance", "low_water", "over_high_water", "scores"]

HALF_LIFE_STEPS = 50.0
"""After so many steps a memory's recency counts half."""

_IMPORTANCE: Mapping[str, float] = {"THINK": 0.6, "TALK": 0.8, "REACH_OUT": 0.8}
_OLD_STILL_COUNTS = 0.5


def importance(kind: str) -> float:
    """How much a record counts by its kind: what others say most, own speech and thoughts less (they are repeated more)."""
    return _IMPORTANCE.get(kind, 1.0)


def over_high_water(records: int, used_bytes: int, limits: Limits) -> bool:
    """Tell whether the recent tier has passed the share of a cap at which consolidation begins."""
    by_records = limits.recent_max_records is not None and records > limits.consolidate_at * limits.recent_max_records
    by_bytes = limits.recent_max_bytes is not None and used_bytes > limits.consolidate_at * limits.recent_max_bytes
    return by_records or by_bytes


def low_water(limits: Limits) -> tuple[float, float]:
    """How many records and bytes may stay once consolidation has begun."""
    max_records = math.inf if limits.recent_max_records is None else limits.consolidate_to * limits.recent_max_records
    max_bytes = math.inf if limits.recent_max_bytes is None else limits.consolidate_to * limits.recent_max_bytes
    return max_records, max_bytes


def scores(
    relevance: NDArray[np.float32], ages_steps: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Relevance x recency x importance, after Park et al., Generative Agents (2023), as a product.

    Recency halves its share every `HALF_LIFE_STEPS`, and age alone never costs more than half: an old fact that fits well still
    ranks before a new one that does not.
    """
    recency = _OLD_STILL_COUNTS + (1 - _OLD_STILL_COUNTS) * np.exp2(-ages_steps / HALF_LIFE_STEPS)
    return np.round(np.maximum(relevance, 0.0) * recency * weights, 5)


def best(scores: NDArray[np.float64], items: Sequence[Record | Note], k: int) -> list[int]:
    """The places of the `k` best scores above zero, best first; ties go to the lower id."""
    if k < 1:
        return []
    least = np.partition(scores, -k)[-k] if k < len(scores) else 0.0
    places = np.flatnonzero((scores >= least) & (scores > 0)).tolist()
    return sorted(places, key=lambda place: (-scores[place], items[place].id))[:k]
