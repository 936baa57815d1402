"""What the parts of a playing run have in common: the stage, the way to the model, limits, clock, and who is told what happens."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from troupelab.engine.clock import Clock
from troupelab.engine.options import Options
from troupelab.events import Emit, Event
from troupelab.livelimits import LiveLimits
from troupelab.models.pipeline import Pipeline
from troupelab.people.stage import Stage
from troupelab.telemetry.journal import EventRow, Journal, Row

__all__ = ["Parts", "Teller"]


class Teller:
    """Tells what happens: to whoever records it, and to the journal where it follows from nothing else. For the loop's thread.

    Args:
        emit: records events.

    >>> told: list[Event] = []
    >>> from troupelab.events import RunChanged
    >>> Teller(told.append).tell(RunChanged(0.0, -1, "running", ""))
    >>> told[0].state
    'running'
    """

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.journal: Journal | None = None
        """Where rows go, once there is one."""

    def tell(self, event: Event) -> None:
        """Record an event that follows from nothing else."""
        self.emit(event)
        if self.journal is not None:
            self.journal.append(EventRow(event.family, msgspec.structs.astuple(event)))

    def note(self, row: Row) -> None:
        """Keep a row in the journal; what follows from it is emitted besides."""
        if self.journal is not None:
            self.journal.append(row)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one run; `seed` is that of every draw."""

    stage: Stage
    pipeline: Pipeline
    limits: LiveLimits
    options: Options
    seed: int
    clock: Clock
    teller: Teller
