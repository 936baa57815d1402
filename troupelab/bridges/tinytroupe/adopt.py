"""The second door: a Run over the persons of a TinyTroupe world, with dashboard, pauses, limits mid-run, frames and checkpoints.

An adopted world is the run's until `close`. The engine's loop thread owns its persons while it plays; before and after, whoever has the run does.
Any thread may call the methods.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from troupelab.bridges.tinytroupe.accelerate import bridge_limits
from troupelab.bridges.tinytroupe.actor import StageTroupe, TroupeActor
from troupelab.bridges.tinytroupe.convert import to_persona
from troupelab.bridges.tinytroupe.hub import Hub
from troupelab.bridges.tinytroupe.interviews import PersonInterviewer
from troupelab.bridges.tinytroupe.model import model_of
from troupelab.bridges.tinytroupe.patches import WORLDS, installed
from troupelab.bridges.tinytroupe.seams import TinyTroupe, find
from troupelab.bridges.tinytroupe.troupe import ROSTER, Troupe
from troupelab.engine.past import Past
from troupelab.engine.standing import ENDED
from troupelab.errors import BridgeError, CheckpointError, RunError, StoreError
from troupelab.folder import RUN_FILE, open_store
from troupelab.limits import Limits, Number
from troupelab.people.world import World
from troupelab.run import Run
from troupelab.telemetry.journal import StateRow, read_rows

if TYPE_CHECKING:
    from troupelab.engine.ahead import Ahead
    from troupelab.engine.consolidator import Consolidator
    from troupelab.engine.interventions import Intervention
    from troupelab.engine.options import OnError
    from troupelab.engine.parts import Parts
    from troupelab.engine.standing import Standing
    from troupelab.models.cache import ReplyCache
    from troupelab.models.model import Model
    from troupelab.text.embed import Embedder

__all__ = ["AdoptedRun", "adopt"]

_END_TIMEOUT_S = 30.0


class AdoptedRun(Run):
    """A run of TinyTroupe's persons in their own world; `adopt` makes one.

    All of `Run` but `fork` is here. `close`, or the end of a with-block, gives the persons back.
    """

    def __init__(
        self, tt: TinyTroupe, world: Any, model: Model, *, step_time: timedelta | None, past: Past | None, **rest: Any
    ) -> None:
        persons = list(world.agents)
        self.tiny_world = world
        self._persons = persons
        self._closed = False
        # A run that was ended before it had begun has kept nothing of anybody.
        resumed = past is not None and any(isinstance(row, StateRow) for row in read_rows(past.store))
        hub, made = Hub(), list[StageTroupe]()

        def make_actor(parts: Parts, consolidator: Consolidator, ahead: Ahead, standing: Standing) -> TroupeActor:
            troupe = StageTroupe(
                tt, hub=hub, pipeline=parts.pipeline, pool=parts.stage.pool, limits=parts.limits, emit=parts.teller.emit,
                keep=parts.teller.tell, clock=parts.clock.now, seed=parts.seed, nest=bool(rest.get("nest")),
            )  # fmt: skip
            made.append(troupe)
            return TroupeActor(
                parts, consolidator, ahead, standing, world=world, persons=persons, troupe=troupe, step_time=step_time,
                keeps=rest.get("folder") is not None, resumed=resumed,
            )  # fmt: skip

        shown = _world_of(world, persons, step_time, rest.get("steps"))
        super().__init__(shown, model, order="lockstep", consolidate="off", _past=past, _actor=make_actor, **rest)
        (troupe,) = made
        engine = self._engine
        engine.interviewer = PersonInterviewer(engine.interviewer.parts, engine.interviewer.ahead, persons, hub)
        with contextlib.ExitStack() as opened:
            opened.callback(self._file.close, temporary=True)
            opened.enter_context(installed(troupe, for_everybody=False))
            opened.callback(_give_back, weakref.ref(world), troupe)
            for person, agent in zip(persons, self._stage.agents, strict=True):
                if (other := ROSTER.get(person)) is not None:
                    other.troupe.release(person)
                member = troupe.enlist(person, agent.memory, blank=resumed)
                if rest.get("folder") is not None:
                    member.diary.keep_from_now()
            WORLDS[world] = troupe
            self._give_back = weakref.finalize(self, opened.pop_all().close)

    def fork(self, *args: Any, **kwargs: Any) -> Self:
        """Refuse: TinyTroupe's persons are there once.

        Raises:
            RunError: always.
        """
        raise RunError(
            "an adopted run cannot be forked, since its persons are there once: run the world again from its own code"
        )

    def close(self) -> None:
        """End the run, give the persons TinyTroupe's own memories with all in them, and let TinyTroupe's registries forget them and their world.

        Raises:
            StoreError: not all could be written.
        """
        if self._closed:
            return
        self._closed = True
        if self._thread is not None and self.state not in ENDED:
            with contextlib.suppress(RunError):  # it has ended by itself
                self.stop(now=True)
            with contextlib.suppress(RunError):  # it failed, and has said so
                self.wait(_END_TIMEOUT_S)
        self._give_back()
        person, world = type(self._persons[0]), type(self.tiny_world)
        for registry, each in [(person.all_agents, each) for each in self._persons] + [
            (world.all_environments, self.tiny_world)
        ]:
            if registry.get(each.name) is each:
                del registry[each.name]

    def _keep_memories(self) -> None:
        """Put all memories into the folder; its file stays open until `close`, since persons read their memories in it."""
        try:
            for agent in self._stage.agents if self.folder else ():
                agent.memory.save()
            self._stage.pool.shelf.flush()
        except StoreError as error:
            self._tell_not_kept(error)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _give_back(world: weakref.ref[Any], troupe: Troupe) -> None:
    troupe.release_all()
    if (found := world()) is not None:
        WORLDS.pop(found, None)


def _world_of(world: Any, persons: Sequence[Any], step_time: timedelta | None, steps: int | None) -> World:
    """What a TinyWorld is in our terms, for headers, panels and files."""
    start = world.current_datetime or datetime(2000, 1, 1)
    minutes = step_time.total_seconds() / 60 if step_time else 1.0
    return World.from_dict(
        {
            "type": "TroupeLabWorld", "format": 1, "name": str(world.name), "description": "A world of TinyTroupe.",
            "start": start.isoformat(), "step_minutes": minutes, "steps": steps or 1, "hears": "everyone",
            "agents": [to_persona(person).to_dict() for person in persons],
        },
        source=f"TinyWorld {world.name}",
    )  # fmt: skip


def adopt(
    world: Any,
    model: Model | None = None,
    *,
    steps: int,
    limits: Limits | Mapping[str, Number] | None = None,
    step_time: timedelta | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    on_error: OnError = "skip",
    interventions: Sequence[Intervention] = (),
    embedder: Embedder | Literal["best"] | None = "best",
    cache: str | Path | ReplyCache | Literal[False] | None = None,
    nest: bool = False,
    max_rows: int = 262_144,
) -> AdoptedRun:
    """Make a Run of a TinyTroupe world and its persons.

    ```python
    with tl.bridges.tinytroupe.adopt(world, steps=20, limits={"recent_max_records": 100}) as run:
        tl.Dashboard(run)
        run.start().wait()
    ```

    Args:
        world: a TinyWorld or TinySocialNetwork with its agents; its own `_step`, interventions and prompts are what is played.
        model: what the persons think with; None for the one that TinyTroupe's configuration names, at its address.
        steps: how many steps to play in all.
        limits: all of them, or only those that are to be other than usual for a bridge (see `accelerate`).
        step_time: how much the world's time advances in a step, as `timedelta_per_step`; None lets it stand still.
        seed: of every draw.
        folder: where the run is kept by the step, to be gone on with after a crash; None keeps nothing.
        resume: go on with the run that is in the folder; the world is made by the same code as then, and given the state that was kept.
        on_error: what is done about an act that failed, as of `Run`.
        interventions: functions of ours to call between steps, beside TinyTroupe's own.
        embedder: finds the notes that fit a situation; None compares words alone.
        cache: where replies are kept, as of `Run`.
        nest: whether faculties run on the engine's loop, and may call `asyncio.run` there by nest_asyncio; without, they run on threads.
        max_rows: how many events of each kind are kept for frames and panels.

    Raises:
        MissingPackageError: TinyTroupe, or something that it needs, is not installed.
        BridgeError: it is another version than this bridge knows, or the world has no agents or is of a run already.
        CheckpointError: there is no run of this world in the folder to go on with.
        LimitError: a limit is unknown or out of range.
        RunError: the folder has a run in it, and `resume` is off.
    """
    tt = find()
    if not isinstance(world, tt.world.TinyWorld):
        raise BridgeError(f"adopt takes a TinyWorld, not a {type(world).__name__}")
    if not world.agents:
        raise BridgeError(f"{world.name} has no agents: add them before it is adopted")
    if world in WORLDS:
        raise BridgeError(f"{world.name} is of another run: close that one first")
    taken = [
        person.name
        for person in world.agents
        if (found := ROSTER.get(person)) and isinstance(found.troupe, StageTroupe)
    ]
    if taken:
        raise BridgeError(f"{taken[0]} is of another run: close that one first")
    given = limits if isinstance(limits, Limits) else bridge_limits(tt.config, dict(limits or {}))
    rest: dict[str, Any] = {
        "steps": steps, "limits": given, "seed": seed, "folder": folder, "on_error": on_error, "interventions": interventions,
        "embedder": embedder, "cache": cache, "nest": nest, "max_rows": max_rows,
    }  # fmt: skip
    model = model or model_of(tt)
    past = _past(world, folder) if resume else None
    try:
        return AdoptedRun(tt, world, model, step_time=step_time, past=past, **rest)
    except BaseException:
        if past is not None:
            past.store.close()
        raise


def _past(world: Any, folder: str | Path | None) -> Past:
    """The past of a run of this world.

    Raises:
        CheckpointError: there is none in the folder, or it is of other persons.
    """
    if folder is None or not (file := Path(folder) / RUN_FILE).is_file():
        raise CheckpointError(f"there is no run to go on with in {folder}: give the folder of one, or leave resume out")
    store = open_store(file)
    try:
        past = Past(store)
    except BaseException:
        store.close()
        raise
    names = [agent["persona"]["name"] for agent in past.header.world["agents"]]
    if names != [person.name for person in world.agents]:
        store.close()
        raise CheckpointError(f"{folder} holds a run of other persons: {', '.join(names[:5])}")
    return past
