"""The keeper: has what happens written to the run's journal, soon and in whole acts, and remembers what a resumed run must know of it.

It lives on the engine's event loop; the store's own thread writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from troupelab.engine.handover import Handover
from troupelab.engine.parts import Parts
from troupelab.engine.past import Past
from troupelab.livelimits import LimitChange
from troupelab.telemetry.journal import AsideRow, Journal, LimitRow

if TYPE_CHECKING:
    from troupelab.store import Store

__all__ = ["FLUSH_EVERY_S", "Keeper"]

FLUSH_EVERY_S = 0.025
"""What happens within so much is written together: a crash costs no more of the acts that were over."""


class Keeper:
    """Keeps a run's journal.

    Args:
        parts: the run's.
        store: opens the run's store.
        alert: is told a kind and a sentence where something needs the user's eye.
    """

    def __init__(self, parts: Parts, store: Callable[[], Store], *, alert: Callable[[str, str], object]) -> None:
        self._parts = parts
        self._open_store = store
        self._alert = alert
        self._store: Store | None = None
        self._journal: Journal | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unconfirmed = (0, -1)  # a ticket, and where the newest reply stood when it was given
        self._position = -1
        self.told: Counter[int] = Counter()
        """How much the run was told for each step."""
        self.called: Counter[int] = Counter()
        """How often each intervention was called."""
        self.by_hand = 0
        """How often a user had the run told or asked something that it remembers."""
        self.by = "user"
        """Who tells the run something now: a user, or an intervention by its name."""

    def open(self, past: Past | None) -> None:
        """Begin to keep rows, after those of the past.

        Raises:
            StoreError: the store cannot be used.
        """
        self._store = self._open_store()
        limits, teller = self._parts.limits, self._parts.teller
        teller.journal = self._journal = Journal(
            self._store,
            max_bytes=lambda: limits.journal_max_bytes,
            on_rows=self._flush_soon,
            on_full=lambda sentence: self._alert("journal_max_bytes", sentence),
            clock=self._parts.clock.now,
        )
        if past is not None:
            self.told, self.called, self.by_hand = past.told, past.called, past.by_hand
        for agent in self._parts.stage.agents:
            for aside in agent.asides:  # of interviews before the start
                teller.note(AsideRow(agent.index, *aside))

    def close(self) -> None:
        """Write what is left; what happens from now on, such as an interview, is no part of the run."""
        self.flush()
        self._parts.teller.journal = None

    def note_limits(self, change: LimitChange, from_step: int) -> None:
        """Keep a change of limits."""
        agents = None if change.agents is None else list(change.agents)
        self._parts.teller.note(LimitRow(from_step, dict(change.new), agents, change.note, change.by))

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Write nothing until the with-block has ended: what happens in it is kept as a whole or not at all."""
        journal = self._journal
        assert journal is not None
        journal.hold(True)
        try:
            yield
        finally:
            journal.hold(False)

    @property
    def is_open(self) -> bool:
        """Whether rows were ever kept here. Any thread."""
        return self._journal is not None

    @contextlib.contextmanager
    def reading(self, handover: Handover) -> Iterator[Store]:
        """The store with all that has happened so far in it, whose rows another thread may read now. Any thread."""
        journal, store = self._journal, self._store
        assert journal is not None
        assert store is not None
        journal.pin(True)
        try:
            handover.do(self.flush)
            store.flush()
            yield store
        finally:
            journal.pin(False)

    def _flush_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_EVERY_S, self.flush)

    def flush(self) -> None:
        """Hand over what there is now; and let replies go whose acts have been written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        journal, cache, store = self._journal, self._parts.pipeline.cache, self._store
        ticket = 0 if journal is None else journal.flush()
        if cache is None or store is None or not ticket:
            return
        confirmed, position = self._unconfirmed
        if store.committed >= confirmed:
            if position >= 0:
                cache.mark(position)
            # Acts in this batch had their replies before it; those of acts under way may be as old as the last one.
            self._unconfirmed = ticket, self._position
        self._position = cache.position
