"""Replay: the same past under other limits, with no model and no key.

Given the stream of what agents heard and did, sizes, merges, extracted notes, drops and what probes find are exactly those that a run with that very
stream would have had. What is not known is what the agents would have said, had they remembered otherwise: there a replay is an
approximation, and says so. Any thread may call it.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from troupelab.errors import InputError, LimitError
from troupelab.ids import split_id
from troupelab.limits import FIELDS, Limits, Number
from troupelab.people.probes import Probe
from troupelab.recording import Recording
from troupelab.results import transcript
from troupelab.run import Run
from troupelab.telemetry.frames import Frames
from troupelab.text.words import analyse
from troupelab.tuning.drawn import drawn_probes
from troupelab.tuning.play import Play
from troupelab.tuning.retention import Retention, retention
from troupelab.tuning.stream import Stream

if TYPE_CHECKING:
    import pandas as pd

    from troupelab.memory.record import Record

__all__ = ["Replayed", "Source", "replay"]

Source = Stream | Recording | Run | str | Path
"""What can be replayed."""

TIERS = ("recent", "archive", "notes only", "dropped")

_MEMORY = frozenset({"memory", "storage"})


def replay(
    source: Source,
    limits: Mapping[str, Number] | Limits | None = None,
    *,
    probes: Sequence[Probe] = (),
    ask_every: int | None = None,
    seed: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Replayed:
    """Play a run's past through memories under other limits.

    Args:
        source: a recording or its folder, a run, or a `Stream` of one, which saves reading it again.
        limits: those that hold from the first step on for everybody; the run's own changes of them are left out, and other limits are as
            they were. None for the run's own, with all their changes: that gives its own figures again.
        probes: facts to be told besides those that the run was told, each at its step.
        ask_every: after how many steps memories are asked about facts; None for as in the run, 0 for never.
        seed: draws eight more facts and their steps (see `drawn_probes`), so that replays with several seeds are replicates.
        progress: is called now and then with how many acts are done, and how many there are.

    Raises:
        LimitError: a limit is unknown or out of range.
        CheckpointError: there is no run, or it is of another engine.
        StoreError: it cannot be read.

    >>> from troupelab.models.scripted import ScriptedModel
    >>> run = Run("product_launch", ScriptedModel(7, latency_s=0.0), steps=6, seed=7).start().wait(60)
    >>> same, tight = replay(run), replay(run, {"recent_max_records": 5})
    >>> same.exact, bool(same.frames.memory.recent_records.max() > 5), int(tight.frames.memory.recent_records.max())
    (True, True, 5)
    """
    stream = Stream.of(source)
    fixed: dict[str, Number] = dict(limits.as_dict() if isinstance(limits, Limits) else limits or {})
    unknown = [name for name in fixed if name not in FIELDS]
    if unknown:
        raise LimitError(f"there is no limit {unknown[0]!r}; the limits are {', '.join(FIELDS)}")
    if ask_every is not None and (type(ask_every) is not int or ask_every < 0):
        raise InputError("replay", "ask_every", "a whole number of steps from 0", found=repr(ask_every)[:80])
    told = [*probes, *(() if seed is None else drawn_probes(seed, stream.steps))]
    began = time.perf_counter()
    play = Play(stream, fixed, probes=told, ask_every=ask_every, faithful=not fixed and not told)
    try:
        play.go(progress)
        return Replayed(stream, play, fixed, bool(told), time.perf_counter() - began)
    finally:
        play.close()


class Replayed:
    """What came of a replay; made by `replay`."""

    def __init__(self, stream: Stream, play: Play, fixed: Mapping[str, Number], told: bool, seconds: float) -> None:
        self.stream = stream
        self.changed = dict(fixed)
        """The limits that were given."""
        self.limits = play.limits.current
        """All limits, as they were at the end."""
        self.recorder = play.recorder
        self.frames = Frames(play.recorder, stream.agent_names)
        self.seconds = seconds
        """How long it took."""
        self.exactness = _exactness(stream, play, fixed, told)
        """For what it is exact, and for what not, in a few sentences."""
        self.exact = not (fixed or told or play.strays or stream.past.full_s is not None)
        """Whether it is the run itself, lived through again."""
        self._stored = play.stored
        self._places = _Places(play)
        self._size = {
            "notes": sum(len(agent.memory.notes) for agent in play.stage.agents),
            "archived": sum(agent.memory.size().archive_records for agent in play.stage.agents),
            "archive_text_bytes": sum(agent.memory.over(0, 1 << 30).text_bytes for agent in play.stage.agents),
        }

    @property
    def name(self) -> str:
        """The world's name."""
        return self.stream.name

    @property
    def agent_names(self) -> tuple[str, ...]:
        """The agents' names, by index."""
        return self.stream.agent_names

    @property
    def steps(self) -> int:
        """How many steps there were."""
        return self.stream.steps

    def transcript(self) -> pd.DataFrame:
        """What was done, which is what was done in the run."""
        return transcript(self.frames)

    def recall(self) -> Retention:
        """What of the planted facts is found, and for how long; see `Retention`."""
        return retention(self.recorder, embedder=self.stream.embedder_name or "words alone")

    def summary(self) -> dict[str, Any]:
        """The replay in numbers: peaks and sums over all agents."""
        columns = self.recorder.read("memory").columns
        peak = _peak_bytes(columns, len(self.agent_names))
        dropped = self.recorder.read("evictions").columns
        found = self.recall()
        return {
            "world": self.name,
            "agents": len(self.agent_names),
            "steps": self.steps,
            "records": len(self._stored),
            "merged": self.recorder.count("dedups"),
            "consolidations": self.recorder.count("consolidations"),
            **self._size,
            "dropped_records": int(dropped["records"][dropped["dropped"] & (dropped["what"] != "notes")].sum()),
            "dropped_notes": int(dropped["records"][dropped["dropped"] & (dropped["what"] == "notes")].sum()),
            "peak_bytes": peak,
            "recall_at_5": None if not found.questions else round(found.recall.value, 4),
            "seconds": round(self.seconds, 3),
            "exact": self.exact,
        }

    def records(self) -> pd.DataFrame:
        """Every record that was to be remembered, and where it is at the end.

        Columns: agent, id, step, kind, source, text, and tier: `recent`, `archive`, `notes only` (a sentence of it stands in a note) or `dropped`. What was merged
        with a later record is where that is.
        """
        import pandas as pd

        rows = [
            (self.agent_names[agent], record.id, record.step, record.kind, record.source, record.text, TIERS[tier])
            for agent, record, tier in self._places.of(self._stored)
        ]
        frame = pd.DataFrame(rows, columns=["agent", "id", "step", "kind", "source", "text", "tier"])
        frame["tier"] = pd.Categorical(frame["tier"], TIERS)
        return frame

    def __repr__(self) -> str:
        under = ", ".join(f"{name}={value}" for name, value in self.changed.items()) or "its own limits"
        return f"<Replay of {self.name} under {under}: {len(self.agent_names)} agents, {self.steps} steps, {self.seconds:.2f} s>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code><br>{html.escape(self.exactness)}"


