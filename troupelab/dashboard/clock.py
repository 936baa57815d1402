"""The one time axis of all panels: how late it is, when steps began and ended, since when limits hold, and what is marked.

Only the dashboard's UI thread may call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from troupelab.dashboard.marks import EVERYONE, Drawn, Marks, trace
from troupelab.dashboard.series import Floats, Trace
from troupelab.dashboard.shown import News, Shown
from troupelab.limits import Limits

__all__ = ["Clock", "every_so_many"]

NICE = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10)

TIMED = ("acts", "calls", "memory", "consolidations", "limits", "alerts", "runs")
"""What the axis must reach."""


class Clock:
    """The time axis of a run's panels.

    Args:
        marks: what is marked on it.
    """

    def __init__(self, marks: Marks | None = None) -> None:
        self.unit = "seconds"
        self.end_s = 0.0
        self._begun: Floats = np.empty(0)
        self._ended: Floats = np.empty(0)
        self._marks = marks or Marks()
        self._changes: dict[str, list[tuple[float, int, float, float]]] = {}

    @classmethod
    def of(cls, run: Shown) -> Self:
        """The clock of a run."""
        return cls(Marks(agents=len(run.agent_names), parted=run.forked_at, keeps=hasattr(run, "fork")))

    def take(self, news: News) -> None:
        """Take in how late it is, when each step began, what limits were changed, and what else is marked."""
        for family in TIMED:
            if family in news:
                self.end_s = max(self.end_s, float(news[family].columns["at_s"].max()))
        if "acts" in news:
            rows = news["acts"].columns
            more = int(rows["step"].max()) + 1 - len(self._begun)
            if more > 0:
                self._begun = np.concatenate([self._begun, np.full(more, np.inf)])
                self._ended = np.concatenate([self._ended, np.zeros(more)])
            np.minimum.at(self._begun, rows["step"], rows["start_s"])
            np.maximum.at(self._ended, rows["step"], rows["end_s"])
        if "limits" in news:
            rows = news["limits"].columns
            for place in range(len(news["limits"])):
                row = {key: rows[key][place] for key in rows}
                if row["agents"] in EVERYONE:
                    change = (float(row["at_s"]), int(row["effective_step"]), float(row["old"]), float(row["new"]))
                    self._changes.setdefault(str(row["field"]), []).append(change)
        self._marks.take(news)

    def history(self, field: str, value: float | None) -> tuple[list[float], list[float]]:
        """From which times on a limit had which values, from 0 on; `value` is what it has now, not-a-number no limit."""
        changes = self._changes.get(field, [])
        if not changes:
            return [0.0], [np.nan if value is None else float(value)]
        times, values = [0.0], [changes[0][2]]
        for at_s, step, _, new in changes:
            waits = Limits.fields()[field].per_agent and step < len(self._begun) and np.isfinite(self._begun[step])
            times.append(max(times[-1], float(self._begun[step]) if waits else at_s))
            values.append(new)
        return times, [value if np.isfinite(value) else np.nan for value in values]

    @property
    def axis_end_s(self) -> float:
        """Where the time axis ends: at a round number that is not before what has happened."""
        span = max(self.end_s, 0.5)
        size = 10.0 ** np.floor(np.log10(span))
        return float(next((size * nice for nice in NICE if size * nice >= span), span))

    def axis(self) -> dict[str, Any]:
        """The time axis as layout settings, alike for every panel."""
        shown: dict[str, Any] = {"xaxis.range": [0.0, self.axis_end_s]}
        if self.unit == "seconds" or not len(self._begun):
            return {**shown, "xaxis.tickmode": "auto", "xaxis.title.text": "seconds since the start"}
        every = every_so_many(len(self._begun) / 7)
        steps = [step for step in range(0, len(self._begun), every) if np.isfinite(self._begun[step])]
        return {
            **shown,
            "xaxis.tickmode": "array",
            "xaxis.tickvals": [round(float(self._begun[step]), 3) for step in steps],
            "xaxis.ticktext": [str(step) for step in steps],
            "xaxis.title.text": "step, at the time when it began",
        }

    def drawn(self) -> Sequence[Drawn]:
        """The marks as they are to be drawn now."""
        return self._marks.drawn(self.axis_end_s, lambda step: float(self._ended[:step].max(initial=0.0)))

    def marks(self) -> Trace:
        """A vertical line for each mark, as a trace over an axis from 0 to 1."""
        return trace(self.drawn())


def every_so_many(least: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on: how far apart ticks stand.

    >>> every_so_many(0.3), every_so_many(3), every_so_many(11)
    (1, 5, 20)
    """
    wanted = max(1.0, least)
    power = 10 ** int(np.floor(np.log10(wanted)))
    return int(next(power * nice for nice in (1, 2, 5, 10) if power * nice >= wanted))
