"""The panel "still remembered": where what the agents were told and did is now: word for word, in notes, or nowhere.

All records that have left recent memory are in the archive, until a limit drops them from there; the notes that were condensed from them
stay. That much the events tell exactly. Which records a dropped note was about they do not tell: the oldest go first on both
sides, and a note counts as being about as many records as notes are on average. What said the same as an earlier record
was merged with it and counts once. Only the dashboard's UI thread may call it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from troupelab.dashboard.drawing import Told, add_band, band_middles, labels
from troupelab.dashboard.drawing import nothing as no_points
from troupelab.dashboard.look import BLUE, GREEN, GREY, PURPLE, count_text
from troupelab.dashboard.panel import Clock, News, Panel, Trace
from troupelab.dashboard.series import AgentSums, Floats
from troupelab.dashboard.shown import Shown

__all__ = ["RememberedPanel"]

PARTS = ("recent", "archive", "notes only", "dropped")
COLORS = (BLUE, GREEN, PURPLE, GREY)
HOVERS = (
    "word for word in recent memory",
    "word for word in the archive",
    "in notes only (estimated)",
    "dropped (estimated)",
)
MOST_WAITING = 1000
GONE, NOTED, MADE, LOST = range(4)
"""What is counted by agent: records no longer word for word, records that became notes, those notes, and notes that were dropped."""


class RememberedPanel(Panel):
    """Which share of all records is still there, and how."""

    name: ClassVar[str] = "remembered"
    waiting: ClassVar[str] = (
        "which share of all records is still there,<br>word for word or in notes, will appear after the first act"
    )

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self._sums = AgentSums(len(self.agents), PARTS)
        self._counts = np.zeros((4, len(self.agents)))
        self._waiting: dict[int, list[tuple[float, int, float]]] = {}
        self.merged = 0
        for name, color, hover in zip(PARTS, COLORS, HOVERS, strict=True):
            add_band(self.figure, name, color, f"{hover}: %{{y:.3~r}} % at %{{x:.1f}} s")
        self.figure.layout["yaxis"].update(range=[0, 100], ticksuffix=" %")
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether no record has been stored yet."""
        return not self._sums.bins.count or not self._all().any()

    def _all(self) -> Floats:
        total: Floats = np.sum([self._sums.bins[name] for name in PARTS], axis=0)
        return total

    def take(self, news: News) -> None:
        """Take in what memories hold, and what left them since an agent told its size before."""
        if "dedups" in news:
            self.merged += len(news["dedups"])
        if "consolidations" in news:
            rows = news["consolidations"].columns
            condensed = rows["notes_out"] > 0
            self._wait(rows, condensed, NOTED, rows["records_in"])
            self._wait(rows, condensed, MADE, rows["notes_out"])
        if "evictions" in news:
            rows = news["evictions"].columns
            self._wait(
                rows, rows["dropped"] & np.isin(rows["what"], ("records", "archived records")), GONE, rows["records"]
            )
            self._wait(rows, rows["dropped"] & (rows["what"] == "notes"), LOST, rows["records"])
        if "memory" in news:
            self._settle(news["memory"].columns)

    def _wait(self, rows: dict[str, Floats], which: Floats, kind: int, numbers: Floats) -> None:
        """Keep what happened until the agent tells its size the next time: the two belong together."""
        for place in np.flatnonzero(which).tolist():
            agent = int(rows["agent"][place])
            if 0 <= agent < len(self.agents):
                waiting = self._waiting.setdefault(agent, [])
                waiting.append((float(rows["at_s"][place]), kind, float(numbers[place])))
                if len(waiting) > MOST_WAITING:  # an agent who acts no more
                    sums = {kind: sum(each[2] for each in waiting if each[1] == kind) for kind in range(4)}
                    waiting[:] = [(waiting[-1][0], kind, number) for kind, number in sums.items()]

    def _settle(self, rows: dict[str, Floats]) -> None:
        agents = rows["agent"]
        known = (agents >= 0) & (agents < len(self.agents))
        at_s, agents = rows["at_s"][known], agents[known]
        counts = self._counts[:, agents]
        for agent, waiting in list(self._waiting.items()):
            own = np.flatnonzero(agents == agent)
            if not len(own):
                continue
            waiting.sort(key=lambda each: each[0])
            summed = np.zeros((len(waiting) + 1, 4))
            for place, (_, kind, number) in enumerate(waiting):
                summed[place + 1, kind] = number
            summed = np.cumsum(summed, axis=0)
            past = np.searchsorted([each[0] for each in waiting], at_s[own], side="right")
            counts[:, own] += summed[past].T
            self._counts[:, agent] = counts[:, own[-1]]
            self._waiting[agent] = waiting[past[-1] :]
            if not self._waiting[agent]:
                del self._waiting[agent]
        gone, noted, made, lost = counts
        without = noted * np.minimum(1.0, np.divide(lost, made, out=np.zeros_like(lost), where=made > 0))
        only_notes = np.maximum(np.minimum(gone, noted) - without, 0.0)
        held = (rows["recent_records"][known], rows["archive_records"][known])
        self._sums.add(at_s, agents, [*held, only_notes, gone - only_notes])

    def shares(self) -> tuple[Floats, list[Floats]]:
        """Times, and the share of each part in percent."""
        bins, total = self._sums.bins, self._all()
        some = total > 0
        x = np.minimum(bins.centres() + bins.width_s / 2, self.clock.end_s)[some]
        return x, [100 * bins[name][some] / total[some] for name in PARTS]

    def traces(self) -> list[Trace]:
        """The four areas."""
        if self.empty:
            return [no_points() for _ in PARTS]
        x, parts = self.shares()
        return [{"x": x, "y": part} for part in parts]

    def settings(self) -> dict[str, Any]:
        """The title, which says of how many records, and the shares now as labels."""
        title = "<b>still remembered</b> (% of all records)"
        if self.empty:
            return {"title.text": title, "annotations": []}
        now = [float(part[-1]) for part in self.shares()[1]]
        told = [
            Told(middle, f"{name} {_percent(share)}", color)
            for name, share, color, middle in zip(PARTS, now, COLORS, band_middles(now), strict=True)
            if share > 0
        ]
        if self.merged:
            told.append(Told(100.0, f"repeats merged:<br>{count_text(self.merged)}", ""))
        about = f"<b>still remembered</b> (% of {count_text(float(self._all()[-1]))} records)"
        return {"title.text": about, "annotations": labels(told, 100.0, gap=0.13), "yaxis.range": [0.0, 100.0]}


def _percent(share: float) -> str:
    """Whole per cents, but for what is nearly none or nearly all.

    >>> _percent(41.6), _percent(0.2), _percent(99.9), _percent(100.0)
    ('42 %', '0.2 %', '99.9 %', '100 %')
    """
    return f"{share:.0f} %" if 1 <= share <= 99 or share == 100 else f"{share:.2g} %" if share < 1 else f"{share:.1f} %"
