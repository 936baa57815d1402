"""What became of records and notes in an act, and why: told by comparing what a memory held before and after, and by what it said meanwhile.

Pure functions; any thread may call them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from troupelab.engine.moment import Noted, RecordFate
from troupelab.events import Deduped
from troupelab.limits import Limits, Number
from troupelab.memory import policy
from troupelab.memory.consolidate import Consolidation, Job
from troupelab.memory.record import Note, Record
from troupelab.telemetry.journal import LimitRow
from troupelab.text.words import analyse

__all__ = ["Causes", "Tiers", "fates_of", "noted", "what_changed"]

_WINDOW = ("recent_max_records", "recent_max_bytes", "consolidate_at", "consolidate_to")


class Tiers(NamedTuple):
    """What a memory holds at one time."""

    recent: dict[int, Record]
    archive: dict[int, Record]
    notes: list[Note]


class Causes(NamedTuple):
    """What is behind what an act did to a memory: the limits in force, what of them was changed for it, and how full the memory got."""

    limits: Limits
    changed: Mapping[str, str]
    records: int
    bytes: int
    episode_steps: int | None
    hours_per_step: float

    def of(self, reason: str) -> str:
        """Why a consolidation took records, given the reason that it tells."""
        limits = self.limits
        if reason == "limit lowered":
            told = [self.changed[name] for name in _WINDOW if name in self.changed]
            return " and ".join(told) or "a limit was lowered"
        if reason == "age":
            return f"they were last heard of longer ago than {self.oldest()}"
        most_records, most_bytes = policy.high_water(limits)
        by_bytes = self.bytes / most_bytes > self.records / most_records if most_records and most_bytes else False
        name = "recent_max_bytes" if by_bytes else "recent_max_records"
        unit = "bytes" if by_bytes else "records"
        cap = getattr(limits, name)
        if reason == "high water":
            share = "" if limits.consolidate_at == 1 else f" x {limits.consolidate_at:g}, consolidate_at"
            return f"recent memory had passed {name} ({_number(cap)} {unit}{share})"
        if reason == "episode end":
            down = f"{limits.consolidate_to:g} x {name} ({_number(cap)} {unit})"
            return f"an episode of {self.episode_steps} steps ended, and what is over consolidate_to, {down}, was due"
        return reason

    def oldest(self) -> str:
        """The limit of age that holds, with its value."""
        limits = self.limits
        by_hours = limits.max_age_hours is not None and (
            limits.max_age_steps is None or limits.max_age_hours / self.hours_per_step < limits.max_age_steps
        )
        name, unit = ("max_age_hours", "hours") if by_hours else ("max_age_steps", "steps")
        told = f"{name} ({_number(getattr(limits, name))} {unit})"
        return f"{told}: {self.changed[name]}" if name in self.changed else told

    def merging(self, similarity: float) -> str:
        """Why a record was taken in by another."""
        least = self.limits.dedup_similarity
        return f"it says the same as a newer one: similarity {similarity:.2f}, and dedup_similarity is {_number(least)}"

    def forgetting(self) -> str:
        """Why notes were dropped."""
        name = "semantic_max_notes"
        return self.changed.get(name, f"there is room for {name} = {_number(self.limits.semantic_max_notes)} notes")


def what_changed(before: Limits, now: Limits, rows: Sequence[LimitRow]) -> dict[str, str]:
    """Which limits were changed for an act, each in a sentence.

    Args:
        before: the limits of the step before.
        now: those of this step.
        rows: the journal's changes that hold from this step on.
    """
    told = {}
    for name in Limits.fields():
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            note = next((row.note for row in reversed(rows) if name in row.new), "")
            how = "raised" if new is None or (old is not None and new > old) else "lowered"
            said = f" (note: {note})" if note else ""
            told[name] = f"{name} was {how} from {_number(old)} to {_number(new)}{said}"
    return told


def _number(value: Number) -> str:
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def fates_of(
    step: int,
    before: Tiers,
    after: Tiers,
    news: Mapping[int, Record],
    merges: Sequence[Deduped],
    made: Sequence[tuple[Job, Consolidation]],
    causes: Causes,
    trimmed: frozenset[int] = frozenset(),
) -> list[RecordFate]:
    """What became of every record that came or left in an act, and of every note that left; each once.

    Args:
        step: which act.
        before: what the memory held when it began.
        after: what it held with the notes that came of it.
        news: the records that the act left, by id.
        merges: which of them took earlier ones in.
        made: what consolidation made of records that the act let go.
        causes: why such things happened.
        trimmed: archived records that `archive_max_bytes` dropped.
    """
    known = {**before.archive, **before.recent, **news}
    took_in = {merge.merged_id: merge for merge in merges}
    batches = {record.id: (record, batch) for batch in made for record in batch[0].records}
    fates = []
    for key in sorted(known):
        record, why, into, into_id = known[key], "", tuple[str, ...](), -1
        if key in after.recent:
            if key not in news:
                continue
            what, record = "stored", after.recent[key]
            if record.times > 1:
                why = f"it has come {record.times} times"
        elif key in took_in:
            what, into_id = "merged", took_in[key].kept_id
            why, into = causes.merging(took_in[key].similarity), (_text_of(into_id, after, batches, known),)
        elif key in batches:
            record, (job, outcome) = batches[key]
            why, into = causes.of(job.reason), _quoting(record, outcome)
            what = "dropped" if key not in after.archive else "condensed" if job.notes else "archived"
        elif key in after.archive:
            continue
        else:
            what = "dropped"
            why = (
                f"archive_max_bytes ({_number(causes.limits.archive_max_bytes)} bytes for all agents) drops the oldest"
                if key in trimmed
                else f"it was last heard of longer ago than {causes.oldest()}"
            )
        fates.append(
            RecordFate(
                key, what, record.text, record.kind, record.source, record.first_step, into, into_id, why
            )
        )  # fmt: skip
    gone = Counter([*before.notes, *(note for _, outcome in made for note in outcome.notes)])
    gone.subtract(Counter(after.notes))
    forgotten = (note for note, count in gone.items() for _ in range(count))
    return fates + [
        RecordFate(note.id, "forgotten note", note.text, "", "", note.first_step, why=causes.forgetting())
        for note in forgotten
    ]


def _text_of(
    key: int,
    after: Tiers,
    batches: Mapping[int, tuple[Record, tuple[Job, Consolidation]]],
    known: Mapping[int, Record],
) -> str:
    """A record's text as it was last seen: what takes others in has the longer one."""
    if key in after.recent:
        return after.recent[key].text
    return batches[key][0].text if key in batches else known[key].text


def _quoting(record: Record, outcome: Consolidation) -> tuple[str, ...]:
    """The notes that quote a record; where a model wrote them in its own words, all that speak of its steps."""
    sentences = [sentence.text for sentence in analyse(record.text)]
    quoting = tuple(note.text for note in outcome.notes if any(each in note.text for each in sentences))
    if quoting or not outcome.tokens:
        return quoting
    return tuple(note.text for note in outcome.notes if note.first_step <= record.step <= note.last_step)


def noted(made: Sequence[tuple[Job, Consolidation]], causes: Causes | None, visible_from: int) -> list[Noted]:
    """The notes that consolidation wrote, as what is told of them."""
    return [
        Noted(
            note.text, note.first_step, note.last_step, note.records, job.step, visible_from,
            job.reason if causes is None else causes.of(job.reason),
        )
        for job, outcome in made
        for note in outcome.notes
    ]  # fmt: skip
