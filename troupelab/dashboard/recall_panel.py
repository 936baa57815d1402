"""The panel "recall": of what agents were told and are asked about, which share is still found, and which is still held at all.

Each round of questions is a point, with a band in which the share lies with 95 % certainty: agents are the sample, since an agent's answers hang
together (the ratio estimator's variance over clusters; Cochran, Sampling Techniques, 1977, chapter 9A). It keeps counts by bins of time and agent. Only the
dashboard's UI thread may call it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.drawing import Told, labels
from troupelab.dashboard.drawing import nothing as no_points
from troupelab.dashboard.look import BLUE, GREY, PURPLE
from troupelab.dashboard.panel import Clock, News, Panel, Trace
from troupelab.dashboard.series import Floats, TimeBins
from troupelab.dashboard.shown import Shown

__all__ = ["RecallPanel"]

OLD_STEPS = 10
"""What was told so many steps ago is old."""

STRETCHES = 60
LEAST = 5
"""A point has at least so many questions; a stretch with fewer is joined with the ones after it."""

ASKED, FOUND, HELD, OLD_ASKED, OLD_FOUND = COUNTS = ("asked", "found", "held", "old asked", "old found")


class RecallPanel(Panel):
    """Recall at five over time, all and of what is old, and what is still held."""

    name: ClassVar[str] = "recall"
    waiting: ClassVar[str] = (
        "what is still found of planted facts will appear<br>when agents have been asked: every few steps (ask_every)"
    )

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self._bins = TimeBins(limit=STRETCHES, width_s=0.05)
        for name in COUNTS:
            self._bins.column(name, "sum", wide=max(1, len(self.agents)))
        lines = (
            ("held", GREY, 1.5, "the fact is still held somewhere"),
            ("found", BLUE, 2.5, "the fact is among the five best things found"),
            ("old", PURPLE, 1.5, f"of facts told {OLD_STEPS} steps ago or longer"),
        )
        self.figure.add_scatter(mode="lines", line={"width": 0}, hoverinfo="skip", name="low")
        self.figure.add_scatter(
            mode="lines", line={"width": 0}, fill="tonexty", fillcolor="rgba(0,114,178,0.18)", hoverinfo="skip", name="high"
        )  # fmt: skip
        for name, color, width, hover in lines:
            self.figure.add_scatter(
                mode="lines+markers", line={"width": width, "color": color}, marker={"size": 4, "color": color}, name=name,
                hovertemplate=f"{hover}: %{{y:.0f}} % until %{{x:.1f}} s<extra></extra>",
            )  # fmt: skip
        self.figure.layout["yaxis"].update(range=[0, 100], ticksuffix=" %")
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether nobody has been asked."""
        return not self._bins.count or not self._bins[ASKED].any()

    def take(self, news: News) -> None:
        """Take in what was asked and found."""
        if "probes" not in news:
            return
        rows = news["probes"].columns
        known = (rows["agent"] >= 0) & (rows["agent"] < len(self.agents))
        if not known.any():
            return
        rows = {name: column[known] for name, column in rows.items()}
        found, old = rows["rank"] > 0, rows["age_steps"] >= OLD_STEPS
        self._bins.cover(float(rows["at_s"].max()))
        where = (self._bins.index(rows["at_s"]), rows["agent"].astype(np.int64))
        for name, which in zip(COUNTS, (np.ones_like(found), found, rows["held"] != "", old, old & found), strict=True):
            np.add.at(self._bins[name], where, which.astype(float))

    def recall_now(self) -> tuple[float, float]:
        """The last point's share and half the width of its interval; not-a-number where there is none."""
        if self.empty:
            return float("nan"), float("nan")
        _, counts = self._points()
        share, half = _shares(counts[FOUND], counts[ASKED])
        return float(share[-1]), float(half[-1])

    def _points(self) -> tuple[Floats, dict[str, Floats]]:
        """The ends of the stretches in which enough was asked, in seconds, and the counts of each by agent."""
        asked = self._bins[ASKED].sum(axis=1)
        ends, since = [], 0.0
        for place, count in enumerate(asked.tolist()):
            since += count
            if since >= LEAST and count:
                ends.append(place)
                since = 0.0
        if not ends or since:  # what is left belongs to the last point
            last = int(np.flatnonzero(asked)[-1])
            ends[-1:] = [last]
        starts = [0, *[end + 1 for end in ends[:-1]]]
        x = np.minimum((np.array(ends) + 1.0) * self._bins.width_s, self.clock.end_s)
        return x, {name: np.add.reduceat(self._bins[name][: ends[-1] + 1], starts) for name in COUNTS}

    def traces(self) -> list[Trace]:
        """The band's two edges, then what is held, found, and found of what is old."""
        if self.empty:
            return [no_points() for _ in range(5)]
        x, counts = self._points()
        share, half = _shares(counts[FOUND], counts[ASKED])
        held, _ = _shares(counts[HELD], counts[ASKED])
        old, _ = _shares(counts[OLD_FOUND], counts[OLD_ASKED])
        some = np.isfinite(old)
        lines = [
            {"x": x, "y": 100 * y} for y in (np.maximum(share - half, 0.0), np.minimum(share + half, 1.0), held, share)
        ]
        return [*lines, {"x": x[some], "y": 100 * old[some]}]

    def settings(self) -> dict[str, Any]:
        """The title with the last point's share and interval, and the lines' names as labels."""
        title = "<b>recall@5</b> of planted facts (% of questions)"
        if self.empty:
            return {"title.text": title, "annotations": []}
        (_, _, held, found, old), (share, half) = self.traces(), self.recall_now()
        told = [
            Told(float(held["y"][-1]), f"held {held['y'][-1]:.0f} %", GREY),
            Told(float(found["y"][-1]), f"found {found['y'][-1]:.0f} %", BLUE),
        ]
        if len(old["y"]):
            told.append(Told(float(old["y"][-1]), f"old facts {old['y'][-1]:.0f} %", PURPLE))
        return {
            "title.text": f"{title}: now {100 * share:.0f} ±{100 * half:.0f}",
            "annotations": labels(told, 100.0, gap=0.13),
            "yaxis.range": [0.0, 104.0],
        }


def _shares(hits: Floats, asked: Floats) -> tuple[Floats, Floats]:
    """Shares of rows of counts by agent, and half the width of their 95 % intervals, by agents as clusters.

    >>> share, half = _shares(np.array([[2.0, 1.0], [0.0, 0.0]]), np.array([[2.0, 2.0], [0.0, 0.0]]))
    >>> float(share[0]), bool(half[0] > 0), bool(np.isnan(share[1]))
    (0.75, True, True)
    """
    total = asked.sum(axis=1)
    share = np.divide(hits.sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)
    clusters = (asked > 0).sum(axis=1)
    spread = ((hits - share[:, None] * asked) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = 1.96 * np.sqrt(clusters / (clusters - 1) * spread) / total
    return share, np.where(clusters > 1, half, 0.5)
