"""The panel "model latency": quantiles over time, and all calls as a histogram at the edge.

It keeps bucket counts by bins of time, never the calls. Only the dashboard's UI thread may call it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.drawing import Told, add_limit, axis_top, labels, limit_line
from troupelab.dashboard.look import BLUE, ORANGE, seconds_text
from troupelab.dashboard.panel import PLOT_END, Clock, News, Panel, Trace
from troupelab.dashboard.series import LATENCY_EDGES, Floats, TimeBins, quantiles
from troupelab.dashboard.shown import Shown

__all__ = ["LatencyPanel"]

BUCKETS = len(LATENCY_EDGES) - 1
BARS_WIDE = 0.4
"""The longest bar at the edge takes so much of the room for labels, from the right: labels begin at its left."""


class LatencyPanel(Panel):
    """How long the model takes: median, 95th and 99th percentile over time, and all calls as a histogram at the edge."""

    name: ClassVar[str] = "latency"
    waiting: ClassVar[str] = "p50, p95 and p99 of the model's latency<br>will appear with the first answered call"
    BARS = 36

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self._bins = TimeBins()
        self._bins.column("counts", "sum", wide=BUCKETS, dtype="int32")
        self._taken = 0
        self._read: tuple[tuple[int, float], tuple[Floats, Floats, Floats]] | None = None
        plain: dict[str, Any] = {"mode": "lines", "line": {"width": 1, "color": BLUE, "shape": "linear"}}
        for number, (name, fill) in enumerate(
            (("p50", ""), ("p95", "rgba(58,134,200,0.30)"), ("p99", "rgba(58,134,200,0.14)"))
        ):
            shape = {**plain, "fill": "tonexty", "fillcolor": fill} if number else {**plain, "fill": "none"}
            shape["line"] = {**plain["line"], "width": (2.5, 1.2, 0.8)[number]}
            self.figure.add_scatter(**shape, name=name)
        bars = {"orientation": "h", "xaxis": "x2", "marker": {"color": BLUE, "opacity": 0.35}, "hoverinfo": "skip"}
        self.figure.add_bar(**bars, name="all calls")
        edge = {
            "domain": [PLOT_END + 0.005, 1],
            "anchor": "y",
            "visible": False,
            "fixedrange": True,
            "range": [1, 0],
        }
        self.figure.update_layout(xaxis2=edge, bargap=0)
        add_limit(self.figure, "time-out", "time-out of an attempt")
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether no call has been answered yet."""
        return not self._bins.count or not self._bins["counts"].any()

    def take(self, news: News) -> None:
        """Take in new calls; those that the cache answered, or that failed, have no latency of the model."""
        if "calls" not in news:
            return
        rows = news["calls"].columns
        real = ~rows["cached"] & (rows["error"] == "")
        if not real.any():
            return
        at_s, latency = rows["at_s"][real], rows["latency_s"][real]
        self._taken += len(at_s)
        self._bins.cover(float(at_s.max()))
        bucket = np.clip(np.searchsorted(LATENCY_EDGES, latency, side="right") - 1, 0, BUCKETS - 1)
        np.add.at(self._bins["counts"], (self._bins.index(at_s), bucket), 1)

    def grouped(self) -> tuple[Floats, Floats]:
        """The middle of each stretch of time that had calls, and its bucket counts; a stretch has half a second at least."""
        together = 1
        while together * self._bins.width_s < min(0.5, self.clock.end_s / 8) or self._bins.count > 120 * together:
            together *= 2
        counts = self._bins["counts"]
        if together > 1:
            short = -len(counts) % together
            counts = np.pad(counts, ((0, short), (0, 0))).reshape(-1, together, BUCKETS).sum(axis=1)
        x = (np.arange(len(counts)) + 0.5) * together * self._bins.width_s
        had = counts.any(axis=1)
        return np.minimum(x[had], self.clock.end_s), counts[had]

    def recent(self, share: float, seconds: float = 10.0) -> float:
        """A quantile of the calls of the last seconds; not-a-number without any."""
        bins = max(1, int(np.ceil(seconds / self._bins.width_s)))
        counts = self._bins["counts"][-bins:].sum(axis=0, keepdims=True) if self._bins.count else np.zeros((1, BUCKETS))
        return float(quantiles(counts, (share,))[0, 0])

    def traces(self) -> list[Trace]:
        """The three quantiles, and the histogram."""
        if self.empty:
            return [{"x": np.empty(0), "y": np.empty(0)} for _ in range(5)]
        x, counts, found = self._found()
        top = self._top(found[2])
        scale, unit, _ = _unit_for(top)
        limit = self._timeout()
        lines: list[Trace] = []
        for name, line in zip(("p50", "p95", "p99"), found, strict=True):
            told = f"{name} %{{y:.3~g}} {unit} at %{{x:.1f}} s<extra></extra>"
            lines.append({"x": x, "y": line * scale, "hovertemplate": told})
        edges, bars = self._bars(counts, top)
        return [*lines, {"x": bars, "y": scale * (edges[:-1] + edges[1:]) / 2}, {**limit, "y": scale * limit["y"]}]

    def _bars(self, counts: Floats, top: float) -> tuple[Floats, Floats]:
        """The histogram: its bars' edges, and how many calls each has."""
        # Buckets are even in ratio, bars even in seconds: share each bucket out over the bars that it overlaps.
        below = np.concatenate([[0], np.cumsum(counts)])
        edges = np.linspace(0, top, self.BARS + 1)
        return edges, np.diff(np.interp(edges, LATENCY_EDGES, below))

    def _found(self) -> tuple[Floats, Floats, Floats]:
        """Times, how many calls each bucket has in all, and the three quantiles: read once for a state of things."""
        if self._read is None or self._read[0] != (self._taken, self.clock.end_s):
            x, counts = self.grouped()
            self._read = (self._taken, self.clock.end_s), (x, counts.sum(axis=0), quantiles(counts, (0.5, 0.95, 0.99)))
        return self._read[1]

    def _timeout(self) -> Trace:
        return limit_line(self.run, self.clock, "timeout_s")

    def _top(self, p99: Floats) -> float:
        """Where the axis ends, in seconds: above the line of the time-out, where that is near."""
        return max(axis_top([float(np.nanmax(p99))], self._timeout()["y"]), 1e-3)

    def settings(self) -> dict[str, Any]:
        """The title, a y axis from 0, and the present values as labels."""
        if self.empty:
            return {"title.text": "<b>model latency</b> (seconds)", "annotations": []}
        _, counts, lines = self._found()
        top = self._top(lines[2])
        most = axis_top([float(self._bars(counts, top)[1].max())])
        last = [float(line[-1]) for line in lines]
        scale, _, unit = _unit_for(top)
        told = [
            Told(scale * value, f"{name} {seconds_text(value)}", "")
            for name, value in zip(("p50", "p95", "p99"), last, strict=True)
        ]
        limit = float(self._timeout()["y"][-1])
        if limit <= top:
            told.append(Told(scale * limit, f"time-out {seconds_text(limit)}", ORANGE))
        return {
            "title.text": f"<b>model latency</b> ({unit}; at the edge, all calls)",
            "annotations": labels(told, scale * top, gap=0.09),
            "yaxis.range": [0.0, round(scale * top, 5)],
            "xaxis2.range": [most / BARS_WIDE, 0.0],
        }


def _unit_for(top_s: float) -> tuple[float, str, str]:
    """In which unit to draw latencies up to a time: how many there are in a second, short and long."""
    return (1.0, "s", "seconds") if top_s >= 0.2 else (1000.0, "ms", "milliseconds")