def _peak_bytes(columns: Mapping[str, Any], agents: int) -> int:
    """The most that recent records and notes of all agents took in RAM together, after any act."""
    import numpy as np

    now = np.zeros(agents)
    change = np.zeros(len(columns["agent"]))
    total = columns["recent_bytes"] + columns["note_bytes"]
    for place, agent in enumerate(columns["agent"].tolist()):
        change[place] = total[place] - now[agent]
        now[agent] = total[place]
    return int(np.cumsum(change).max(initial=0))


class _Places:
    """Where records are at the end of a replay, as far as that takes a moment; which of them notes still speak of is looked at when asked."""

    def __init__(self, play: Play) -> None:
        self.recent: set[int] = set()
        self.archived: set[int] = set()
        self.notes: list[set[int]] = []
        for agent in play.stage.agents:
            memory = agent.memory
            self.recent.update(record.id for record in memory.recent(1 << 60))
            if memory.archive is not None:
                self.archived.update(record.id for record in memory.archive.between(0, 1 << 30))
            self.notes.append(set(memory._semantic.ids.tolist()))
        self.condensed = play.condensed
        dedups = play.recorder.read("dedups").columns
        self.into = dict(zip(dedups["merged_id"].tolist(), dedups["kept_id"].tolist(), strict=True))

    def _noted(self) -> set[int]:
        noted: set[int] = set()
        for index, job, notes in self.condensed:
            texts = "\n".join(note.text for note in notes if note.id in self.notes[index])
            for record in job.records if texts else ():
                if any(part.text in texts for part in analyse(record.text)):
                    noted.add(record.id)
        return noted

    def of(self, records: Sequence[Record]) -> list[tuple[int, Record, int]]:
        """Each record's agent, the record, and the place of its tier in `TIERS`."""
        noted, found = self._noted(), []
        for record in records:
            last = record.id
            while last in self.into:
                last = self.into[last]
            tier = 0 if last in self.recent else 1 if last in self.archived else 2 if last in noted else 3
            found.append((split_id(record.id).agent, record, tier))
        return found


def _exactness(stream: Stream, play: Play, fixed: Mapping[str, Number], told: bool) -> str:
    said = []
    if not fixed and not told:
        said.append("The run itself, lived through again under its own limits: its figures are those of the run.")
    else:
        said.append(
            "Exact for sizes, merges, extracted notes and drops, given what the agents heard and did in the run."
        )
        said.append(
            "An approximation of a run under these limits: its agents would have remembered otherwise, and so said other things."
        )
    if told:
        said.append("The facts that were told besides are in nobody's answers.")
    if play.strays:
        said.append(f"{play.strays} acts had another prompt in the run: its embedder or version was another.")
    if play.unwritten:
        said.append(f"{play.unwritten} notes that a model wrote in the run were extracted here.")
    idle = [name for name in fixed if FIELDS[name].group not in _MEMORY]
    if idle:
        said.append(f"{', '.join(idle)}: no limit of memory, which changes nothing here.")
    if stream.past.full_s is not None:
        said.append(f"The journal was full after {stream.past.full_s:.1f} s: what came later is not in it.")
    return " ".join(said)
