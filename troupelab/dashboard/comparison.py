"""The panels between a run and its fork: what all agents of each hold, over steps, and where their pasts part.

Both runs lie on one axis of steps, since their clocks parted with them. Only the dashboard's UI thread may call this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.look import BLUE, GREY, ORANGE, bytes_text, count_text, value_text
from troupelab.dashboard.panel import Clock, News, Panel, PanelGroup, Trace, every_so_many, label
from troupelab.dashboard.series import Floats, decimate, spread_labels
from troupelab.dashboard.shown import Shown
from troupelab.limits import Limits

__all__ = ["Comparison", "differences"]

HEIGHT = 250
FEW = 3
"""Up to so many points are also dots: a fork that has just begun is a line of one point, which cannot be seen."""

SHOWN_DIFFERENCES = 4


class Totals:
    """What all agents of a run held together after each step that all of them have finished."""

    def __init__(self, run: Shown) -> None:
        self._run = run
        self._next = 0
        self._agents = len(run.agent_names)
        self._sums = {name: np.zeros(run.steps) for name in ("total_bytes", "recent_records")}
        self._told = np.zeros(run.steps, dtype=int)
        self.played: Floats = np.empty(0)
        """After how many steps there are sums: 1, 2, 3 and so on, but for steps that have left the recorder's ring."""

    def read(self) -> None:
        """Take in what is new in the run's recorder."""
        if self._run.recorder.count("memory") == self._next:
            return
        batch = self._run.recorder.read("memory", self._next)
        self._next = batch.next
        step = batch.columns["step"]
        acts = step < len(self._told)  # what is remembered after the last step is of no step
        for name, sums in self._sums.items():
            np.add.at(sums, step[acts], batch.columns[name][acts])
        np.add.at(self._told, step[acts], 1)
        self.played = 1.0 + np.flatnonzero(self._told == self._agents)

    def line(self, name: str, since: int = 0) -> tuple[Floats, Floats]:
        """How many steps had been played, from a number on, and the sums of a column of the memory family then."""
        played = self.played[self.played >= since]
        return decimate(played, self._sums[name][played.astype(int) - 1])


