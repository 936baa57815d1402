"""The tab "transcript": what the agents say, think and do, the newest first. Only the dashboard's UI thread calls it."""

from __future__ import annotations

from typing import ClassVar

import ipywidgets as widgets

from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import Readings, transcript_rows
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, Tab, rows_box

__all__ = ["TranscriptTab"]


class TranscriptTab(Tab):
    """The last actions as rows."""

    name: ClassVar[str] = "transcript"

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

    def write(self) -> None:
        """Show the rows that are new."""
        if self.run is None or self._readings is None:
            return
        count = self.run.recorder.count("actions")
        if count != self._drawn:
            self._drawn = count
            self.rows.value = transcript_rows(self.run.agent_names, self._readings.actions)
