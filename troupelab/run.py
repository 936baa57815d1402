"""A run: the one handle that ties world, model, limits, engine and recorder together.

Every method may be called from any thread. The engine works on a daemon thread with an event loop of its own, so that `start`
returns at once and nothing here blocks a notebook's cell but `wait`.
"""

from __future__ import annotations

import asyncio
import html
import logging
import math
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from troupelab import _platform
from troupelab._collector import collecting_less
from troupelab.engine.assembly import assemble
from troupelab.engine.engine import State
from troupelab.engine.options import Options
from troupelab.engine.schedule import Efficiency, played_efficiency
from troupelab.errors import RunError, StoreError
from troupelab.events import Failed
from troupelab.limits import Limits
from troupelab.livelimits import LiveLimits
from troupelab.models.cache import ReplyCache
from troupelab.models.model import Model
from troupelab.models.scripted import ScriptedModel
from troupelab.people.world import World
from troupelab.registry import Registry
from troupelab.results import Progress, progress, rss_curve, summarise, transcript
from troupelab.telemetry.frames import Frames
from troupelab.telemetry.recorder import Recorder
from troupelab.text.embed import Embedder
from troupelab.text.wordllama import default_embedder

if TYPE_CHECKING:
    import pandas as pd

    from troupelab.store import Store

__all__ = ["Progress", "Run", "runs"]

_log = logging.getLogger("troupelab")
_live: Registry[Run] = Registry(lambda run: run.stop(now=True), lambda run, timeout_s: run.wait(timeout_s))
_ENDED = frozenset({"done", "stopped", "failed"})
_START_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 0.02


