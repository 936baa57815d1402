"""What a dashboard needs of whatever it shows: a run, an accelerated TinyTroupe notebook, or a recording that is played back.

All of these may be asked from any thread. A dashboard reads the recorder and nothing else of what happened; what it may do to a run (start,
pause, change a limit) it asks of that run by name, and shows as a sentence where it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from troupelab.livelimits import LiveLimits
from troupelab.results import Progress
from troupelab.telemetry.recorder import Batch

__all__ = ["News", "Readable", "Shown"]

News: TypeAlias = Mapping[str, Batch]
"""The new rows of each family of events that has any."""


class Readable(Protocol):
    """Events in columns, read through a cursor: a `Recorder`, or the part of one that lies before some time."""

    def read(self, family: str, since: int = 0) -> Batch:
        """Rows of a family from row number `since` on."""
        ...

    def count(self, family: str) -> int:
        """How many rows a family ever had."""
        ...

    def lost(self, family: str) -> int:
        """How many of a family's oldest rows cannot be read any more."""
        ...


class Shown(Protocol):
    """A run, as far as a dashboard needs it."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def agent_names(self) -> tuple[str, ...]:
        """The agents' names, by index."""
        ...

    @property
    def steps(self) -> int:
        """How many steps it has in all."""
        ...

    @property
    def state(self) -> str:
        """`ready`, `running`, `paused` and so on."""
        ...

    @property
    def forked_at(self) -> int:
        """The step at which it left another run's past; -1 where it did not."""
        ...

    @property
    def limits(self) -> LiveLimits:
        """What it may use, now."""
        ...

    @property
    def recorder(self) -> Readable:
        """What happened."""
        ...

    @property
    def in_flight(self) -> int:
        """How many calls are at the model."""
        ...

    @property
    def queued(self) -> int:
        """How many wait for a slot."""
        ...

    def now_s(self) -> float:
        """Seconds since its start, on the clock of the events."""
        ...

    def progress(self) -> Progress:
        """How far it is."""
        ...
