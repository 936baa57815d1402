"""The panel "answered without a request": which share of the questions needed none, and what that saved.

It keeps counts by bins of time. Only the dashboard's UI thread may call it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.drawing import Told, add_band, axis_top, band_middles, labels, nothing
from troupelab.dashboard.look import BLUE, GREEN, GREY, PURPLE, count_text
from troupelab.dashboard.panel import Clock, News, Panel, Trace
from troupelab.dashboard.series import Floats, TimeBins
from troupelab.dashboard.shown import Shown

__all__ = ["CachePanel"]

SOURCES = {"cache": "exact", "flight": "flight", "semantic": "semantic"}
"""What the events call the source of an answer that needed no request, and what it is called here, as in the family `cache`."""

HOVERS = ("the same was answered before", "the same was under way", "a like one was answered before")
COLORS = (BLUE, GREEN, PURPLE)
NO_QUESTIONS = ("shadow", "warm-up")
"""Purposes of calls on whose answer nothing depends."""

STRETCHES = 60


class CachePanel(Panel):
    """The share of questions that a kept or shared answer served, by kind, over time."""

    name: ClassVar[str] = "cache"
    waiting: ClassVar[str] = (
        "the share of questions that needed no request<br>will appear with the first kept or shared answer"
    )

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self._bins = TimeBins(limit=STRETCHES, width_s=0.5)
        for name in ("all", *SOURCES):
            self._bins.column(name, "sum")
        self._saved = 0.0
        self._checked = self._false = 0
        for kind, color, hover in zip(SOURCES.values(), COLORS, HOVERS, strict=True):
            add_band(self.figure, kind, color, f"{hover}: %{{y:.3~r}} % at %{{x:.1f}} s")
        self.figure.layout["yaxis"].update(ticksuffix=" %")
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether every question has needed a request so far."""
        return not self._bins.count or not any(self._bins[name].any() for name in SOURCES)

    def take(self, news: News) -> None:
        """Take in where answers came from, what kept ones saved, and how those stood that were checked."""
        if "calls" in news:
            rows = news["calls"].columns
            asked = ~np.isin(rows["purpose"], NO_QUESTIONS)
            if asked.any():
                self._bins.cover(float(rows["at_s"][asked].max()))
                place = self._bins.index(rows["at_s"])
                np.add.at(self._bins["all"], place[asked], 1)
                for name in SOURCES:
                    np.add.at(self._bins[name], place[asked & (rows["source"] == name)], 1)
        if "cache" in news:
            rows = news["cache"].columns
            self._saved += float(rows["tokens_saved"].sum())
            self._checked += int((rows["kind"] == "shadow").sum())
            self._false += int(rows["false_hit"].sum())

    def shares(self) -> tuple[Floats, list[Floats]]:
        """Times, and the share of each kind in percent, for the stretches of time that had questions."""
        asked = self._bins["all"]
        some = asked > 0
        x = (self._bins.centres() + self._bins.width_s / 2)[some]
        return np.minimum(x, self.clock.end_s), [100 * self._bins[name][some] / asked[some] for name in SOURCES]

    def traces(self) -> list[Trace]:
        """The three areas."""
        if self.empty:
            return [nothing() for _ in SOURCES]
        x, parts = self.shares()
        return [{"x": x, "y": part} for part in parts]

    def settings(self) -> dict[str, Any]:
        """The title, and labels: each kind's share of all questions so far, and what they saved."""
        title = "<b>answered without a request</b> (% of questions)"
        if self.empty:
            return {"title.text": title, "annotations": []}
        _, parts = self.shares()
        top = min(100.0, axis_top([float(np.sum(parts, axis=0).max())]))
        asked = float(self._bins["all"].sum())
        now = [float(part[-1]) for part in parts]
        told = [
            Told(middle, f"{kind} {100 * self._bins[name].sum() / asked:.2g} %", color)
            for (name, kind), color, middle in zip(SOURCES.items(), COLORS, band_middles(now), strict=True)
            if self._bins[name].any()
        ]
        told.append(Told(top, f"saved {count_text(self._saved)}<br>tokens", ""))
        if self._checked and self._false:
            told.append(Told(0.75 * top, f"{self._false} of {count_text(self._checked)}<br>checked: false", GREY))
        return {"title.text": title, "annotations": labels(told, top, gap=0.2), "yaxis.range": [0.0, top]}
