"""The panel "process memory": what the whole process holds in RAM over time, beside it what the memories take, and the cap on it.

Only the dashboard's UI thread may call it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.drawing import REACH, add_limit, limit_line, nothing
from troupelab.dashboard.look import BLUE, GREEN, ORANGE, value_text
from troupelab.dashboard.panel import Clock, News, Panel, Trace, label
from troupelab.dashboard.series import AgentLine, Floats, decimate, spread_labels
from troupelab.dashboard.shown import Shown

__all__ = ["ProcessPanel"]

MB = 1e6
FEW = 20
"""Up to so many samples are also dots: a short run has one or two, and a line of one point cannot be seen."""


class ProcessPanel(Panel):
    """Resident memory of the process, and what all agents' memories take of it, in megabytes from 0."""

    name: ClassVar[str] = "process"
    waiting: ClassVar[str] = "what the process and the memories take in RAM<br>will appear when the run has begun"

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self._line = AgentLine(3)
        for name, color in (("process", BLUE), ("all memories", GREEN)):
            told = f"{name}: %{{y:,.4~r}} MB at %{{x:.1f}} s<extra></extra>"
            line = {"width": 2, "color": color}
            self.figure.add_scatter(mode="lines", line=line, marker={"size": 5}, hovertemplate=told, name=name)
        add_limit(self.figure, "cap", "cap on the process %{y:,.4~r} MB")
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether the process has not told its size yet."""
        return not len(self._line.column(0))

    def take(self, news: News) -> None:
        """Take in new samples of the process."""
        if "process" in news:
            rows = news["process"].columns
            self._line.add(np.column_stack([rows["at_s"], rows["rss_bytes"] / MB, rows["memory_bytes"] / MB]))

    def traces(self) -> list[Trace]:
        """Both lines."""
        found: list[Trace] = []
        for column in (1, 2):
            x, y = decimate(self._line.column(0), self._line.column(column))
            found.append({"x": x, "y": y, "mode": "lines+markers" if len(x) <= FEW else "lines"})
        return [*found, self._cap() if not self.empty else nothing()]

    def _cap(self) -> Trace:
        return limit_line(self.run, self.clock, "max_rss_bytes", MB)

    def growth(self) -> float | None:
        """By how many megabytes the process grew after the first tenth of its time; None before there are two samples of that.

        In the first tenth Python, the model and the word vectors are still being loaded, which is no growth of the run.
        """
        at_s, resident = self._line.column(0), self._line.column(1)
        later: Floats = resident[at_s >= at_s[-1] / 10] if len(at_s) else resident
        return float(later[-1] - later[0]) if len(later) > 1 else None

    def settings(self) -> dict[str, Any]:
        """The title, a y axis from 0, and at the lines' ends their values and the growth."""
        title = "<b>process memory</b> (MB)"
        if self.empty:
            return {"title.text": title, "annotations": []}
        lines = ((self._line.column(1), "process"), (self._line.column(2), "all memories"))
        caps = self._cap()["y"]
        most = float(max(y.max() for y, _ in lines))
        top = max(1e-3, 1.15 * max([most, *caps[caps <= REACH * most]]))
        values = [float(y[-1]) for y, _ in lines]
        texts = [f"{name}<br>{_megabytes(value)}" for value, (_, name) in zip(values, lines, strict=True)]
        if (growth := self.growth()) is not None:
            sign = "−" if growth < 0 else "+"
            texts[0] += f"<br>growth after<br>the first tenth:<br>{sign}{_megabytes(abs(growth))}"
        colours = [BLUE, GREEN]
        if np.isfinite(caps[-1]):
            # Above the plot's end there is no room beside the label of the process: the arrow stands in the same line.
            values.append(min(float(caps[-1]), top))
            texts.append(f"cap {_megabytes(float(caps[-1]))}" + (" ↑" if caps[-1] > top else ""))
            colours.append(ORANGE)
        # The process's label has five lines, and its middle stands at its place: higher up it would leave the plot.
        places = spread_labels(values, 0.83 * top, gap=0.32)
        told = [label(text, round(y, 4), colour) for text, y, colour in zip(texts, places, colours, strict=True)]
        # Without a format, thousands of megabytes would be "10k".
        shown = {"yaxis.range": [0.0, round(top, 4)], "yaxis.tickformat": ",~r"}
        return {**shown, "title.text": title, "annotations": told}


def _megabytes(size: float) -> str:
    """Three figures, and always in megabytes: the unit of the axis.

    >>> _megabytes(0.52345), _megabytes(161.7), _megabytes(12_345.0)
    ('0.523 MB', '162 MB', '12,300 MB')
    """
    return value_text(float(f"{size:.3g}"), "MB")
