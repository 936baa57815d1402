"""What the recorder says of one act: memory before and after, calls, errors, limits; and which act lies at a point of a panel.

Pure functions of a recorder; any thread may call them. Whatever they return as HTML is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from troupelab.dashboard.look import bytes_text, count_text, seconds_text, value_text
from troupelab.dashboard.shown import Readable
from troupelab.dashboard.tables import table
from troupelab.limits import Limits

__all__ = ["Evidence", "Point", "act_at", "evidence"]

Row = dict[str, Any]

_UNIT_OF = {"recent_bytes": "bytes", "notes": "notes", "total_bytes": "bytes"}
_CALLED_MEMORY = {"recent_bytes": "recent memory", "notes": "notes", "total_bytes": "memory in RAM"}


class Point(NamedTuple):
    """A point of a panel: at which time, how wide what is drawn there is, of which agent (-1: of any), by which measure of memory."""

    panel: str
    at_s: float
    width_s: float
    agent: int = -1
    measure: str = "recent_records"


class Evidence(NamedTuple):
    """What was recorded of an act: a sentence, facts as rows of a table, and whether there is anything."""

    sentence: str
    facts: list[tuple[str, str]]

    def to_html(self) -> str:
        """The facts as a table."""
        return table(("what", "was recorded"), self.facts, limit=2_000) if self.facts else ""


def act_at(recorder: Readable, point: Point) -> tuple[int, int] | None:
    """The agent and step of what is drawn at a point of a panel; None where nothing was recorded yet.

    In the latency panel it is the slowest call near that time, else the act that changed a memory most; of a point that is one agent's,
    that agent's.
    """
    if point.panel == "latency":
        return _slowest(recorder, point)
    if point.panel == "consolidations" and point.agent >= 0:
        rows = recorder.read("consolidations").columns
        own = np.flatnonzero(rows["agent"] == point.agent)
        if len(own):
            nearest = own[np.argmin(np.abs(rows["at_s"][own] - point.at_s))]
            return point.agent, int(rows["step"][nearest])
    return _largest_change(recorder, point)


def _slowest(recorder: Readable, point: Point) -> tuple[int, int] | None:
    rows = recorder.read("calls").columns
    real = np.flatnonzero(~rows["cached"] & (rows["error"] == "") & (rows["agent"] >= 0) & (rows["step"] >= 0))
    if not len(real):
        return None
    far = np.abs(rows["at_s"][real] - point.at_s)
    near = real[far <= max(point.width_s / 2, float(far.min()))]
    slowest = near[np.argmax(rows["latency_s"][near])]
    return int(rows["agent"][slowest]), int(rows["step"][slowest])


def _largest_change(recorder: Readable, point: Point) -> tuple[int, int] | None:
    rows = recorder.read("memory").columns
    order = np.lexsort((rows["at_s"], rows["agent"]))
    if point.agent >= 0:
        order = order[rows["agent"][order] == point.agent]
    if not len(order):
        return None
    agents, times, values = (rows[name][order] for name in ("agent", "at_s", point.measure))
    changes = np.abs(np.diff(values.astype(float), prepend=0.0))
    first = np.flatnonzero(np.diff(agents, prepend=-2))
    changes[first] = values[first]  # before its first act, an agent remembers nothing
    far = np.abs(times - point.at_s)
    near = far <= max(point.width_s / 2, float(far.min()))
    found = order[np.flatnonzero(near)[np.argmax(changes[near])]]
    return int(rows["agent"][found]), int(rows["step"][found])


def evidence(
    recorder: Readable, names: Sequence[str], agent: int, step: int, *, asked: str = "memory", measure: str = ""
) -> Evidence:
    """What was recorded of an act.

    Args:
        recorder: of the run.
        names: the agents'.
        agent: whose act.
        step: which.
        asked: the panel that was clicked; in the sentence, its quantity comes first.
        measure: what of memory that showed; empty for records.
    """
    name = names[agent]
    calls = _rows(recorder, "calls", agent, step)
    sizes = recorder.read("memory").columns
    own = np.flatnonzero((sizes["agent"] == agent) & (sizes["step"] <= step))
    now = _row(sizes, own[-1]) if len(own) and sizes["step"][own[-1]] == step else None
    before = [place for place in own.tolist() if sizes["step"][place] < step]
    old = _row(sizes, before[-1]) if before else None
    facts = [] if now is None else _memory_facts(old, now)
    facts += [_call_fact(row) for row in calls]
    for row in _rows(recorder, "acts", agent, step):
        facts.insert(
            0, ("act", f"from {row['start_s']:.2f} s to {row['end_s']:.2f} s: {row['actions']} actions {row['error']}")
        )
    facts += _other_facts(recorder, name, agent, step)
    told = []
    slow = max((row for row in calls if not row["cached"]), key=lambda row: row["latency_s"], default=None)
    if asked == "latency" and slow is not None:
        told.append(_latency_sentence(recorder, name, slow))
    if now is not None:
        told.append(_memory_sentence(name, step, old, now, measure or "recent_records"))
    if not told:
        told.append(f"Nothing was recorded of {name}'s step {step}, or no longer: choose another step.")
    return Evidence(" ".join(told), facts)


def _rows(recorder: Readable, family: str, agent: int, step: int) -> list[Row]:
    columns = recorder.read(family).columns
    chosen = np.flatnonzero((columns["agent"] == agent) & (columns["step"] == step))
    return [_row(columns, place) for place in chosen.tolist()]


def _row(columns: dict[str, Any], place: int) -> Row:
    return {name: column[place] for name, column in columns.items()}


def _memory_sentence(name: str, step: int, old: Row | None, now: Row, measure: str) -> str:
    before = 0 if old is None else int(old[measure])
    after, unit = int(now[measure]), _UNIT_OF.get(measure, "records")
    what = _CALLED_MEMORY.get(measure, "recent memory")
    went = "fell" if after < before else "grew" if after > before else "stayed the same"
    change = f"from {value_text(before, unit)} to {value_text(after, unit)}"
    freed = ""
    if measure == "recent_records":
        more = int(now["recent_bytes"]) - (0 if old is None else int(old["recent_bytes"]))
        freed = f" ({'−' if more < 0 else '+'}{bytes_text(abs(more))})"
    return f"{name}'s {what} {went}, {change}{freed}, at step {step}."


def _latency_sentence(recorder: Readable, name: str, call: Row) -> str:
    took, queued = float(call["latency_s"]), float(call["queue_s"])
    came_s = float(call["at_s"]) - took
    others = recorder.read("calls").columns
    under_way = int(((others["at_s"] - others["latency_s"] < came_s) & (others["at_s"] > came_s)).sum())
    others_told = f"{under_way} other call{'' if under_way == 1 else 's'}"
    again = f", in {call['attempts']} attempts" if call["attempts"] > 1 else ""
    return (
        f"{name}'s call of step {call['step']} took {seconds_text(took)}: {seconds_text(queued)} in the queue, with "
        f"{others_told} under way when it came, and {seconds_text(max(0.0, took - queued))} at the model{again}."
    )


def _memory_facts(old: Row | None, now: Row) -> list[tuple[str, str]]:
    def change(column: str, unit: str) -> str:
        before = 0 if old is None else old[column]
        return f"{value_text(float(before), unit)} → {value_text(float(now[column]), unit)}"

    return [
        ("recent memory", f"{change('recent_records', 'records')}; {change('recent_bytes', 'bytes')}"),
        ("archive", f"{change('archive_records', 'records')}; {change('archive_bytes', 'bytes')} on disk"),
        ("notes", f"{change('notes', 'notes')}; {change('note_bytes', 'bytes')}"),
        ("all memory in RAM", change("total_bytes", "bytes")),
    ]


def _call_fact(row: Row) -> tuple[str, str]:
    where = "kept reply" if row["cached"] else f"answered by the {row['source']}"
    cost = "" if math.isnan(row["cost_usd"]) or not row["cost_usd"] else f"; ${row['cost_usd']:.4f}"
    told = [
        f"{seconds_text(row['latency_s'])}, of that {seconds_text(row['queue_s'])} in the queue",
        f"{count_text(row['tokens_in'])} tokens in ({count_text(row['tokens_cached'])} of them cached by the provider), "
        f"{count_text(row['tokens_out'])} out{cost}",
        f"{row['attempts']} attempts" if row["attempts"] != 1 else "1 attempt",
        where,
    ]
    return f"call ({row['purpose']})", "; ".join(told) + (f"; failed: {row['error']}" if row["error"] else "")


def _other_facts(recorder: Readable, name: str, agent: int, step: int) -> list[tuple[str, str]]:
    facts = [
        ("kept replies", f"{row['kind']}: {count_text(row['tokens_saved'])} tokens, {seconds_text(row['seconds_saved'])} saved")
        for row in _rows(recorder, "cache", agent, step)
    ]  # fmt: skip
    facts += [
        ("consolidation", f"{row['reason']}: {row['records_in']} records → {row['notes_out']} notes")
        for row in _rows(recorder, "consolidations", agent, step)
    ]
    facts += [
        (
            "eviction",
            f"{row['rule']}: {row['records']} {row['what']} ({bytes_text(row['bytes'])}) "
            + ("dropped" if row["dropped"] else "moved from RAM to disk"),
        )
        for row in _rows(recorder, "evictions", agent, step)
    ]
    facts += [("error", f"{row['kind']}: {row['message']}") for row in _rows(recorder, "errors", agent, step)]
    limits = recorder.read("limits").columns
    for place in np.flatnonzero(limits["effective_step"] == step).tolist():
        row = _row(limits, place)
        if row["agents"] in ("", "all") or name in str(row["agents"]):
            known = Limits.fields().get(str(row["field"]))
            unit = known.unit if known else ""
            note = f" ({row['note']})" if row["note"] else ""
            change = f"{value_text(float(row['old']), unit)} → {value_text(float(row['new']), unit)}"
            facts.append(("limit from this step on", f"{row['field']}: {change}{note}, by {row['by']}"))
    alerts = recorder.read("alerts").columns
    facts += [
        ("alert", f"{alerts['kind'][place]}: {alerts['message'][place]}")
        for place in np.flatnonzero(alerts["step"] == step).tolist()
    ]
    return facts
