"""The first door: TinyTroupe's own code, as its user wrote it, on one pooled client, with bounded memories and greenlets in place of threads.

An `Acceleration` is open from `start` to `stop`. Meanwhile every person and world of the process is its own, but for those that a run has
adopted. It owns the loop's thread, and everything on it. Any thread may call its methods.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from troupelab.bridges.tinytroupe.client import CACHE_SUFFIX
from troupelab.bridges.tinytroupe.hub import Hub
from troupelab.bridges.tinytroupe.model import model_of
from troupelab.bridges.tinytroupe.patches import installed
from troupelab.bridges.tinytroupe.seams import find
from troupelab.bridges.tinytroupe.troupe import ROSTER, Troupe
from troupelab.engine.clock import Clock
from troupelab.engine.standing import Standing, State
from troupelab.engine.watch import watch_process
from troupelab.errors import BridgeError, RunError
from troupelab.folder import new_store
from troupelab.limits import FIELDS, Limits, Number
from troupelab.livelimits import LimitChange, LiveLimits
from troupelab.memory.pool import Pool
from troupelab.models.cache import ReplyCache
from troupelab.models.model import Model
from troupelab.models.pipeline import Pipeline
from troupelab.results import Progress, transcript
from troupelab.telemetry.frames import Frames
from troupelab.telemetry.recorder import Recorder
from troupelab.text.embed import Embedder
from troupelab.text.wordllama import default_embedder

if TYPE_CHECKING:
    import pandas as pd

    from troupelab.store import Store

__all__ = ["Acceleration", "accelerate", "bridge_limits"]

_AT_ONCE = 100


def bridge_limits(config: Any, given: dict[str, Number]) -> Limits:
    """The limits of a bridge: those given, and else TinyTroupe's time-out, room for a hundred calls at once, and no merging of records."""
    usual: dict[str, Number] = {"max_concurrency": _AT_ONCE, "dedup_similarity": None}
    timeout_s = config.get("timeout")
    if isinstance(timeout_s, int | float) and FIELDS["timeout_s"].low <= timeout_s <= FIELDS["timeout_s"].high:
        usual["timeout_s"] = float(timeout_s)
    return Limits().replace(**{**usual, **given})


def _usual_cache(config: Any) -> str | None:
    """Where replies are kept when TinyTroupe's own cache is on: beside that one's file."""
    return f"{config.get('cache_file_name')}{CACHE_SUFFIX}" if config.get("cache_api_calls") else None


