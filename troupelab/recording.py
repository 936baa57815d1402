"""A recording: a run that is over, read back from its folder with no model and no key, to be shown, played and studied.

The run's file is only read. What its journal holds is copied into a temporary store and lived through again there, as a fork does
with its parent's past: the same memories come of it, and the same events, so that a recorder has them as the run's own had.
Nothing is called, and nothing happens that did not happen then. Any thread may call any method.
"""

from __future__ import annotations

import asyncio
import html
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from troupelab._collector import collecting_less
from troupelab.engine.actor import Actor
from troupelab.engine.past import Past
from troupelab.engine.standing import ENDED
from troupelab.errors import CheckpointError, ModelSetupError
from troupelab.events import Alerted, LimitChanged
from troupelab.folder import MAX_ACTS, MAX_BYTES, RUN_FILE, find_folder, new_store, read_folder, read_setup
from troupelab.livelimits import FixedLimits, LiveLimits
from troupelab.models.model import Reply, Request
from troupelab.results import Progress
from troupelab.run import Run
from troupelab.telemetry.journal import (
    ActRow,
    EventRow,
    Header,
    LimitRow,
    Row,
    StateRow,
    write_past,
)
from troupelab.text.embed import Embedder, HashingEmbedder
from troupelab.text.wordllama import default_embedder

if TYPE_CHECKING:
    import pandas as pd

    from troupelab.engine.moment import Moment
    from troupelab.people.world import World
    from troupelab.telemetry.frames import Frames
    from troupelab.telemetry.recorder import Recorder

__all__ = ["Recording", "embedder_of"]

BROKEN_OFF = "broken off"
_TELL_EVERY_S = 0.25


