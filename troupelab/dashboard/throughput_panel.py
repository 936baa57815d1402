"""The panel "throughput": acts per second, and what the calls in flight would allow.

It keeps sums by bins of time. Only the dashboard's UI thread may call it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.drawing import Told, axis_top, labels
from troupelab.dashboard.look import BLUE, ORANGE, count_text
from troupelab.dashboard.panel import Clock, News, Panel, Trace
from troupelab.dashboard.series import Floats, TimeBins
from troupelab.dashboard.shown import Shown

__all__ = ["ThroughputPanel"]


class ThroughputPanel(Panel):
    """Acts per second, against what the calls in flight would allow at the latency of that moment."""

    name: ClassVar[str] = "throughput"
    waiting: ClassVar[str] = "acts per second will appear<br>when the first agents have acted"

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self._bins = TimeBins()
        for name in ("acts", "calls", "latency_s"):
            self._bins.column(name, "sum")
        line = {"color": BLUE, "width": 2}
        told = "%{y:.3~s} acts/s at %{x:.1f} s<extra></extra>"
        self.figure.add_scatter(
            mode="lines",
            line=line,
            fill="tozeroy",
            fillcolor="rgba(58,134,200,0.18)",
            hovertemplate=told,
            name="acts/s",
        )
        dashed = {"color": ORANGE, "width": 1.5, "dash": "dash"}
        bound = "all slots busy: %{y:.3~s} acts/s<extra></extra>"
        self.figure.add_scatter(mode="lines", line=dashed, hovertemplate=bound, name="bound")
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether nobody has acted yet."""
        return not self._bins.count or not self._bins["acts"].any()

    def take(self, news: News) -> None:
        """Take in new acts, and the calls that they waited for."""
        until = [float(news[family].columns["at_s"].max()) for family in ("acts", "calls") if family in news]
        if not until:
            return
        self._bins.cover(max(until))
        if "acts" in news:
            np.add.at(self._bins["acts"], self._bins.index(news["acts"].columns["at_s"]), 1)
        if "calls" in news:
            rows = news["calls"].columns
            place = self._bins.index(rows["at_s"])
            np.add.at(self._bins["calls"], place, 1)
            np.add.at(self._bins["latency_s"], place, rows["latency_s"])

    def recent(self, now_s: float, seconds: float = 2.0) -> float:
        """Acts per second over the last seconds before a time; 0 before any."""
        if self.empty or now_s <= 0:
            return 0.0
        width = self._bins.width_s
        first = max(0, int((now_s - seconds) / width))
        return float(self._bins["acts"][first:].sum() / max(now_s - first * width, width / 4))

    def _lines(self) -> tuple[Floats, Floats, Floats]:
        """Time, rate and bound: both over a stretch of a second, less where a run is shorter than some seconds."""
        width = self._bins.width_s
        window = max(1, round(min(1.0, self.clock.end_s / 8) / width))
        rate = _moving(self._bins["acts"], window)
        acts, calls, latency = (_moving(self._bins[name], 4 * window) for name in ("acts", "calls", "latency_s"))
        stretch = np.minimum(np.arange(self._bins.count) + 1, window) * width
        stretch[-1] = max(stretch[-1] - (self._bins.count * width - self.clock.end_s), width / 4)
        times, values = self.clock.history("max_concurrency", self.run.limits.max_concurrency)
        slots = np.array(values)[np.searchsorted(times, self._bins.centres(), side="right") - 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            # A slot is busy for a call's latency; an act needs so many calls; an agent is never in two acts at once.
            bound = np.minimum(slots, len(self.agents)) / (latency / calls) / (calls / acts)
        bound[~np.isfinite(bound)] = np.nan
        x = np.minimum(self._bins.centres() + width / 2, self.clock.end_s)
        return x, rate / stretch, bound

    def traces(self) -> list[Trace]:
        """The rate and its bound."""
        if self.empty:
            return [{"x": np.empty(0), "y": np.empty(0)} for _ in range(2)]
        x, rate, bound = self._lines()
        seen = np.isfinite(bound)
        return [{"x": x, "y": rate}, {"x": x[seen], "y": bound[seen]}]

    def settings(self) -> dict[str, Any]:
        """The title and the labels; a bound far above the rate is told in words, so that the rate stays readable."""
        title = "<b>throughput</b> (acts per second)"
        if self.empty:
            return {"title.text": title, "annotations": []}
        _, rate, bound = self._lines()
        bounds = bound[np.isfinite(bound)]
        usual = float(np.quantile(bounds, 0.97)) if len(bounds) else 0.0
        top = axis_top([float(rate.max())], [min(usual, 2 * float(rate.max()))])
        told = [Told(float(rate[-1]), f"{count_text(float(rate[-1]))} acts/s", BLUE)]
        if len(bounds):
            last = float(np.median(bounds[-20:]))
            told.append(Told(last, f"bound {count_text(last)}" + (" ↑" if last > top else ""), ORANGE))
        return {"title.text": title, "annotations": labels(told, top, gap=0.1), "yaxis.range": [0.0, top]}


def _moving(values: Floats, window: int) -> Floats:
    """Sums over the last `window` places at each place."""
    summed = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    sums: Floats = summed[ends] - summed[np.maximum(0, ends - window)]
    return sums
