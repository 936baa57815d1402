"""The tab "transcript": what the agents say, think and do; all of it that the recorder holds can be searched and leafed through.

Only the dashboard's UI thread calls it. A standing query looks at new rows only; where there are many to look at, as for a new query on a
long transcript, that is an errand, and the page before stays until it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import ipywidgets as widgets
import numpy as np
from numpy.typing import NDArray

from troupelab.dashboard.agents_field import AgentsField
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import Readings, found_rows
from troupelab.dashboard.search import Found, Query, matching
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, Tab, choices, code_line, note, rows_box
from troupelab.telemetry.recorder import Batch

__all__ = ["TranscriptTab"]

AT_ONCE_ROWS = 8192
"""More rows than these are looked at beside the UI thread."""

ACTIONS = ("TALK", "THINK", "REACH_OUT")
MAX_ACTIONS = 30
LONGEST_SEARCH = 500


class TranscriptTab(Tab):
    """The actions as rows, a page of them at a time."""

    name: ClassVar[str] = "transcript"

    def __init__(self, errands: Errands) -> None:
        super().__init__(errands)
        self.search = widgets.Text(description="search", placeholder="words that all occur", layout={"width": "260px"})
        self.agents = AgentsField(errands.wish, lambda _: self._ask(), placeholder="agents: type a name", width="220px")
        self.action = widgets.Dropdown(description="action", layout={"width": "170px"})
        self.first = widgets.BoundedIntText(description="from step", min=0, layout={"width": "130px"})
        self.last = widgets.BoundedIntText(description="to step", min=0, layout={"width": "130px"})
        for part in (self.search, self.action, self.first, self.last):
            part.observe(lambda _: errands.wish(self._ask), "value")
        self.follow = widgets.Checkbox(
            value=True, description="follow", indent=False, tooltip="keep the newest in sight", layout={"width": "80px"}
        )
        self.follow.observe(lambda change: errands.wish(lambda: self._followed(change["new"])), "value")
        self.newer = self._turner("newer", lambda found: found.newer())
        self.older = self._turner("older", lambda found: found.older())
        self.told = widgets.HTML()
        self.code = widgets.HTML()
        self.rows = widgets.HTML()
        self.page.children = [
            choices(self.search, self.action, self.first, self.last, *self.agents.parts),
            choices(self.newer, self.older, self.follow, self.told, self.code),
            rows_box(self.rows),
        ]
        self._found = Found(Query())
        self._all = Found(Query())
        self._looking = False
        self._drawn: tuple[object, ...] | None = None

    def _turner(self, name: str, turn: Callable[[Found], None]) -> widgets.Button:
        button = widgets.Button(description=name, tooltip=f"{name} actions", layout={"width": "80px"})
        button.on_click(lambda _: self.errands.wish(lambda: self._turn(turn)))
        return button

    def begin(self, run: Shown, panels: Panels, readings: Readings) -> None:
        """Another run is shown: all of it."""
        super().begin(run, panels, readings)
        self.agents.offer(run.agent_names)
        self.search.value, self.action.options, self.action.value = "", _options(ACTIONS), ""
        self.first.max = self.last.max = max(0, run.steps - 1)
        self.first.value, self.last.value = 0, self.last.max
        self.follow.value = True
        self._found, self._all, self._drawn = Found(Query()), Found(Query()), None

    # ------------------------------------------------------------------ what is looked for

    def _query(self) -> Query:
        run = self.run
        names = {name: place for place, name in enumerate(run.agent_names)} if run else {}
        return Query(
            words=Query.words_of(self.search.value[:LONGEST_SEARCH]),
            agents=tuple(sorted(names[name] for name in self.agents.tags.value if name in names)),
            action=self.action.value or "",
            first=self.first.value,
            last=None if self.last.value >= self.last.max else self.last.value,
        )

    def _ask(self) -> None:
        """Look for what is wanted now, where that is another thing than before."""
        if self._query() != self._found.query:
            self.follow.value = True
            self.write()

    def _catch_up(self) -> bool:
        """Look at the rows that are new; tells whether all were looked at."""
        run = self.run
        if run is None or self._looking:
            return False
        query, recorder = self._query(), run.recorder
        if recorder.count("actions") < self._all.next:  # a recording was wound back
            self._all = self._found = Found(Query())
        found = self._found if query == self._found.query else Found(query)
        batch = recorder.read("actions", min(found.next, self._all.next))
        if len(batch) <= AT_ONCE_ROWS:
            self._take(run, batch, found, matching(query, batch.columns), matching(Query(), batch.columns))
            return True
        self._looking = True
        self.errands.send(
            lambda: (matching(query, batch.columns, lambda: self._query() == query), matching(Query(), batch.columns)),
            lambda places: self._looked(run, batch, found, *places),
            self._failed,
        )
        return False

    def _looked(
        self, run: Shown, batch: Batch, found: Found, places: NDArray[np.int64] | None, every: NDArray[np.int64] | None
    ) -> None:
        self._looking = False
        if run is self.run and places is not None:
            self._take(run, batch, found, places, every)
        self.write()

    def _failed(self, error: Exception) -> None:
        self._looking = False
        raise error

    def _take(
        self, run: Shown, batch: Batch, found: Found, places: NDArray[np.int64] | None, every: NDArray[np.int64] | None
    ) -> None:
        for known, more in ((found, places), (self._all, every)):
            if more is not None and batch.next > known.next:
                known.add(batch.start, batch.next, more[more + batch.start >= known.next])
            known.forget(run.recorder.lost("actions"))
        self._found = found
        self._offer_actions(batch)

    def _offer_actions(self, batch: Batch) -> None:
        """Let those kinds of actions be chosen that there are."""
        had = [name for _, name in self.action.options[1:]]
        new = [name for name in set(batch.columns["action"].tolist()) - {*had, "DONE"} if name.isprintable()]
        if new and len(had) < MAX_ACTIONS:
            chosen = self.action.value
            self.action.options = _options([*had, *sorted(new)][:MAX_ACTIONS])
            self.action.value = chosen

    # ------------------------------------------------------------------ leafing

    def _followed(self, on: bool) -> None:
        if on:
            self._found.before = None
        else:
            self._found.stay()
        self.write()

    def _turn(self, turn: Callable[[Found], None]) -> None:
        self._found.stay()
        turn(self._found)
        self.follow.value = False
        self.write()

    def write(self) -> None:
        """Show the rows that are new, or of the page that was turned to."""
        run = self.run
        if run is None:
            return
        caught_up = self._catch_up()
        found = self._found
        start, end = found.span()
        shown = (found.query, *found.page()[[0, -1]].tolist()) if end else (found.query,)
        if shown != self._drawn:
            self._drawn = shown
            self.rows.value = found_rows(run, found)
        count = len(found.rows)
        self.newer.disabled, self.older.disabled = end >= count, start == 0
        which = f": {count - end + 1:,} to {count - start:,} from the newest" if end else ""
        self.told.value = note(
            f"{count:,} of {len(self._all.rows):,} actions match{which}"
            if caught_up or not self._looking
            else f"looking through {run.recorder.count('actions'):,} actions…"
        )
        self.code.value = code_line(found.query.as_code(run.agent_names))


def _options(actions: Sequence[str]) -> list[tuple[str, str]]:
    return [("any", ""), *((name, name) for name in actions)]
