"""The bar that plays a recording: play and pause, where in time it stands, how fast it goes.

The dashboard's UI thread calls `show`; what a user does arrives on one of the kernel's threads and only calls methods of the playback,
which return at once. The slider is our own (player.js): one of ipywidgets' would send back what it is told, and so seek by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from troupelab.dashboard.playback import Playback
from troupelab.dashboard.shown import Shown

__all__ = ["SPEEDS", "PlayerBar"]

SPEEDS = (0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 200.0)
"""How many seconds of the run may pass in one."""

STATIC = Path(__file__).parent / "static"


class PlayerBar(anywidget.AnyWidget):
    """Plays whatever `Playback` is shown; hidden where something else is.

    Args:
        moved: is called when a user has changed something that should be seen at once.
    """

    _esm = STATIC / "player.js"
    _css = STATIC / "player.css"
    length_s = traitlets.Float(0.0).tag(sync=True)
    notch_s = traitlets.Float(0.1).tag(sync=True)
    at_s = traitlets.Float(0.0).tag(sync=True)
    told = traitlets.Unicode().tag(sync=True)
    step = traitlets.Unicode().tag(sync=True)
    playing = traitlets.Bool(False).tag(sync=True)
    speed = traitlets.Float(1.0).tag(sync=True)
    speeds = traitlets.List(traitlets.Float(), default_value=list(SPEEDS)).tag(sync=True)

    def __init__(self, moved: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.add_class("troupelab-player")
        self.layout.display = "none"
        self._moved = moved
        self._playback: Playback | None = None
        self.on_msg(self._heard)

    def show(self, run: Shown) -> None:
        """Bring everything up to date; for whatever is no playback, hide."""
        playback = self._playback = run if isinstance(run, Playback) else None
        self.layout.display = "none" if playback is None else None
        if playback is None:
            return
        now_s, done = playback.now_s(), playback.progress()
        with self.hold_sync():
            self.notch_s, self.length_s = notch(playback.length_s), playback.length_s
            self.at_s = round(now_s, 3)
            self.told = f"{now_s:,.1f} s of {playback.length_s:,.1f} s"
            self.step = f"step {done.step + 1} of {done.steps}"
            self.playing, self.speed = playback.playing, playback.speed

    def _heard(self, _: object, content: Mapping[str, Any], buffers: object) -> None:
        playback, kind, value = self._playback, content.get("kind"), content.get("value")
        if playback is None:
            return
        if kind == "play":
            playback.play()
        elif kind == "pause":
            playback.pause()
        elif kind == "seek" and isinstance(value, int | float) and math.isfinite(value):
            playback.seek(value)
            return  # the next tick shows it: a hand that drags the slider seeks ten times a second
        elif kind == "speed" and value in SPEEDS:
            playback.speed = float(value)
        self._moved()


def notch(length_s: float) -> float:
    """How far an arrow key moves the slider: a round number, between a hundredth and a thousandth of the length.

    >>> notch(40.0), notch(1000.0), notch(0.0)
    (0.1, 10.0, 0.001)
    """
    return float(f"{max(0.001, 10.0 ** math.floor(math.log10(max(length_s, 0.1) / 100))):.3g}")
