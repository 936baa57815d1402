"""Worlds: who is there, who hears whom, what opens the scene, and what happens when.

A world file is JSON:

```
{"type": "TroupeLabWorld", "format": 1, "name": "town", "description": "…",
 "start": "2026-03-02T08:00:00", "step_minutes": 30, "steps": 40,
 "agents": ["yusuf_karimov", {"type": "TinyPerson", "persona": {…}}] or {"sample": 20},
 "hears": "everyone", or {"groups": {"Bakery": ["Yusuf Karimov", …], …}}, {"groups_of": 5}, {"edges": [["speaker", "hearer"], …]},
 "reach_out": [["Yusuf Karimov", "Tove Haugen"], …],
 "episode_steps": 10, "knowledge": ["what everybody knows from the beginning", …],
 "opening": [{"text": "…", "to": "everyone", a group, or a list of names; "source": "Moderator", "kind": "CONVERSATION"}],
 "events": [{"step": 5, "text": "…", …}],
 "probes": [{"name": "price", "fact": "It costs 79 euros.", "question": "…", "paraphrases": ["…"], "neighbour": "…", "answer": ["79"],
             "step": 5, "neighbour_step": 7, "to": "everyone"}]}
```

`hears` says who hears what is said to nobody in particular; `reach_out` between whom REACH_OUT may open a conversation. After
`episode_steps` steps an episode ends, and memories condense what is over their low water. `probes` are facts with the
questions that should find them again (see `Probe`): one that an opening or event has word for word is told by that, when and to whom that is; any
other is told besides. An agent is its index in the file. A World is immutable; any thread may read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from troupelab._share import shared_folder
from troupelab.errors import InputError, WorldError
from troupelab.people.acts import CONVERSATION
from troupelab.people.files import check_json, read_object, resolve, typed
from troupelab.people.persona import Persona
from troupelab.people.probes import MAX_PROBES, Probe, probe_from

__all__ = ["MAX_AGENTS", "ScheduledEvent", "World"]

MAX_AGENTS = 100_000
FORMAT = 1
_SUFFIX = ".json"
_EVERYONE = "everyone"
_MAX_TEXT = 20_000


@dataclass(frozen=True, slots=True)
class ScheduledEvent:
    """A stimulus that the world gives to some agents at a step."""

    step: int
    kind: str
    source: str
    text: str
    to: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class World:
    """A scene to play.

    `audience[i]` are the agents who hear agent `i` speak, `reachable[i]` those whom it may reach out to, by index.

    >>> world = World.load("product_launch")
    >>> len(world.personas), world.time_at(2) > world.start
    (8, True)
    """

    name: str
    description: str
    personas: tuple[Persona, ...]
    audience: tuple[tuple[int, ...], ...]
    reachable: tuple[tuple[int, ...], ...]
    events: tuple[ScheduledEvent, ...]
    start: datetime
    step_minutes: float
    steps: int
    knowledge: tuple[str, ...] = ()
    episode_steps: int | None = None
    probes: tuple[Probe, ...] = ()

    @staticmethod
    def names() -> list[str]:
        """The worlds that ship with the package, by the names that `load` takes."""
        return sorted(file.stem for file in (shared_folder("data") / "worlds").glob(f"*{_SUFFIX}"))

    @staticmethod
    def load(name: str | Path, *, agents: int | None = None, seed: int = 0) -> World:
        """Read a world file, by its path or by the name of one that ships with the package.

        Args:
            name: a path, or one of `World.names()`.
            agents: how many personas to draw, for worlds that sample them.
            seed: which personas are drawn.

        Raises:
            WorldError: no such file, or something in it is missing, of another type, or names who is not there.
            PersonaError: a persona in it cannot be used.
        """
        path = resolve(name, shared_folder("data") / "worlds", _SUFFIX, WorldError)
        return World.from_dict(read_object(path, WorldError), source=str(path), agents=agents, seed=seed)

    @staticmethod
    def sample(agents: int = 20, *, seed: int = 0) -> World:
        """The `market_panel` world with personas drawn by the seed: any number of agents at tables of five."""
        return World.load("market_panel", agents=agents, seed=seed)

    @staticmethod
    def from_dict(found: dict[str, Any], *, source: str = "world", agents: int | None = None, seed: int = 0) -> World:
        """Make a world from a world file's content; `load` says what it raises."""
        check_json(found, source, WorldError)
        typed(found, "type", str, source, WorldError, among=["TroupeLabWorld"])
        version = typed(found, "format", int, source, WorldError, low=1, high=1_000_000)
        if version > FORMAT:
            raise WorldError(
                source, "format", f"a format up to {FORMAT}: update troupelab to read it", found=str(version)
            )
        personas = _personas(found, source, agents, seed)
        cast = _Cast(personas, source)
        audience = cast.audience(found.get("hears", _EVERYONE))
        try:
            start = datetime.fromisoformat(typed(found, "start", str, source, WorldError))
        except ValueError as problem:
            raise WorldError(
                source, "start", "a date and time such as 2026-03-02T09:00:00", found=str(found["start"])
            ) from problem
        opening = typed(found, "opening", list, source, WorldError, default=[])
        later = typed(found, "events", list, source, WorldError, default=[])
        events = [cast.event(raw, f"opening[{place}]", 0) for place, raw in enumerate(opening)]
        events += [cast.event(raw, f"events[{place}]", None) for place, raw in enumerate(later)]
        asked = typed(found, "probes", list, source, WorldError, default=[])
        if len(asked) > MAX_PROBES:
            raise WorldError(source, "probes", f"at most {MAX_PROBES} probes", found=str(len(asked)))
        return World(
            name=typed(found, "name", str, source, WorldError),
            description=typed(found, "description", str, source, WorldError, default=""),
            personas=tuple(personas),
            audience=audience,
            reachable=cast.reachable(typed(found, "reach_out", list, source, WorldError, default=[])),
            events=tuple(sorted(events, key=lambda event: event.step)),
            start=start,
            step_minutes=typed(found, "step_minutes", float, source, WorldError, low=0.001, high=10_000_000),
            steps=typed(found, "steps", int, source, WorldError, default=20, low=1, high=1_000_000),
            episode_steps=None
            if found.get("episode_steps") is None
            else typed(found, "episode_steps", int, source, WorldError, low=1, high=1_000_000),
            knowledge=_facts(typed(found, "knowledge", list, source, WorldError, default=[]), source),
            probes=tuple(cast.probe(raw, f"probes[{place}]", events) for place, raw in enumerate(asked)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The world as a world file's content, from which `from_dict` makes the same world again.

        >>> world = World.load("town")
        >>> World.from_dict(world.to_dict()) == world
        True
        """
        names = self.agent_names
        pairs = [[names[one], names[other]] for one, others in enumerate(self.audience) for other in others]
        everyone = len(pairs) == len(names) * (len(names) - 1)
        return {
            "type": "TroupeLabWorld",
            "format": FORMAT,
            "name": self.name,
            "description": self.description,
            "start": self.start.isoformat(),
            "step_minutes": self.step_minutes,
            "steps": self.steps,
            "agents": [persona.to_dict() for persona in self.personas],
            "hears": _EVERYONE if everyone else {"edges": pairs},
            "reach_out": [
                [names[one], names[other]]
                for one, others in enumerate(self.reachable)
                for other in others
                if one < other
            ],
            "episode_steps": self.episode_steps,
            "knowledge": list(self.knowledge),
            "events": [
                {
                    "step": event.step,
                    "kind": event.kind,
                    "source": event.source,
                    "text": event.text,
                    "to": [names[agent] for agent in event.to],
                }
                for event in self.events
            ],
            "probes": [
                {**probe.to_dict(), "to": _EVERYONE if probe.to is None else [names[agent] for agent in probe.to]}
                for probe in self.probes
            ],
        }

    @property
    def stimuli(self) -> tuple[ScheduledEvent, ...]:
        """What is told by the world itself: its events, and then what its probes are about, where no event says that."""
        everybody = tuple(range(len(self.personas)))
        told = list(self.events)
        for probe in self.probes:
            to = everybody if probe.to is None else probe.to
            for step, text in ((probe.step, probe.fact), (probe.neighbour_step, probe.neighbour)):
                if text and not any(text in event.text and event.step == step for event in self.events):
                    told.append(ScheduledEvent(step, CONVERSATION, "", text, to))
        return tuple(told)

    @property
    def agent_names(self) -> tuple[str, ...]:
        """The agents' names, by index."""
        return tuple(persona.name for persona in self.personas)

    def time_at(self, step: int) -> datetime:
        """The simulated time at which a step begins."""
        return self.start + timedelta(minutes=self.step_minutes * step)

    def ends_episode(self, step: int) -> bool:
        """Whether an episode ends with a step: memories then condense what is over their low water."""
        return self.episode_steps is not None and (step + 1) % self.episode_steps == 0

    def with_personas(self, personas: Sequence[Persona]) -> World:
        """The same world played by others: as many personas, in the places of the old ones.

        Raises:
            WorldError: not as many, or two of one name.
        """
        if len(personas) != len(self.personas):
            raise WorldError(self.name, "agents", f"{len(self.personas)} personas", found=str(len(personas)))
        _Cast(personas, self.name)
        return replace(self, personas=tuple(personas))


def _facts(listed: list[Any], source: str) -> tuple[str, ...]:
    for place, fact in enumerate(listed):
        if not isinstance(fact, str) or not 0 < len(fact) <= _MAX_TEXT:
            expected = f"a text of 1 to {_MAX_TEXT} characters"
            raise WorldError(source, f"knowledge[{place}]", expected, found=repr(fact)[:80])
    return tuple(listed)


def _personas(found: dict[str, Any], source: str, agents: int | None, seed: int) -> list[Persona]:
    listed = found.get("agents")
    if isinstance(listed, dict):
        count = typed(listed, "agents.sample", int, source, WorldError, low=1, high=MAX_AGENTS)
        count = count if agents is None else agents
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_AGENTS:
            raise WorldError(source, "agents", f"a whole number from 1 to {MAX_AGENTS}", found=repr(count))
        return Persona.sample(count, seed)
    if not isinstance(listed, list) or not listed:
        raise WorldError(source, "agents", 'a list of personas, or {"sample": how many}', found=repr(listed)[:80])
    if agents is not None and agents != len(listed):
        raise WorldError(source, "agents", f"{len(listed)} agents, since this world names its cast", found=str(agents))
    personas = []
    for place, raw in enumerate(listed):
        if isinstance(raw, str):
            personas.append(Persona.load(raw))
        elif isinstance(raw, dict):
            personas.append(Persona(raw, source=f"{source}: agents[{place}]"))
        else:
            raise WorldError(source, f"agents[{place}]", "a persona's name, path or object", found=repr(raw)[:80])
    return personas


class _Cast:
    """Turns the names in a world file into indices, and refuses those of nobody."""

    def __init__(self, personas: Sequence[Persona], source: str) -> None:
        self.source = source
        self.index: dict[str, int] = {}
        self.groups: dict[str, list[int]] = {}
        for place, persona in enumerate(personas):
            if persona.name in self.index:
                raise WorldError(source, f"agents[{place}]", "names that differ", found=f"a second {persona.name!r}")
            self.index[persona.name] = place

    def find(self, name: object, field: str) -> int:
        if not isinstance(name, str) or name not in self.index:
            raise WorldError(self.source, field, "the name of an agent of this world", found=repr(name)[:80])
        return self.index[name]

    def audience(self, hears: Any) -> tuple[tuple[int, ...], ...]:
        count = len(self.index)
        if hears == _EVERYONE:
            return tuple(tuple(other for other in range(count) if other != agent) for agent in range(count))
        if not isinstance(hears, dict) or len(hears) != 1:
            raise WorldError(
                self.source,
                "hears",
                '"everyone", {"groups": …}, {"groups_of": …} or {"edges": …}',
                found=repr(hears)[:80],
            )
        hearers: list[set[int]] = [set() for _ in range(count)]
        if "groups_of" in hears:
            size = typed(hears, "hears.groups_of", int, self.source, WorldError, low=1, high=MAX_AGENTS)
            self.groups = {
                f"Table {1 + first // size}": list(range(first, min(first + size, count)))
                for first in range(0, count, size)
            }
        elif "groups" in hears:
            for name, members in typed(hears, "hears.groups", dict, self.source, WorldError).items():
                if not isinstance(members, list):
                    raise WorldError(self.source, f"hears.groups.{name}", "a list of names", found=repr(members)[:80])
                self.groups[name] = [self.find(member, f"hears.groups.{name}") for member in members]
        else:
            for speaker, hearer in self.pairs(
                typed(hears, "hears.edges", list, self.source, WorldError), "hears.edges"
            ):
                hearers[speaker].add(hearer)
        for members in self.groups.values():
            for member in members:
                hearers[member].update(members)
        return tuple(tuple(sorted(others - {agent})) for agent, others in enumerate(hearers))

    def pairs(self, raw: list[Any], field: str) -> list[tuple[int, int]]:
        found = []
        for place, pair in enumerate(raw):
            where = f"{field}[{place}]"
            if not isinstance(pair, list) or len(pair) != 2:
                raise WorldError(self.source, where, "a pair of names", found=repr(pair)[:80])
            found.append((self.find(pair[0], where), self.find(pair[1], where)))
        return found

    def reachable(self, raw: list[Any]) -> tuple[tuple[int, ...], ...]:
        reach: list[set[int]] = [set() for _ in self.index]
        for one, other in self.pairs(raw, "reach_out"):
            if one != other:
                reach[one].add(other)
                reach[other].add(one)
        return tuple(tuple(sorted(others)) for others in reach)

    def event(self, raw: Any, field: str, step: int | None) -> ScheduledEvent:
        if not isinstance(raw, dict):
            raise WorldError(self.source, field, "an object with a text", found=repr(raw)[:80])
        text = typed(raw, f"{field}.text", str, self.source, WorldError)
        if len(text) > _MAX_TEXT:
            raise WorldError(self.source, f"{field}.text", f"at most {_MAX_TEXT} characters", found=str(len(text)))
        if step is None:
            step = typed(raw, f"{field}.step", int, self.source, WorldError, low=0, high=1_000_000)
        kind = typed(raw, f"{field}.kind", str, self.source, WorldError, default="CONVERSATION")
        source = typed(raw, f"{field}.source", str, self.source, WorldError, default="")
        return ScheduledEvent(step, kind, source, text, self.receivers(raw.get("to", _EVERYONE), f"{field}.to"))

    def receivers(self, to: Any, field: str) -> tuple[int, ...]:
        if to == _EVERYONE:
            return tuple(range(len(self.index)))
        if isinstance(to, str) and to in self.groups:
            return tuple(sorted(self.groups[to]))
        names = to if isinstance(to, list) else [to]
        return tuple(sorted({self.find(name, field) for name in names}))

    def probe(self, raw: Any, field: str, events: Sequence[ScheduledEvent]) -> Probe:
        if not isinstance(raw, dict):
            raise WorldError(self.source, field, "an object with a name, a fact and a question", found=repr(raw)[:80])
        raw = dict(raw)
        to = self.receivers(raw["to"], f"{field}.to") if raw.get("to", _EVERYONE) != _EVERYONE else None
        for text, step in (("fact", "step"), ("neighbour", "neighbour_step")):
            said = [event for event in events if raw.get(text) and str(raw[text]) in event.text]
            if said and step not in raw:
                raw[step] = said[0].step
                if "to" not in raw and text == "fact" and len(said[0].to) < len(self.index):
                    to = said[0].to
        try:
            return probe_from(raw, to)
        except InputError as problem:
            raise WorldError(self.source, f"{field}.{problem.field}", problem.expected) from problem
