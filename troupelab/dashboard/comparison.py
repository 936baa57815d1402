"""The panels that compare two runs: what all agents of each hold and what its calls take, over steps, and where their pasts part.

Both runs lie on one axis of steps, since each has a clock of its own. Only the dashboard's UI thread may call this.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.look import (
    BLUE,
    GREY,
    ORANGE,
    bytes_text,
    count_text,
    for_plot,
    seconds_text,
    value_text,
)
from troupelab.dashboard.panel import Clock, News, Panel, PanelGroup, Trace, every_so_many, label
from troupelab.dashboard.series import Floats, spread_labels
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.totals import Totals, parted_at
from troupelab.limits import Limits

__all__ = ["Comparison", "Pair", "differences"]

HEIGHT = 250
FEW = 3
"""Up to so many points are also dots: a fork that has just begun is a line of one point, which cannot be seen."""

SHOWN_DIFFERENCES = 4


class Pair:
    """Two runs that are compared, and what they are called.

    Args:
        run: the one that is called "this run".
        other: the one beside it.
    """

    def __init__(self, run: Shown, other: Shown) -> None:
        self.runs = (run, other)
        self.totals = (Totals(run), Totals(other))
        self.parted = -1
        """The step up to which both have the same past; -1 where they are no run and its fork."""

    def read(self) -> None:
        """Take in what is new in both recorders."""
        for each in self.totals:
            each.read()
        self.parted = parted_at(*self.runs, self.totals)

    @property
    def names(self) -> tuple[str, str]:
        """What to call the two; plain text."""
        run, other = self.runs
        if self.parted >= 0:
            if other.forked_at == self.parted:
                return "this run", f"fork from step {self.parted}"
            return f"this fork, from step {self.parted}", "the run it left"
        told = limit_differences(run, other)
        return "this run", told[0][1] if told else other.name if other.name != run.name else "the other run"


class ComparisonPanel(Panel):
    """One measure of both runs, by steps: where one is a fork of the other, their common past is drawn once."""

    column: ClassVar[str] = ""
    title: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    waiting: ClassVar[str] = "both runs will appear here<br>when a first step is over"
    mark_axes: tuple[str, ...] = ()

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair.runs[1], Clock(), height=HEIGHT)
        self._pair = pair
        axis = {
            "showgrid": False,
            "fixedrange": True,
            "tickmode": "linear",
            "tick0": 0,
            "title": {"standoff": 6, "font": {"size": 11}},
        }
        suffix = self.unit if self.unit in ("B", "s") else ""
        prefix = self.unit if self.unit == "$" else ""
        self.figure.update_layout(xaxis=axis, yaxis={"ticksuffix": suffix, "tickprefix": prefix, "tickformat": ".3~s"})
        mark = {"color": GREY, "width": 1.5, "dash": "dot"}
        self.figure.add_scatter(yaxis="y9", mode="lines", line=mark, name="fork")
        for color, width in ((BLUE, 2.5), (ORANGE, 2)):
            self.figure.add_scatter(
                mode="lines", line={"color": color, "width": width}, marker={"color": color, "size": 5}
            )
        self._told = f"{prefix}%{{y:.4~s}}{suffix}"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw of either run."""
        return not any(len(x) for x, _ in self._lines())

    def take(self, news: News) -> None:
        """Nothing: the totals of both runs read for themselves."""

    def _lines(self) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """The run, and the other one; from the end of the shared past on, where there is one."""
        run, other = self._pair.totals
        return run.line(self.column), other.line(self.column, max(0, self._pair.parted))

    def traces(self) -> list[Trace]:
        """The mark where they part, and both lines."""
        parted = self._pair.parted
        if self.empty:
            return [{"x": np.empty(0), "y": np.empty(0)} for _ in range(3)]
        x = np.full(2, float(parted)) if parted >= 0 else np.empty(0)
        told = f"they part at step {parted}<extra></extra>"
        found: list[Trace] = [{"x": x, "y": np.array([0.0, 1.0])[: len(x)], "hovertemplate": told}]
        for (x, y), name in zip(self._lines(), map(for_plot, self._pair.names), strict=True):
            mode = "lines+markers" if len(x) <= FEW else "lines"
            told = f"{name}: {self._told} after %{{x:.0f}} steps<extra></extra>"
            found.append({"x": x, "y": y, "mode": mode, "name": name, "hovertemplate": told})
        return found

    def settings(self) -> dict[str, Any]:
        """The title, the axes from 0, and at the lines' ends whose they are."""
        parted = self._pair.parted
        last = max([1.0, *(each.played[-1] for each in self._pair.totals if len(each.played))])
        shown: dict[str, Any] = {
            "title.text": self.title,
            "annotations": [],
            "xaxis.range": [0.0, float(max(last, parted))],
            "xaxis.tickmode": "linear",
            "xaxis.dtick": every_so_many(last / 7),
            "xaxis.title.text": "steps played",
        }
        lines = self._lines()
        drawn = [
            (name, color, y)
            for name, color, (_, y) in zip(self._pair.names, (BLUE, ORANGE), lines, strict=True)
            if len(y)
        ]
        if not drawn:
            return shown
        top = 1.15 * max(float(y.max()) for _, _, y in drawn) or 1.0
        texts = [f"{self._named(name)}<br>{self._value(float(y[-1]))}" for name, _, y in drawn]
        # A label has three lines: nearer to the ends it would cover the title or the axis.
        low, span = 0.16 * top, 0.68 * top
        ends = [min(max(float(y[-1]) - low, 0.0), span) for _, _, y in drawn]
        places = [low + place for place in spread_labels(ends, span, gap=0.45)]
        told = [label(text, _rounded(y), color) for text, y, (_, color, _) in zip(texts, places, drawn, strict=True)]
        if parted >= 0:
            side = "right" if parted > last / 2 else "left"
            place = {"x": parted, "xanchor": side, "y": 1, "yref": "y domain", "yanchor": "top"}
            told.append({"text": " fork ", "showarrow": False, "font": {"size": 11}, **place})
        return {**shown, "annotations": told, "yaxis.range": [0.0, _rounded(top)]}

    def _named(self, name: str) -> str:
        """A name in lines that fit beside the plot."""
        return "<br>".join(for_plot(line) for line in textwrap.wrap(name, 13)[:3])

    def _value(self, value: float) -> str:
        if self.unit == "B":
            return bytes_text(value)
        if self.unit == "s":
            return seconds_text(value)
        return f"${value:.4f}" if self.unit == "$" else f"{count_text(value)} {self.unit}"


