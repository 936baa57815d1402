"""The tab "alerts": what needs the user's eye, until it is acknowledged.

Only the dashboard's UI thread calls it; its buttons leave a wish for that. The rows are made once and used again, so that no widget
leaks, however many alerts come; what was acknowledged is kept for each run as long as that is held.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import ipywidgets as widgets

from troupelab.dashboard.acknowledged import Acknowledged
from troupelab.dashboard.look import for_page, plain
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import Readings, alert_rows
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, Tab, choices, code_line, note, rows_box
from troupelab.dashboard.tables import nothing_yet

__all__ = ["AlertsTab"]

ROWS = 30
"""So many of the newest alerts have a button each."""


class _Row:
    """One alert and its button."""

    def __init__(self, pressed: Callable[[int], None]) -> None:
        self.number = -1
        self.text = widgets.HTML()
        self.text.add_class("troupelab-alert-text")
        self.button = widgets.Button(layout={"width": "120px"})
        self.button.on_click(lambda _: pressed(self.number))
        self.box = widgets.HBox([self.button, self.text])
        self.box.add_class("troupelab-alert")

    def show(self, alert: tuple[Any, ...] | None, acknowledged: Acknowledged) -> None:
        """Be the row of an alert; of none, be hidden."""
        self.box.layout.display = None if alert else "none"
        if alert is None:
            return
        self.number, at_s, step, kind, message = alert
        done = self.number in acknowledged
        self.text.value = (
            f"<span{' class=troupelab-done' if done else ''}>"
            f"<b>{for_page(kind, 60)}</b> at {at_s:,.1f} s, step {max(0, step)}: {for_page(message)}</span>"
        )
        self.button.description = "acknowledged" if done else "acknowledge"
        self.button.tooltip = f"you have seen this alert ({plain(kind, 60)})"
        self.button.disabled = done


class AlertsTab(Tab):
    """The last alerts, each with a button."""

    name: ClassVar[str] = "alerts"

    def __init__(self, errands: Errands) -> None:
        super().__init__(errands)
        self.all = widgets.Button(description="acknowledge all", layout={"width": "140px"}, disabled=True)
        self.all.on_click(lambda _: errands.wish(self._acknowledge_all))
        self.told = widgets.HTML()
        self.code = widgets.HTML(code_line("run.frames.alerts"))
        self.rows = widgets.HTML()
        self._slots: list[_Row] = []
        self._list = widgets.VBox([self.rows])
        self.page.children = [choices(self.all, self.told, self.code), rows_box(self._list)]
        self._by_run: weakref.WeakKeyDictionary[Shown, Acknowledged] = weakref.WeakKeyDictionary()
        self._readings: Readings | None = None
        self._drawn: tuple[int, int] = (-1, -1)

    def begin(self, run: Shown, panels: Panels, readings: Readings) -> None:
        """Another run is shown."""
        super().begin(run, panels, readings)
        readings.acknowledged = self._by_run.setdefault(run, Acknowledged())
        self._readings, self._drawn = readings, (-1, -1)

    @property
    def count(self) -> int:
        """How many alerts nobody has acknowledged."""
        return 0 if self._readings is None else self._readings.acknowledged.left(of=self._readings.alert_count)

    def _acknowledge(self, number: int) -> None:
        if self._readings is not None:
            self._readings.acknowledged.add(number)
            self.write()

    def _acknowledge_all(self) -> None:
        if self._readings is not None:
            self._readings.acknowledged.add_all(of=self._readings.alert_count)
            self.write()

    def write(self) -> None:
        """Show what is new."""
        readings = self._readings
        if readings is None or self._drawn == (readings.alert_count, self.count):
            return
        self._drawn = (readings.alert_count, self.count)
        alerts, acknowledged = list(readings.alerts), readings.acknowledged
        newest = alerts[: -ROWS - 1 : -1]
        if len(newest) > len(self._slots):
            self._slots += [_Row(self._pressed) for _ in range(len(newest) - len(self._slots))]
            self._list.children = [*(slot.box for slot in self._slots), self.rows]
        for place, slot in enumerate(self._slots):
            slot.show(newest[place] if place < len(newest) else None, acknowledged)
        self.all.disabled = not self.count
        self.told.value = note(f"{self.count:,} of {readings.alert_count:,} not acknowledged") if alerts else ""
        self.rows.value = (
            alert_rows(alerts[:-ROWS], acknowledged) if len(alerts) > ROWS else "" if alerts else nothing_yet(NOTHING)
        )

    def _pressed(self, number: int) -> None:
        self.errands.wish(lambda: self._acknowledge(number))


NOTHING = "No alerts so far. What needs your eye will appear here: a pause, a stalled agent, a missing price."
