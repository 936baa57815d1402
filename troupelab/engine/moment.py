"""A moment of an agent: what one act did to its memory, and what it was asked and answered. What looking back finds.

Pure data; any thread may read it. Texts in it are what users and models wrote: whoever shows them on a page escapes them.
"""

from __future__ import annotations

import html
from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from troupelab.events import Event
from troupelab.people.acts import Message

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FATES", "Moment", "Noted", "RecordFate", "Sizes"]

FATES: dict[str, str] = {
    "merged": "said the same as a newer one, and was taken in by it",
    "condensed": "left recent memory; notes speak of it",
    "archived": "left recent memory; it is in the archive, word for word",
    "dropped": "is no longer there word for word",
    "forgotten note": "a note that was dropped",
    "stored": "came into recent memory",
}
"""What can become of a record or a note in an act; in the order in which they are told."""

_WORDS = {
    "stored": "{} came",
    "merged": "{} merged with newer ones that say the same",
    "condensed": "{} condensed",
    "archived": "{} archived",
    "dropped": "{} dropped",
}

_SHOWN_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much an agent remembers: counts, and what the tiers' contents take in RAM."""

    recent_records: int
    recent_bytes: int
    archive_records: int
    notes: int
    note_bytes: int


@dataclass(frozen=True, slots=True)
class RecordFate:
    """What became of a record, or of a note, in an act.

    `what` is one of `FATES`; `step_of_origin` is the step in which it was first heard or done. `into` are the texts that have taken its
    place: the notes that quote it, or the record that took it in, whose id is `into_id` then (-1 otherwise). `why` is a sentence.
    """

    record_id: int
    what: str
    text: str
    kind: str
    source: str
    step_of_origin: int
    into: tuple[str, ...] = ()
    into_id: int = -1
    why: str = ""


@dataclass(frozen=True, slots=True)
class Noted:
    """A note that consolidation wrote: of which steps it speaks, which act's records it is made of, and from which act on it can be recalled."""

    text: str
    first_step: int
    last_step: int
    records: int
    made_at: int
    visible_from: int
    why: str


@dataclass(frozen=True, slots=True)
class Moment:
    """One act of an agent, looked back on. A step that is one beyond the run's last is the delivery of what was said in that.

    Args:
        agent: the agent's name.
        step: which act.
        start_s: when the model was asked, in seconds since the run's start.
        end_s: when the act was over.
        before: how much it remembered after its act before.
        after: and after this one, when what this one condensed was on its way to notes.
        settled: and with those notes, as they are from its next act on; all three None where another engine kept the memory.
        prompt: the messages to the model, as (role, content).
        reply: actions and state of mind as JSON, as they were read from the model's reply.
        error: the class of the error by which the act failed; empty for none.
        heard: what it was told.
        records: what became of which record, each named once.
        notes: what consolidation wrote of this act's records, and of those of the act before, which became visible in this one.
        changes: which limits were changed from this step on, each in a sentence.
        events: what was recorded of this act, calls and failures included.
        exact: whether all of this is as it was.
        remark: where it is not, why; empty otherwise.
    """

    agent: str
    step: int
    start_s: float
    end_s: float
    before: Sizes | None
    after: Sizes | None
    settled: Sizes | None
    prompt: tuple[tuple[str, str], ...]
    reply: str
    error: str
    heard: tuple[Message, ...]
    records: tuple[RecordFate, ...]
    notes: tuple[Noted, ...]
    changes: tuple[str, ...]
    events: tuple[Event, ...]
    exact: bool
    remark: str

    @property
    def why(self) -> tuple[str, ...]:
        """The reasons for which records and notes left a tier, each once, the one of most of them first."""
        told = Counter(fate.why for fate in self.records if fate.what not in ("stored", "merged"))
        return tuple(reason for reason, _ in told.most_common())

    @property
    def sentence(self) -> str:
        """What happened, and why, in plain words."""
        told = f"{self.agent}'s act of step {self.step}"
        if self.before is not None and self.after is not None:
            more = self.after.recent_bytes - self.before.recent_bytes
            went = _went(self.before.recent_records, self.after.recent_records)
            told = f"{self.agent}'s recent memory {went} ({more:+,} bytes) at step {self.step}"
        counts = Counter(fate.what for fate in self.records)
        parts = [_WORDS[what].format(_count(counts[what], "record")) for what in _WORDS if counts[what]]
        made = sum(note.made_at == self.step for note in self.notes)
        if made and counts["condensed"]:
            place = parts.index(_WORDS["condensed"].format(_count(counts["condensed"], "record")))
            parts[place] += f" into {_count(made, 'note')}"
        if counts["forgotten note"]:
            parts.append(f"{_count(counts['forgotten note'], 'note')} dropped")
        told += f": {', '.join(parts)}" if parts else ": nothing came, and nothing left"
        told += f", since {'; and '.join(self.why[:3])}" if self.why else ""
        return f"{told}." + (f" {self.remark}" if self.remark else "")

    def to_frame(self) -> pd.DataFrame:
        """What became of which record, as a DataFrame with the columns of `RecordFate`."""
        import pandas as pd

        names = [each.name for each in fields(RecordFate)]
        return pd.DataFrame([[getattr(fate, name) for name in names] for fate in self.records], columns=names)

    def __repr__(self) -> str:
        return f"<Moment of {self.agent}, step {self.step}: {len(self.records)} records, {len(self.notes)} notes>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{fate.what}</td><td>{fate.step_of_origin}</td><td>{_shown(fate.source)}</td><td>{_shown(fate.text)}</td></tr>"
            for fate in self.records
        )
        head = "<tr><th>what</th><th>step</th><th>source</th><th>text</th></tr>"
        prompt = "\n\n".join(content for _, content in self.prompt)
        return (
            f"<p>{_shown(self.sentence)}</p><table><thead>{head}</thead><tbody>{rows}</tbody></table>"
            f"<details><summary>the prompt</summary><pre>{_shown(prompt, 50_000)}</pre></details>"
            f"<details><summary>the reply</summary><pre>{_shown(self.reply, 50_000)}</pre></details>"
        )


def _went(before: int, after: int) -> str:
    if before == after:
        return f"stayed at {_count(after, 'record')}"
    return f"{'fell' if after < before else 'grew'} from {before} to {_count(after, 'record')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _shown(text: str, most_chars: int = _SHOWN_CHARS) -> str:
    return html.escape(text if len(text) <= most_chars else text[: most_chars - 1] + "…")
