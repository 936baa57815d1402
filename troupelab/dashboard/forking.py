"""What the fork button makes: below a dashboard, the fork of its run in a dashboard of its own, and what sets the two apart.

One fork is shown at a time. A new one takes the place of the one before, which is stopped; the widgets are made once and
moved from fork to fork. Only the dashboard's UI thread calls this, but for `close`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as widgets

from troupelab.dashboard.beside import Beside
from troupelab.dashboard.controls import close_parts
from troupelab.errors import RunError

if TYPE_CHECKING:
    from troupelab.dashboard.dashboard import Dashboard
    from troupelab.results import Progress
    from troupelab.run import Run

__all__ = ["ForkView", "fork_tooltip"]

TOOLTIP = "make a second run that has this one's past and limits, and show it below, paused, to be changed and compared"


def fork_tooltip(state: str, done: Progress) -> str:
    """What the fork button does, or why it does nothing now.

    >>> from troupelab.results import Progress
    >>> fork_tooltip("done", Progress(9, 10, 80, 80, 1.0, 0.0))
    'no fork: all steps have been played, so that none is left that could go otherwise'
    """
    if done.acts_done >= done.acts_total:
        return "no fork: all steps have been played, so that none is left that could go otherwise"
    if state == "ready":
        return "no fork: the run has not begun, and has no past to share"
    return TOOLTIP


class ForkView:
    """The fork of a run, below the run's dashboard.

    Args:
        show: makes a dashboard of a fork.
        woken: is set when the page has asked for the comparison's panels.
    """

    def __init__(self, show: Callable[[Run], Dashboard], woken: threading.Event) -> None:
        self.fork: Run | None = None
        self.box = widgets.VBox(layout={"display": "none"})
        self.box.add_class("troupelab-fork")
        self._show = show
        self._beside = Beside(woken)
        self._dashboard: Dashboard | None = None

    def begin(self, run: Run) -> None:
        """Fork a run at the last step that everybody has finished, and show the fork, paused.

        Raises:
            RunError: no step is left to play.
            StoreError: there is no room for the fork's store.
        """
        fork = run.fork().start(paused=True)
        self.end()
        if self._dashboard is None:
            self._dashboard = self._show(fork)
            self.box.children = [self._beside.box, self._dashboard]
        else:
            self._dashboard.attach(fork)
        self.fork = fork
        self._beside.show(run, fork)
        self.box.layout.display = None

    def end(self) -> None:
        """Stop the fork if it goes on, and show none."""
        self.box.layout.display = "none"
        if self.fork is not None:
            with contextlib.suppress(RunError):  # it has ended already
                self.fork.stop(now=True)
        self.fork = None
        self._beside.end()

    def tick(self) -> None:
        """Bring the comparison up to date; the fork's dashboard does so by itself."""
        self._beside.tick()

    def close(self) -> None:
        """Free the widgets; a fork that goes on is left to go on. Any thread."""
        if self._dashboard is not None:
            self._dashboard.close()
        self._beside.close()
        close_parts(self.box)
        self.box.close()
