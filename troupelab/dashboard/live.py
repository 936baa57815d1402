"""The one widget that draws all live panels, and the way in which the browser gets them.

The kernel sends figures once, then only what is new in them, as 32-bit numbers in one binary buffer a frame. The browser
acknowledges each frame when it has drawn it; with two on the way no more are sent, so that a slow page is never flooded.
plotly.js comes out of the installed plotly package, once a page.

Messages from the browser arrive on one of the kernel's threads and only leave a note here. `send` is for the dashboard's
UI thread alone, which owns the figures.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import plotly.offline
import traitlets

from troupelab.dashboard.panel import PanelGroup, Patch

__all__ = ["LivePanels"]

MAX_UNACKNOWLEDGED = 2
TIME_OUT_S = 2.0
GIVE_UP_AFTER = 3
"""After so many frames in a row that nobody acknowledged, nobody is looking: nothing goes out until a page says that it is there."""

BEAT_EVERY_S = 2.0
"""Where nothing changes, a page that looks on hears so often that the kernel is there."""

PART_BYTES = 400_000
"""plotly.js goes out compressed and in parts: Jupyter drops what is more than 1 MB a second over three seconds."""

STATIC = Path(__file__).parent / "static"


@functools.cache
def _library() -> bytes:
    return gzip.compress(plotly.offline.get_plotlyjs().encode(), 4, mtime=0)  # half the time of level 6, 4 % longer


class LivePanels(anywidget.AnyWidget):
    """Shows the panels of a run as they grow.

    Args:
        controls: models whose first message is to be spent when the panels are shown (see live.js).
        clock: seconds that never run backwards.
    """

    _esm = STATIC / "live.js"
    _css = STATIC / "live.css"
    plotly_version = traitlets.Unicode().tag(sync=True)
    controls = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, *, controls: Sequence[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(plotly_version=plotly.offline.get_plotlyjs_version(), controls=list(controls))
        self.woken = threading.Event()
        self.clicked: Callable[[str, int, float, float], None] | None = None
        """Is told of a click on a point: the panel, the number of the trace, x and y."""
        self.bytes_sent = 0
        self.frames_sent = 0
        self._clock = clock
        self._notes = threading.Lock()
        self._views: set[str] = set()
        self._wants_library = False
        self._wants_all = False
        self._on_the_way: dict[int, float] = {}
        self._silent = 0
        self._posted_at = 0.0
        self.on_msg(self._heard)

    @property
    def watched(self) -> bool:
        """Whether a page shows the panels, as far as is known."""
        return bool(self._views)

    @staticmethod
    def warm() -> None:
        """Compress plotly.js ahead of the first page that asks for it."""
        _library()

    def start_over(self) -> None:
        """Send whole figures with the next frame: for panels of another run."""
        with self._notes:
            self._wants_all = True

    def _heard(self, _: object, content: Mapping[str, Any], buffers: object) -> None:
        kind, view = content.get("kind"), str(content.get("view", ""))
        with self._notes:
            if kind == "ready" and (view not in self._views or content.get("again")):
                self._views.add(view)
                self._wants_all = True
                self._wants_library |= not content.get("library")
                self._on_the_way.clear()
            elif kind == "ack":
                self._views.add(view)
                self._on_the_way.pop(int(content.get("seq", -1)), None)
                self._silent = 0
            elif kind == "gone":
                self._views.discard(view)
        if kind == "ready":
            self.woken.set()
        elif kind == "click" and self.clicked is not None:
            x, y = (_number(content.get(axis)) for axis in ("x", "y"))
            self.clicked(str(content.get("panel")), int(content.get("trace", -1)), x, y)

    def _may_send(self) -> bool:
        now = self._clock()
        with self._notes:
            late = [number for number, sent_at in self._on_the_way.items() if now - sent_at > TIME_OUT_S]
            for number in late:
                del self._on_the_way[number]
            self._silent += len(late)
            if self._silent >= GIVE_UP_AFTER:
                self._views.clear()
                self._silent = 0
            return bool(self._views) and (self._wants_all or len(self._on_the_way) < MAX_UNACKNOWLEDGED)

    def send_frame(self, panels: PanelGroup) -> bool:
        """Send what the browser lacks, unless it has yet to draw what it got; returns whether anything went out."""
        if not self._may_send():
            return False
        with self._notes:
            everything, library = self._wants_all, self._wants_library
            self._wants_all = self._wants_library = False
        if library:
            self._send_library()  # before all else: the page has more to do with it than the kernel with the figures
        patches, marks = panels.changes(everything=everything), panels.marks(everything=everything)
        if not patches and marks is None:
            if self._clock() - self._posted_at >= BEAT_EVERY_S:
                self._post({"kind": "here"}, b"")
            return False
        self.frames_sent += 1
        header: dict[str, Any] = {"kind": "frame", "seq": self.frames_sent}
        if everything:
            header["figures"] = {panel.name: json.loads(panel.figure.to_json()) for panel in panels}
        if marks is not None:
            header["marks"] = {"start": marks[0], "rows": marks[1]}
        header["panels"], numbers = _packed(patches)
        with self._notes:
            self._on_the_way[self.frames_sent] = self._clock()
        self._post(header, numbers)
        return True

    def _send_library(self) -> None:
        packed = _library()
        parts = [packed[start : start + PART_BYTES] for start in range(0, len(packed), PART_BYTES)]
        for number, part in enumerate(parts):
            self._post({"kind": "library", "part": number, "parts": len(parts)}, part)

    def _post(self, header: dict[str, Any], buffer: bytes) -> None:
        self._posted_at = self._clock()
        self.bytes_sent += len(buffer) + len(json.dumps(header))
        self.send(header, [buffer])


def _number(value: object) -> float:
    """A coordinate as the browser tells it; 0 for what is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _packed(patches: Mapping[str, Patch]) -> tuple[dict[str, Any], bytes]:
    """Patches as JSON that points into one buffer of 32-bit numbers."""
    arrays: list[bytes] = []
    place = 0
    header: dict[str, Any] = {}
    for name, patch in patches.items():
        puts = []
        for trace, key, start, values in patch.puts:
            told: dict[str, Any] = {"trace": trace, "key": key, "start": start}
            if isinstance(values, list):
                told["texts"] = values
            else:
                told |= {"from": place, "length": values.size}
                if values.ndim == 2:
                    told["width"] = values.shape[1]
                arrays.append(np.ascontiguousarray(values, dtype="<f4").tobytes())
                place += values.size
            puts.append(told)
        header[name] = {"puts": puts, "settings": patch.settings, "layout": patch.layout}
    return header, b"".join(arrays)
