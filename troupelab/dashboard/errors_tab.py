"""The tab "errors": what went wrong by kind, what usually mends it, and what was done about it.

Only the dashboard's UI thread calls it.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import ipywidgets as widgets
import numpy as np

from troupelab.dashboard.look import for_page, plain
from troupelab.dashboard.mends import mend
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import SHOWN_ROWS, Readings, error_rows
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, Tab, choices, code_line, note, rows_box

__all__ = ["ErrorsTab"]

MAX_KINDS = 12
"""So many kinds are told apart, the most frequent first."""


class ErrorsTab(Tab):
    """The errors by kind, and the last of them as rows."""

    name: ClassVar[str] = "errors"

    def __init__(self, errands: Errands) -> None:
        super().__init__(errands)
        self.kind = widgets.Dropdown(options=[("all kinds", "")], description="kind", layout={"width": "300px"})
        self.kind.observe(lambda _: errands.wish(self.write), "value")
        self.share = widgets.HTML()
        self.code = widgets.HTML()
        self.kinds = widgets.HTML()
        self.rows = widgets.HTML()
        self.page.children = [
            choices(self.kind, self.share, self.code),
            rows_box(widgets.VBox([self.kinds, self.rows])),
        ]
        self._readings: Readings | None = None
        self._drawn: tuple[object, ...] = ()

    def begin(self, run: Shown, panels: Panels, readings: Readings) -> None:
        """Another run is shown."""
        super().begin(run, panels, readings)
        self.kind.options = [("all kinds", "")]
        self._readings, self._drawn = readings, ()

    @property
    def count(self) -> int:
        """How many errors there were."""
        return 0 if self._readings is None else self._readings.error_count

    def write(self) -> None:
        """Show what is new."""
        run, readings = self.run, self._readings
        if run is None or readings is None:
            return
        self.share.value = note(_share(readings))
        if self._drawn == (readings.error_count, self.kind.value):
            return
        self._offer(readings.error_kinds)
        kind = self.kind.value or ""
        self._drawn = (readings.error_count, kind)
        self.kinds.value = kinds_html(readings.error_kinds)
        self.code.value = code_line(f'run.frames.errors.query("kind == {kind!r}")' if kind else "run.frames.errors")
        if not kind:
            self.rows.value = error_rows(run.agent_names, readings.errors)
            return
        found = run.recorder.read("errors").columns
        places = np.flatnonzero(found["kind"] == kind)[-SHOWN_ROWS:]
        columns = [found[name][places].tolist() for name in ("at_s", "step", "agent", "kind", "message")]
        self.rows.value = error_rows(run.agent_names, zip(*columns, strict=True))

    def _offer(self, counts: Counter[str]) -> None:
        """Let those kinds be chosen that there are."""
        kinds = [kind for kind, _ in counts.most_common(MAX_KINDS)]
        had = [value for _, value in self.kind.options]
        if new := [kind for kind in kinds if kind not in had]:
            chosen = self.kind.value
            self.kind.options = [*self.kind.options, *((plain(kind, 60), kind) for kind in new)][: 2 * MAX_KINDS]
            self.kind.value = chosen


def _share(readings: Readings) -> str:
    """How many acts were lost, and how many calls were sent again."""
    told = []
    for part, whole, what in (
        (readings.acts_lost, readings.acts, "acts were lost"),
        (readings.asked_again, readings.asked, "calls were sent more than once"),
    ):
        if whole:
            told.append(f"{part:,} of {whole:,} {what} ({100 * part / whole:.2g} %)")
    return "; ".join(told)


def kinds_html(counts: Counter[str]) -> str:
    """A line for each kind: how often it came, and what usually mends it."""
    lines = [
        f"<li><b>{count:,} × {for_page(kind, 60)}</b> {for_page(mend(kind))}</li>"
        for kind, count in counts.most_common(MAX_KINDS)
    ]
    if rest := len(counts) - len(lines):
        lines.append(f"<li>and {rest:,} more kinds</li>")
    return f'<ul class="troupelab-kinds">{"".join(lines)}</ul>' if lines else ""