class Recording:
    """A finished run, or one that was broken off, as its folder tells of it; made by `Recording.open`.

    It is shown as a run is: `Dashboard(recording)` plays it, `recording.frames` and `recording.summary()` have its numbers. Its recorder holds
    what the run's own held, and these differ from that: how long extracted notes took (`seconds` of consolidations) and what memories
    took in RAM and on disk (`total_bytes` and `archive_bytes` of memory) are those of this reading; times (`at_s`) of memory, consolidations,
    dedups and evictions are those of the acts that they belong to. Whatever came after the run's last state (an interview, say) is in no
    journal. Where the run had more events of a kind than the recorder keeps, or was resumed, it is what its last life's recorder had.

    >>> import tempfile
    >>> from troupelab.run import Run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = Run("product_launch", steps=2, seed=7, folder=folder)
    ...     digest = run.start().wait(60).recorder.transcript_sha256()
    ...     with Recording.open(folder) as recording:
    ...         recording, recording.recorder.transcript_sha256() == digest
    (<Recording of product_launch: done, 8 agents, step 2 of 2>, True)
    """

    def __init__(self, folder: Path, run: Run, past: Past, changes: list[tuple[float, LimitRow]]) -> None:
        self.folder = folder
        self._run = run
        self._past = past
        self._changes = changes
        self._why = (
            f"a recording's limits cannot be changed: it is over; Run.resume({str(folder)!r}) goes on with the run, and a fork of "
            "that plays on under other limits"
        )
        self.limits: LiveLimits = FixedLimits(run.limits, self._why)
        """The limits as they were at the end."""

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        embedder: Embedder | Literal["same"] | None = "same",
        progress: Callable[[int, int], object] | None = None,
        max_rows: int = 262_144,
        max_acts: int = MAX_ACTS,
        max_bytes: int = MAX_BYTES,
    ) -> Self:
        """Read a run back; its file is not changed, and no model is called. It takes about a millisecond of CPU an act, more where many hear each other.

        The folder may be one that somebody else sent: nothing in it is run, and what is cut short, of another version or made up is refused.

        Args:
            folder: of a run that is not open anywhere now; or the name of a recording that ships with the package.
            embedder: what compared texts in the run, where it was one of your own; "same" for what the run says that it was.
            progress: is called now and then with how many acts have been read, and how many there are; `print` will do.
            max_rows: as for a run.
            max_acts: how many acts the run may have had.
            max_bytes: how large its file may be, and what stands in its journal when unpacked.

        Raises:
            CheckpointError: there is no run in the folder, what is there cannot be a run's past, or it is larger than it may be.
            StoreLockedError: the run still goes on, in this process or another.
            StoreVersionError: another version of TroupeLab wrote it.
            StoreCorruptError: something in it is missing or changed.
            StoreError: it cannot be read, or there is no room for what is read.
        """
        where = find_folder(folder)
        header, rows = read_folder(where, max_acts=max_acts, max_bytes=max_bytes)
        store = new_store(None)
        try:
            write_past(store, header, rows)
            try:
                past = Past(store)
                run = _run_of(past, embedder_of(header) if embedder == "same" else embedder, max_rows)
            except CheckpointError as error:
                raise CheckpointError(str(error).replace(str(store.path), str(where / RUN_FILE))) from error
            _look_back(run, sum(isinstance(row, ActRow) for row in rows), progress)
            if past.state in ENDED:
                run._engine.standing.state = past.state
        except BaseException:
            store.close()
            raise
        recording = cls(where, run, past, _changes(rows))
        recording._tell_incomplete()
        return recording

    def _tell_incomplete(self) -> None:
        if (full_s := self.incomplete_from_s) is not None:
            message = (
                f"the journal was full after {full_s:.1f} s: what the run did from then on is not in this recording; "
                "journal_max_bytes decides how much there is room for"
            )
            self.recorder.emit(Alerted(full_s, self._past.next_step - 1, "journal_max_bytes", message))

    # ------------------------------------------------------------------ what it was

    @property
    def name(self) -> str:
        """The world's name."""
        return self._run.name

    @property
    def world(self) -> World:
        """What was played."""
        return self._run.world

    @property
    def header(self) -> Header:
        """What it is, as its file says: model, embedder, limits at the beginning and so on."""
        return self._past.header

    @property
    def agent_names(self) -> tuple[str, ...]:
        """The agents' names, by index."""
        return self._run.agent_names

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._run.seed

    @property
    def steps(self) -> int:
        """How many steps it was to have in all; of one that was resumed for more, those that it had."""
        return self._run.steps

    @property
    def forked_at(self) -> int:
        """The step at which it left another run's past; -1 where it did not."""
        return self._run.forked_at

    @property
    def state(self) -> str:
        """How it ended: `done`, `stopped` or `failed`; `broken off` where the journal tells of no end: it was killed, or the journal was full."""
        return self._past.state if self._past.state in ENDED else BROKEN_OFF

    @property
    def incomplete_from_s(self) -> float | None:
        """From when on the journal was full, so that nothing is known of the run; None where all of it is here."""
        return self._past.full_s

    # ------------------------------------------------------------------ what a dashboard asks of a run

    @property
    def paused_for(self) -> str:
        """Empty: it is over."""
        return ""

    @property
    def in_flight(self) -> int:
        """0: nothing is at the model."""
        return 0

    @property
    def queued(self) -> int:
        """0: nothing waits."""
        return 0

    def now_s(self) -> float:
        """How long it lasted, in seconds."""
        return self._run.now_s()

    def progress(self) -> Progress:
        """How far it had come."""
        return self._run.progress()._replace(left_s=0.0)

    @property
    def recorder(self) -> Recorder:
        """All that happened."""
        return self._run.recorder

    @property
    def frames(self) -> Frames:
        """All that happened, as pandas."""
        return self._run.frames

    def transcript(self) -> pd.DataFrame:
        """Everything that was done, in the order of steps, agents and actions; DONE is left out."""
        return self._run.transcript()

    def summary(self) -> dict[str, object]:
        """The run in numbers, by the names of `Run.summary`; `peak_rss_mb` is the highest of the samples that were taken."""
        rss = self.recorder.read("process").columns["rss_bytes"]
        peak = round(float(rss.max(initial=0)) / 1e6, 1)
        return {**self._run.summary(), "state": self.state, "peak_rss_mb": peak}

    def moment(self, agent: str | int, step: int) -> Moment:
        """Look back at what a step did to an agent's memory, and why; see `Run.moment`."""
        return self._run.moment(agent, step)

    def limits_at(self, at_s: float) -> LiveLimits:
        """The limits that had been accepted by a time, in seconds since the start; they cannot be changed."""
        header, (_, limits, _) = self._past.header, read_setup(self._past)
        live = LiveLimits(limits, agents=self.agent_names)
        for agent, own in header.overrides.items():
            live.update(agents=[agent], **dict[str, Any](own))
        for _, row in self._changes[: self.changes_by(at_s)]:
            live.update(note=row.note, by=row.by, agents=row.agents, **dict[str, Any](row.new))
        return FixedLimits(live, self._why)

    def changes_by(self, at_s: float) -> int:
        """How often limits had been changed by a time."""
        return bisect_right(self._changes, at_s, key=lambda change: change[0])

    # ------------------------------------------------------------------ its own

    def close(self) -> None:
        """Let the temporary store go at once; what was recorded stays readable. A recording that is forgotten does so by itself."""
        self._run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        done = self.progress()
        return f"<Recording of {self.name}: {self.state}, {len(self.agent_names)} agents, step {done.step + 1} of {done.steps}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"


