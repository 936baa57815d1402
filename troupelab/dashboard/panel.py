"""What every panel has: a Plotly figure, what its traces should show now, and what of that the browser does not have yet.

A panel takes in new rows of the recorder, says what its traces and its layout should be, and hands out the differences:
`Patch` objects, which put a tail of numbers into a trace. It owns its figure. Only the dashboard's UI thread may call it;
Plotly's figures are not thread safe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import plotly.graph_objects as go

from troupelab.dashboard.look import BLUE, GREY, for_plot, value_text
from troupelab.dashboard.series import Floats
from troupelab.dashboard.shown import Readable, Shown
from troupelab.events import FAMILIES
from troupelab.limits import Limits
from troupelab.telemetry.recorder import Batch

__all__ = [
    "EVERYONE",
    "GRID",
    "LABELS_PX",
    "PLOT_END",
    "Clock",
    "Feed",
    "News",
    "Panel",
    "PanelGroup",
    "Patch",
    "Put",
    "Trace",
    "agent_ticks",
    "every_so_many",
    "label",
]

GRID = "rgba(128,128,128,0.22)"
PLOT_END = 0.8
"""Where the plots end and the direct labels begin, as a share of a panel's width: the same in all, so that times align."""

LABELS_PX = 102
"""How wide the room for direct labels should be; where a panel's width is known, its plot ends so that it is (live.js)."""

NICE = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10)

EVERYONE = ("all", "")
"""What the log of limits writes for a change that is not for some agents alone."""

News: TypeAlias = Mapping[str, Batch]
"""The new rows of each family that has any."""

Trace: TypeAlias = dict[str, Any]
"""What a trace should be: arrays, lists of texts and single settings, by dotted path."""


class Put(NamedTuple):
    """Numbers or texts for a trace's array from place `start` on; what was there before is cut off."""

    trace: int
    key: str
    start: int
    values: Floats | list[str]


class Patch(NamedTuple):
    """All that a panel's picture in the browser lacks."""

    puts: list[Put]
    settings: list[tuple[int, dict[str, Any]]]
    layout: dict[str, Any]

    def __bool__(self) -> bool:
        return bool(self.puts or self.settings or self.layout)


class Feed:
    """A cursor of one dashboard through a recorder: reading removes nothing."""

    def __init__(self, recorder: Readable) -> None:
        self.recorder = recorder
        self._next = dict.fromkeys(FAMILIES, 0)

    def take(self) -> News:
        """The rows that are new since the last call, of the families that have any."""
        news = {}
        for family, seen in self._next.items():
            if self.recorder.count(family) != seen:
                news[family] = batch = self.recorder.read(family, seen)
                self._next[family] = batch.next
        return news


class Clock:
    """The one time axis of all panels, and what is marked on it: limit changes, and where a fork left another run's past.

    Args:
        parted: the step at which that was; -1 for a run that is no fork.
    """

    def __init__(self, parted: int = -1) -> None:
        self.unit = "seconds"
        self.end_s = 0.0
        self._parted = parted
        self._past_s = 0.0
        self._begun: Floats = np.empty(0)
        self._marks: list[tuple[float, str]] = []
        self._changes: dict[str, list[tuple[float, int, float, float]]] = {}

    def take(self, news: News) -> None:
        """Take in how late it is, when each step began, and what limits were changed."""
        for family in ("acts", "calls", "memory", "consolidations", "limits"):
            if family in news:
                self.end_s = max(self.end_s, float(news[family].columns["at_s"].max()))
        if "acts" in news:
            rows = news["acts"].columns
            more = int(rows["step"].max()) + 1 - len(self._begun)
            if more > 0:
                self._begun = np.concatenate([self._begun, np.full(more, np.inf)])
            np.minimum.at(self._begun, rows["step"], rows["start_s"])
            shared = rows["step"] < self._parted
            self._past_s = max(self._past_s, float(rows["end_s"][shared].max(initial=0.0)))
        if "limits" in news:
            rows = news["limits"].columns
            for place in range(len(news["limits"])):
                row = {key: rows[key][place] for key in rows}
                self._marks.append((float(row["at_s"]), _mark_text(row)))
                if row["agents"] in EVERYONE:
                    change = (float(row["at_s"]), int(row["effective_step"]), float(row["old"]), float(row["new"]))
                    self._changes.setdefault(str(row["field"]), []).append(change)
            del self._marks[:-200]

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

    def axis(self) -> dict[str, Any]:
        """The time axis as layout settings, alike for every panel."""
        span = max(self.end_s, 0.5)
        size = 10.0 ** np.floor(np.log10(span))
        end = float(next((size * nice for nice in NICE if size * nice >= span), span))
        shown: dict[str, Any] = {"xaxis.range": [0.0, end]}
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

    def marks(self) -> Trace:
        """A vertical line for each limit change and for a fork, as a trace over an axis from 0 to 1."""
        marks = self._marks
        if self._parted >= 0:
            text = f"<b>fork</b> from step {self._parted}<br>what is left of here is the past of both runs"
            marks = [(self._past_s, text), *marks]
        heights = (0.0, 0.25, 0.5, 0.75, 1.0)
        x = [at for at, _ in marks for _ in range(len(heights) + 1)]
        texts = [told for _, told in marks for _ in range(len(heights) + 1)]
        y = [*heights, np.nan] * len(marks)
        size = [0.0, 0, 0, 0, 9, 0] * len(marks)
        return {"x": np.array(x), "y": np.array(y), "text": texts, "marker.size": np.array(size)}


