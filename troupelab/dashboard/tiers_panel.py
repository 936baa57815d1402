"""The panel "memory tiers": what all agents' memories take together, by tier, in RAM and on disk, and the cap on it.

Recent records and notes are areas by what their content takes when all of it is at hand; what memories take beyond that
(indexes, vectors, what Python's allocator keeps) stands on them as a third. The line of RAM is what `total_max_bytes` caps; where it
runs below the areas, part of the content has moved to disk. Only the dashboard's UI thread may call it.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from troupelab.dashboard.drawing import Told, add_band, add_limit, axis_top, band_middles, in_view, labels, limit_line
from troupelab.dashboard.drawing import nothing as no_points
from troupelab.dashboard.look import BLUE, GREEN, GREY, ORANGE, PURPLE, bytes_text
from troupelab.dashboard.panel import Clock, News, Panel, Trace
from troupelab.dashboard.series import AgentSums, Floats, TimeBins
from troupelab.dashboard.shown import Shown

__all__ = ["TiersPanel"]

COLUMNS = ("recent_bytes", "note_bytes", "total_bytes", "archive_bytes")


class _Now(NamedTuple):
    x: Floats
    recent: Floats
    notes: Floats
    rest: Floats
    ram: Floats
    disk: Floats


class TiersPanel(Panel):
    """What all memories take together, by tier."""

    name: ClassVar[str] = "tiers"
    waiting: ClassVar[str] = "what all memories take, by tier,<br>will appear after the first act"

    def __init__(self, run: Shown, clock: Clock, *, height: int = 290) -> None:
        super().__init__(run, clock, height=height)
        self._sums = AgentSums(len(self.agents), COLUMNS)
        self._ram = TimeBins()
        self._ram.column("bytes", "keep")
        told = "%{y:.3~s}B at %{x:.1f} s"
        add_band(self.figure, "recent", BLUE, f"recent records: {told}")
        add_band(self.figure, "notes", GREEN, f"notes: {told}")
        add_band(self.figure, "rest", GREY, f"indexes, vectors and so on: {told}")
        line = {"width": 2.2, "color": BLUE}
        hover = f"all memories in RAM: {told}<extra></extra>"
        self.figure.add_scatter(mode="lines", line=line, hovertemplate=hover, name="in RAM")
        line = {"width": 2, "color": PURPLE, "dash": "dot"}
        hover = f"archive, on disk: {told}<extra></extra>"
        self.figure.add_scatter(mode="lines", line=line, hovertemplate=hover, name="on disk")
        add_limit(self.figure, "cap", "cap on RAM %{y:.3~s}B")
        self.figure.update_yaxes(selector={"overlaying": None}, tickformat=".3~s", ticksuffix="B")
        self._add_marks()

    @property
    def empty(self) -> bool:
        """Whether no agent has told its memory's size yet."""
        return not self._sums.bins.count

    def take(self, news: News) -> None:
        """Take in what memories hold, and what the process says that all of them take."""
        if "memory" in news:
            rows = news["memory"].columns
            self._sums.add(rows["at_s"], rows["agent"], [rows[name] for name in COLUMNS])
        if "process" in news:
            rows = news["process"].columns
            self._ram.cover(float(rows["at_s"].max()))
            self._ram.carry("bytes", rows["at_s"], rows["memory_bytes"].astype(float))

    def _now_held(self) -> _Now:
        bins = self._sums.bins
        recent, notes, total, disk = (bins[name] for name in COLUMNS)
        ends = np.minimum(bins.centres() + bins.width_s / 2, self.clock.end_s)
        ram = total.copy()  # until the process has told more exactly
        if self._ram.count:
            told = self._ram["bytes"][self._ram.index(bins.centres())]
            ram = np.where(np.isfinite(told), told, total)
        rest = np.maximum(ram - recent - notes, 0.0)
        known = np.isfinite(total)  # from the first act on
        return _Now(*(line[known] for line in (ends, recent, notes, rest, ram, disk)))

    def traces(self) -> list[Trace]:
        """The three areas, both lines, and the cap."""
        if self.empty:
            return [no_points() for _ in range(6)]
        x, *lines = self._now_held()
        return [*[{"x": x, "y": y} for y in lines], limit_line(self.run, self.clock, "total_max_bytes")]

    def settings(self) -> dict[str, Any]:
        """The title, a y axis from 0, and labels with what each takes now."""
        title = "<b>memory tiers, all agents</b> (bytes; areas in RAM)"
        if self.empty:
            return {"title.text": title, "annotations": []}
        held = self._now_held()
        most = float(np.maximum(held.recent + held.notes + held.rest, held.ram).max())
        caps = limit_line(self.run, self.clock, "total_max_bytes")["y"]
        top = axis_top([most], [*caps, float(held.disk.max())])
        recent, notes, rest, ram, disk = (float(line[-1]) for line in held[1:])
        bands = [("recent", recent, BLUE), ("notes", notes, GREEN), ("other", rest, GREY)]
        told = [
            Told(middle, f"{name} {bytes_text(size)}", color)
            for (name, size, color), middle in zip(bands, band_middles([recent, notes, rest]), strict=True)
            if size > 0
        ]
        told.append(Told(ram, f"<b>in RAM {bytes_text(ram)}</b>", BLUE))
        if disk > 0:
            told.append(Told(disk, f"on disk {bytes_text(disk)}" + ("" if disk <= top else " ↑"), PURPLE))
        if np.isfinite(caps[-1]):
            seen = in_view(float(caps[-1]), most)
            told.append(Told(float(caps[-1]), f"cap {bytes_text(caps[-1])}" + ("" if seen else " ↑"), ORANGE))
        return {"title.text": title, "annotations": labels(told, top, gap=0.075), "yaxis.range": [0.0, top]}
