"""What every panel has: a Plotly figure, what its traces should show now, and what of that the browser does not have yet.

A panel takes in new rows of the recorder, says what its traces and its layout should be, and hands out the differences:
`Patch` objects, which put a tail of numbers into a trace. It owns its figure. Only the dashboard's UI thread may call it;
Plotly's figures are not thread safe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import plotly.graph_objects as go

from troupelab.dashboard.clock import Clock, every_so_many
from troupelab.dashboard.look import BLUE, GREY, for_plot
from troupelab.dashboard.marks import EVERYONE, Drawn
from troupelab.dashboard.series import Floats, Trace
from troupelab.dashboard.shown import News, Readable, Shown
from troupelab.events import FAMILIES

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
            "xaxis": {
                **axis,
                "domain": [0, PLOT_END],
                "fixedrange": False,
                "title": {"standoff": 6, "font": {"size": 11}},
            },
            "yaxis": {**axis, "rangemode": "tozero"},
            "yaxis9": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        }

    def _add_marks(self) -> None:
        for axis in self.mark_axes:
            self.figure.add_scatter(
                yaxis=axis,
                mode="lines+markers",
                line={"color": GREY, "width": 1.5, "dash": "dot"},
                marker={"size": [], "line": {"width": 0}},
                hovertemplate="%{text}<extra></extra>",
                cliponaxis=False,
                name="limit change",
                legendgroup="marks",
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
        traces = self.traces()
        layout = {**self.clock.axis(), **self.settings()}
        layout |= {f"{axis}.visible": not self.empty for axis in self.axes}
        if self.empty:
            text = {"text": self.waiting, "showarrow": False, "xref": "x domain", "yref": "paper", "x": 0.5, "y": 0.5}
            layout["annotations"] = [{**text, "font": {"size": 13}, "opacity": 0.75}]
        return traces, layout

    def changes(self, *, everything: bool = False) -> Patch:
        """What changed since the last call; with `everything`, all there is. The marks, alike in all panels, are left out."""
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
        marks = [self.clock.marks() for _ in self.mark_axes]
        for shape, trace in zip(figure.data, [*traces, *marks], strict=True):
            for key, value in trace.items():
                shape[key] = value
        for key, value in layout.items():
            figure.layout[key] = value
        return figure


class PanelGroup(ABC):
    """Panels that one widget draws."""

    _had_marks: Sequence[Drawn] = ()

    @abstractmethod
    def __iter__(self) -> Iterator[Panel]: ...

    def marks(self, *, everything: bool = False) -> tuple[int, list[Drawn]] | None:
        """The marks of all panels from the first on that the browser lacks, and its place; None where it lacks none."""
        marks: Sequence[Drawn] = next(([*panel.clock.drawn()] for panel in self), [])
        had = () if everything else self._had_marks
        self._had_marks = marks
        start = next((place for place, pair in enumerate(zip(had, marks, strict=False)) if pair[0] != pair[1]), None)
        start = min(len(had), len(marks)) if start is None else start
        return None if start == len(had) == len(marks) and not everything else (start, list(marks[start:]))

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


def agent_ticks(names: Sequence[str], room: int) -> dict[str, Any]:
    """Ticks for an axis of agents: all of them, or as many as there is room for, evenly spaced."""
    places = list(range(0, len(names), max(1, -(-len(names) // room))))
    return {"tickmode": "array", "tickvals": places, "ticktext": [names[place] for place in places]}
