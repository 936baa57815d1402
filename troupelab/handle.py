"""What one does with a run that is there: look how it stands, start, pause, step and stop it, tell it something, ask its agents.

Every method may be called from any thread. The engine works on a daemon thread with an event loop of its own, so that `start`
returns at once and nothing here blocks a notebook's cell but `wait`.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import logging
import math
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from troupelab._collector import collecting_less
from troupelab.as_code import Parent
from troupelab.engine.clock import Clock
from troupelab.engine.engine import Engine
from troupelab.engine.nest import new_loop
from troupelab.engine.options import Options
from troupelab.engine.standing import ENDED, State
from troupelab.errors import InputError, RunError, StoreError
from troupelab.events import Failed
from troupelab.folder import RunFile
from troupelab.livelimits import LiveLimits
from troupelab.models.cache import ReplyCache
from troupelab.models.model import Model
from troupelab.people.acts import CONVERSATION
from troupelab.people.probes import Probe
from troupelab.people.world import World
from troupelab.registry import Registry
from troupelab.results import Progress, progress
from troupelab.telemetry.journal import Header
from troupelab.telemetry.recorder import Recorder
from troupelab.text.embed import Embedder

if TYPE_CHECKING:
    pass

__all__ = ["Handle"]

_log = logging.getLogger("troupelab")
LIVE: Registry[Handle] = Registry(lambda run: run.stop(now=True), lambda run, timeout_s: run.wait(timeout_s))
_START_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 0.02


class Handle:
    """A run's controls; `Run` makes one, and shows what came of it."""

    world: World
    model: Model
    seed: int
    limits: LiveLimits
    recorder: Recorder
    steps: int
    folder: Path | None
    _engine: Engine
    _embedder: Embedder | None
    _options: Options
    _nest: bool
    _clock: Clock
    _file: RunFile
    _cache: str | Path | ReplyCache | Literal[False] | None
    _cache_parent: Path | None
    forked_at: int

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._parent: Parent | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._end = threading.Event()

    # ------------------------------------------------------------------ what it is and where it stands

    @property
    def name(self) -> str:
        """The world's name, to call the run by."""
        return self.world.name

    @property
    def agent_names(self) -> tuple[str, ...]:
        """The agents' names, by index."""
        return self.world.agent_names

    @property
    def state(self) -> State:
        """`ready`, `running`, `paused`, `stopping`, and at the end `done`, `stopped` or `failed`."""
        return self._engine.standing.state

    @property
    def paused_for(self) -> str:
        """Why the run is paused, as far as it is: who asked for it, or which limit was reached."""
        return self._engine.standing.paused_for if self.state == "paused" else ""

    @property
    def in_flight(self) -> int:
        """How many acts are at the model now."""
        return self._engine.pipeline.sender.limiter.in_flight

    @property
    def queued(self) -> int:
        """How many acts wait for a free slot."""
        return self._engine.pipeline.sender.limiter.queued

    @property
    def header(self) -> Header:
        """What it is, as its file says: world, seed, limits at the beginning, model, embedder, and the run that it left."""
        return self._file.header

    def now_s(self) -> float:
        """Seconds since the start, on the clock of the events' `at_s`; stands still once the run has ended."""
        return self._clock.now()

    def progress(self) -> Progress:
        """How far the run is, and about how long it will still take."""
        engine, ended = self._engine, self.state in ENDED
        return progress(
            engine.standing.step,
            self.steps,
            engine.acts_done,
            len(self.agent_names),
            self.now_s(),
            engine.standing.held_s,
            ended=ended,
        )

    def __repr__(self) -> str:
        done = self.progress()
        return f"<Run {self.name}: {self.state}, {len(self.agent_names)} agents, step {done.step + 1} of {done.steps}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    # ------------------------------------------------------------------ controls

    def start(self, *, paused: bool = False) -> Self:
        """Start the engine's thread and return at once.

        Args:
            paused: begin paused, to go on with `step` or `resume`.

        Raises:
            RunError: it was started before.
            StoreError: there is no room for its store, or it cannot be written.
        """
        with self._starting:
            if self._thread is not None:
                raise RunError("a run can be started once; make another Run to play again, or fork this one")
            self._file.begin()
            self._engine.pipeline.open_cache(self._cache, parent=self._cache_parent)
            self._thread = threading.Thread(
                target=self._play, args=(paused, started := Future[None]()), name="troupelab", daemon=True
            )
            self._clock.start(self._file.from_s)
        LIVE.add(self)
        self._thread.start()
        started.result(_START_TIMEOUT_S)
        return self

    def _play(self, paused: bool, started: Future[None]) -> None:
        try:
            # A Runner, since asyncio.run may be nest_asyncio's by now, which leaves its loop open.
            with collecting_less(), asyncio.Runner(loop_factory=new_loop if self._nest else None) as runner:
                runner.run(self._engine.play(started, paused=paused, nest=self._nest))
            self._keep_memories()
        except BaseException as error:
            self.error = error
            _log.error("the run of %s failed: %s", self.name, type(error).__name__, exc_info=error)
            if not started.done():
                if self.state == "ready":
                    self._engine.standing.enter("failed", f"{type(error).__name__}: {error}")
                started.set_exception(error)
            with contextlib.suppress(StoreError):  # the failure is told already; what had been committed is in the file
                self._file.close()
        finally:
            self._clock.end()
            self._engine.pipeline.close_cache()
            LIVE.discard(self)
            self._end.set()

    def _keep_memories(self) -> None:
        """Put all memories into the folder and close its store; a temporary store stays open as long as the run is held."""
        try:
            for agent in self._engine.stage.agents if self.folder else ():
                agent.memory.save()
            self._engine.stage.pool.shelf.flush()
            self._file.close()
        except StoreError as error:
            self._tell_not_kept(error)
            raise

    def _tell_not_kept(self, error: StoreError) -> None:
        message = f"memories were not kept: {error}"
        self.recorder.emit(Failed(self.now_s(), self._engine.standing.step, -1, type(error).__name__, message, 0))

    def pause(self) -> None:
        """Let no act begin any more; those under way finish.

        Raises:
            RunError: the run is not running.
        """
        self._engine.pause()

    def step(self, n: int = 1) -> None:
        """Play `n` steps and pause again; a run that was not started is started for it.

        Raises:
            RunError: the run is neither ready nor paused, or `n` is less than 1.
        """
        if n < 1:
            raise RunError(f"step needs at least 1 step, not {n}")
        if self.state == "ready" and self._thread is None:
            self.start(paused=True)
        self._engine.step(n)

    def stop(self, *, now: bool = False) -> None:
        """End the run; what was recorded stays readable.

        Args:
            now: cancel the calls in flight and discard their acts, instead of letting them finish.

        Raises:
            RunError: the run was not started or has ended.
        """
        self._engine.stop(now=now)

    def wait(self, timeout: float | None = None, *, until: Literal["ended", "paused"] = "ended") -> Self:
        """Wait until the run has ended, or also no longer than until it is paused.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.
            until: `paused` returns at a pause as well, and not at one that a changed limit has just ended.

        Raises:
            TimeoutError: it had not come to that by then; the message says how it stands.
            RunError: it was never started, or it failed.
        """
        if self._thread is None:
            raise RunError("the run was not started: call start() first")
        if until == "paused":
            self._engine.handover.do(lambda: None)  # what was changed before this is accepted now
            deadline = math.inf if timeout is None else time.monotonic() + timeout
            while self.state != "paused" and time.monotonic() < deadline and not self._end.wait(_LOOK_EVERY_S):
                pass
            if self.state == "paused":
                return self
            timeout = 0.0 if timeout is not None else None
        if not self._end.wait(timeout):
            stands = f"it is paused ({self.paused_for})" if self.state == "paused" else "it goes on"
            raise TimeoutError(f"the run had not ended in time; {stands}")
        if self.error is not None:
            raise RunError(f"the run failed: {self.error}") from self.error
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Start it where it was not started, and wait for its end without blocking the caller's event loop."""
        if self._thread is None:
            self.start()
        return asyncio.to_thread(self.wait).__await__()

    def tell(
        self, text: str, *, to: str | Sequence[str] | None = None, source: str = "", kind: str = CONVERSATION
    ) -> int:
        """Let agents hear something, in the first step that nobody has started.

        Args:
            text: what they hear.
            to: an agent's name, or several; None for all.
            source: who says it; empty for the world.
            kind: TinyTroupe's type of stimulus.

        Returns:
            The step in which they hear it.

        Raises:
            RunError: there is no such agent, or the run is neither running nor paused.

        >>> from troupelab.run import Run
        >>> run = Run("product_launch", steps=1, seed=7).start(paused=True)
        >>> run.tell("The price has doubled.", source="A customer")
        0
        >>> run.stop()
        """
        names = self.agent_names if to is None else (to,) if isinstance(to, str) else tuple(to)
        unknown = [name for name in names if name not in self.agent_names]
        if unknown:
            raise RunError(f"there is no agent {unknown[0]!r}; the agents are {', '.join(self.agent_names)}")
        if not isinstance(text, str) or not text:
            raise RunError("tell needs a text that is not empty")
        clean = [each.encode("utf-8", "replace").decode() for each in (kind, source, text)]
        return self._engine.tell(clean[0], clean[1], clean[2], sorted({*map(self.agent_names.index, names)}))

    def plant(self, probe: Probe) -> Probe:
        """Tell agents a fact, in the first step that nobody has started, and ask their memories about it from then on.

        What is found of it comes as rows of `run.frames.probes`. Its steps are not heeded: it is told now, and so is its neighbour.

        Returns:
            The probe, with the step in which it is heard.

        Raises:
            InputError: there is no agent of a number in its `to`.
            RunError: the run is neither running nor paused, or its last step has begun.

        >>> from troupelab.people.probes import Probe
        >>> from troupelab.run import Run
        >>> run = Run("product_launch", steps=1, seed=7).start(paused=True)
        >>> run.plant(Probe("key", "The key is under the third stone.", "How does one get in?")).step
        0
        >>> run.stop()
        """
        if any(not 0 <= each < len(self.agent_names) for each in probe.to or ()):
            raise InputError(
                "probe", "to", f"numbers of agents from 0 to {len(self.agent_names) - 1}", found=str(probe.to)
            )
        return self._engine.plant(probe)
