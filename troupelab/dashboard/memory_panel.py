"""The panel "memory per agent": all agents as a heatmap, the spread and the chosen agents as lines, the cap drawn in.

Up to eight agents are all drawn as lines and need no heatmap. With more, the upper half shows how memory spreads over the
agents (largest, median, 5th to 95th percentile) and those that were chosen, the lower half every agent as a row.
Only the dashboard's UI thread may call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from troupelab.dashboard.look import ACCENTS, GREY, ORANGE, bytes_text
from troupelab.dashboard.panel import GRID, PLOT_END, Clock, News, Panel, Trace, agent_ticks, label
from troupelab.dashboard.series import AgentLine, Floats, TimeBins, decimate, spread_labels
from troupelab.dashboard.shown import Shown

__all__ = ["MEASURES", "MemoryPanel"]

FEW = 8
"""Up to so many agents are all drawn as lines; more lines than this are never drawn."""


class Measure(NamedTuple):
    """One thing that the panel can show: a column of the memory family, its unit, and the limit that caps it."""

    label: str
    unit: str
    cap: str


MEASURES: dict[str, Measure] = {
    "recent_records": Measure("recent memory, records", "records", "recent_max_records"),
    "recent_bytes": Measure("recent memory, bytes", "bytes", "recent_max_bytes"),
    "notes": Measure("notes", "notes", "semantic_max_notes"),
    "total_bytes": Measure("all memory, bytes", "bytes", ""),
}
COLUMNS = tuple(MEASURES)


class MemoryPanel(Panel):
    """What each agent remembers, over time."""

    name: ClassVar[str] = "memory"
    waiting: ClassVar[str] = "what each agent remembers<br>will appear after its first act"

    def __init__(self, run: Shown, clock: Clock, *, height: int = 380) -> None:
        super().__init__(run, clock, height=height)
        count = len(self.agents)
        self.many = count > FEW
        self.heatmap = 5 + FEW if self.many else -1
        self.measure = COLUMNS[0]
        self.mark_axes = ("y9", "y8") if self.many else ("y9",)
        self._latest = np.full((len(COLUMNS), count), np.nan, dtype=np.float32)
        self._until = 0.0
        self._bins = TimeBins()
        for name in COLUMNS:
            self._bins.column(name, "keep", wide=count, dtype="float32")
        self._chosen: dict[int, AgentLine] = {}
        self._build(height)
        self.choose(() if self.many else range(count))

    def _build(self, height: int) -> None:
        add, grey = self.figure.add_scatter, "rgba(128,136,150,0.28)"
        add(mode="lines", line={"width": 0}, hoverinfo="skip", name="5th percentile")
        add(mode="lines", line={"width": 0}, fill="tonexty", fillcolor=grey, hoverinfo="skip", name="95th percentile")
        add(mode="lines", line={"width": 1.5, "color": GREY}, hoverinfo="skip", name="median")
        add(mode="lines", line={"width": 1, "color": GREY, "dash": "dot"}, hoverinfo="skip", name="largest")
        cap = {"width": 2, "color": ORANGE, "dash": "dash", "shape": "hv"}
        add(mode="lines", line=cap, hovertemplate="cap %{y:.3~s}<extra></extra>", name="cap")
        for number in range(FEW):
            add(
                mode="lines",
                line={"width": 1.8, "color": ACCENTS[number]},
                hovertemplate="%{meta}: %{y:.3~s} at %{x:.1f} s<extra></extra>",
            )
        if self.many:
            bar = {
                "x": PLOT_END + 0.01,
                "xanchor": "left",
                "xpad": 0,
                "y": 0.24,
                "len": 0.52,
                "thickness": 10,
                "outlinewidth": 0,
                "tickformat": ".3~s",
                "tickfont": {"size": 11},
            }
            told = "%{y}: %{z:.3~s} at %{x:.1f} s<extra></extra>"
            self.figure.add_heatmap(
                yaxis="y2", colorscale="Cividis", zmin=0, colorbar=bar, hovertemplate=told, transpose=True
            )
            self.axes = ("xaxis", "yaxis", "yaxis2")
            rows = {"domain": [0, 0.5], "anchor": "x", "range": [len(self.agents) - 0.5, -0.5], "showgrid": False}
            ticks = agent_ticks(self.short, 9)
            names = {str(place): name for place, name in enumerate(self.agents)}
            self.figure.update_layout(
                yaxis2={
                    **rows,
                    **ticks,
                    "labelalias": names,
                    "tickfont": {"size": 11},
                    "fixedrange": True,
                    "zeroline": False,
                },
                yaxis={"domain": [0.58, 1], "gridcolor": GRID},
                yaxis8={"overlaying": "y2", "range": [0, 1], "visible": False, "fixedrange": True},
                xaxis_anchor="y2",
            )
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether no agent has told its memory's size yet."""
        return not self._bins.count

    @property
    def chosen(self) -> tuple[int, ...]:
        """The agents that are drawn as lines."""
        return tuple(self._chosen)

    def choose(self, agents: Sequence[int]) -> None:
        """Draw these agents as lines, eight at most; the samples that the recorder still has are read again."""
        wanted = [agent for agent in dict.fromkeys(agents) if 0 <= agent < len(self.agents)][:FEW]
        fresh = [agent for agent in wanted if agent not in self._chosen]
        self._chosen = {agent: self._chosen.get(agent) or AgentLine(1 + len(COLUMNS)) for agent in wanted}
        if fresh and self._bins.count:
            rows = self.run.recorder.read("memory").columns
            early = rows["at_s"] <= self._until
            self._add_samples({name: column[early] for name, column in rows.items()}, fresh)

    def take(self, news: News) -> None:
        """Take in new sizes: the last of each agent in each bin of time, carried on until the next."""
        if "memory" not in news:
            return
        rows = news["memory"].columns
        known = (rows["agent"] >= 0) & (rows["agent"] < len(self.agents))
        if not known.all():  # who has joined meanwhile gets panels of their own
            rows = {name: column[known] for name, column in rows.items()}
        if not known.any():
            return
        self._until = float(rows["at_s"].max())
        before = self._bins.cover(self._until)
        place = self._bins.index(rows["at_s"])
        first = min(before, int(place.min()))
        cuts = np.searchsorted(np.maximum.accumulate(place), np.arange(first, self._bins.count + 1))
        for bin_number in range(first, self._bins.count):
            part = slice(cuts[bin_number - first], cuts[bin_number - first + 1])
            agents = rows["agent"][part]
            for number, name in enumerate(COLUMNS):
                self._latest[number, agents] = rows[name][part]
                column = self._bins[name]
                column[bin_number] = self._latest[number]  # a bin without samples carries the last ones on
        self._add_samples(rows, self._chosen)

    def _add_samples(self, rows: dict[str, Floats], agents: Sequence[int] | dict[int, AgentLine]) -> None:
        for agent in agents:
            own = rows["agent"] == agent
            if own.any():
                self._chosen[agent].add(np.column_stack([rows["at_s"][own], *(rows[name][own] for name in COLUMNS)]))

    def latest(self, name: str) -> Floats:
        """The newest value of each agent; not-a-number before its first."""
        found: Floats = self._latest[COLUMNS.index(name)]
        return found

    def _cap(self) -> tuple[Floats, Floats]:
        field = MEASURES[self.measure].cap
        if not field:
            return np.empty(0), np.empty(0)
        times, values = self.clock.history(field, getattr(self.run.limits, field))
        return np.array([*times, max(self.clock.end_s, times[-1])]), np.array([*values, values[-1]])

    def _spread(self, bins: slice = slice(None)) -> Floats:
        """Rows: 5th percentile, 95th percentile, median, largest; by bin."""
        size = len(self.agents)
        values = np.sort(self._bins[self.measure][bins], axis=1)  # not-a-number goes last
        known = np.maximum((~np.isnan(values)).sum(axis=1), 1)
        ranks = [np.minimum((share * (known - 1)).round().astype(int), size - 1) for share in (0.05, 0.95, 0.5, 1.0)]
        return np.stack([values[np.arange(len(values)), rank] for rank in ranks])

    def _lines(self) -> dict[int, tuple[Floats, Floats]]:
        column = 1 + COLUMNS.index(self.measure)
        return {agent: decimate(line.column(0), line.column(column)) for agent, line in self._chosen.items()}

    def traces(self) -> list[Trace]:
        """The spread, the cap, the chosen agents, and the heatmap where there is one."""
        nothing: Trace = {"x": np.empty(0), "y": np.empty(0)}
        out: list[Trace] = [nothing.copy() for _ in range(4)]
        if self.many and not self.empty:
            x = np.minimum(self._bins.centres() + self._bins.width_s / 2, self.clock.end_s)
            out = [{"x": x, "y": line} for line in self._spread()]
        times, values = self._cap()
        out.append({"x": times, "y": values} if not self.empty else nothing.copy())
        lines = [{"x": x, "y": y, "meta": self.agents[agent]} for agent, (x, y) in self._lines().items()]
        out += [*lines, *[{**nothing, "meta": ""} for _ in range(FEW - len(lines))]]
        if self.many:
            width = self._bins.width_s
            out.append({"z": self._bins[self.measure].copy(), "x0": width / 2, "dx": width, **self._scale()})
        return out

    def _largest(self) -> float:
        return float(np.nanmax(self._bins[self.measure], initial=0.0)) if not self.empty else 0.0

    def _scale(self) -> dict[str, Any]:
        """The colour scale from 0 to the largest value, or to the cap where that is near."""
        top = max(self._largest(), 1.0)
        cap = self._cap()[1][-1:]
        near = bool(len(cap)) and 0.5 * top <= cap[0] <= 1.5 * top
        top = max(top, float(cap[0])) if near else _round_up(top)
        ticks = [0.0, top / 2, top]
        texts = [self._told(tick) for tick in ticks]
        if near:
            ticks, texts = (
                [0.0, float(cap[0]) / 2, float(cap[0])],
                ["0", self._told(float(cap[0]) / 2), f"cap {self._told(float(cap[0]))}"],
            )
        return {"zmax": top, "colorbar.tickvals": tuple(ticks), "colorbar.ticktext": tuple(texts)}

    def _told(self, value: float) -> str:
        return bytes_text(value) if MEASURES[self.measure].unit == "bytes" else f"{value:,.0f}"

    def settings(self) -> dict[str, Any]:
        """The title, the scale, and labels at the lines' ends."""
        measure = MEASURES[self.measure]
        shown = {"yaxis.ticksuffix": "B" if measure.unit == "bytes" else "", "yaxis.tickformat": ".3~s"}
        title = f"<b>memory per agent</b> ({measure.label})"
        if self.empty:
            return {**shown, "title.text": title, "annotations": []}
        top = max(self._largest(), 1.0)
        caps = self._cap()[1]
        near = caps[np.isfinite(caps) & (caps <= 2.5 * top)]
        top = 1.08 * max(top, float(near.max()) if len(near) else 0.0)
        values, texts, colours = [], [], []
        if len(caps) and np.isfinite(caps[-1]):
            in_view = caps[-1] <= top
            values, colours = [float(min(caps[-1], top))], [ORANGE]
            texts = [f"cap {self._told(float(caps[-1]))}" + ("" if in_view else " ↑")]
        if self.many:
            low, _, middle, high = self._spread(slice(-1, None))[:, 0].tolist()
            shown_spread = [(high, "largest"), (middle, "median"), (low, "grey: 5 to 95 %")]
            for value, text in shown_spread[: 3 if len(self._chosen) <= 5 else 1]:
                values.append(value)
                texts.append(text)
                colours.append(GREY)
        for number, (agent, (_, y)) in enumerate(self._lines().items()):
            if len(y):
                values.append(float(y[-1]))
                texts.append(self.short[agent])
                colours.append(ACCENTS[number])
        places = spread_labels(values, top, gap=0.11 if self.many else 0.06)
        told = [label(text, round(y, 2), colour) for text, y, colour in zip(texts, places, colours, strict=True)]
        return {**shown, "title.text": title, "annotations": told, "yaxis.range": [0.0, round(top, 2)]}


def _round_up(value: float) -> float:
    """The next number with two figures: a colour scale that moves seldom."""
    size = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(np.ceil(value / size) * size)