class BothBytes(ComparisonPanel):
    """What the memories of all agents take in RAM."""

    name: ClassVar[str] = "both bytes"
    column: ClassVar[str] = "total_bytes"
    title: ClassVar[str] = "<b>memory, all agents</b> (bytes in RAM)"
    unit: ClassVar[str] = "B"


class BothRecords(ComparisonPanel):
    """How many records all agents hold in recent memory."""

    name: ClassVar[str] = "both records"
    column: ClassVar[str] = "recent_records"
    title: ClassVar[str] = "<b>recent memory, all agents</b> (records)"
    unit: ClassVar[str] = "records"


class BothNotes(ComparisonPanel):
    """How many notes all agents hold."""

    name: ClassVar[str] = "both notes"
    column: ClassVar[str] = "notes"
    title: ClassVar[str] = "<b>notes, all agents</b> (notes)"
    unit: ClassVar[str] = "notes"


class BothLatency(ComparisonPanel):
    """The median latency of each step's calls that the model answered."""

    name: ClassVar[str] = "both latency"
    column: ClassVar[str] = "p50_s"
    title: ClassVar[str] = "<b>model latency, median of each step</b> (seconds)"
    unit: ClassVar[str] = "s"
    waiting: ClassVar[str] = "the median latency of each step<br>will appear with the first answered calls"


class BothTokens(ComparisonPanel):
    """What each step took in tokens."""

    name: ClassVar[str] = "both tokens"
    column: ClassVar[str] = "tokens"
    title: ClassVar[str] = "<b>tokens of each step</b> (in and out)"
    unit: ClassVar[str] = "tokens"


class BothCosts(ComparisonPanel):
    """What each step cost."""

    name: ClassVar[str] = "both costs"
    column: ClassVar[str] = "cost_usd"
    title: ClassVar[str] = "<b>cost of each step</b> (US dollars)"
    unit: ClassVar[str] = "$"
    waiting: ClassVar[str] = "no call has cost anything so far"

    @property
    def empty(self) -> bool:
        """Whether nothing has cost anything."""
        return not any(y.any() for _, y in self._lines())


class Comparison(PanelGroup):
    """The panels of two runs side by side."""

    def __init__(self, run: Shown, other: Shown) -> None:
        self.pair = Pair(run, other)
        kinds = (BothBytes, BothRecords, BothNotes, BothLatency, BothTokens, BothCosts)
        self._panels = [kind(self.pair) for kind in kinds]

    def __iter__(self) -> Iterator[Panel]:
        yield from self._panels

    def read(self) -> None:
        """Take in what is new in both recorders."""
        self.pair.read()


def _rounded(value: float) -> float:
    """A place on an axis with so many figures that the picture stays where it is."""
    return float(f"{value:.5g}")


def limit_differences(run: Shown, other: Shown) -> list[tuple[str, str]]:
    """The limits in which a run differs from another: each with its change, and as the other would be named by it; plain text."""
    one, two = run.limits.current.as_dict(), other.limits.current.as_dict()
    told = []
    for name, known in Limits.fields().items():
        if one[name] != two[name]:
            value = value_text(two[name], known.unit)
            told.append(
                (f"{known.label}: {value_text(one[name], _short(known.unit))} → {value}", f"{known.label}: {value}")
            )
    return told


def differences(run: Shown, fork: Shown) -> str:
    """Say in which limits another run, such as a fork, differs from a run; plain text."""
    told = [change for change, _ in limit_differences(run, fork)]
    if run.limits.overrides != fork.limits.overrides:
        told.append("those of single agents")
    more = len(told) - SHOWN_DIFFERENCES
    if more > 0:
        told[SHOWN_DIFFERENCES:] = [f"{more} more"]
    return "limits that differ: " + "; ".join(told) if told else "all limits are the same so far"


def _short(unit: str) -> str:
    """The unit of the first of two values: none, but for bytes, of which each is told in its own."""
    return unit if unit == "bytes" else ""
