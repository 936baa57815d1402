"""Personas, memories and transcripts, from TinyTroupe to TroupeLab and back. No model is called.

Nothing is owned here: people and worlds are TinyTroupe's, and are changed by `remember` and `from_transcript` alone, through their
memories' own methods. Whoever owns the person or world, and no other thread meanwhile, may call these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from troupelab.bridges.tinytroupe import seams
from troupelab.bridges.tinytroupe.values import (
    MAX_STEPS,
    MAX_VALUES,
    Remembered,
    action,
    check_step,
    read_values,
    stimulus,
    time_of,
    to_records,
    to_values,
)
from troupelab.engine.standing import ENDED
from troupelab.errors import BridgeError, InputError, PersonaError
from troupelab.folder import RUN_FILE
from troupelab.memory.memory import Memory
from troupelab.memory.pool import Pool
from troupelab.memory.record import Note, Record, check_text
from troupelab.people.acts import CONVERSATION, DONE, REACH_OUT, SOCIAL, TALK
from troupelab.people.files import MAX_FILE_BYTES
from troupelab.people.persona import Persona
from troupelab.people.stage import EVERYBODY
from troupelab.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from troupelab.run import Run

__all__ = [
    "from_transcript",
    "memories",
    "remember",
    "to_person",
    "to_persona",
    "to_records",
    "to_values",
    "transcript",
]

_TRANSCRIPT = ("step", "agent", "action", "target", "content")
_LIVED = frozenset({"episodic_memory", "semantic_memory", "mental_state"})
_CLOSING_S = 10.0


# ---------------------------------------------------------------------- personas


def to_persona(person: Any) -> Persona:
    """Take a TinyPerson's persona, with every key that it has, and its mental faculties if it has any.

    Its memories and its state of mind stay behind; see `memories`.

    Args:
        person: a TinyPerson.

    Returns:
        What `Persona.save` writes as a file that TinyTroupe loads.

    Raises:
        BridgeError: it is no TinyPerson.
        PersonaError: it holds something that no file can, or is larger than a persona file may be.
    """
    _check_person(person)
    spec: dict[str, Any] = {"type": Persona.kind}
    if person._mental_faculties:
        spec["mental_faculties"] = [
            each.to_json(serialization_type_field_name="type") for each in person._mental_faculties
        ]
    spec["persona"] = person._persona
    source = f"TinyPerson {person.name}"
    checked = Persona(spec, source=source)
    size = len(orjson.dumps(spec))
    if size > MAX_FILE_BYTES:
        raise PersonaError(source, "", f"at most {MAX_FILE_BYTES} bytes", found=f"{size}")
    return Persona(checked.to_dict(), source=source)


def to_person(persona: Persona, *, name: str | None = None) -> Any:
    """Make a real TinyPerson of a persona, as TinyTroupe does of the persona's file.

    Mental faculties in the file come with it (those that read documents do so now, as always). Memories and a state of mind
    that TinyTroupe has saved in the file do not: the person begins with none.

    Args:
        persona: who it is.
        name: another name for it; it stands in its persona then.

    Returns:
        A TinyPerson; TinyTroupe has it in its list of all agents from now on.

    Raises:
        BridgeError: there is a TinyPerson of that name already, or TinyTroupe cannot load this one.
        PersonaError: the name is empty or too long.
    """
    people = seams.find().person.TinyPerson
    spec = persona.to_dict()
    if name is not None:
        spec["persona"]["name"] = name
        Persona(spec, source="to_person")
    own, called = spec["persona"], spec["persona"]["name"]
    if called in people.all_agents:
        raise BridgeError(
            f"there is a TinyPerson called {called!r} already: give to_person another name, as name=…, or forget all of them by "
            "TinyPerson.clear_agents()"
        )
    # TinyTroupe takes whatever has a "type" for an object of that class, and would not see the persona for it.
    spec["persona"] = {key: value for key, value in own.items() if key != "type"}
    try:
        person = people.load_specification({key: value for key, value in spec.items() if key not in _LIVED})
        if "type" in own:
            person._persona = own
            person.reset_prompt()
    except Exception as error:
        people.all_agents.pop(called, None)
        raise BridgeError(
            f"TinyTroupe cannot make a person of {called!r} ({type(error).__name__}: {str(error)[:200]}): see what its file has beside the "
            "persona, and whether a simulation that has begun has this name already"
        ) from error
    return person


# ---------------------------------------------------------------------- memories


def memories(person: Any) -> pd.DataFrame:
    """Show all that a TinyPerson remembers, episodes first, then its semantic memory, each from the oldest on.

    Args:
        person: a TinyPerson.

    Returns:
        A row for each stimulus, action or text, with the columns `tier` (`episodic` or `semantic`), `kind` (TALK, CONVERSATION, …;
        for texts their type in capitals), `role` (`user`, `assistant` or `system`), `source` (who a stimulus came from), `target` (who
        an action was for), `text`, `timestamp` (simulated time as text, or None) and `type` (`stimulus`, `action`,
        `feedback`, `consolidated`, …).

    Raises:
        BridgeError: it is no TinyPerson.
        InputError: a memory is none that TinyTroupe writes, or there are more than `MAX_VALUES`.
    """
    import pandas as pd

    _check_person(person)
    semantic = person.semantic_memory
    # Where TinyTroupe's index does not take documents, what was stored is in its plain list alone.
    known = semantic.retrieve_all() or semantic.memories or ()
    rows = [
        (tier, *event)
        for tier, values in (("episodic", person.episodic_memory.retrieve_all()), ("semantic", known))
        for event in read_values(values)
    ]
    return pd.DataFrame(rows, columns=["tier", *Remembered._fields]).astype({"tier": "category"})


def remember(person: Any, run: Run, agent: str) -> int:
    """Let a TinyPerson remember what an agent of a run remembers: records as an episode that is over, notes as semantic memories.

    The person's current episode is closed with it, so that TinyTroupe does not consolidate again what the run has condensed already.
    Notes go through the person's semantic memory: TinyTroupe's own embeds them where its index works, and logs an error for each
    where it does not; they are remembered either way.

    Args:
        person: a TinyPerson; it may have another name than the agent, and memories before these.
        run: a run, at best one that is paused or has ended.
        agent: the name of one of its agents.

    Returns:
        How many records and notes it remembers now in addition.

    Raises:
        BridgeError: it is no TinyPerson, or the run has no such agent.
        StoreError: the run's folder cannot be read.
    """
    _check_person(person)
    if agent not in run.agent_names:
        raise BridgeError(f"there is no agent {agent!r} in the run; its agents are {', '.join(run.agent_names)}")
    records, notes = _held(run, run.agent_names.index(agent))
    world = run.world
    values = to_values(records, start=world.start, step=timedelta(minutes=world.step_minutes))
    _tell(person, values)
    person.semantic_memory.store_all(
        [
            {
                "content": note.text,
                "type": "consolidated",
                "simulation_timestamp": world.time_at(note.last_step).isoformat(),
            }
            for note in notes
        ]
    )
    return len(values) + len(notes)


def _tell(person: Any, values: list[dict[str, Any]]) -> None:
    """Add to a person's episodes, past its count of events, which would have a model consolidate them."""
    person.episodic_memory.store_all(values)
    person.episodic_memory.commit_episode()


