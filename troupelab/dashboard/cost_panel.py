"""The panel "tokens": what was sent to the model and what came back, added up, and the budget on it.

Dollars stand in the labels, where prices are known. It keeps sums by bins of time. Only the dashboard's UI thread may call it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.drawing import (
    Told,
    add_band,
    add_limit,
    axis_top,
    band_middles,
    in_view,
    labels,
    limit_line,
    nothing,
)
from troupelab.dashboard.look import BLUE, GREEN, GREY, ORANGE, count_text
from troupelab.dashboard.panel import Clock, News, Panel, Trace
from troupelab.dashboard.series import Floats, TimeBins
from troupelab.dashboard.shown import Shown

__all__ = ["CostPanel"]


class CostPanel(Panel):
    """Tokens of all calls so far, and what they cost."""

    name: ClassVar[str] = "cost"
    waiting: ClassVar[str] = "tokens sent and received, and their cost,<br>will appear with the first answered call"

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self._bins = TimeBins()
        for name in ("tokens_in", "tokens_out"):
            self._bins.column(name, "sum")
        self._cost_usd = 0.0
        self._unpriced = 0
        told = "%{y:.4~s} tokens until %{x:.1f} s"
        add_band(self.figure, "sent", BLUE, f"sent: {told}")
        add_band(self.figure, "received", GREEN, f"received: {told}")
        add_limit(self.figure, "budget", "tokens in all: at most %{y:,.0f}")
        self.figure.update_yaxes(selector={"overlaying": None}, tickformat="~s")
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether no call has taken tokens yet."""
        return not self._bins.count or not (self._bins["tokens_in"].any() or self._bins["tokens_out"].any())

    def take(self, news: News) -> None:
        """Take in what calls took; those that took nothing cost nothing."""
        if "calls" not in news:
            return
        rows = news["calls"].columns
        self._bins.cover(float(rows["at_s"].max()))
        place = self._bins.index(rows["at_s"])
        for name in ("tokens_in", "tokens_out"):
            np.add.at(self._bins[name], place, rows[name])
        self._cost_usd += float(np.nansum(rows["cost_usd"]))
        self._unpriced += int(np.isnan(rows["cost_usd"]).sum())

    def _lines(self) -> tuple[Floats, Floats, Floats]:
        ends = self._bins.centres() + self._bins.width_s / 2
        sent, received = (np.cumsum(self._bins[name]) for name in ("tokens_in", "tokens_out"))
        return np.minimum(ends, self.clock.end_s), sent, received

    def traces(self) -> list[Trace]:
        """Both areas, and the budget."""
        if self.empty:
            return [nothing() for _ in range(3)]
        x, sent, received = self._lines()
        return [{"x": x, "y": sent}, {"x": x, "y": received}, limit_line(self.run, self.clock, "max_tokens")]

    def settings(self) -> dict[str, Any]:
        """The title, a y axis from 0, and labels with the sums, the cost and the budgets."""
        title = "<b>tokens in all</b> (tokens; cost beside)"
        if self.empty:
            return {"title.text": title, "annotations": []}
        _, sent, received = self._lines()
        now = [float(sent[-1]), float(received[-1])]
        caps = limit_line(self.run, self.clock, "max_tokens")["y"]
        top = axis_top([sum(now)], [*caps])
        told = [
            Told(middle, f"{name} {count_text(size)}", color)
            for name, size, color, middle in zip(
                ("sent", "received"), now, (BLUE, GREEN), band_middles(now), strict=True
            )
            if size
        ]
        if np.isfinite(caps[-1]):
            seen = in_view(float(caps[-1]), sum(now))
            told.append(Told(float(caps[-1]), f"budget {count_text(caps[-1])}" + ("" if seen else " ↑"), ORANGE))
        if cost := self._cost():
            told.append(Told(0.0, cost, GREY))
        return {"title.text": title, "annotations": labels(told, top, gap=0.2), "yaxis.range": [0.0, top]}

    def _cost(self) -> str:
        """What all calls cost, as far as it is known, and the budget on that; empty where a model costs nothing."""
        most = self.run.limits.max_cost_usd
        if not self._cost_usd and not self._unpriced and most is None:
            return ""
        if self._unpriced and not self._cost_usd:
            return "price not known"
        spent = f"{dollars(self._cost_usd)}" + (" and more" if self._unpriced else "")
        return f"cost {spent}" if most is None else f"cost {spent}<br>of {dollars(most)}"


def dollars(cost_usd: float) -> str:
    """An amount in dollars, with more places where it is small.

    >>> dollars(0.01234), dollars(12.5)
    ('$0.0123', '$12.50')
    """
    return f"${cost_usd:.4f}" if cost_usd < 1 else f"${cost_usd:,.2f}"
