"""The rules of a memory, as pure functions: when to consolidate, and what ranks before what.

Any thread may call them. Scores are rounded to 1e-5 and ties go by id, so that the last bit of a float never decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from troupelab.limits import Limits

__all__ = [
    "HALF_LIFE_STEPS",
    "PINNED",
    "best",
    "high_water",
    "importance",
    "importances",
    "low_water",
    "max_age_steps",
    "overlap",
    "rarity",
    "relevance",
    "scores",
    "warmth",
]

HALF_LIFE_STEPS = 50.0
"""After so many steps a memory's recency counts half."""

PINNED = frozenset({"INTERNAL_GOAL_FORMULATION"})
"""Kinds that are kept word for word in notes of their own, leave RAM never, and are dropped last: an agent's goals.
(Its persona and its state of mind are no part of its memory, and stand in every prompt.)"""

_IMPORTANCE: Mapping[str, float] = {"THINK": 0.6, "TALK": 0.8, "REACH_OUT": 0.8}
_OLD_STILL_COUNTS = 0.75
"""Of 300 answers (50 questions on real text, asked of six settings of a memory), 0.5 gave 279, 0.7 and 0.75 gave 288."""

_WORDS = 0.8
"""Of the same answers, cosines alone gave 175; with the words, 0.5 gave 290, 0.8 gave 288 and 1.0 gave 287, and with hashed words
as vectors 267, 274 and 275."""


def importance(kind: str) -> float:
    """How much a record counts by its kind: what others say most, own speech and thoughts less (they are repeated more)."""
    return _IMPORTANCE.get(kind, 1.0)


def importances(kinds: Sequence[str]) -> list[float]:
    """How much each of many records counts."""
    known = {kind: importance(kind) for kind in set(kinds)}
    return [known[kind] for kind in kinds]


def high_water(limits: Limits) -> tuple[float, float]:
    """Past how many records and bytes consolidation begins."""
    return _shares(limits, limits.consolidate_at)


def low_water(limits: Limits) -> tuple[float, float]:
    """How many records and bytes may stay once consolidation has begun."""
    return _shares(limits, limits.consolidate_to)


def _shares(limits: Limits, share: float) -> tuple[float, float]:
    max_records = math.inf if limits.recent_max_records is None else share * limits.recent_max_records
    max_bytes = math.inf if limits.recent_max_bytes is None else share * limits.recent_max_bytes
    return max_records, max_bytes


def max_age_steps(limits: Limits, hours_per_step: float) -> float:
    """For how many steps a record may stay word for word: the shorter of the two limits that say so."""
    by_steps = math.inf if limits.max_age_steps is None else limits.max_age_steps
    by_hours = math.inf if limits.max_age_hours is None else limits.max_age_hours / hours_per_step
    return min(by_steps, by_hours)


def warmth(idle_steps: float, hits: float) -> float:
    """How dearly an agent's memory is kept in RAM: recency x hits. What is fattest for its warmth leaves first."""
    return float((1.0 + hits) * 2.0 ** (-idle_steps / HALF_LIFE_STEPS))


def rarity(counts: NDArray[np.integer], notes: int) -> NDArray[np.float64]:
    """How much each word counts, given how many of some notes have it: rare words more (idf, Spärck Jones, 1972)."""
    return np.log1p((1 + notes) / (1 + counts))


def overlap(having: NDArray[np.bool_], rarity: NDArray[np.float64]) -> NDArray[np.float32]:
    """The share of the words asked for that each text has, from 0 to 1, rare words counting more.

    Args:
        having: which texts have which words, shape (words, texts).
        rarity: how much each word counts.

    >>> overlap(np.array([[True, False], [True, True]]), np.array([3.0, 1.0])).tolist()
    [1.0, 0.25]
    """
    shares = (rarity / rarity.sum()).astype(np.float32)
    found: NDArray[np.float32] = np.add.reduce(having * shares[:, np.newaxis], axis=0)
    return found


def relevance(cosines: NDArray[np.float32] | None, overlaps: NDArray[np.float32]) -> NDArray[np.float32]:
    """What fits a question: the cosines of the vectors, where there are any, and `_WORDS` of the overlap in words."""
    return overlaps if cosines is None else cosines + np.float32(_WORDS) * overlaps


def scores(
    relevance: NDArray[np.float32], ages_steps: NDArray[np.float64], weights: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Relevance x recency x importance, after Park et al., Generative Agents (2023), as a product.

    Recency halves its share every `HALF_LIFE_STEPS`, and age alone never costs more than a quarter: an old fact that fits well
    still ranks before a new one that does not.
    """
    recency = _OLD_STILL_COUNTS + (1 - _OLD_STILL_COUNTS) * np.exp2(-ages_steps / HALF_LIFE_STEPS)
    return np.round(np.maximum(relevance, 0.0) * recency * weights, 5)


def best(scores: NDArray[np.float64], ids: NDArray[np.int64], k: int) -> list[int]:
    """The places of the `k` best scores above zero, best first; ties go to the lower id."""
    if k < 1:
        return []
    least = np.partition(scores, -k)[-k] if k < len(scores) else 0.0
    places = np.flatnonzero((scores >= least) & (scores > 0)).tolist()
    return sorted(places, key=lambda place: (-scores[place], ids[place]))[:k]
