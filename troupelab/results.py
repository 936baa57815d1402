"""What came of a run, out of its recorder: the transcript, and the run in numbers. Any thread may call it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from troupelab.people.stage import Stage
from troupelab.telemetry.frames import Frames
from troupelab.telemetry.recorder import Recorder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Progress", "progress", "rss_curve", "summarise", "transcript"]


class Progress(NamedTuple):
    """How far a run is; `step` is the highest step that anyone has started (-1 before the first), `left_s` a guess or None."""

    step: int
    steps: int
    acts_done: int
    acts_total: int
    elapsed_s: float
    left_s: float | None


def progress(
    step: int, steps: int, acts_done: int, agents: int, elapsed_s: float, held_s: float, *, ended: bool
) -> Progress:
    """Say how far a run is, and about how long it will still take.

    >>> progress(4, 10, 40, 8, elapsed_s=6.0, held_s=2.0, ended=False).left_s
    4.0
    """
    total = steps * agents
    left_s = 0.0 if ended else (elapsed_s - held_s) / acts_done * (total - acts_done) if acts_done else None
    return Progress(step, steps, acts_done, total, elapsed_s, left_s)


def transcript(frames: Frames) -> pd.DataFrame:
    """Everything that was done, in the order of steps, agents and actions; DONE is left out."""
    frame = frames.actions
    lost = frame.attrs["rows_lost"]
    frame = frame[frame["action"] != "DONE"]
    order = np.lexsort((frame["sequence"], frame["agent"].cat.codes, frame["step"]))
    frame = frame.iloc[order].reset_index(drop=True)[["step", "agent", "action", "target", "content"]]
    frame.attrs["rows_lost"] = lost
    return frame


def rss_curve(recorder: Recorder) -> list[float]:
    """Resident memory at eleven evenly spaced moments, in MB."""
    process = recorder.read("process").columns
    order = np.argsort(process["at_s"], kind="stable")  # a resumed run samples already while it lives through its past
    at_s, rss = process["at_s"][order], process["rss_bytes"][order] / 1e6
    if not len(at_s):
        return []
    return [round(float(np.interp(at, at_s, rss)), 1) for at in np.linspace(at_s[0], at_s[-1], 11)]


def summarise(recorder: Recorder, stage: Stage, *, steps: int) -> dict[str, object]:
    """Counts and sums of a run: who, how much, what it took.

    Args:
        recorder: what was recorded; sums of calls are over the rows that its ring still has.
        stage: the agents, for what their memories hold.
        steps: how many steps are done.
    """
    count, read = recorder.count, recorder.read
    calls = read("calls").columns
    memories = [agent.memory.size() for agent in stage.agents]
    acts = read("acts").columns
    return {
        "agents": len(stage.agents),
        "steps": steps,
        "acts": count("acts"),
        "acts_lost": int((acts["error"] != "").sum()),
        "calls": count("calls"),
        "requests": int(calls["attempts"].sum()),
        **_answers(calls, read("cache").columns),
        "tokens_in": int(calls["tokens_in"].sum()),
        "tokens_out": int(calls["tokens_out"].sum()),
        "tokens_cached": int(calls["tokens_cached"].sum()),
        "cost_usd": _rounded(float(calls["cost_usd"].sum())),
        **_latency(calls),
        "records": sum(agent.memory.stored for agent in stage.agents),
        "merged": count("dedups"),
        "consolidations": count("consolidations"),
        "notes": sum(size.notes for size in memories),
        "archived": sum(size.archive_records for size in memories),
        "archive_bytes": sum(size.archive_bytes for size in memories),
        "memory_bytes": stage.pool.used_bytes,
        "errors": count("errors"),
        "errors_by_kind": _by_kind(read("errors").columns["kind"]),
        "limit_changes": count("limits"),
    }


def _answers(calls: dict[str, Any], cache: dict[str, Any]) -> dict[str, object]:
    """How many questions needed no request, and what their answers had taken."""
    kept = cache["kind"] != "shadow"
    return {
        "cached": int(calls["cached"].sum()),
        "tokens_saved": int(cache["tokens_saved"][kept].sum()),
        "seconds_saved": _rounded(float(np.nansum(cache["seconds_saved"][kept]))),
    }


def _latency(calls: dict[str, Any]) -> dict[str, object]:
    """Quantiles of what the questions took that went to the model."""
    latency_s = calls["latency_s"][~calls["cached"]]
    p50, p95 = np.quantile(latency_s, [0.5, 0.95]).tolist() if len(latency_s) else (0.0, 0.0)
    return {"latency_p50_s": round(p50, 4), "latency_p95_s": round(p95, 4)}


def _by_kind(kinds: Any) -> dict[str, int]:
    names, counts = np.unique(kinds.astype(str), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _rounded(value: float) -> float | None:
    """Four places; what is not a number is None, which JSON has a word for."""
    return None if np.isnan(value) else round(value, 4)
