"""The tab "events": the newest rows of any family of events, as the frames have them. Only the dashboard's UI thread calls it."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import ipywidgets as widgets

from troupelab.dashboard.look import bytes_text, count_text, seconds_text
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import SHOWN_ROWS, Readings
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, Tab, choices, code_line, note, rows_box
from troupelab.dashboard.tables import nothing_yet, table, who
from troupelab.events import FAMILIES, unit_of

__all__ = ["EventsTab", "cell"]


class EventsTab(Tab):
    """The newest events of a family, as rows."""

    name: ClassVar[str] = "events"

    def __init__(self, errands: Errands) -> None:
        super().__init__(errands)
        self.family = widgets.Dropdown(
            options=list(FAMILIES), value="memory", description="family", layout={"width": "240px"}
        )
        self.family.observe(lambda _: errands.wish(self.write), "value")
        self.told = widgets.HTML()
        self.code = widgets.HTML()
        self.about = widgets.HTML()
        self.rows = widgets.HTML()
        self.page.children = [choices(self.family, self.told, self.code), self.about, rows_box(self.rows)]
        self._drawn: tuple[str, int] | None = None

    def begin(self, run: Shown, panels: Panels, readings: Readings) -> None:
        """Another run is shown."""
        super().begin(run, panels, readings)
        self._drawn = None

    def write(self) -> None:
        """Show the rows that are new."""
        run, family = self.run, self.family.value
        if run is None or self._drawn == (drawn := (family, run.recorder.count(family))):
            return
        self._drawn = drawn
        _, count = drawn
        lost = run.recorder.lost(family)
        gone = f", of which the oldest {lost:,} are no longer kept" if lost else ""
        self.told.value = note(f"{count:,} events{gone}; the newest {min(count, SHOWN_ROWS):,} are shown")
        self.about.value = note(" ".join((FAMILIES[family].__doc__ or "").split("\n\n")[0].split()))
        self.code.value = code_line(f"run.frames.{family}")
        self.rows.value = _rows(run, family, count)


def _rows(run: Shown, family: str, count: int) -> str:
    batch = run.recorder.read(family, max(0, count - SHOWN_ROWS))
    if not len(batch):
        return nothing_yet(f"No events of the family {family} so far. They will appear here as they happen.")
    columns = {name: column[-SHOWN_ROWS:].tolist() for name, column in batch.columns.items()}
    first = [
        name for name in ("at_s", "step", "agent") if name in columns
    ]  # when and who, in sight on a narrow page too
    names = [*first, *(name for name in columns if name not in first)]
    rows = list(zip(*([cell(run, name, value) for value in columns[name]] for name in names), strict=True))
    return table(names, rows[::-1], len(first) - ("agent" in first))


def cell(run: Shown, name: str, value: Any) -> str:
    """A value of a column as text, with its unit; an agent by name, and what is not known as a dash."""
    if name == "agent":
        return who(run.agent_names, value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    unit = unit_of(name)
    if name in {"at_s", "start_s", "end_s"}:
        return f"{value:,.2f} s"
    if name == "step":
        return f"{value:,}" if value >= 0 else "–"
    if unit == "By":
        return bytes_text(value)
    if unit == "s":
        return seconds_text(value) if value >= 0 else f"{value:.3g} s"
    if unit:
        return {"ms": f"{value:.3g} ms", "USD": f"${value:.4f}", "1": f"{value:.3f}"}[unit]
    return f"{value:,}" if isinstance(value, int) else count_text(value)
