"""Another run beside the one that is shown: a heading that says in what they differ, and the panels that compare them.

Its panels are made when there is first something to compare, and move from pair to pair. Only the dashboard's UI thread calls
this, but for `close`.
"""

from __future__ import annotations

import threading
from typing import Any

import ipywidgets as widgets

from troupelab.dashboard.comparison import Comparison, Pair, differences
from troupelab.dashboard.controls import close_parts
from troupelab.dashboard.live import LivePanels
from troupelab.dashboard.look import for_page
from troupelab.dashboard.shown import Shown

__all__ = ["Beside"]


class Beside:
    """The comparison of two runs, or nothing.

    Args:
        woken: is set when the page has asked for the panels.
    """

    def __init__(self, woken: threading.Event) -> None:
        self._heading: Any = widgets.HTML()
        self.box = widgets.VBox([self._heading], layout={"display": "none"})
        self.box.add_class("troupelab-beside")
        self._woken = woken
        self._comparison: Comparison | None = None
        self._live: LivePanels | None = None

    def show(self, run: Shown, other: Shown) -> None:
        """Compare two runs; a pair that was compared before makes room."""
        self._comparison = Comparison(run, other)
        if self._live is None:
            self._live = LivePanels()
            self._live.woken = self._woken
            self.box.children = [self._heading, self._live]
        else:
            self._live.start_over()
        self.tick()
        self.box.layout.display = None

    def end(self) -> None:
        """Compare nothing any more."""
        self.box.layout.display = "none"
        self._comparison = None

    def tick(self) -> None:
        """Bring the comparison up to date."""
        if self._comparison is None or self._live is None:
            return
        self._comparison.read()
        self._live.send_frame(self._comparison)
        told = _heading(self._comparison.pair)
        if told != self._heading.value:
            self._heading.value = told

    def close(self) -> None:
        """Free the widgets."""
        close_parts(self.box)
        self.box.close()


def _heading(pair: Pair) -> str:
    """What is compared, and in which limits the two differ, as HTML."""
    run, other = pair.runs
    name, other_name = (for_page(each) for each in pair.names)
    if pair.parted >= 0 and other.forked_at == pair.parted:
        told = f"<b>{other_name}</b>, beside this run; before that step both have the same past"
    elif pair.parted >= 0:
        told = f"<b>{name}</b>, beside {other_name}; before that step both have the same past"
    else:
        worlds = "" if run.name == other.name else f" (of {for_page(other.name, 60)})"
        told = f"<b>{name}</b> beside <b>{other_name}</b>{worlds}"
    return f"{told} · {for_page(differences(run, other))}"
