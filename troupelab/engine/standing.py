"""Where a run stands: running, paused (since when, and what for), stopping, over. It lives on the engine's event loop."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal, TypeAlias

from troupelab.engine.clock import Clock
from troupelab.events import Alerted, Emit, RunChanged
from troupelab.limits import FIELDS
from troupelab.models.limiter import Limiter

__all__ = ["ENDED", "Standing", "State"]

State: TypeAlias = Literal["ready", "running", "paused", "stopping", "done", "stopped", "failed"]

ENDED: frozenset[State] = frozenset({"done", "stopped", "failed"})
"""The states in which a run is over."""

_log = logging.getLogger("troupelab")


class Standing:
    """The state of a run, and who waits for it.

    Args:
        limiter: lets nobody in while the run is paused.
        tell: is told each change, and what needs the user's eye.
        clock: the run's.
        held_s: how long it was paused in an earlier life.
        step: the highest step that anyone has started then, -1 for none.
    """

    def __init__(self, limiter: Limiter, tell: Emit, clock: Clock, *, held_s: float, step: int) -> None:
        self.state: State = "ready"
        self.paused_for = ""
        """Why it was paused last."""
        self.held_by = ""
        """The limit, or the kind of trouble, that holds it now; empty where somebody asked for the pause."""
        self.step = step
        """The highest step that anyone has started."""
        self.go = asyncio.Event()
        """Set while the run is not held."""
        self._limiter = limiter
        self._tell = tell
        self._clock = clock
        self._held_s = held_s
        self._since: float | None = None

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self.state == "stopping"

    @property
    def held_s(self) -> float:
        """How long it has been paused in all, now included."""
        return self._held_s + (0.0 if self._since is None else self._clock.now() - self._since)

    def enter(self, state: State, reason: str) -> None:
        """Be in another state."""
        self.state = state
        self._tell(RunChanged(self._clock.now(), self.step, state, reason))

    def pause(self, reason: str) -> None:
        """Let nobody begin."""
        self._since = self._clock.now()
        self.go.clear()
        self._limiter.hold(True)
        self.paused_for = reason
        self.enter("paused", reason)

    def halt(self, kind: str, sentence: str) -> bool:
        """Pause for something that no call can get past, and say what; tells whether the run is held now."""
        if self.state == "running":
            self.pause(f"{kind}: {sentence}")
            self.held_by = kind
            mend = f"raise {kind} and it goes on" if kind in FIELDS else "when that is mended, run.resume() goes on"
            self.alert(kind, f"the run is paused: {sentence}; {mend}")
        return self.state == "paused"

    def resume(self) -> None:
        """Go on."""
        self.enter("running", "")
        self.release()  # last: whoever is let in may meet a guardrail at once, and pause the run again

    def release(self) -> None:
        """Hold nobody any more, whatever the state is."""
        self._held_s, self._since = self.held_s, None
        self.held_by = ""
        self.go.set()
        self._limiter.hold(False)

    def alert(self, kind: str, message: str) -> None:
        """Tell of something that needs the user's eye."""
        self._tell(Alerted(self._clock.now(), self.step, kind, message))
        _log.warning(message)
