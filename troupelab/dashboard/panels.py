"""The panels beside memory: consolidation events, model latency, throughput; and `Panels`, which holds all four.

Each shows one quantity, with its unit in the title and labels at the lines themselves. What they keep is bounded: bins of
time, bucket counts, at most 600 dots. Only the dashboard's UI thread may call them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.look import BLUE, ORANGE, bytes_text, count_text, for_plot, seconds_text
from troupelab.dashboard.memory_panel import MemoryPanel
from troupelab.dashboard.panel import (
    PLOT_END,
    Clock,
    Feed,
    News,
    Panel,
    PanelGroup,
    Trace,
    agent_ticks,
    label,
)
from troupelab.dashboard.series import LATENCY_EDGES, Floats, TimeBins, quantiles, spread_labels
from troupelab.dashboard.shown import Shown

__all__ = ["ConsolidationPanel", "LatencyPanel", "Panels", "ThroughputPanel"]

MAX_DOTS = 600
"""Each dot is an element of the page that is painted anew with every frame."""
BUCKETS = len(LATENCY_EDGES) - 1


class ConsolidationPanel(Panel):
    """Which agent condensed its memory when: a dot each, its area the bytes that this freed.

    Notes with their vectors may take more room than the records did; such a dot has another colour.
    """

    name: ClassVar[str] = "consolidations"
    waiting: ClassVar[str] = "a dot will appear for each time<br>an agent condenses old records into notes"

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self.total = 0
        self._one_in = 1
        self._dots: list[tuple[int, float, int, float, str]] = []
        self._seen: dict[int, int] = {}
        count = len(self.agents)
        self.figure.update_yaxes(selector={"overlaying": None}, **agent_ticks(self.short, 12))
        self.figure.layout["yaxis"].update(range=[count - 0.4, -0.6], rangemode="normal")
        colours = {"cmin": 0, "cmax": 1, "colorscale": [[0, BLUE], [1, ORANGE]], "showscale": False}
        marker = {**colours, "opacity": 0.65, "sizemode": "area", "sizemin": 2.5, "line": {"width": 0}}
        self.figure.add_scatter(
            mode="markers", marker=marker, hovertemplate="%{text}<extra></extra>", name="consolidations"
        )
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether no agent has consolidated yet."""
        return not self._dots

    def take(self, news: News) -> None:
        """Take in new consolidations; where there are too many, every second one of an agent stays, then every fourth."""
        if "consolidations" not in news:
            return
        rows = {name: column.tolist() for name, column in news["consolidations"].columns.items()}
        for place, agent in enumerate(rows["agent"]):
            number = self._seen[agent] = self._seen.get(agent, -1) + 1
            self.total += 1
            if number % self._one_in == 0:
                row = {name: column[place] for name, column in rows.items()}
                freed = row["bytes_before"] - row["bytes_after"]
                self._dots.append((number, row["at_s"], agent, freed, self._told(row)))
        while len(self._dots) > MAX_DOTS:
            self._one_in *= 2
            self._dots = [dot for dot in self._dots if dot[0] % self._one_in == 0]
            if self._one_in > self.total:
                del self._dots[:-MAX_DOTS]  # more agents than dots

    def _told(self, row: dict[str, Any]) -> str:
        who = self.agents[row["agent"]] if 0 <= row["agent"] < len(self.agents) else "all agents"
        kept = f"{row['kept_fraction']:.0%} of the text kept" if row["kept_fraction"] == row["kept_fraction"] else ""
        lines = [
            f"<b>{who}</b>, step {row['step']}: {for_plot(row['reason'])}",
            f"{row['records_in']} records → {row['notes_out']} notes",
            f"{bytes_text(row['bytes_before'])} → {bytes_text(row['bytes_after'])}; {kept}",
        ]
        return "<br>".join(lines)

    def traces(self) -> list[Trace]:
        """The dots."""
        freed = np.array([dot[3] for dot in self._dots], dtype=float)
        largest = float(np.abs(freed).max(initial=1.0))
        return [
            {
                "x": np.array([dot[1] for dot in self._dots]),
                "y": np.array([dot[2] for dot in self._dots], dtype=float),
                "marker.size": np.maximum(np.abs(freed), 1.0),
                "marker.color": (freed < 0).astype(float),
                "text": [dot[4] for dot in self._dots],
                "marker.sizeref": 2.0 * largest / (16.0 if len(self.agents) <= 20 else 11.0) ** 2,
            }
        ]

    def settings(self) -> dict[str, Any]:
        """The title, which says what the largest dot is and whether some are left out."""
        if not self._dots:
            return {"title.text": "<b>consolidation events</b>", "annotations": []}
        freed = [dot[3] for dot in self._dots]
        title = "<b>consolidation events</b> (dot area = bytes freed)"
        texts = [f"{count_text(self.total)} in all"]
        if max(freed) > 0:
            texts.append(f'<span style="color:{BLUE}">●</span> freed<br>up to {bytes_text(max(freed))}')
        if min(freed) < 0:
            texts.append(f'<span style="color:{ORANGE}">●</span> took more,<br>up to {bytes_text(-min(freed))}')
        if self._one_in > 1:
            texts.append(f"1 in {self._one_in} shown")
        return {"title.text": title, "annotations": [label("<br><br>".join(texts), 0.5, yref="paper")]}


