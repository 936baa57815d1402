"""The choice of a preset above the limits: choosing one is one change of limits. Its handler calls what it was given and does nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from troupelab.dashboard.look import for_page
from troupelab.errors import LimitError
from troupelab.limits import Limits, Number
from troupelab.presets import PRESETS

__all__ = ["PresetChoice"]

NONE = "choose …"
HINT = "Named sets of limits: choose one to see what it does. All that a preset does not name stays as it is."


class PresetChoice:
    """A dropdown of presets, and a sentence below it.

    Args:
        current: the limits in force.
        change: changes several limits at once, with a note.
    """

    def __init__(self, current: Callable[[], Limits], change: Callable[[Mapping[str, Number], str], object]) -> None:
        self._current = current
        self._change = change
        self._in_force = NONE
        about = "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items())
        self.choice = widgets.Dropdown(options=[NONE, *PRESETS], value=NONE, description="presets", tooltip=about)
        self.choice.observe(self._chosen, "value")
        self.about = widgets.HTML()
        self.about.add_class("troupelab-note")
        self._say(HINT)
        self.box = widgets.VBox([self.choice, self.about])
        self.box.add_class("troupelab-presets")

    def _chosen(self, change: Mapping[str, Any]) -> None:
        preset = PRESETS.get(change["new"])
        if preset is None:
            self._say(HINT)
            return
        try:
            if changes := preset.differs(self._current()):
                self._change(changes, f"preset: {preset.name}")
        except LimitError as error:
            self._say(str(error), refused=True)
        else:
            self._in_force = preset.name
            changed = f"{len(changes)} limits changed" if changes else "nothing to change: these limits are in force"
            self._say(f"{preset.about} ({changed})")

    def _say(self, text: str, *, refused: bool = False) -> None:
        told = for_page(text, 700)
        self.about.value = f'<span class="troupelab-said" role="alert">{told}</span>' if refused else told

    def follow(self) -> None:
        """Show none any more once a limit that the chosen one sets was changed."""
        preset = PRESETS.get(self.choice.value)
        # One that was chosen in this very moment may not be in force yet.
        if preset is not None and preset.name == self._in_force and preset.differs(self._current()):
            self.choice.value = NONE