def _mark_text(row: Mapping[str, Any]) -> str:
    known = Limits.fields().get(str(row["field"]))
    unit = known.unit if known else ""
    whom = "" if row["agents"] in EVERYONE else f" for {for_plot(row['agents'])}"
    lines = [
        f"<b>{for_plot(known.label if known else row['field'])}</b>{whom}",
        f"{value_text(float(row['old']), unit)} → {value_text(float(row['new']), unit)}",
        for_plot(row["note"]),
        f"effective from step {row['effective_step']}, changed by {for_plot(row['by'])}",
    ]
    return "<br>".join(line for line in lines if line)


class Panel(ABC):
    """One chart: its figure, what it has taken in, and what the browser has of it."""

    name: ClassVar[str] = ""
    waiting: ClassVar[str] = ""
    mark_axes: tuple[str, ...] = ("y9",)
    axes: tuple[str, ...] = ("xaxis", "yaxis")

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        self.agents = tuple(for_plot(agent, 40) for agent in run.agent_names)
        self.short = tuple(for_plot(agent, 12) for agent in run.agent_names)
        self.run = run
        self.clock = clock
        self.figure = go.Figure(layout=self._frame(height))
        self._had: list[Trace] = []
        self._had_layout: dict[str, Any] = {}

    def _frame(self, height: int) -> dict[str, Any]:
        axis = {
            "gridcolor": GRID,
            "zeroline": False,
            "linecolor": GRID,
            "fixedrange": True,
            "automargin": False,
            "tickfont": {"size": 11},
        }
        return {
            "template": {},
            "height": height,
            "margin": {"l": 92, "r": 4, "t": 44, "b": 42, "autoexpand": False},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"size": 12},
            "showlegend": False,
            "hovermode": "closest",
            "hoverlabel": {
                "align": "left",
                "bgcolor": "#2b3036",
                "bordercolor": "#2b3036",
                "font": {"color": "#ffffff"},
            },
            "uirevision": "kept",
            "meta": {"labels_px": LABELS_PX},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": BLUE},
            "title": {
                "text": "",
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "font": {"size": 14},
                "pad": {"l": 10},
            },
            "xaxis": {**axis, "domain": [0, PLOT_END], "fixedrange": False, "title": {"standoff": 6}},
            "yaxis": {**axis, "rangemode": "tozero"},
            "yaxis9": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        }

    def _add_marks(self) -> None:
        for axis in self.mark_axes:
            self.figure.add_scatter(
                yaxis=axis,
                mode="lines+markers",
                line={"color": GREY, "width": 1.5, "dash": "dot"},
                marker={"color": GREY, "symbol": "triangle-down", "size": [], "line": {"width": 0}},
                hovertemplate="%{text}<extra></extra>",
                cliponaxis=False,
                name="limit change",
            )

    @abstractmethod
    def take(self, news: News) -> None:
        """Take in new rows."""

    @abstractmethod
    def traces(self) -> list[Trace]:
        """What the traces should be now, the marks left out."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the layout should be now, by dotted path: the title, the labels, the ranges."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether there is nothing to draw yet."""

    def _now(self) -> tuple[list[Trace], dict[str, Any]]:
        traces = [*self.traces(), *[self.clock.marks() for _ in self.mark_axes]]
        layout = {**self.clock.axis(), **self.settings()}
        layout |= {f"{axis}.visible": not self.empty for axis in self.axes}
        if self.empty:
            text = {"text": self.waiting, "showarrow": False, "xref": "x domain", "yref": "paper", "x": 0.5, "y": 0.5}
            layout["annotations"] = [{**text, "font": {"size": 13}, "opacity": 0.75}]
        return traces, layout

    def changes(self, *, everything: bool = False) -> Patch:
        """What changed since the last call; with `everything`, all there is."""
        traces, layout = self._now()
        if everything:
            self._had, self._had_layout = [], {}
        patch = Patch([], [], {key: value for key, value in layout.items() if self._had_layout.get(key, ...) != value})
        for number, trace in enumerate(traces):
            had = self._had[number] if number < len(self._had) else {}
            settings = {}
            for key, value in trace.items():
                old = had.get(key)
                if not isinstance(value, (np.ndarray, list)):
                    if key not in had or old != value:
                        settings[key] = value
                    continue
                if isinstance(value, np.ndarray):
                    value = trace[key] = value.astype(np.float32)
                start = _same(old, value)
                if old is None or start < len(value) or start < len(old):
                    patch.puts.append(Put(number, key, start, value[start:]))
            if settings:
                patch.settings.append((number, settings))
        self._had, self._had_layout = traces, layout
        return patch

    def filled(self) -> go.Figure:
        """A figure of its own with all that the panel shows now, to be restyled, saved or put into a page."""
        figure = go.Figure(self.figure)
        traces, layout = self._now()
        for shape, trace in zip(figure.data, traces, strict=True):
            for key, value in trace.items():
                shape[key] = value
        for key, value in layout.items():
            figure.layout[key] = value
        return figure


