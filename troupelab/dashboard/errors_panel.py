"""The panel "errors": how many went wrong when, by kind, as bars that stand on each other.

The first six kinds have bars of their own, whatever comes later is "other". It keeps counts by bins of time. Only the
dashboard's UI thread may call it.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.drawing import Told, axis_top, labels
from troupelab.dashboard.look import ACCENTS, GREY, count_text, for_plot, seconds_text
from troupelab.dashboard.panel import Clock, News, Panel, Trace
from troupelab.dashboard.series import TimeBins
from troupelab.dashboard.shown import Shown

__all__ = ["ErrorsPanel"]

MOST_KINDS = 6
STRETCHES = 40
COLORS = (ACCENTS[3], ACCENTS[5], ACCENTS[0], ACCENTS[2], ACCENTS[4], ACCENTS[6], GREY)


class ErrorsPanel(Panel):
    """What went wrong, by kind, over time."""

    name: ClassVar[str] = "errors"
    waiting: ClassVar[str] = "no errors so far: what goes wrong<br>will appear here, by kind"

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self._kinds: list[str] = []
        self._bins = TimeBins(limit=STRETCHES, width_s=0.5)
        for place in range(MOST_KINDS + 1):
            self._bins.column(str(place), "sum")
            self.figure.add_bar(
                marker={"color": COLORS[place], "line": {"width": 0}},
                hovertemplate="%{meta}: %{y} until %{x:.1f} s<extra></extra>",
                name=f"kind {place}",
            )
        self.figure.update_layout(barmode="stack", bargap=0)
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether nothing has gone wrong."""
        return not self._kinds

    def take(self, news: News) -> None:
        """Take in what went wrong."""
        if "errors" not in news:
            return
        rows = news["errors"].columns
        self._bins.cover(float(rows["at_s"].max()))
        place = self._bins.index(rows["at_s"])
        for kind in dict.fromkeys(rows["kind"].tolist()):
            if kind not in self._kinds and len(self._kinds) < MOST_KINDS:
                self._kinds.append(kind)
            number = self._kinds.index(kind) if kind in self._kinds else MOST_KINDS
            np.add.at(self._bins[str(number)], place[rows["kind"] == kind], 1)

    def counts(self) -> dict[str, int]:
        """How many of each kind there were."""
        found = {kind: int(self._bins[str(place)].sum()) for place, kind in enumerate(self._kinds)}
        others = int(self._bins[str(MOST_KINDS)].sum()) if self._kinds else 0
        return {**found, "other": others} if others else found

    def traces(self) -> list[Trace]:
        """A bar for each stretch of time in which there were errors of a kind."""
        out: list[Trace] = []
        names = [*self._kinds, *[""] * (MOST_KINDS - len(self._kinds)), "other kinds"]
        for place, name in enumerate(names):
            y = self._bins[str(place)]
            some = y > 0
            x = self._bins.centres()[some]
            out.append({"x": x, "y": y[some], "width": self._bins.width_s, "meta": for_plot(name, 40)})
        return out

    def settings(self) -> dict[str, Any]:
        """The title, which says for how long a bar stands, and the kinds with their counts as labels."""
        if self.empty:
            return {"title.text": "<b>errors</b> (count)", "annotations": []}
        highest = np.sum([self._bins[str(place)] for place in range(MOST_KINDS + 1)], axis=0).max()
        top = max(axis_top([float(highest)]), 2.0)
        found = self.counts()
        places = np.linspace(0.94, 0.06, max(2, len(found))) * top
        told = [
            Told(
                float(at), f"{_short(kind)} {count_text(number)}", COLORS[place if kind in self._kinds else MOST_KINDS]
            )
            for place, ((kind, number), at) in enumerate(zip(found.items(), places, strict=False))
        ]
        return {
            "title.text": f"<b>errors</b> (count in each {seconds_text(self._bins.width_s)})",
            "annotations": labels(told, top, gap=0.13),
            "yaxis.range": [0.0, top],
            "yaxis.dtick": 1 if top <= 5 else None,
        }


def _short(kind: str) -> str:
    """A kind of error in as many letters as there is room for.

    >>> _short("ModelTimeoutError"), _short("TotalMaxBytesTooLow")
    ('ModelTimeout', 'TotalMaxByte…')
    """
    return for_plot(re.sub("Error$", "", kind) or kind, 13)
