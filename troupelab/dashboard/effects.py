"""What was before a change of limits and what came after it: sums of each step, and the sentences that tell both.

It says what was measured, never that the one came of the other. A few numbers are kept for each step, and the calls one by one
only where a change still waits for the steps after it. Only the dashboard's UI thread may call this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from troupelab.dashboard.look import bytes_text, count_text, seconds_text
from troupelab.dashboard.series import Floats
from troupelab.dashboard.shown import News
from troupelab.limits import Limits

__all__ = ["SPAN", "Effect", "StepSums"]

SPAN = 3
"""How many steps before and after a change are told."""

KEPT_STEPS = 16
"""Of so many of the newest steps the calls are kept one by one: more than agents may be apart, and a change's steps before it."""

STATES = 1000
"""So many of the newest states of a run are kept, to tell how long it was held."""

TITLES = {
    "bytes": "memory, all agents",
    "records": "recent records",
    "notes": "notes",
    "kept": "text kept",
    "p50": "latency p50",
    "p95": "latency p95",
    "rate": "acts/s",
}

OF_MEMORY = ("bytes", "records", "notes", "kept")
OF_CALLS = ("rate", "p50", "p95")


class StepSums:
    """What each step was, as far as everybody has finished it.

    Args:
        agents: how many there are.
    """

    def __init__(self, agents: int) -> None:
        self._agents = agents
        self._sums = {name: np.zeros(64) for name in ("bytes", "records", "notes", "told", "acts")}
        self._start = np.full(64, np.inf)
        self._end = np.zeros(64)
        self._calls: dict[int, list[Floats]] = {}
        self._kept: dict[int, list[Floats]] = {}
        self._states: list[tuple[float, str]] = []
        self._latest = -1
        self.finished = -1
        """The highest step that everybody has finished."""

    def take(self, news: News, wanted: set[int]) -> None:
        """Take in new events; of the `wanted` steps the calls are kept, however long they are over."""
        if "runs" in news:
            rows = news["runs"].columns
            self._states = sorted([*self._states, *zip(rows["at_s"].tolist(), rows["state"].tolist(), strict=True)])
            del self._states[:-STATES]
        for family in ("acts", "memory", "calls", "consolidations"):
            if family in news:
                self._cover(int(news[family].columns["step"].max()))
        if "acts" in news:
            rows = news["acts"].columns
            np.add.at(self._sums["acts"], rows["step"], 1)
            np.minimum.at(self._start, rows["step"], rows["start_s"])
            np.maximum.at(self._end, rows["step"], rows["end_s"])
        if "memory" in news:
            rows = news["memory"].columns
            named = {"bytes": "total_bytes", "records": "recent_records", "notes": "notes"}
            for name, column in named.items():
                np.add.at(self._sums[name], rows["step"], rows[column])
            np.add.at(self._sums["told"], rows["step"], 1)
        if "calls" in news:
            rows = news["calls"].columns
            real = ~rows["cached"] & (rows["error"] == "")
            self._split(self._calls, rows["step"][real], rows["latency_s"][real], wanted)
        if "consolidations" in news:
            rows = news["consolidations"].columns
            condensed = ~np.isnan(rows["kept_fraction"])
            self._split(self._kept, rows["step"][condensed], rows["kept_fraction"][condensed], wanted)
        for values in (self._calls, self._kept):
            for step in [step for step in values if step < self._latest - KEPT_STEPS and step not in wanted]:
                del values[step]
        self.finished = max(self._whole(range(self.finished + 1, self._latest + 1)), default=self.finished)

    def _cover(self, step: int) -> None:
        self._latest = max(self._latest, step)
        more = self._latest + 1 - len(self._start)
        if more > 0:
            more = max(more, len(self._start))
            self._sums = {name: np.concatenate([sums, np.zeros(more)]) for name, sums in self._sums.items()}
            self._start = np.concatenate([self._start, np.full(more, np.inf)])
            self._end = np.concatenate([self._end, np.zeros(more)])

    def _split(self, into: dict[int, list[Floats]], steps: Floats, values: Floats, wanted: set[int]) -> None:
        for step in np.unique(steps).tolist():
            if step >= 0 and (step >= self._latest - KEPT_STEPS or step in wanted):
                into.setdefault(step, []).append(values[steps == step])

    def _whole(self, steps: Sequence[int]) -> list[int]:
        """Those of some steps of which everything is known."""
        told, acts = self._sums["told"], self._sums["acts"]
        least = max(1, self._agents)
        return [step for step in steps if 0 <= step < len(told) and min(told[step], acts[step]) >= least]

    def _held_s(self, start_s: float, end_s: float) -> float:
        """How long the run was paused between two times."""
        total = 0.0
        for (since, state), (until, _) in pairwise([*self._states, (np.inf, "")]):
            if state == "paused":
                total += max(0.0, min(until, end_s) - max(since, start_s))
        return total

    def around(self, steps: Sequence[int]) -> dict[str, float]:
        """The numbers of some steps together: means of the sums over all agents, quantiles of the calls, and how many `steps`."""
        whole = self._whole(steps)
        if not whole:
            return {"steps": 0}
        found = {name: float(self._sums[name][whole].mean()) for name in ("bytes", "records", "notes")}
        start_s, end_s = float(self._start[whole].min()), float(self._end[whole].max())
        if (active_s := end_s - start_s - self._held_s(start_s, end_s)) > 0:
            found["rate"] = float(self._sums["acts"][whole].sum() / active_s)
        calls = [part for step in whole for part in self._calls.get(step, ())]
        if calls:
            found["p50"], found["p95"] = np.quantile(np.concatenate(calls), (0.5, 0.95)).tolist()
        kept = [part for step in whole for part in self._kept.get(step, ())]
        if kept:
            found["kept"] = float(np.concatenate(kept).mean())
        return {**found, "steps": len(whole)}