def _held(run: Run, index: int) -> tuple[list[Record], list[Note]]:
    """What an agent remembers; on the run's loop while there is one, out of its folder once that is closed."""
    with contextlib.ExitStack() as stack:
        memory = run._stage.agents[index].memory
        if run.folder is not None and run.state in ENDED:
            run._end.wait(_CLOSING_S)  # it has played to its end, and may be writing still
        if run.folder is not None and run._file.is_closed:
            store = stack.enter_context(Store.open(run.folder / RUN_FILE, create=False))
            limits = run.limits.at_step(run.steps, run.agent_names[index])
            memory = Memory(index, limits, Pool(store, embedder=run._stage.pool.embedder))
        found: list[tuple[list[Record], list[Note]]] = []

        def read() -> None:
            found.append((memory.between(0, MAX_STEPS), list(memory.notes)))

        if not run._engine.handover.do(read):
            read()
        return found[0]


# ---------------------------------------------------------------------- transcripts


def transcript(world: Any) -> pd.DataFrame:
    """Show everything that was done in a TinyWorld, as far as its people remember it, like `Run.transcript()`.

    Args:
        world: a TinyWorld.

    Returns:
        A row for each action but DONE, with the columns `step`, `agent`, `action`, `target` and `content`, in the order of steps, of
        people in the world, and of what each did. Steps are counted: each simulated time at which anybody acted is
        one, from 0 on. Where the world's time stands still (`run` was given no `timedelta_per_step`), all is step 0.

    Raises:
        BridgeError: it is no TinyWorld.
        InputError: a memory is none that TinyTroupe writes, or there are more than `MAX_VALUES`.
    """
    import pandas as pd

    _check_world(world)
    done = [
        (event, person.name)
        for person in world.agents
        for event in read_values(person.episodic_memory.retrieve_all())
        if event.type == "action"
    ]
    times = {event.timestamp for event, _ in done if event.timestamp is not None}
    step = {time: place for place, time in enumerate(sorted(times))}
    rows = [
        (step.get(event.timestamp or "", 0), name, event.kind, event.target, event.text)
        for event, name in done
        if event.kind != DONE
    ]
    rows.sort(key=lambda row: row[0])  # stable: people and their actions stay in order
    frame = pd.DataFrame(rows, columns=list(_TRANSCRIPT))
    names = pd.CategoricalDtype([person.name for person in world.agents])
    kinds: Any = {"step": "int64", "agent": names, "action": "str", "target": "str", "content": "str"}
    return frame.astype(kinds)


