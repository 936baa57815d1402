"""A run without an engine: synthetic events at a steady rate, behind the same interface as `troupelab.Run`.

It feeds a real recorder from a thread of its own, so that the dashboard can be measured alone and tested without waiting
for a model.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from troupelab.events import (
    ActDone,
    ActionTaken,
    CallDone,
    Consolidated,
    Failed,
    LimitChanged,
    MemorySized,
    ProcessSampled,
    RunChanged,
)
from troupelab.limits import Limits
from troupelab.livelimits import LimitChange, LiveLimits
from troupelab.run import Progress
from troupelab.telemetry.frames import Frames
from troupelab.telemetry.recorder import Recorder


class _World:
    name = "synthetic"


class StandInRun:
    """Emits what a run of `agents` would, at `events_per_s`; five events an act."""

    def __init__(
        self,
        agents: int | Sequence[str] = 8,
        *,
        steps: int = 1000,
        seed: int = 7,
        events_per_s: float = 1000.0,
        limits: Limits | None = None,
    ) -> None:
        self.name = "synthetic"
        self.forked_at = -1
        self.world = _World()
        names = [f"Agent {number}" for number in range(agents)] if isinstance(agents, int) else list(agents)
        self.agent_names = tuple(names)
        self.steps = steps
        self.seed = seed
        self.limits = LiveLimits(limits or Limits(), agents=names)
        self.recorder = Recorder()
        self.frames = Frames(self.recorder, names)
        self.in_flight = 0
        self.queued = 0
        self.state = "ready"
        self._rate = events_per_s / 5
        slots = min(len(names), self.limits.max_concurrency)
        self._latency = 0.7 * slots / self._rate  # so that seven in ten slots are busy
        self._random = random.Random(seed)
        self._records = np.zeros(len(names), dtype=int)
        self._notes = np.zeros(len(names), dtype=int)
        self._archived = np.zeros(len(names), dtype=int)
        self._acts = 0
        self._begun = 0.0
        self._thread: threading.Thread | None = None
        self._steps_left = -1
        self.limits.bind(self._limit_changed)

    def now_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begun if self._begun else 0.0

    def progress(self) -> Progress:
        """How far it is."""
        count = len(self.agent_names)
        total = self.steps * count
        left = (total - self._acts) / self._rate if self._acts else None
        return Progress(
            (self._acts - 1) // count if self._acts else -1, self.steps, self._acts, total, self.now_s(), left
        )

    def _limit_changed(self, change: LimitChange) -> None:
        step = self.progress().step
        effective = step + 1
        self.limits.settle(effective)
        for field, new in change.new.items():
            old = change.old[field]
            took = 1000 * (time.monotonic() - change.requested_at)
            numbers = [float("nan") if value is None else float(value) for value in (old, new)]
            told = LimitChanged(self.now_s(), step, field, "", *numbers, change.note, change.by, took, effective)
            self.recorder.emit(told)

    def act(self, at_s: float) -> None:
        """Let the next agent act at a time: five events, and a consolidation when its memory is full."""
        count = len(self.agent_names)
        step, agent = divmod(self._acts, count)
        latency = self._latency * self._random.lognormvariate(0, 0.5)
        self.in_flight = self._random.randint(1, 20)
        emit = self.recorder.emit
        emit(CallDone(at_s, step, agent, "act", latency, 0.01, 500, 60, 0.0, False, 1, "", "model", 0, math.nan))
        emit(ActionTaken(at_s, step, agent, 0, "THINK", "", "I wonder <b>what</b> they will say about the price."))
        emit(
            ActionTaken(at_s, step, agent, 1, "TALK", "everyone", f"In step {step} I would say that 12 of 20 like it.")
        )
        self._records[agent] += self._random.randint(1, 6)
        cap = self.limits.recent_max_records
        if cap is not None and self._records[agent] > cap:
            before = int(self._records[agent])
            self._records[agent] = int(cap * self.limits.consolidate_to)
            self._notes[agent] += 4
            moved = before - int(self._records[agent])
            self._archived[agent] += moved
            kept = self.limits.retain_fraction
            freed = (before * 462, int(self._records[agent]) * 462)
            emit(Consolidated(at_s, step, agent, "high water", moved, 4, *freed, kept, 0.01, 0))
        held, notes, archived = int(self._records[agent]), int(self._notes[agent]), int(self._archived[agent])
        sizes = (held, held * 462, archived, archived * 90, notes, notes * 200, held * 462 + notes * 200)
        emit(MemorySized(at_s, step, agent, *sizes))
        emit(ActDone(at_s, step, agent, max(0.0, at_s - latency), at_s, 1, 2, ""))
        self._acts += 1
        if self._acts % 977 == 0:
            emit(Failed(at_s, step, agent, "ReplyError", "asked <i>again</i>", 1))

    def _work(self) -> None:
        due = time.monotonic()
        sampled = 0.0
        while self.state != "stopped" and self._acts < self.steps * len(self.agent_names):
            if self.state == "paused" and self._steps_left == 0:
                time.sleep(0.01)
                due = time.monotonic()
                continue
            now = time.monotonic()
            while due <= now and self._acts < self.steps * len(self.agent_names):
                self.act(due - self._begun)
                due += 1 / self._rate
                if self._acts % len(self.agent_names) == 0 and self._steps_left > 0:
                    self._steps_left -= 1
                    break
            if now - sampled > 0.5:
                sampled = now
                self.recorder.emit(
                    ProcessSampled(now - self._begun, 150_000_000, time.process_time(), self.in_flight, 0, 40_000_000)
                )
            time.sleep(0.005)
        self._enter("stopped" if self.state == "stopped" else "done")

    def _enter(self, state: str) -> None:
        self.state = state
        self.recorder.emit(RunChanged(self.now_s(), self.progress().step, state, ""))

    def start(self) -> None:
        """Begin; returns at once."""
        self._begun = time.monotonic()
        self._enter("running")
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Stop acting until `resume` or `step`."""
        self._steps_left = 0
        self._enter("paused")

    def resume(self) -> None:
        """Go on."""
        self._steps_left = -1
        self._enter("running")

    def step(self, n: int = 1) -> None:
        """Do n steps while paused."""
        self._steps_left = n

    def stop(self, now: bool = False) -> None:
        """End it."""
        self.state = "stopped"

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        if self._thread is not None:
            self._thread.join(timeout)

    def summary(self) -> dict[str, Any]:
        """A few numbers."""
        return {"acts": self._acts, "state": self.state}

    def transcript(self) -> pd.DataFrame:
        """What was done."""
        return self.frames.actions[["step", "agent", "action", "target", "content"]]
