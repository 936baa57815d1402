"""One point of a sweep: a replay under some limits, in numbers. Any thread or process may call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from troupelab.tuning.replay import Replayed, replay
from troupelab.tuning.retention import Retention

if TYPE_CHECKING:
    from troupelab.limits import Number
    from troupelab.tuning.stream import Stream

__all__ = ["COLUMNS", "Baselines", "measure"]

UNLIMITED: dict[str, Number] = {
    "recent_max_records": None,
    "recent_max_bytes": None,
    "max_age_steps": None,
    "max_age_hours": None,
    "semantic_max_notes": None,
    "archive_max_bytes": None,
}
"""Limits under which nothing leaves recent memory."""

_CHARS_A_TOKEN = 4.0
_SHOWN_NOTES = 5
"""About as many notes are recalled for a prompt."""

COLUMNS = {
    "bytes": "the most that recent records and notes of all agents took in RAM together (bytes)",
    "archive_bytes": "text in the archive at the end, before compression (bytes)",
    "recall": "share of questions whose fact is among the five best things found",
    "relative_recall": "recall as a share of that of unlimited memory, over the same stream and questions",
    "held": "share of questions whose fact is still held somewhere",
    "regret": "share of questions that unlimited memory answers, and whose fact is held nowhere any more",
    "wrong_neighbour": "share of questions at which the wrong neighbour comes before the fact",
    "cost": "tokens of memory in an act's prompt, by four characters a token (mean)",
    "notes": "notes at the end",
    "dropped": "records that were dropped",
    "bytes_per_fact": "what memories take in RAM at the end for each fact that is held (bytes)",
    "seconds": "how long the replays took, together (s)",
}
"""What a sweep's frame has for each point, besides the limits, and the units."""

Baselines = dict[tuple[int, int | None], Retention]


def unlimited(stream: Stream, seed: int | None) -> Retention:
    """What unlimited memory finds in a stream."""
    return replay(stream, UNLIMITED, seed=seed).recall()


def measure(
    streams: Sequence[Stream], seeds: Sequence[int | None], limits: Mapping[str, Number], baselines: Baselines
) -> list[dict[str, Any]]:
    """Replay every stream with every seed under some limits: a row of numbers each."""
    rows = []
    for place, stream in enumerate(streams):
        for seed in seeds:
            played = replay(stream, limits, seed=seed)
            rows.append({"replicate": f"{place}/{seed}", **_numbers(played, baselines[place, seed])})
    return rows


def _numbers(played: Replayed, wide: Retention) -> dict[str, float]:
    told, found = played.summary(), played.recall()
    return {
        "bytes": float(told["peak_bytes"]),
        "archive_bytes": float(told["archive_text_bytes"]),
        "recall": found.recall.value,
        "relative_recall": found.relative_to(wide).value,
        "held": found.held.value,
        "regret": found.regret(wide).value,
        "wrong_neighbour": found.wrong_neighbour.value,
        "cost": _prompt_tokens(played),
        "notes": float(told["notes"]),
        "dropped": float(told["dropped_records"]),
        "bytes_per_fact": found.bytes_per_fact,
        "seconds": played.seconds,
    }


def _prompt_tokens(played: Replayed) -> float:
    """About the tokens of memory that the mean act's prompt has: all recent records, and a few notes of the mean length."""
    memory = played.recorder.read("memory").columns
    if not len(memory["agent"]):
        return 0.0
    notes = np.minimum(memory["notes"], _SHOWN_NOTES) * np.divide(
        memory["note_bytes"], memory["notes"], out=np.zeros(len(memory["notes"])), where=memory["notes"] > 0
    )
    return float((memory["recent_bytes"] + notes).mean() / _CHARS_A_TOKEN)
