"""What a run came to after each step: what all agents held together, and what the step's calls took. For comparing runs.

Only the dashboard's UI thread may call this.
"""

from __future__ import annotations

import numpy as np

from troupelab.dashboard.series import Floats, decimate
from troupelab.dashboard.shown import Shown

__all__ = ["Totals", "parted_at"]

SUMS = {
    "memory": ("total_bytes", "recent_records", "notes"),
    "calls": ("tokens", "cost_usd"),
}

OPEN_STEPS = 16
"""Of so many of the newest steps single calls are kept, for those of agents that are apart, and those that notes need."""


class Totals:
    """Sums over all agents and calls of each step that everybody has finished.

    Args:
        run: of which; its recorder is read through a cursor of its own.
    """

    def __init__(self, run: Shown) -> None:
        self._run = run
        self._next = dict.fromkeys(SUMS, 0)
        self._agents = len(run.agent_names)
        self._sums = {name: np.empty(0) for name in (*SUMS["memory"], *SUMS["calls"], "p50_s")}
        self._told = np.empty(0, dtype=int)
        self._latencies: dict[int, list[Floats]] = {}
        self._newest = 0
        self.played: Floats = np.empty(0)
        """After how many steps there are sums: 1, 2, 3 and so on, but for steps that have left the recorder's ring."""

    def read(self) -> None:
        """Take in what is new in the run's recorder."""
        self._cover(self._run.steps)
        news: dict[str, dict[str, Floats]] = {}
        for family, seen in self._next.items():
            if self._run.recorder.count(family) != seen:
                batch = self._run.recorder.read(family, seen)
                self._next[family] = batch.next
                # What is remembered after the last step is of no step, and nor are calls before the first.
                acts = (batch.columns["step"] >= 0) & (batch.columns["step"] < len(self._told))
                news[family] = {name: column[acts] for name, column in batch.columns.items()}
        if "memory" in news:
            rows = news["memory"]
            for name in SUMS["memory"]:
                np.add.at(self._sums[name], rows["step"], rows[name])
            np.add.at(self._told, rows["step"], 1)
            self.played = 1.0 + np.flatnonzero(self._told >= self._agents)
        if "calls" in news:
            rows = news["calls"]
            np.add.at(self._sums["tokens"], rows["step"], rows["tokens_in"] + rows["tokens_out"])
            np.add.at(self._sums["cost_usd"], rows["step"], rows["cost_usd"])
            self._take_latencies(rows["step"], rows["latency_s"], ~rows["cached"] & (rows["error"] == ""))

    def _cover(self, steps: int) -> None:
        """Have room for so many steps, which may become more while a notebook of TinyTroupe's is watched."""
        if (more := steps - len(self._told)) > 0:
            fill = {"p50_s": np.nan}
            self._sums = {
                name: np.append(sums, np.full(more, fill.get(name, 0.0))) for name, sums in self._sums.items()
            }
            self._told = np.append(self._told, np.zeros(more, dtype=int))

    def _take_latencies(self, steps: Floats, seconds: Floats, real: Floats) -> None:
        real = real & (steps >= self._newest - OPEN_STEPS)
        steps, seconds = steps[real], seconds[real]
        order = np.argsort(steps, kind="stable")
        found, starts = np.unique(steps[order], return_index=True)
        for step, part in zip(found.tolist(), np.split(seconds[order], starts[1:]), strict=True):
            self._latencies.setdefault(step, []).append(part)
            self._sums["p50_s"][step] = np.median(np.concatenate(self._latencies[step]))
        self._newest = max(self._latencies, default=0)
        for step in [step for step in self._latencies if step < self._newest - OPEN_STEPS]:
            del self._latencies[step]

    def line(self, name: str, since: int = 0) -> tuple[Floats, Floats]:
        """How many steps had been played, from a number on, and the sums of a column then; steps without any are left out."""
        played = self.played[self.played >= since]
        values = self._sums[name][played.astype(int) - 1]
        return decimate(played[np.isfinite(values)], values[np.isfinite(values)])

    def is_past_of(self, other: Totals, step: int) -> bool:
        """Whether another run's agents remembered as much as this one's after each step before one, as far as both are known."""
        both = min(step, len(self._told), len(other._told))
        known = (self._told[:both] >= self._agents) & (other._told[:both] >= other._agents)
        return self._agents == other._agents and all(
            bool((self._sums[name][:both] == other._sums[name][:both])[known].all())
            for name in ("recent_records", "notes")
        )


def parted_at(one: Shown, other: Shown, totals: tuple[Totals, Totals]) -> int:
    """The step up to which two runs have the same past; -1 where neither is a fork that left the other, or its past.

    A fork knows its step but not its run, so that what was remembered has to be the same as well.
    """
    steps = sorted({run.forked_at for run in (one, other) if run.forked_at >= 0}, reverse=True)
    return next((step for step in steps if totals[0].is_past_of(totals[1], step)), -1)
