"""The panel "consolidation events": which agent moved old records out of recent memory when, and the bytes that this freed.

Only the dashboard's UI thread may call it.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from troupelab.dashboard.look import BLUE, GREY, ORANGE, bytes_text, count_text, for_plot
from troupelab.dashboard.panel import Clock, News, Panel, Trace, agent_ticks, label
from troupelab.dashboard.shown import Shown

__all__ = ["ConsolidationPanel"]

MAX_DOTS = 600
"""Each dot is an element of the page that is painted anew with every frame."""


FREED, TOOK, ARCHIVED = range(3)
SYMBOLS = ("circle", "circle", "circle-open")


class _Dot(NamedTuple):
    number: int
    at_s: float
    agent: int
    freed: float
    noted: bool
    told: str


class ConsolidationPanel(Panel):
    """Which agent condensed its memory when: a dot each, its area the bytes that this freed.

    Notes with their vectors may take more room than the records did; such a dot has another colour. Where records went to the
    archive without notes, nothing was condensed: a grey ring tells that, and `total` does not count it.
    """

    name: ClassVar[str] = "consolidations"
    waiting: ClassVar[str] = "a dot will appear for each time<br>an agent condenses old records into notes"

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self.total = 0
        """How often an agent condensed records into notes."""
        self.archived_only = 0
        self._one_in = 1
        self._dots: list[_Dot] = []
        self._seen: dict[int, int] = {}
        count = len(self.agents)
        self.figure.update_yaxes(selector={"overlaying": None}, **agent_ticks(self.short, 12))
        self.figure.layout["yaxis"].update(range=[count - 0.4, -0.6], rangemode="normal")
        scale = {"cmin": 0, "cmax": 2, "colorscale": [[0, BLUE], [0.5, ORANGE], [1, GREY]]}
        marker = {
            **scale,
            "opacity": 0.65,
            "sizemode": "area",
            "sizemin": 2.5,
            "showscale": False,
            "line": {"width": 0},
        }
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
            noted = rows["notes_out"][place] > 0
            self.total += noted
            self.archived_only += not noted
            if number % self._one_in == 0:
                row = {name: column[place] for name, column in rows.items()}
                freed = row["bytes_before"] - row["bytes_after"]
                self._dots.append(_Dot(number, row["at_s"], agent, freed, noted, self._told(row)))
        while len(self._dots) > MAX_DOTS:
            self._one_in *= 2
            self._dots = [dot for dot in self._dots if dot.number % self._one_in == 0]
            if self._one_in > self.total + self.archived_only:
                del self._dots[:-MAX_DOTS]  # more agents than dots

    def _told(self, row: dict[str, Any]) -> str:
        who = self.agents[row["agent"]] if 0 <= row["agent"] < len(self.agents) else "all agents"
        kept = f"{row['kept_fraction']:.0%} of the text kept" if row["kept_fraction"] == row["kept_fraction"] else ""
        lines = [
            f"<b>{who}</b>, step {row['step']}: {for_plot(row['reason'])}",
            f"{row['records_in']} records → "
            + (f"{row['notes_out']} notes" if row["notes_out"] else "archive, without notes"),
            f"{bytes_text(row['bytes_before'])} → {bytes_text(row['bytes_after'])}; {kept}",
        ]
        return "<br>".join(lines)

    def traces(self) -> list[Trace]:
        """The dots."""
        freed = np.array([dot.freed for dot in self._dots], dtype=float)
        largest = float(np.abs(freed).max(initial=1.0))
        return [
            {
                "x": np.array([dot.at_s for dot in self._dots]),
                "y": np.array([dot.agent for dot in self._dots], dtype=float),
                "marker.size": np.maximum(np.abs(freed), 1.0),
                "marker.color": np.array([_kind(dot) for dot in self._dots], dtype=float),
                "marker.symbol": [SYMBOLS[_kind(dot)] for dot in self._dots],
                "text": [dot.told for dot in self._dots],
                "marker.sizeref": 2.0 * largest / (16.0 if len(self.agents) <= 20 else 11.0) ** 2,
            }
        ]

    def settings(self) -> dict[str, Any]:
        """The title, which says what the largest dot is and whether some are left out."""
        if not self._dots:
            return {"title.text": "<b>consolidation events</b>", "annotations": []}
        by_kind = [[dot.freed for dot in self._dots if _kind(dot) == kind] for kind in range(3)]
        title = "<b>consolidation events</b> (dot area = bytes freed)"
        texts = [f"{count_text(self.total)} into notes"] if self.total else []
        if self.archived_only:
            texts.append(f'<span style="color:{GREY}">○</span> {count_text(self.archived_only)} only<br>archived')
        if by_kind[FREED]:
            texts.append(f'<span style="color:{BLUE}">●</span> freed<br>up to {bytes_text(max(by_kind[FREED]))}')
        if by_kind[TOOK]:
            texts.append(f'<span style="color:{ORANGE}">●</span> took more,<br>up to {bytes_text(-min(by_kind[TOOK]))}')
        if self._one_in > 1:
            texts.append(f"1 in {self._one_in} shown")
        return {"title.text": title, "annotations": [label("<br><br>".join(texts), 0.5, yref="paper")]}


def _kind(dot: _Dot) -> int:
    if not dot.noted:
        return ARCHIVED
    return TOOK if dot.freed < 0 else FREED
