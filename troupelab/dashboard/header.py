"""The dashboard's header: what is shown, how far it is, the buttons, a sentence where something is the matter, and the numbers.

Buttons call what they were given; all else is written by the dashboard's UI thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from troupelab.dashboard.forking import fork_tooltip
from troupelab.dashboard.look import for_page
from troupelab.dashboard.playback import Playback
from troupelab.dashboard.player_bar import PlayerBar
from troupelab.dashboard.readings import numbers_html, title_text
from troupelab.dashboard.shown import Shown

__all__ = ["Header"]

ALLOWED = {
    "start": ("ready",),
    "pause": ("running",),
    "step": ("ready", "paused"),
    "resume": ("paused",),
    "stop": ("running", "paused"),
    "fork": ("running", "paused", "done", "stopped"),
}
"""In which states of a run each button does something."""

ICONS = {
    "start": "play",
    "pause": "pause",
    "step": "step-forward",
    "resume": "play",
    "stop": "stop",
    "fork": "code-fork",
}


class Header:
    """Title, progress, buttons, sentence and numbers.

    Args:
        run: what is shown first.
        pressed: is called with a button's name, on a thread of the kernel's.
        moved: is called when a recording was played or paused, on such a thread.
        without: names of buttons that are left out.
    """

    def __init__(
        self,
        run: Shown,
        pressed: Callable[[str], None],
        moved: Callable[[], object] = lambda: None,
        *,
        without: tuple[str, ...] = (),
    ) -> None:
        self.title = widgets.HTML(title_text(run))
        self.title.add_class("troupelab-title")
        self.bar = widgets.IntProgress(value=0, max=1, layout={"width": "120px"}, tooltip="acts done")
        self.buttons: dict[str, Any] = {}
        for name, icon in ICONS.items():
            button = widgets.Button(description=name, icon=icon, tooltip=f"{name} the run")
            button.on_click(lambda _, name=name: pressed(name))
            self.buttons[name] = button
        self._without = without
        self.player = PlayerBar(moved)
        """Stands in place of the buttons where a recording is shown."""
        self.said = widgets.HTML()
        self.numbers = widgets.HTML()
        self._row = widgets.HBox([self.title, self.bar, *self.buttons.values()])
        self._row.add_class("troupelab-header")
        self.allow(run)

    @property
    def parts(self) -> list[Any]:
        """The widgets, from top to bottom."""
        return [self._row, self.player, self.said, self.numbers]

    def say(self, sentence: str) -> None:
        """Show a sentence below the header; an empty one takes it away. Any thread."""
        self.said.value = f'<span class="troupelab-said" role="alert">{for_page(sentence)}</span>' if sentence else ""

    def write(self, run: Shown, numbers: Mapping[str, str]) -> None:
        """Bring everything up to date."""
        done, state = run.progress(), run.state
        self.title.value = title_text(run)
        self.numbers.value = numbers_html(numbers)
        self.bar.max, self.bar.value = max(1, done.acts_total), done.acts_done
        self.bar.bar_style = {"done": "success", "failed": "danger", "paused": "warning"}.get(state, "")
        self.allow(run)

    def allow(self, run: Shown) -> None:
        """Let those buttons be pressed that do something now."""
        done, state = run.progress(), run.state
        over = done.acts_done >= done.acts_total
        for name, button in self.buttons.items():
            button.layout.display = "none" if name in self._without or isinstance(run, Playback) else None
            button.disabled = state not in ALLOWED[name] or (name == "fork" and over)
        self.buttons["fork"].tooltip = fork_tooltip(state, done)
