"""What several panels draw alike: stacked bands with their labels, the line of a limit, and the top of an axis.

Pure functions but for the two that add a trace to a figure, which is its panel's; only the dashboard's UI thread may call them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from troupelab.dashboard.look import ORANGE
from troupelab.dashboard.panel import Clock, Trace, label
from troupelab.dashboard.series import spread_labels
from troupelab.dashboard.shown import Shown

__all__ = [
    "REACH",
    "Told",
    "add_band",
    "add_limit",
    "axis_top",
    "band_middles",
    "in_view",
    "labels",
    "limit_line",
    "nothing",
]

REACH = 2.0
"""A limit is drawn where it is at most so many times as high as what it bounds; above, an arrow says where it is."""


class Told(NamedTuple):
    """A direct label: where on the y axis, what, and the colour of what it belongs to."""

    at: float
    text: str
    color: str


def add_band(figure: go.Figure, name: str, color: str, hover: str) -> None:
    """Add an area that stands on the one that was added before it.

    Args:
        figure: a panel's.
        name: the trace's.
        color: as #rrggbb.
        hover: Plotly's template of what is told of a point.
    """
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    figure.add_scatter(
        mode="lines",
        stackgroup="bands",
        line={"width": 1, "color": color},
        fillcolor=f"rgba({red},{green},{blue},0.45)",
        hovertemplate=f"{hover}<extra></extra>",
        name=name,
    )


def add_limit(figure: go.Figure, name: str, hover: str) -> None:
    """Add the dashed line of a limit, which steps where it was changed."""
    line = {"width": 2, "color": ORANGE, "dash": "dash", "shape": "hv"}
    figure.add_scatter(mode="lines", line=line, hovertemplate=f"{hover}<extra></extra>", name=name)


def limit_line(run: Shown, clock: Clock, field: str, unit: float = 1.0) -> Trace:
    """What a limit was from when on, in units of so much each; not-a-number where there is none."""
    times, values = clock.history(field, getattr(run.limits, field))
    x = np.array([*times, max(clock.end_s, times[-1])])
    return {"x": x, "y": np.array([*values, values[-1]]) / unit}


def nothing() -> Trace:
    """A line without points."""
    return {"x": np.empty(0), "y": np.empty(0)}


def axis_top(values: Sequence[float], bounds: Sequence[float] = ()) -> float:
    """Where an axis from 0 ends that shows some values, and those bounds that are near: a round number, so that it moves seldom.

    >>> axis_top([41.0]), axis_top([41.0], [64.0, 900.0]), axis_top([])
    (50.0, 75.0, 1.0)
    """
    most = max([value for value in values if np.isfinite(value)], default=0.0)
    near = [bound for bound in bounds if in_view(bound, most)]
    most = 1.06 * max([most, *near])
    if most <= 0:
        return 1.0
    size = 10.0 ** np.floor(np.log10(most))
    return float(next(size * nice for nice in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 7.5, 10) if size * nice >= most))


def in_view(bound: float, most: float) -> bool:
    """Whether a bound is near enough to what it bounds to be drawn."""
    return bool(np.isfinite(bound)) and bound <= REACH * most


def band_middles(values: Sequence[float]) -> list[float]:
    """The middle of each of some stacked bands.

    >>> band_middles([4.0, 2.0])
    [2.0, 5.0]
    """
    tops = np.cumsum(values)
    return [float(top - value / 2) for top, value in zip(tops, values, strict=True)]


def labels(told: Sequence[Told], top: float, *, gap: float) -> list[dict[str, Any]]:
    """Labels at an axis from 0 to `top`, moved apart; they stand still until their place is another by a two-hundredth of it."""
    step = top / 200
    places = spread_labels([min(max(each.at, 0.0), top) for each in told], top, gap=gap)
    return [
        label(each.text, round(round(place / step) * step, 9), each.color)
        for each, place in zip(told, places, strict=True)
    ]
