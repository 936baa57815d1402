"""A run: the one handle that ties world, model, limits, engine and recorder together, and shows what came of it.

How it comes about is told here: fresh, out of a folder in which one was broken off (`Run.resume`), or as a fork of another. What one does with
it stands in `troupelab.handle` and `troupelab.questions`. Every method may be called from any thread.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast, overload

import msgspec

from troupelab import _platform
from troupelab.as_code import parent as parent_code
from troupelab.determinism import Determinism, determinism
from troupelab.engine.assembly import assemble
from troupelab.engine.clock import Clock
from troupelab.engine.engine import MakeActor
from troupelab.engine.interventions import Intervention
from troupelab.engine.nest import in_own_task, new_loop, refuse_without_subshells
from troupelab.engine.options import OnError, Options, OrderName
from troupelab.engine.order import MAX_LEAD
from troupelab.engine.past import Past, check_reaches, cut
from troupelab.engine.schedule import Efficiency, played_efficiency
from troupelab.engine.yardstick import played_free_efficiency
from troupelab.errors import CheckpointError, RunError
from troupelab.events import Forked
from troupelab.folder import (
    RUN_FILE,
    RunFile,
    check_past,
    make_header,
    model_of,
    new_store,
    open_store,
    read_setup,
    recipe,
)
from troupelab.handle import LIVE
from troupelab.limits import Limits, Number
from troupelab.livelimits import LiveLimits
from troupelab.models.cache import ReplyCache
from troupelab.models.model import Model
from troupelab.models.scripted import ScriptedModel
from troupelab.people.world import World
from troupelab.questions import Questions
from troupelab.results import Progress, rss_curve, summarise, transcript
from troupelab.telemetry.frames import Frames
from troupelab.telemetry.journal import CalledRow, Header, read_rows, write_past
from troupelab.telemetry.recorder import Recorder
from troupelab.text.embed import Embedder
from troupelab.text.wordllama import default_embedder

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["Progress", "Run", "runs"]


class _Resume:
    """`Run.resume(folder)` makes a run go on that was broken off; `run.resume()` goes on after a pause."""

    @overload
    def __get__(self, run: None, kind: type[Run]) -> Callable[..., Run]: ...
    @overload
    def __get__(self, run: Run, kind: type[Run]) -> Callable[[], None]: ...
    def __get__(self, run: Run | None, kind: type[Run]) -> Callable[..., Any]:
        return kind.resume_folder if run is None else run._engine.resume


class Run(Questions):
    """A simulation that can be started, watched, changed and stopped.

    Args:
        world: what is played, or the name of a world that ships with the package.
        model: what the agents think with; None for `ScriptedModel(seed)`, which needs no key and no network.
        limits: the limits to begin with; `run.limits.update(…)` changes them at any time.
        steps: how many steps to play; None for as many as the world's file suggests.
        seed: of every draw that the run makes.
        folder: where the run is kept, in one SQLite file, so that `Run.resume(folder)` can go on with it; None keeps what leaves RAM
            in a temporary file.
        order: `lockstep` has a barrier after each step; in `free` order an agent begins a step as soon as all whom it may hear have
            finished the one before. The transcript is the same, and the waiting less.
        on_error: what is done about an act that failed for good: it is `skip`ped; or asked for again, twice, and then skipped (`retry`); or
            the run pauses, and asks again when it goes on (`pause`); or ends (`raise`). Each failure is an event.
        interventions: functions to call between steps; see `Intervention`.
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
        nest: whether what runs on the engine's loop (an async model, a tool that it calls) may call `asyncio.run` itself, by nest_asyncio. It patches
            the whole process until its end, and an alert says what; `troupelab.engine.nest` tells more. Plain functions need none of it.
        ask_every: after how many of its steps an agent's memory is asked about the facts of probes; 0 for never.
        max_rows: how many events of each kind are kept for frames and panels.

    Raises:
        RunError: an argument is not among the allowed values, or `nest` is asked for in a kernel without subshells.

    >>> run = Run("product_launch", ScriptedModel(seed=7, latency_s=0.0), steps=2, seed=7)
    >>> run.start().wait(timeout=60).state
    'done'
    >>> list(run.transcript().columns)
    ['step', 'agent', 'action', 'target', 'content']
    """

    resume = _Resume()

    def __init__(
        self,
        world: World | str,
        model: Model | None = None,
        *,
        limits: Limits | None = None,
        steps: int | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        order: OrderName = "lockstep",
        on_error: OnError = "skip",
        interventions: Sequence[Intervention] = (),
        embedder: Embedder | Literal["best"] | None = "best",
        consolidate: Literal["extracted", "model", "off"] = "extracted",
        cache: str | Path | ReplyCache | Literal[False] | None = None,
        pack_acts: bool = False,
        warm_up: bool = False,
        share_identical: bool = False,
        nest: bool = False,
        ask_every: int = 5,
        max_rows: int = 262_144,
        _past: Past | None = None,
        _actor: MakeActor | None = None,
    ) -> None:
        super().__init__()
        self.world = World.load(world) if isinstance(world, str) else world
        self.model: Model = ScriptedModel(seed) if model is None else model
        self.seed = seed
        self.limits = LiveLimits(limits, agents=self.world.agent_names)
        self.recorder = Recorder(max_rows=max_rows)
        self.frames = Frames(self.recorder, self.world.agent_names)
        self.steps = self.world.steps if steps is None else steps
        if not isinstance(self.steps, int) or self.steps < 1:
            raise RunError(f"steps must be a whole number from 1, not {steps!r}")
        _among("consolidate", consolidate, ("extracted", "model", "off"))
        _among("order", order, ("lockstep", "free"))
        _among("on_error", on_error, ("retry", "skip", "pause", "raise"))
        if type(ask_every) is not int or ask_every < 0:
            raise RunError(f"ask_every must be a whole number of steps from 0, not {ask_every!r}")
        if nest:
            refuse_without_subshells()
        self._nest = nest
        self._clock = Clock()
        self.forked_at = -1 if _past is None else _past.header.forked_at
        """The step at which this run left another's past; -1 where it did not."""
        self.folder = None if folder is None else Path(folder)
        make_header = weakref.WeakMethod(self._make_header)  # whatever holds the file does not hold the run
        self._file = RunFile(self.folder, _past, lambda: cast(Callable[[], Header], make_header())())
        self._cache = self.folder / "replies.sqlite" if cache is None and self.folder is not None else cache
        self._cache_parent: Path | None = None
        self._options = Options(consolidate, pack_acts, warm_up, share_identical, order, on_error, ask_every)
        self._embedder = default_embedder() if embedder == "best" else embedder
        if _past is not None:
            _past.restore(self.limits)
        self._engine = assemble(
            self.world,
            in_own_task(self.model) if nest else self.model,
            self.limits,
            self._options,
            steps=self.steps,
            seed=seed,
            store=self._file.opened,
            embedder=self._embedder,
            interventions=interventions,
            past=_past,
            emit=self.recorder.emit,
            clock=self._clock,
            make_actor=_actor,
        )
        self._engine.player.subject = self
        self._engine.handover.new_loop = new_loop if nest else None
        self._stage = self._engine.stage

    # ------------------------------------------------------------------ going on from a folder

    @classmethod
    def resume_folder(
        cls,
        folder: str | Path,
        model: Model | None = None,
        *,
        world: World | None = None,
        steps: int | None = None,
        interventions: Sequence[Intervention] = (),
        embedder: Embedder | Literal["best"] | None = "best",
        cache: str | Path | ReplyCache | Literal[False] | None = None,
        nest: bool = False,
        max_rows: int = 262_144,
    ) -> Self:
        """Make a run that goes on where the one in a folder was broken off; what `Run.resume(folder)` does.

        Started, it lives through its past again, without any call, and each agent goes on after its own last act. What was paid for and
        is in the folder's cache of replies is not paid for again.

        Args:
            folder: of a run that is not open anywhere now; it may have ended, to be gone on with for more steps.
            model: what the agents think with, since a model cannot be kept; None where that was a ScriptedModel.
            world: the world that it should be; None for whichever it is.
            steps: how many steps to play in all; None for as many as before.
            interventions: those of the run, in their order, since functions cannot be kept.
            embedder: as for a fresh run: the same as before, for memories to be the same.
            cache: as for a fresh run.
            nest: as for a fresh run.
            max_rows: as for a fresh run.

        Raises:
            CheckpointError: there is no run in the folder, or it is of another world, or needs its model or interventions given again.
            StoreLockedError: the run is open, in this process or another.
            StoreVersionError: another version of TroupeLab wrote it.
            StoreCorruptError: something in it is missing or changed.
        """
        file = Path(folder) / RUN_FILE
        if not file.is_file():
            raise CheckpointError(f"{folder} holds no run to go on with: there is no {RUN_FILE} in it")
        store = open_store(file)
        try:
            past = Past(store)
            check_past(past, Path(folder), world, interventions, steps)
            return cls._from_past(
                past, model, folder=folder, steps=steps, interventions=interventions, embedder=embedder, cache=cache,
                nest=nest, max_rows=max_rows,
            )  # fmt: skip
        except BaseException:
            store.close()
            raise

    @classmethod
    def _from_past(cls, past: Past, model: Model | None, *, steps: int | None = None, **rest: Any) -> Self:
        header = past.header
        world, limits, options = read_setup(past)
        model = model_of(header) if model is None else model
        return cls(
            world, model, limits=limits, steps=header.steps if steps is None else steps, seed=header.seed, order=options.order,
            on_error=options.on_error, consolidate=options.notes, pack_acts=options.pack_acts,
            share_identical=options.share_identical, ask_every=options.ask_every, _past=past, **rest,
        )  # fmt: skip

    def fork(
        self,
        limits: Mapping[str, Number] | None = None,
        *,
        at_step: int | None = None,
        steps: int | None = None,
        folder: str | Path | None = None,
        model: Model | None = None,
        interventions: Sequence[Intervention] | None = None,
    ) -> Self:
        """Make a second run that has this one's past and a future of its own; this one goes on untouched.

        Started, it lives through that past again, without any call, and plays on from there. It reads the replies that this run
        has kept, and keeps its own.

        Args:
            limits: what is changed in it, from its first step of its own on.
            at_step: the past is that before this step; None for the last step that everybody has finished.
            steps: how many steps it has in all; None for as many as this one.
            folder: where it is kept; None keeps it in a temporary file.
            model: another model from there on; None for the same.
            interventions: others; None for the same.

        Raises:
            RunError: `at_step` is not in the past, or no longer in the journal, or no step is left to play.
            LimitError: a limit is unknown or out of range.

        >>> run = Run("product_launch", ScriptedModel(7, latency_s=0.0), steps=3, seed=7).start().wait(60)
        >>> fork = run.fork({"recent_max_records": 5}, at_step=2).start().wait(60)
        >>> both = [each.transcript().query("step < 2").content.tolist() for each in (run, fork)]
        >>> fork.forked_at, both[0] == both[1]
        (2, True)
        """
        Limits().replace(**(limits or {}))
        lowest = self._engine.player.steps_done
        latest = at_step is None
        at_step = lowest if at_step is None else at_step
        steps = self.steps if steps is None else steps
        if not 0 <= at_step <= lowest:
            raise RunError(f"a fork begins at a step that everybody has reached, from 0 to {lowest}, not {at_step}")
        if at_step >= steps:
            raise RunError(f"no step is left to play from step {at_step} on: give at_step, or more steps")
        given = self._engine.player.interventions if interventions is None else tuple(interventions)
        with self._file.reading(self._engine.keeper, self._engine.handover) as store:
            rows = [] if store is None else cut(read_rows(store), at_step, latest=latest)
        if interventions is not None:  # what was called of others says nothing about these
            rows = [row for row in rows if not isinstance(row, CalledRow)]
        check_reaches(rows, len(self.agent_names), at_step)
        header = msgspec.structs.replace(
            self._file.header, steps=steps, interventions=[each.name for each in given],
            model=(model or self.model).name, scripted=recipe(model or self.model),
            forked_from=str(self.folder or self.name), forked_at=at_step,
        )  # fmt: skip
        left = parent_code(self, at_step, latest=latest)
        fresh = new_store(None if folder is None else Path(folder))
        try:
            write_past(fresh, header, rows)
            parent = self._cache_path()
            cache = False if parent is None else fresh.path.parent / "replies.sqlite"
            fork = type(self)._from_past(
                Past(fresh), model or self.model, steps=steps, folder=folder, interventions=given, embedder=self._embedder,
                cache=cache if folder is None else None, nest=self._nest,
            )  # fmt: skip
            fork._cache_parent, fork._parent = parent, left
            if limits:
                fork.limits.update(note="fork", **dict[str, Any](limits))
        except BaseException:
            fresh.close()
            raise
        changed = ", ".join(f"{name}={value}" for name, value in (limits or {}).items())
        self.recorder.emit(Forked(self.now_s(), at_step, changed))
        return fork

    def _cache_path(self) -> Path | None:
        """The file of this run's replies; None where there is none."""
        cache = self._cache
        file = cache.path if isinstance(cache, ReplyCache) else Path(cache) if cache else None
        return file if file is not None and file.exists() else None

    def _make_header(self) -> Header:
        """What this run is, as it stands in its store."""
        return make_header(
            self.world, self.model, self.limits, self._options, steps=self.steps, seed=self.seed, embedder=self._embedder,
            interventions=self._engine.player.interventions,
        )  # fmt: skip

    # ------------------------------------------------------------------ what came of it

    def transcript(self) -> pd.DataFrame:
        """Everything that was done, in the order of steps, agents and actions; DONE is left out."""
        return transcript(self.frames)

    @property
    def deterministic(self) -> Determinism:
        """Whether another run of the same world, model, seed and limits gives the same transcript and memories; if not, why."""
        return determinism(
            self.recorder, self.limits, repeats_itself=getattr(self.model, "repeats_itself", False),
            cached=self._cache not in (None, False), packs=self._options.pack_acts, by_hand=self._engine.keeper.by_hand,
        )  # fmt: skip

    def efficiency(self) -> Efficiency:
        """Compare the finished steps with the same calls played in the same order without any overhead."""
        acts, calls, steps, paused = (
            self.recorder.read(family).columns for family in ("acts", "calls", "steps", "runs")
        )
        engine = self._engine
        if engine.player.lockstep:
            return played_efficiency(steps, acts, calls)
        return played_free_efficiency(
            acts, calls, steps, paused, hears=engine.heard, holds_up=engine.holds_up, max_lead=MAX_LEAD
        )

    def close(self) -> None:
        """Give the file of a run free that is not going to be started; one that was started does so at its end."""
        if self._thread is None:
            self._file.close(temporary=True)

    def summary(self) -> dict[str, object]:
        """The run in numbers: what a table at its end shows."""
        efficiency = self.efficiency()
        return {
            "world": self.name, "model": self.model.name, "seed": self.seed, "state": self.state,
            "order": "lockstep" if self._engine.player.lockstep else "free",
            **summarise(self.recorder, self._stage, steps=self._engine.player.steps_done),
            "wall_s": round(self.now_s(), 4),
            "efficiency": round(efficiency.value, 4),
            "bound_s": round(efficiency.bound_s, 4),
            "peak_rss_mb": round(_platform.peak_rss_bytes() / 1e6, 1),
            "rss_mb": rss_curve(self.recorder),
            "transcript_sha256": self.recorder.transcript_sha256(),
        }  # fmt: skip


def _among(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise RunError(f"{name} must be {', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}, not {value!r}")


def runs() -> list[Run]:
    """The runs that have been started and have not ended.

    >>> runs()
    []
    """
    return [cast(Run, each) for each in LIVE]
