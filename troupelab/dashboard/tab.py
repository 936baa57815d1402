"""The tabs below the panels: what each is, and the row of them.

A tab takes in events 4 times a second, and writes its widgets when it is the one that is looked at. What takes a while (a question to an agent)
is an errand on a thread of its own; what comes of it is shown by the UI thread. Only that thread calls a tab, but for the handlers of
its own widgets, which leave a wish or send an errand and do nothing else.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, TypeVar

import ipywidgets as widgets

from troupelab.dashboard.look import for_page
from troupelab.dashboard.panel import News
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import Readings
from troupelab.dashboard.shown import Shown
from troupelab.errors import TroupeLabError

__all__ = ["Errands", "Tab", "Tabs", "choices", "code_line", "note", "rows_box", "sentence"]

T = TypeVar("T")

REWRITE_EVERY_S = 1.0


class Errands:
    """Does what takes a while beside the UI thread, and hands what came of it back to that.

    Args:
        wish: has something called on the UI thread, soon.
    """

    def __init__(self, wish: Callable[[Callable[[], None]], None]) -> None:
        self.wish = wish

    def send(
        self, work: Callable[[], T], then: Callable[[T], None], refused: Callable[[Exception], None]
    ) -> threading.Thread:
        """Do `work` on a daemon thread, then call `then` with its result, or `refused` with its error, on the UI thread.

        Errors that TroupeLab raises on purpose, time-outs and the system's are told; others are a fault of ours, and told as well.
        """

        def go() -> None:
            try:
                result = work()
            except Exception as error:
                failure = error  # the name in the clause is unbound at its end
                self.wish(lambda: refused(failure))
            else:
                self.wish(lambda: then(result))

        thread = threading.Thread(target=go, name="troupelab-errand", daemon=True)
        thread.start()
        return thread


def sentence(error: Exception) -> str:
    """What to tell a user of an error: our own sentences as they are, others with their kind."""
    if isinstance(error, TroupeLabError | OSError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class Tab(ABC):
    """One page below the panels."""

    name: ClassVar[str] = ""

    def __init__(self, errands: Errands) -> None:
        self.errands = errands
        self.page = widgets.VBox()
        self.page.add_class("troupelab-page")
        self.run: Shown | None = None
        self.to_front: Callable[[], None] = lambda: None
        """Brings this tab to the front, once it stands in a row."""

    def begin(self, run: Shown, panels: Panels, readings: Readings) -> None:
        """Another run is shown: forget the one before."""
        self.run = run

    def take(self, news: News) -> None:
        """Take in new events; is called whether or not anybody looks."""
        return

    def clicked(self, panel: str, trace: int, x: float, y: float) -> None:
        """A point of a panel was clicked: the number of its trace, and where it lies."""
        return

    @property
    def count(self) -> int:
        """How many things there are to see, for the tab's title; 0 shows no number."""
        return 0

    @abstractmethod
    def write(self) -> None:
        """Bring the widgets up to date; is called once a second while the tab is looked at."""


def rows_box(part: widgets.Widget) -> widgets.Box:
    """A box that scrolls, for rows; reachable by keyboard (see live.js)."""
    box = widgets.Box([part])
    box.add_class("troupelab-rows")
    return box


def choices(*parts: widgets.Widget) -> widgets.Box:
    """A row of controls, in as many lines as they need."""
    box = widgets.HBox(list(parts))
    box.add_class("troupelab-choices")
    return box


def note(sentence: str) -> str:
    """A short sentence beside controls, as HTML."""
    return f'<span class="troupelab-note">{for_page(sentence)}</span>'


def code_line(code: str) -> str:
    """The Python for what is shown, as HTML; it is shortened where it is very long.

    >>> code_line("run.transcript()")
    '<span class="troupelab-note">as code: <code>run.transcript()</code></span>'
    """
    return f'<span class="troupelab-note">as code: <code>{for_page(code)}</code></span>'


class Tabs:
    """The row of tabs.

    Args:
        tabs: in their order.
        errands: those of the tabs.
    """

    def __init__(self, tabs: Sequence[Tab], errands: Errands) -> None:
        self.tabs = list(tabs)
        self.box = widgets.Tab([tab.page for tab in tabs], titles=[tab.name for tab in tabs], selected_index=0)
        for tab in self.tabs:
            tab.to_front = partial(self.open, tab.name)
        self.box.observe(lambda _: errands.wish(self.hurry), "selected_index")
        self._next = 0.0

    def __getitem__(self, name: str) -> Tab:
        """The tab of a name."""
        return next(tab for tab in self.tabs if tab.name == name)

    def open(self, name: str) -> None:
        """Bring a tab to the front."""
        self.box.selected_index = [tab.name for tab in self.tabs].index(name)

    def hurry(self) -> None:
        """Write the tab that is looked at with the next tick."""
        self._next = 0.0

    def begin(self, run: Shown, panels: Panels, readings: Readings) -> None:
        """Another run is shown."""
        for tab in self.tabs:
            tab.begin(run, panels, readings)
        self.hurry()

    def clicked(self, panel: str, trace: int, x: float, y: float) -> None:
        """A point of a panel was clicked."""
        for tab in self.tabs:
            tab.clicked(panel, trace, x, y)

    def tick(self, news: News) -> None:
        """Take in new events, and write what is looked at when it is due."""
        for tab in self.tabs:
            tab.take(news)
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + REWRITE_EVERY_S
        for place, tab in enumerate(self.tabs):
            title = f"{tab.name} ({tab.count})" if tab.count else tab.name
            if self.box.get_title(place) != title:
                self.box.set_title(place, title)
            if place == self.box.selected_index:
                tab.write()