class Effect:
    """What was before one change and what came after it, in lines that grow until enough steps are over.

    Args:
        field: the limit.
        step: from which it holds.
    """

    def __init__(self, field: str, step: int) -> None:
        known = Limits.fields().get(field)
        # A limit that holds at once was changed amidst a step, which belongs to neither side.
        after = step + 1 if known is not None and known.at_once else step
        self.before = range(max(0, step - SPAN), step)
        self.after = range(after, after + SPAN)
        self.settled = not self.before
        self.lines: tuple[str, ...] = ()
        of_memory = known is not None and known.group in ("memory", "storage")
        self._first: Sequence[str] = OF_MEMORY if of_memory else OF_CALLS
        self._rest: Sequence[str] = OF_CALLS if of_memory else OF_MEMORY

    def __iter__(self) -> Iterator[int]:
        """The steps that it tells of."""
        yield from self.before
        yield from self.after

    def tell(self, sums: StepSums) -> None:
        """Look again, unless all has been told."""
        if self.settled or sums.finished < self.after[0]:
            return
        before, after = sums.around(self.before), sums.around(self.after)
        # Steps that have left the recorder never become whole.
        self.settled = after["steps"] == SPAN or sums.finished > self.after[-1] + KEPT_STEPS
        if not before["steps"] or not after["steps"]:
            return
        so_far = "" if after["steps"] == SPAN else " so far"
        head = f"{_steps(before['steps'])} before → {_steps(after['steps'])} after{so_far}:"
        first = [_line(name, before, after) for name in self._first if name in before and name in after]
        rest = [_line(name, before, after) for name in self._rest if name in before and name in after]
        pairs = [" · ".join(rest[place : place + 2]) for place in range(0, len(rest), 2)]
        self.lines = (head, *first, *pairs)


def _steps(number: float) -> str:
    return f"{number:.0f} step{'' if number == 1 else 's'}"


def _line(name: str, before: dict[str, float], after: dict[str, float]) -> str:
    return f"{TITLES[name]} {_value(name, before[name])} → {_value(name, after[name])}"


def _value(name: str, value: float) -> str:
    if name == "bytes":
        return bytes_text(value)
    if name == "kept":
        return f"{value:.0%}"
    return seconds_text(value) if name in ("p50", "p95") else count_text(value)