class Run:
    """A simulation that can be started, watched, changed and stopped.

    Args:
        world: what is played, or the name of a world that ships with the package.
        model: what the agents think with; None for `ScriptedModel(seed)`, which needs no key and no network.
        limits: the limits to begin with; `run.limits.update(…)` changes them at any time.
        steps: how many steps to play; None for as many as the world's file suggests.
        seed: of every draw that the run makes.
        folder: where memories are kept, in one SQLite file; None keeps what leaves RAM in a temporary file.
        embedder: finds the notes that fit a situation, and what says the same in other words: "best" takes the best one that is
            installed, None does without (the newest notes are shown instead).
        consolidate: what is made of old records: notes that are "extracted" from them or written by the "model" (a call more, now
            and then), or none ("off": they are archived only).
        cache: where replies are kept beyond the run: a file, or a ReplyCache that is open; None for `replies.sqlite` in the
            folder, where there is one; False for none.
        pack_acts: whether acts that come together, as those of a step do, go out as one call with a reply for each: fewer requests, but
            one long reply, less from a provider's prefix cache, and replies that may colour each other.
        warm_up: whether what all prompts begin with is sent once before the first step, for a provider that caches prompts.
        share_identical: whether agents that ask the very same thing share one sampled reply.
        max_rows: how many events of each kind are kept for frames and panels.

    >>> run = Run("product_launch", ScriptedModel(seed=7, latency_s=0.0), steps=2, seed=7)
    >>> run.start().wait(timeout=60).state
    'done'
    >>> list(run.transcript().columns)
    ['step', 'agent', 'action', 'target', 'content']
    """

    def __init__(
        self,
        world: World | str,
        model: Model | None = None,
        *,
        limits: Limits | None = None,
        steps: int | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        embedder: Embedder | Literal["best"] | None = "best",
        consolidate: Literal["extracted", "model", "off"] = "extracted",
        cache: str | Path | ReplyCache | Literal[False] | None = None,
        pack_acts: bool = False,
        warm_up: bool = False,
        share_identical: bool = False,
        max_rows: int = 262_144,
    ) -> None:
        self.world = World.load(world) if isinstance(world, str) else world
        self.model: Model = ScriptedModel(seed) if model is None else model
        self.seed = seed
        self.limits = LiveLimits(limits, agents=self.world.agent_names)
        self.recorder = Recorder(max_rows=max_rows)
        self.frames = Frames(self.recorder, self.world.agent_names)
        self.steps = self.world.steps if steps is None else steps
        if not isinstance(self.steps, int) or self.steps < 1:
            raise RunError(f"steps must be a whole number from 1, not {steps!r}")
        self.error: BaseException | None = None
        self._began = time.monotonic()
        self._ended_s: float | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._end = threading.Event()
        if consolidate not in ("extracted", "model", "off"):
            raise RunError(f"consolidate must be 'extracted', 'model' or 'off', not {consolidate!r}")
        self.folder = None if folder is None else Path(folder)
        self._store = None if self.folder is None else _new_store(self.folder / "run.sqlite")
        self._cache = self.folder / "replies.sqlite" if cache is None and self.folder is not None else cache
        self._engine = assemble(
            self.world,
            self.model,
            self.limits,
            Options(consolidate == "model", pack_acts, warm_up),
            steps=self.steps,
            seed=seed,
            store=self._opened,
            embedder=default_embedder() if embedder == "best" else embedder,
            notes=consolidate != "off",
            share_identical=share_identical,
            emit=self.recorder.emit,
            clock=self.now_s,
            live_clock=lambda: time.monotonic() - self._began,
        )
        self._stage = self._engine.stage

    def _opened(self) -> Store:
        """The run's store; without a folder, a temporary one is made when something is first put away."""
        self._store = self._store or _new_store(None)
        return self._store

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
        return self._engine.state

    @property
    def paused_for(self) -> str:
        """Why the run is paused, as far as it is: who asked for it, or which limit was reached."""
        return self._engine.paused_for if self.state == "paused" else ""

    @property
    def in_flight(self) -> int:
        """How many acts are at the model now."""
        return self._engine.pipeline.sender.limiter.in_flight

    @property
    def queued(self) -> int:
        """How many acts wait for a free slot."""
        return self._engine.pipeline.sender.limiter.queued

    def now_s(self) -> float:
        """Seconds since the start, on the clock of the events' `at_s`; stands still once the run has ended."""
        if self._thread is None:
            return 0.0
        return time.monotonic() - self._began if self._ended_s is None else self._ended_s

    def progress(self) -> Progress:
        """How far the run is, and about how long it will still take."""
        engine, ended = self._engine, self.state in _ENDED
        return progress(
            engine.step_started,
            self.steps,
            engine.acts_done,
            len(self.agent_names),
            self.now_s(),
            engine.held_s,
            ended=ended,
        )

    def __repr__(self) -> str:
        done = self.progress()
        return f"<Run {self.name}: {self.state}, {len(self.agent_names)} agents, step {done.step + 1} of {done.steps}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    # ------------------------------------------------------------------ controls

    def start(self, *, paused: bool = False) -> Run:
        """Start the engine's thread and return at once.

        Args:
            paused: begin paused, to go on with `step` or `resume`.

        Raises:
            RunError: it was started before.
        """
        with self._starting:
            if self._thread is not None:
                raise RunError("a run can be started once; make another Run to play again")
            self._engine.pipeline.open_cache(self._cache)
            self._thread = threading.Thread(
                target=self._play, args=(paused, started := Future[None]()), name="troupelab", daemon=True
            )
            self._began = time.monotonic()
        _live.add(self)
        self._thread.start()
        started.result(_START_TIMEOUT_S)
        return self

    def _play(self, paused: bool, started: Future[None]) -> None:
        try:
            with collecting_less():
                asyncio.run(self._engine.play(started, paused=paused))
            self._keep_memories()
        except BaseException as error:
            self.error = error
            _log.error("the run of %s failed: %s", self.name, type(error).__name__, exc_info=error)
            if not started.done():
                started.set_exception(error)
        finally:
            self._ended_s = time.monotonic() - self._began
            self._engine.pipeline.close_cache()
            _live.discard(self)
            self._end.set()

    def _keep_memories(self) -> None:
        """Put all memories into the folder and close its store; a temporary store stays open as long as the run is held."""
        try:
            for agent in self._stage.agents if self.folder else ():
                agent.memory.save()
            self._stage.pool.shelf.flush()
            if self.folder:
                self._opened().close()
        except StoreError as error:
            message = f"memories were not kept: {error}"
            self.recorder.emit(Failed(self.now_s(), self._engine.step_started, -1, type(error).__name__, message, 0))
            raise

    def pause(self) -> None:
        """Let no act begin any more; those under way finish.

        Raises:
            RunError: the run is not running.
        """
        self._engine.pause()

    def resume(self) -> None:
        """Go on after a pause.

        Raises:
            RunError: the run is not paused.
        """
        self._engine.resume()

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

    def wait(self, timeout: float | None = None, *, until: Literal["ended", "paused"] = "ended") -> Run:
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

    def __await__(self) -> Generator[Any, None, Run]:
        """Start it where it was not started, and wait for its end without blocking the caller's event loop."""
        if self._thread is None:
            self.start()
        return asyncio.to_thread(self.wait).__await__()

    def ask(self, agent: str, question: str, *, remember: bool = False, timeout_s: float | None = 300.0) -> str:
        """Interview an agent, as it is between two acts: before the run, while it runs or is paused, and after it.

        Args:
            agent: the agent's name.
            question: what to ask; nobody else hears it.
            remember: whether the agent remembers question and answer, from its next act on.
            timeout_s: how long to wait for the answer.

        Returns:
            The answer, in the agent's words.

        Raises:
            RunError: there is no such agent, or the run has ended and the answer was to be remembered.
            ModelError: the model did not answer.
            TimeoutError: it did not within `timeout_s`.
        """
        if agent not in self.agent_names:
            raise RunError(f"there is no agent {agent!r}; the agents are {', '.join(self.agent_names)}")
        if remember and self.state in _ENDED:
            raise RunError("the run has ended: nothing is remembered any more")
        asked = self._stage.agents[self.agent_names.index(agent)]
        engine = self._engine
        answer = engine.handover.submit(
            lambda: engine.interviewer.ask(asked, question, remember=remember), engine.pipeline.sender.release
        )
        try:
            return answer.result(timeout_s)
        except FutureTimeoutError:
            answer.cancel()
            raise TimeoutError(f"{agent} did not answer within {timeout_s:g} s") from None

    # ------------------------------------------------------------------ what came of it

    def transcript(self) -> pd.DataFrame:
        """Everything that was done, in the order of steps, agents and actions; DONE is left out."""
        return transcript(self.frames)

    def efficiency(self) -> Efficiency:
        """Compare the finished steps with the same calls played without any overhead."""
        read = self.recorder.read
        return played_efficiency(read("steps").columns, read("acts").columns, read("calls").columns)

    def summary(self) -> dict[str, object]:
        """The run in numbers: what a table at its end shows."""
        efficiency = self.efficiency()
        return {
            "world": self.name, "model": self.model.name, "seed": self.seed, "state": self.state,
            **summarise(self.recorder, self._stage, steps=self._engine.steps_done),
            "wall_s": round(self.now_s(), 4),
            "efficiency": round(efficiency.value, 4),
            "bound_s": round(efficiency.bound_s, 4),
            "peak_rss_mb": round(_platform.peak_rss_bytes() / 1e6, 1),
            "rss_mb": rss_curve(self.recorder),
            "transcript_sha256": self.recorder.transcript_sha256(),
        }  # fmt: skip


def _new_store(file: Path | None) -> Store:
    from troupelab.store import Store

    if file is not None and file.exists():
        raise RunError(f"{file} holds a run already; choose another folder")
    return Store.temporary() if file is None else Store.open(file)


def runs() -> list[Run]:
    """The runs that have been started and have not ended.

    >>> runs()
    []
    """
    return list(_live)