class ComparisonPanel(Panel):
    """One measure of both runs: a line that is both their past, and two from where they part."""

    column: ClassVar[str] = ""
    title: ClassVar[str] = ""
    suffix: ClassVar[str] = ""
    waiting: ClassVar[str] = "both runs will appear here<br>when a first step is over"
    mark_axes: tuple[str, ...] = ()

    def __init__(self, fork: Shown, totals: tuple[Totals, Totals]) -> None:
        super().__init__(fork, Clock(), height=HEIGHT)
        self._totals = totals
        self._parted = fork.forked_at
        axis = {"showgrid": False, "fixedrange": True, "tickmode": "linear", "tick0": 0, "title": {"standoff": 6}}
        self.figure.update_layout(xaxis=axis, yaxis={"ticksuffix": self.suffix, "tickformat": ".3~s"})
        mark = {"color": GREY, "width": 1.5, "dash": "dot"}
        told = f"the fork left at step {self._parted}<extra></extra>"
        self.figure.add_scatter(yaxis="y9", mode="lines", line=mark, hovertemplate=told, name="fork")
        for name, color, width in (("this run", BLUE, 2.5), (f"fork from step {self._parted}", ORANGE, 2)):
            line, marker = {"color": color, "width": width}, {"color": color, "size": 5}
            told = f"{name}: %{{y:.4~s}}{self.suffix} after %{{x:.0f}} steps<extra></extra>"
            self.figure.add_scatter(mode="lines", line=line, marker=marker, hovertemplate=told, name=name)

    @property
    def empty(self) -> bool:
        """Whether neither run has finished a step."""
        return not any(len(each.played) for each in self._totals)

    def take(self, news: News) -> None:
        """Nothing: the totals of both runs read for themselves."""

    def _lines(self) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """The run, and the fork from the end of the shared past on."""
        run, fork = self._totals
        return run.line(self.column), fork.line(self.column, self._parted)

    def traces(self) -> list[Trace]:
        """The mark, and both lines."""
        found: list[Trace] = [{"x": np.full(2, float(self._parted)), "y": np.array([0.0, 1.0])}]
        for x, y in self._lines():
            found.append({"x": x, "y": y, "mode": "lines+markers" if len(x) <= FEW else "lines"})
        return found

    def settings(self) -> dict[str, Any]:
        """The title, the axes from 0, and at the lines' ends whose they are."""
        last = max([1.0, *(each.played[-1] for each in self._totals if len(each.played))])
        shown: dict[str, Any] = {
            "title.text": self.title,
            "annotations": [],
            "xaxis.range": [0.0, float(max(last, self._parted))],
            "xaxis.tickmode": "linear",
            "xaxis.dtick": every_so_many(last / 7),
            "xaxis.title.text": "steps played",
        }
        ends = [float(y[-1]) if len(y) else None for _, y in self._lines()]
        values = [end for end in ends if end is not None]
        if not values:
            return shown
        top = 1.15 * max(1.0, *(float(y.max()) for _, y in self._lines() if len(y)))
        names = [("this run", BLUE), (f"fork from<br>step {self._parted}", ORANGE)]
        texts = [
            (f"{name}<br>{self._told(end)}", color)
            for (name, color), end in zip(names, ends, strict=True)
            if end is not None
        ]
        places = spread_labels(values, top, gap=0.26)
        told = [label(text, round(y, 2), color) for (text, color), y in zip(texts, places, strict=True)]
        fork = {
            "x": self._parted,
            "xanchor": "right" if self._parted > last / 2 else "left",
            "y": 1,
            "yref": "y domain",
            "yanchor": "top",
        }
        told.append({"text": " fork ", "showarrow": False, "font": {"size": 11}, **fork})
        return {**shown, "annotations": told, "yaxis.range": [0.0, round(top, 2)]}

    def _told(self, value: float) -> str:
        return bytes_text(value) if self.suffix else f"{count_text(value)} records"


class BothBytes(ComparisonPanel):
    """What the memories of all agents take in RAM."""

    name: ClassVar[str] = "both bytes"
    column: ClassVar[str] = "total_bytes"
    title: ClassVar[str] = "<b>memory, all agents</b> (bytes in RAM)"
    suffix: ClassVar[str] = "B"


class BothRecords(ComparisonPanel):
    """How many records all agents hold in recent memory."""

    name: ClassVar[str] = "both records"
    column: ClassVar[str] = "recent_records"
    title: ClassVar[str] = "<b>recent memory, all agents</b> (records)"


class Comparison(PanelGroup):
    """Both panels of a run and its fork."""

    def __init__(self, run: Shown, fork: Shown) -> None:
        self._totals = (Totals(run), Totals(fork))
        self._panels = [kind(fork, self._totals) for kind in (BothBytes, BothRecords)]

    def __iter__(self) -> Iterator[Panel]:
        yield from self._panels

    def read(self) -> None:
        """Take in what is new in both recorders."""
        for each in self._totals:
            each.read()


def differences(run: Shown, fork: Shown) -> str:
    """Say in which limits a fork differs from the run that it left; plain text."""
    one, other = run.limits.current.as_dict(), fork.limits.current.as_dict()
    fields = Limits.fields()
    told = [
        f"{fields[name].label}: {value_text(one[name], _short(fields[name].unit))} → {value_text(other[name], fields[name].unit)}"
        for name in one
        if one[name] != other[name]
    ]
    if run.limits.overrides != fork.limits.overrides:
        told.append("those of single agents")
    more = len(told) - SHOWN_DIFFERENCES
    if more > 0:
        told[SHOWN_DIFFERENCES:] = [f"{more} more"]
    return "limits that differ: " + "; ".join(told) if told else "all limits are the same so far"


def _short(unit: str) -> str:
    """The unit of the first of two values: none, but for bytes, of which each is told in its own."""
    return unit if unit == "bytes" else ""