def from_transcript(
    frame: pd.DataFrame, world: Any, *, start: datetime | None = None, step: timedelta = timedelta(minutes=1)
) -> int:
    """Let the people of a TinyWorld remember a transcript, so that TinyTroupe's extractors can be used on a run.

    Each remembers its own actions, and a step later, as stimuli, what others said to it or to all, and who reached out to it. "To
    all" is everybody in the world here; a run in which not everybody hears everybody is told truly by `remember`. The current episodes
    of those who remember something are closed with it, and no model consolidates them.

    Args:
        frame: a run's `transcript()`; every agent in it must be a person in the world.
        world: a TinyWorld.
        start: simulated time of step 0; None lets the transcript end at the world's time now, where it has one.
        step: simulated time from one step to the next.

    Returns:
        How many memories were made, of all people together.

    Raises:
        BridgeError: it is no TinyWorld, or lacks somebody, or there would be more than `MAX_VALUES` memories; nobody remembers anything
            of it then.
        InputError: it is no transcript.
    """
    _check_world(world)
    check_step(step)
    rows = _rows(frame)
    people = {person.name: person for person in world.agents}
    if missing := sorted({row[1] for row in rows} - people.keys()):
        raise BridgeError(
            f"there is no {missing[0]!r} in the TinyWorld: add to_person(persona) of everybody in the run to it"
        )
    by_name = {name.casefold(): name for name in people}
    if start is None and world.current_datetime is not None:
        steps = rows[-1][0] + 1 if rows else 0
        try:
            start = world.current_datetime - step * steps
        except OverflowError as error:
            raise InputError(
                "step", "", f"a time that fits {steps} times before the world's", found=str(step)
            ) from error
    heard: dict[str, list[tuple[int, dict[str, Any]]]] = {name: [] for name in people}
    total = 0
    for at, agent, kind, target, content in rows:
        now, later = time_of(start, step, at), time_of(start, step, at + 1)
        hearers = _hearers(people, by_name, agent, kind, target)
        total += 1 + len(hearers)
        if total > MAX_VALUES:
            raise BridgeError(f"this transcript makes more than {MAX_VALUES} memories: give from_transcript fewer rows")
        text = content or (f"{agent} would like to talk with you." if kind == REACH_OUT else "")
        for name in hearers:
            heard[name].append((2 * at + 2, stimulus(CONVERSATION if kind == TALK else SOCIAL, text, agent, later)))
        heard[agent].append((2 * at + 1, action(kind, content, target, now)))
    for name, values in heard.items():
        values.sort(key=lambda value: value[0])  # in a step, what was heard comes before what is done
        if values:
            _tell(people[name], [value for _, value in values])
    return total


def _hearers(people: Iterable[str], by_name: dict[str, str], agent: str, kind: str, target: str) -> list[str]:
    """Who hears of an action, by the rules of a run's stage."""
    if kind == TALK and target.casefold() in EVERYBODY:
        return [name for name in people if name != agent]
    found = by_name.get(target.casefold(), agent) if kind in (TALK, REACH_OUT) else agent
    return [found] if found != agent else []


def _rows(frame: Any) -> list[tuple[int, str, str, str, str]]:
    """A transcript's rows, checked, in the order of steps."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame) or (missing := [each for each in _TRANSCRIPT if each not in frame.columns]):
        found = f"no {', '.join(missing)}" if isinstance(frame, pd.DataFrame) else type(frame).__name__
        raise InputError("transcript", "", f"a DataFrame with {', '.join(_TRANSCRIPT)}", found=found)
    if len(frame) > MAX_VALUES:
        raise InputError("transcript", "", f"at most {MAX_VALUES} rows", found=f"{len(frame)}")
    steps = pd.to_numeric(frame["step"], errors="coerce")
    if not bool((steps.between(0, MAX_STEPS - 2) & (steps % 1 == 0)).all()):
        raise InputError("transcript", "step", f"whole numbers from 0 to {MAX_STEPS - 2}")
    texts = []
    for column in _TRANSCRIPT[1:]:
        texts.append(["" if pd.api.types.is_scalar(each) and pd.isna(each) else each for each in frame[column]])
        for each in texts[-1]:
            if not isinstance(each, str):
                raise InputError("transcript", column, "texts", found=type(each).__name__)
            check_text(each)
    return sorted(zip(steps.astype(int).tolist(), *texts, strict=True), key=lambda row: row[0])


# ---------------------------------------------------------------------- checks


def _check_person(person: Any) -> None:
    if not isinstance(person, seams.find().person.TinyPerson):
        raise BridgeError(f"this needs a TinyPerson, not {type(person).__name__}: to_person makes one of a Persona")


def _check_world(world: Any) -> None:
    if not isinstance(world, seams.find().world.TinyWorld):
        raise BridgeError(f"this needs a TinyWorld, not {type(world).__name__}")