class LatencyPanel(Panel):
    """How long the model takes: median, 95th and 99th percentile over time, and all calls as a histogram at the edge."""

    name: ClassVar[str] = "latency"
    waiting: ClassVar[str] = "p50, p95 and p99 of the model's latency<br>will appear with the first answered call"
    BARS = 36

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self._bins = TimeBins()
        self._bins.column("counts", "sum", wide=BUCKETS, dtype="int32")
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
            "rangemode": "tozero",
        }
        self.figure.update_layout(xaxis2=edge, bargap=0)
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
            return [{"x": np.empty(0), "y": np.empty(0)} for _ in range(4)]
        x, counts = self.grouped()
        found = quantiles(counts, (0.5, 0.95, 0.99))
        top = self._top(found[2])
        scale, unit, _ = _unit_for(top)
        lines: list[Trace] = []
        for name, line in zip(("p50", "p95", "p99"), found, strict=True):
            told = f"{name} %{{y:.3~g}} {unit} at %{{x:.1f}} s<extra></extra>"
            lines.append({"x": x, "y": line * scale, "hovertemplate": told})
        # Buckets are even in ratio, bars even in seconds: share each bucket out over the bars that it overlaps.
        below = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
        edges = np.linspace(0, top, self.BARS + 1)
        bars = np.diff(np.interp(edges, LATENCY_EDGES, below))
        return [*lines, {"x": bars, "y": scale * (edges[:-1] + edges[1:]) / 2}]

    def _top(self, p99: Floats) -> float:
        return float(max(1.15 * np.nanmax(p99), 1e-3))

    def settings(self) -> dict[str, Any]:
        """The title, a y axis from 0, and the present values as labels."""
        if self.empty:
            return {"title.text": "<b>model latency</b> (seconds)", "annotations": []}
        _, counts = self.grouped()
        lines = quantiles(counts, (0.5, 0.95, 0.99))
        top = self._top(lines[2])
        last = [float(line[-1]) for line in lines]
        texts = [f"{name} {seconds_text(value)}" for name, value in zip(("p50", "p95", "p99"), last, strict=True)]
        scale, _, unit = _unit_for(top)
        places = spread_labels(last, top)
        told = [label(text, round(scale * y, 5)) for text, y in zip(texts, places, strict=True)]
        return {
            "title.text": f"<b>model latency</b> ({unit}; at the edge, all calls)",
            "annotations": told,
            "yaxis.range": [0.0, round(scale * top, 5)],
        }


def _unit_for(top_s: float) -> tuple[float, str, str]:
    """In which unit to draw latencies up to a time: how many there are in a second, short and long."""
    return (1.0, "s", "seconds") if top_s >= 0.2 else (1000.0, "ms", "milliseconds")


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
        top = 1.15 * max(float(rate.max()), min(usual, 4 * float(rate.max())), 1e-3)
        now = float(rate[-1])
        values, texts, colours = [min(now, top)], [f"{count_text(now)} acts/s"], [BLUE]
        if len(bounds):
            last = float(np.median(bounds[-20:]))
            high = last > top
            values, texts, colours = (
                [*values, min(last, top)],
                [*texts, "bound" + (f"<br>{count_text(last)}" if high else "")],
                [*colours, ORANGE],
            )
        places = spread_labels(values, top, gap=0.12)
        told = [label(text, round(y, 4), colour) for text, y, colour in zip(texts, places, colours, strict=True)]
        return {"title.text": title, "annotations": told, "yaxis.range": [0.0, round(top, 4)]}


def _moving(values: Floats, window: int) -> Floats:
    """Sums over the last `window` places at each place."""
    summed = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    sums: Floats = summed[ends] - summed[np.maximum(0, ends - window)]
    return sums


class Panels(PanelGroup):
    """The four panels of a run, fed together through one cursor."""

    def __init__(self, run: Shown) -> None:
        self.run = run
        self.feed = Feed(run.recorder)
        self.clock = Clock.of(run)
        self.memory = MemoryPanel(run, self.clock, height=380)
        self.latency = LatencyPanel(run, self.clock, height=380)
        self.consolidations = ConsolidationPanel(run, self.clock)
        self.throughput = ThroughputPanel(run, self.clock)

    def __iter__(self) -> Iterator[Panel]:
        yield from (self.memory, self.latency, self.consolidations, self.throughput)

    def read(self) -> News:
        """Take in what is new in the recorder, and hand it on."""
        news = self.feed.take()
        if news:
            self.clock.take(news)
            for panel in self:
                panel.take(news)
        return news
