"""Playing a recording: what a dashboard shows of it at a time, standing or going on at any speed.

A `Playback` is shown as a run is. Its recorder has the rows of the recording that lie before the time where the playback stands: going on
only adds rows, and going back gives it a new recorder, from which whoever shows it begins anew. Two playbacks of one recording know
nothing of each other. Any thread may call any method; all return at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupelab.dashboard.shown import Shown
from troupelab.errors import InputError
from troupelab.events import FAMILIES
from troupelab.livelimits import LiveLimits
from troupelab.recording import Recording
from troupelab.results import Progress
from troupelab.telemetry.recorder import Batch

if TYPE_CHECKING:
    from troupelab.engine.moment import Moment

__all__ = ["Playback", "Until", "played"]

Column = NDArray[Any]


class _Family(NamedTuple):
    """The rows of one family in the order of their times; `lost` older ones are not there."""

    lost: int
    at_s: Column
    columns: dict[str, Column]


def _sorted(recording: Recording) -> dict[str, _Family]:
    """A recording's rows; most are in order already, but some are told a little late."""
    families = {}
    for family in FAMILIES:
        lost, columns = recording.recorder.lost(family), recording.recorder.read(family).columns
        order = np.argsort(columns["at_s"], kind="stable")
        if (order[1:] < order[:-1]).any():
            columns = {name: column[order] for name, column in columns.items()}
        families[family] = _Family(lost, columns["at_s"], columns)
    return families


class Until:
    """The part of a recording that lies before a time which only grows: what a `Recorder` had then.

    Args:
        families: all rows.
        now_s: tells the time; where it has gone back, nothing is added until it is as late again.
    """

    def __init__(self, families: dict[str, _Family], now_s: Callable[[], float]) -> None:
        self._families = families
        self._now_s = now_s
        self._latest_s = -np.inf
        self._turn = threading.Lock()

    def _end(self, rows: _Family) -> int:
        with self._turn:
            until_s = self._latest_s = max(self._latest_s, self._now_s())
        return int(np.searchsorted(rows.at_s, until_s, side="right"))

    def read(self, family: str, since: int = 0) -> Batch:
        """Rows of a family from row number `since` on (or from the oldest that is still kept)."""
        rows = self._families[family]
        end = self._end(rows)
        start = min(max(since - rows.lost, 0), end)
        return Batch(
            rows.lost + start, rows.lost + end, {name: column[start:end] for name, column in rows.columns.items()}
        )

    def count(self, family: str) -> int:
        """How many rows a family had by then."""
        rows = self._families[family]
        return rows.lost + self._end(rows)

    def lost(self, family: str) -> int:
        """How many of a family's oldest rows are not in the recording."""
        return self._families[family].lost


class _Hand(NamedTuple):
    """Where the time stands: at `at_s` when the clock showed `since`, and going on at so many seconds a second."""

    at_s: float
    since: float
    speed: float


