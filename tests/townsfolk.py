"""People of TinyTroupe's for tests, the world that they live in, and what they have heard."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

START, HOUR = datetime(2026, 3, 2, 8), timedelta(hours=1)
SAYINGS = (
    "The kettle leaks again.", "Who will sing on Thursday?", "Bicycles are dear this year.", "I dreamt of a lighthouse.",
    "Our library should open on Sundays.", "Nobody waters these tomatoes.", "Let us count the chairs.", "My shoes want mending.",
    "Portugal has better trains.", "Snow fell on the harbour.", "He owes me eleven coins.", "A fox lives behind the mill.",
)  # fmt: skip
"""Unlike one another, since TinyTroupe lets nobody say the like twice."""


def people(tt: Any, count: int = 4, name: str = "Person") -> list[Any]:
    """So many persons of one world."""
    made = []
    for number in range(count):
        person = tt.person.TinyPerson(f"{name} {number}")
        person.include_persona_definitions({"age": 30 + number, "nationality": "Turkish", "occupation": "clerk"})
        made.append(person)
    return made


def world_of(tt: Any, persons: list[Any], name: str = "Town", kind: Any = None) -> Any:
    """A world with a clock of its own, where talk reaches only whom it is meant for."""
    world = (kind or tt.world.TinyWorld)(name, persons, initial_datetime=START, broadcast_if_no_target=False)
    world._interventions = []  # TinyTroupe's worlds share the list of a default argument
    world.make_everyone_accessible()
    return world


def forget(tt: Any) -> None:
    """Have TinyTroupe forget everybody, so that the same names can be used again."""
    tt.person.TinyPerson.clear_agents()
    tt.world.TinyWorld.clear_environments()


def heard(person: Any) -> list[str]:
    """What a person has heard, in order."""
    records = person.episodic_memory.retrieve_all(item_type="stimulus")
    return [record["content"]["stimuli"][0]["content"] for record in records]