class _Silent:
    """Stands where the model stood, and is never asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def complete(self, request: Request) -> Reply:
        """Refuse.

        Raises:
            ModelSetupError: always.
        """
        raise ModelSetupError("a recording has no model: Run.resume(folder, model) goes on with the run")


class _Retold(Actor):
    """Tells of acts what the journal says of them: for agents of another engine, which alone knows what they remembered."""

    async def relive(self, row: ActRow) -> None:
        """Record an act."""
        self._clock.set(row.end_s)
        self._record(row)

    async def restore(self, row: StateRow) -> None:
        """Pass over what an agent remembered."""


def embedder_of(header: Header) -> Embedder | None:
    """The embedder of a name, where we have it; otherwise the best one, and the recording says what that means."""
    known = [default_embedder(), HashingEmbedder()]
    return next((each for each in known if each.name == header.embedder), known[0]) if header.embedder else None


def _run_of(past: Past, embedder: Embedder | None, max_rows: int) -> Run:
    """A run that has this past, and whose future nobody will play."""
    # A run that was resumed for more steps has had more than it was to have when it began.
    steps = past.next_step if past.state == "done" else max(past.header.steps, past.next_step)
    return Run._from_past(
        past, _Silent(past.header.model), steps=steps, embedder=embedder, cache=False, max_rows=max_rows,
        _actor=_Retold if past.is_foreign else None,
    )  # fmt: skip


def _look_back(run: Run, acts: int, progress: Callable[[int, int], object] | None) -> None:
    """Have a run live through its past, on a loop of its own, since there may be one in this thread."""

    def look_back() -> None:
        with collecting_less(), asyncio.Runner() as runner:
            runner.run(run._engine.look_back())
        # As a run does at its end: so the numbers of what is on disk are the same.
        for agent in run._engine.stage.agents:
            agent.memory.save()
        run._engine.stage.pool.shelf.flush()

    with ThreadPoolExecutor(1, thread_name_prefix="troupelab-recording") as thread:
        done: Future[None] = thread.submit(look_back)
        try:
            while not _is_done(done):
                if progress is not None:
                    progress(run._engine.acts_done, acts)
        except BaseException:
            run._engine.standing.state = "stopping"  # it ends early; the thread is waited for
            raise
    done.result()
    if progress is not None:
        progress(run._engine.acts_done, acts)


def _is_done(outcome: Future[None]) -> bool:
    return bool(wait([outcome], _TELL_EVERY_S).done)


def _changes(rows: list[Row]) -> list[tuple[float, LimitRow]]:
    """The changes of limits, and when each was accepted: the events after it tell, where a fork has not left them out."""
    changes: list[tuple[float, LimitRow]] = []
    now_s = 0.0
    for row, following in pairwise([*rows, None]):
        if isinstance(row, LimitRow):
            if isinstance(following, EventRow) and following.family == LimitChanged.family:
                now_s = max(now_s, following.values[0])
            changes.append((now_s, row))
        elif isinstance(row, EventRow):
            now_s = max(now_s, row.values[0])
        elif isinstance(row, ActRow):
            now_s = max(now_s, row.end_s)
    return changes
