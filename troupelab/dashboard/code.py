"""Code to copy: a block of it, and the button that shows a run as code. Only the dashboard's UI thread writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, sentence

__all__ = ["CodeBlock", "RunAsCode"]

MOST_CHARS = 100_000
_STATIC = Path(__file__).parent / "static"


class CodeBlock(anywidget.AnyWidget):
    """Code that can be selected and copied.

    Args:
        label: what it is, for screen readers.
        most_rows: how many lines are shown at once.
    """

    _esm = _STATIC / "code.js"
    _css = _STATIC / "code.css"
    code = traitlets.Unicode().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    most_rows = traitlets.Int(12).tag(sync=True)

    def __init__(self, label: str, *, most_rows: int = 12) -> None:
        super().__init__(label=label, most_rows=most_rows)


class RunAsCode:
    """A button and below it the Python that makes the shown run again; it is written while it is shown.

    Args:
        errands: on one of which the code is written: it may have to load a world.
    """

    def __init__(self, errands: Errands) -> None:
        self.block = CodeBlock("code of this run")
        self.block.layout.display = "none"
        about = "the Python that makes this run again, with what was changed in it since"
        self.button = widgets.ToggleButton(description="as code", icon="code", tooltip=about, layout={"width": "auto"})
        self.button.observe(lambda _: errands.wish(self._open), "value")
        self.box = widgets.VBox([self.button, self.block])
        self._errands = errands
        self._run: Shown | None = None
        self._written: tuple[Any, ...] = ()

    def follow(self, run: Shown) -> None:
        """Show a run's code, and that of what was changed in it since."""
        self._run = run
        self.box.layout.display = None if hasattr(run, "as_code") else "none"
        self._look()

    def _open(self) -> None:
        self.block.layout.display = None if self.button.value else "none"
        self._look()

    def _look(self) -> None:
        run = self._run
        write: Callable[[], str] | None = getattr(run, "as_code", None)
        if run is None or write is None or not self.button.value:
            return
        stands = (id(run), run.state == "ready", len(run.limits.log), run.recorder.count("limits"))
        if stands != self._written:
            self._written = stands
            self._errands.send(write, lambda code: self._show(stands, code), lambda error: self._refused(stands, error))

    def _show(self, stands: tuple[Any, ...], code: str) -> None:
        if stands == self._written:
            most = f"# {len(code):,} characters, which is too much to show here: print(run.as_code())"
            self.block.code = code if len(code) <= MOST_CHARS else most

    def _refused(self, stands: tuple[Any, ...], error: Exception) -> None:
        self._show(stands, f"# {sentence(error)!r}")