class PanelGroup(ABC):
    """Panels that one widget draws."""

    @abstractmethod
    def __iter__(self) -> Iterator[Panel]: ...

    def changes(self, *, everything: bool = False) -> dict[str, Patch]:
        """By panel, what the browser lacks; panels that it has in full are left out."""
        patches = {panel.name: panel.changes(everything=everything) for panel in self}
        return {name: patch for name, patch in patches.items() if patch}


def _same(old: Floats | list[str] | None, new: Floats | list[str]) -> int:
    """How many leading places (rows, for a matrix) are alike."""
    if old is None:
        return 0
    size = min(len(old), len(new))
    if isinstance(new, list) or isinstance(old, list):
        return next((place for place in range(size) if old[place] != new[place]), size)
    if old.shape[1:] != new.shape[1:]:
        return 0
    apart = np.ascontiguousarray(old[:size]).view(np.int32) != np.ascontiguousarray(new[:size]).view(np.int32)
    rows = apart.any(axis=1) if apart.ndim > 1 else apart
    return int(rows.argmax()) if size and rows.any() else size


def label(text: str, y: float, color: str = "", *, yref: str = "y") -> dict[str, Any]:
    """A direct label to the right of the plot, at a height of its y axis, with a spot of its line's colour.

    The text itself has the page's colour: coloured text would be hard to read for many.
    """
    placed = {"x": 1.012, "xref": "x domain", "xanchor": "left", "y": y, "yref": yref, "align": "left"}
    spot = f'<span style="color:{color}">■</span> ' if color else ""
    return {"text": spot + text, "showarrow": False, "font": {"size": 11}, **placed}


def every_so_many(least: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on: how far apart ticks stand.

    >>> every_so_many(0.3), every_so_many(3), every_so_many(11)
    (1, 5, 20)
    """
    wanted = max(1.0, least)
    power = 10 ** int(np.floor(np.log10(wanted)))
    return int(next(power * nice for nice in (1, 2, 5, 10) if power * nice >= wanted))


def agent_ticks(names: Sequence[str], room: int) -> dict[str, Any]:
    """Ticks for an axis of agents: all of them, or as many as there is room for, evenly spaced."""
    places = list(range(0, len(names), max(1, -(-len(names) // room))))
    return {"tickmode": "array", "tickvals": places, "ticktext": [names[place] for place in places]}
