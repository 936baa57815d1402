"""The tab "alerts": what needs the user's eye. Only the dashboard's UI thread calls it."""

from __future__ import annotations

from typing import ClassVar

import ipywidgets as widgets

from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import Readings, alert_rows
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, Tab, rows_box

__all__ = ["AlertsTab"]


class AlertsTab(Tab):
    """The last alerts as rows."""

    name: ClassVar[str] = "alerts"

    def __init__(self, errands: Errands) -> None:
        super().__init__(errands)
        self.rows = widgets.HTML()
        self.page.children = [rows_box(self.rows)]
        self._readings: Readings | None = None
        self._drawn = -1

    def begin(self, run: Shown, panels: Panels, readings: Readings) -> None:
        """Another run is shown."""
        super().begin(run, panels, readings)
        self._readings, self._drawn = readings, -1

    @property
    def count(self) -> int:
        """How many alerts there were."""
        return 0 if self._readings is None else self._readings.alert_count

    def write(self) -> None:
        """Show the rows that are new."""
        if self._readings is not None and self.count != self._drawn:
            self._drawn = self.count
            self.rows.value = alert_rows(self._readings.alerts)