class Playback:
    """A recording that is played; it stands at its end first, where all is seen.

    Args:
        recording: what is played.
        clock: seconds that never run backwards.

    >>> import tempfile
    >>> from troupelab.run import Run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Run("product_launch", steps=2, seed=7, folder=folder).start().wait(60)
    ...     playback = Playback(Recording.open(folder))
    >>> playback.state, playback.recorder.count("acts")
    ('recording', 16)
    >>> playback.seek(0.0)
    >>> playback.recorder.count("acts"), playback.progress().step
    (0, -1)
    """

    def __init__(self, recording: Recording, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.recording = recording
        self.length_s = recording.now_s()
        """How long the recording is, in seconds."""
        self._clock = clock
        self._families = _sorted(recording)
        self._hand = _Hand(self.length_s, 0.0, 0.0)
        self._speed = 1.0
        self._turn = threading.RLock()
        self._until = Until(self._families, self.now_s)
        self._limits = (recording.changes_by(self.length_s), recording.limits)
        acts = self._families["acts"].columns
        order = np.argsort(acts["start_s"], kind="stable")
        self._begun_s = acts["start_s"][order]
        self._begun_step = np.maximum.accumulate(acts["step"][order]) if len(order) else acts["step"]

    def __repr__(self) -> str:
        return f"<Playback of {self.recording!r}: {self.state} at {self.now_s():.1f} of {self.length_s:.1f} s>"

    def moment(self, agent: str | int, step: int) -> Moment:
        """Look back at what a step did to an agent's memory, and why; see `Run.moment`."""
        return self.recording.moment(agent, step)

    # ------------------------------------------------------------------ time

    def now_s(self) -> float:
        """The time where it stands, in seconds since the run's start."""
        at_s, since, speed = self._hand
        return min(self.length_s, at_s + (self._clock() - since) * speed) if speed else at_s

    @property
    def playing(self) -> bool:
        """Whether the time goes on; at the end it does no longer."""
        return self._hand.speed > 0.0 and self.now_s() < self.length_s

    @property
    def speed(self) -> float:
        """How many seconds of the run pass in a second."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        if not 0.0 < speed < 1e6:
            raise InputError("Playback", "speed", "a number above 0 and below a million", found=repr(speed))
        with self._turn:
            self._speed = speed
            self._set(self.now_s(), playing=self.playing)

    def play(self, speed: float | None = None) -> None:
        """Let the time go on; from the start, where it stands at the end.

        Args:
            speed: how many seconds of the run pass in a second; None for as many as before.

        Raises:
            InputError: the speed is not above 0.
        """
        with self._turn:
            if speed is not None:
                self.speed = speed
            if self.now_s() >= self.length_s:
                self.seek(0.0)
            self._set(self.now_s(), playing=True)

    def pause(self) -> None:
        """Let the time stand."""
        with self._turn:
            self._set(self.now_s(), playing=False)

    def seek(self, at_s: float) -> None:
        """Go to a time, within the recording's length; if it was playing, it plays on from there."""
        with self._turn:
            before_s, playing = self.now_s(), self.playing
            self._set(min(max(0.0, at_s), self.length_s), playing=playing)
            if self.now_s() < before_s:
                self._until = Until(self._families, self.now_s)

    def _set(self, at_s: float, *, playing: bool) -> None:
        self._hand = _Hand(at_s, self._clock(), self._speed if playing else 0.0)

    # ------------------------------------------------------------------ what is shown

    @property
    def name(self) -> str:
        """The world's name."""
        return self.recording.name

    @property
    def agent_names(self) -> tuple[str, ...]:
        """The agents' names, by index."""
        return self.recording.agent_names

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.recording.seed

    @property
    def steps(self) -> int:
        """How many steps the run was to have in all."""
        return self.recording.steps

    @property
    def forked_at(self) -> int:
        """The step at which the run left another's past; -1 where it did not."""
        return self.recording.forked_at

    @property
    def state(self) -> str:
        """`playing` while the time goes on, `recording` while it stands."""
        return "playing" if self.playing else "recording"

    @property
    def limits(self) -> LiveLimits:
        """The limits as they were then; they cannot be changed."""
        count = self.recording.changes_by(now_s := self.now_s())
        if self._limits[0] != count:
            self._limits = (count, self.recording.limits_at(now_s))
        return self._limits[1]

    @property
    def recorder(self) -> Until:
        """What had happened by then; another one after going back."""
        return self._until

    @property
    def in_flight(self) -> int:
        """How many calls were at the model, by the last sample before."""
        return self._sampled("in_flight")

    @property
    def queued(self) -> int:
        """How many calls waited for a slot, by the last sample before."""
        return self._sampled("queued")

    def _sampled(self, name: str) -> int:
        rows = self._families["process"]
        place = int(np.searchsorted(rows.at_s, self.now_s(), side="right"))
        return int(rows.columns[name][place - 1]) if place else 0

    def progress(self) -> Progress:
        """How far the run was."""
        now_s = self.now_s()
        begun = int(np.searchsorted(self._begun_s, now_s, side="right"))
        step = int(self._begun_step[begun - 1]) if begun else -1
        total = self.steps * len(self.agent_names)
        return Progress(step, self.steps, self._until.count("acts"), total, now_s, self.length_s - now_s)


def played(run: Shown | Recording) -> Shown:
    """What a dashboard shows of something: a recording is played, all else is shown as it is."""
    return Playback(run) if isinstance(run, Recording) else run