class Acceleration:
    """TinyTroupe on this engine, for as long as it is open; `accelerate` makes one.

    `limits` may be changed at any time; `frames`, `transcript()`, `recorder` and `tl.Dashboard(…)` show what goes on.
    """

    def __init__(
        self,
        *,
        model: Model | None,
        cache: str | Path | ReplyCache | Literal[False] | None,
        seed: int,
        embedder: Embedder | Literal["best"] | None,
        limits: dict[str, Number],
    ) -> None:
        self._tt = find()
        self.seed = seed
        self.model: Model = model_of(self._tt) if model is None else model
        self.limits = LiveLimits(bridge_limits(self._tt.config, limits))
        self.recorder = Recorder()
        self.forked_at = -1
        self._cache = _usual_cache(self._tt.config) if cache is None else cache
        self._clock = Clock()
        self._embedder = default_embedder() if embedder == "best" else embedder
        self._hub = Hub()
        self._store: Store | None = None
        self._pipeline = Pipeline(self.model, self.limits, emit=self.recorder.emit, clock=self._clock.live, seed=seed)
        self._pool = Pool(
            self._open_store, scratch=lambda: self._open_store().path.parent / "scratch", embedder=self._embedder,
            notes=False, emit=self.recorder.emit, clock=self._clock.now,
        )  # fmt: skip
        self._troupe = Troupe(
            self._tt, hub=self._hub, pipeline=self._pipeline, pool=self._pool, limits=self.limits, emit=self.recorder.emit,
            keep=self.recorder.emit, clock=self._clock.live, seed=seed,
        )  # fmt: skip
        self._standing = Standing(self._pipeline.sender.limiter, self.recorder.emit, self._clock, held_s=0.0, step=-1)
        self._open = contextlib.ExitStack()

    def _open_store(self) -> Store:
        if self._store is None:
            self._store = new_store(None)
        return self._store

    # ------------------------------------------------------------------ open and closed

    def start(self) -> Self:
        """Open it; `stop` closes it again.

        Raises:
            BridgeError: it was open before.
            StoreError: the cache's file cannot be used.
        """
        if self._standing.state != "ready":
            raise BridgeError("an acceleration is opened once: call accelerate() again")
        with contextlib.ExitStack() as opened:
            self._pipeline.open_cache(self._cache)
            opened.callback(self._pipeline.close_cache)
            opened.callback(self._close_store)
            opened.enter_context(self._hub.thread())
            opened.enter_context(self._playing())
            opened.enter_context(installed(self._troupe, for_everybody=True))
            opened.callback(self._troupe.release_all)
            for person in list(self._tt.person.TinyPerson.all_agents.values()):
                if person not in ROSTER:
                    self._troupe.enlist(person)
            self._open = opened.pop_all()
        return self

    def stop(self) -> None:
        """Close it: everything in TinyTroupe is as it was, and the persons have its own memories, with all in them."""
        self._open.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._hub.is_open:
            self._hub.do(self._hub.cancel)  # whoever leaves by an error does not wait for notes that are being written
        self._open.__exit__(kind, error, traceback)

    @contextlib.contextmanager
    def _playing(self) -> Iterator[None]:
        """The loop's side of it: limits are followed, and the process is watched."""
        self._clock.start()
        watching = self._hub.do(self._begin)
        try:
            yield
        finally:
            self._hub.wait(lambda: self._end(watching))
            self._clock.end()

    def _begin(self) -> asyncio.Task[None]:
        sender, standing = self._pipeline.sender, self._standing
        sender.on_halt = sender.budget.on_reached = standing.halt
        self._pipeline.follow_limits()
        self.limits.bind(lambda change: self._hub.do(lambda: self._accept(change)))
        standing.go.set()
        standing.enter("running", "")
        return asyncio.ensure_future(
            watch_process(
                self.limits, sender.limiter, self._pool, emit=self.recorder.emit, clock=self._clock.now,
                active_s=lambda: self._clock.now() - standing.held_s, reached=standing.halt, look=lambda: None,
            )
        )  # fmt: skip

    async def _end(self, watching: asyncio.Task[None]) -> None:
        self.limits.bind(None)
        self._standing.release()
        await self._hub.drain()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await self._pipeline.drain()
        self._standing.enter("done", "")

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()

    def _accept(self, change: LimitChange) -> None:
        """Accept a change: memory limits hold from the next step on, the others now."""
        step, next_step = self._troupe.step, self._troupe.step + 1
        self.limits.settle(next_step)
        self._pipeline.follow_limits()
        for event in change.accepted(self._clock.now(), step, next_step):
            self.recorder.emit(event)
        if self._standing.state == "paused" and self._standing.held_by in change.new:
            self._standing.resume()

    # ------------------------------------------------------------------ what a dashboard looks at

    @property
    def name(self) -> str:
        """What it is called."""
        return "TinyTroupe"

    @property
    def agent_names(self) -> tuple[str, ...]:
        """All persons that there were since it was opened, by index."""
        return tuple(self._troupe.names)

    @property
    def steps(self) -> int:
        """How many steps have been begun; how many there will be is the user's code to know."""
        return max(1, self._troupe.step)

    @property
    def state(self) -> State:
        """`ready`, `running`, `paused`, and once it is closed `done`."""
        return self._standing.state

    @property
    def in_flight(self) -> int:
        """How many calls are at the model now."""
        return self._pipeline.sender.limiter.in_flight

    @property
    def queued(self) -> int:
        """How many calls wait for a free slot."""
        return self._pipeline.sender.limiter.queued

    @property
    def frames(self) -> Frames:
        """What was recorded, as pandas frames."""
        return Frames(self.recorder, self.agent_names)

    def now_s(self) -> float:
        """Seconds since it was opened."""
        return self._clock.now()

    def progress(self) -> Progress:
        """How far it has come; how long it will take nobody knows."""
        step, acts = self._troupe.step, self.recorder.count("acts")
        return Progress(step - 1, self.steps, acts, max(acts, 1), self.now_s(), None)

    def transcript(self) -> pd.DataFrame:
        """Everything that was done since it was opened, in the order of steps, agents and actions; DONE is left out."""
        return transcript(self.frames)

    def pause(self) -> None:
        """Let no call begin any more: whatever asks the model waits until `resume`."""
        self._hub.do(lambda: self._standing.pause("asked to") if self.state == "running" else None)

    def resume(self) -> None:
        """Go on after a pause."""
        self._hub.do(lambda: self._standing.resume() if self.state == "paused" else None)

    def step(self, n: int = 1) -> None:
        """Refuse: the steps are the user's code's.

        Raises:
            RunError: always.
        """
        raise RunError("the steps are those of the code that runs: adopt(world) makes a run that can be stepped")

    def fork(self, *args: object, **kwargs: object) -> Self:
        """Refuse: there is no past to begin from.

        Raises:
            RunError: always.
        """
        raise RunError("an acceleration cannot be forked: it plays whatever code is run")

    def __repr__(self) -> str:
        return f"<Acceleration of TinyTroupe: {self.state}, {len(self.agent_names)} persons, {self._troupe.step} steps>"


def accelerate(
    *,
    model: Model | None = None,
    cache: str | Path | ReplyCache | Literal[False] | None = None,
    seed: int = 0,
    embedder: Embedder | Literal["best"] | None = "best",
    **limits: Number,
) -> Acceleration:
    """Run TinyTroupe's own code on this engine, within a with-block or from `start` to `stop`.

    ```python
    with tl.bridges.tinytroupe.accelerate(recent_max_records=200) as fast:
        world.run(10)
    fast.frames.calls
    ```

    Args:
        model: what the persons think with; None for the one that TinyTroupe's configuration names, at its address.
        cache: a file in which replies are kept, for the same code to be run again without paying; None for none, or where
            TinyTroupe's configuration has its cache on, for one beside that.
        seed: of every draw; another seed gets other kept replies.
        embedder: finds the notes that fit a situation; None compares words alone.
        **limits: as of `tl.Limits`; where not given, a hundred calls may be under way at once, TinyTroupe's time-out holds, and no records are
            merged.

    Raises:
        MissingPackageError: TinyTroupe, or something that it or the bridge needs, is not installed; the message says how to.
        BridgeError: it is another version than this bridge knows.
        LimitError: a limit is unknown or out of range.
    """
    return Acceleration(model=model, cache=cache, seed=seed, embedder=embedder, limits=limits)
