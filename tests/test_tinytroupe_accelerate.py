"""TinyTroupe's own code on this engine: what it gives stays the same, what goes on is seen, and afterwards nothing is left of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from helpers import eventually
from townsfolk import HOUR, SAYINGS, START, forget, heard, people, world_of

import troupelab as tl
from troupelab.bridges.tinytroupe import patches
from troupelab.bridges.tinytroupe.accelerate import Acceleration, accelerate
from troupelab.bridges.tinytroupe.troupe import ROSTER
from troupelab.errors import BridgeError, InputError, LimitError, ModelRequestError, TroupeLabError
from troupelab.models.model import Reply, Request
from troupelab.models.rehearsal.process import Rehearsal

NAME = re.compile(r'"name": "(Person \d+)"')
WAIT_S = 20.0


def saying(name: str, number: int) -> str:
    """What a person says for the so manieth time."""
    return f"{SAYINGS[number % len(SAYINGS)]} ({name}, {number})"


class Script:
    """What a person says: a function of who asks for what for the how manieth time, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: Counter[tuple[str, str]] = Counter()

    def __call__(self, prompt: str, form: str) -> str:
        """The reply to a prompt."""
        found = NAME.search(prompt.replace('\\"', '"'))
        name = found[1] if found else "Nobody"
        with self._lock:
            self._asked[name, form] += 1
            number = self._asked[name, form]
        if form == "turn":
            target = f"Person {(int(name.split()[1]) + 1) % 4}" if found else ""
            return turn(saying(name, number), target, number)
        if form == "notes":
            return json.dumps(
                {"consolidation": [{"content": "A note.", "type": "consolidated", "simulation_timestamp": None}]}
            )
        return "A sketch of a person."


def turn(text: str, target: str = "", number: int = 0) -> str:
    """A turn with one thing said, in TinyTroupe's form."""
    said = {"type": "TALK", "content": text, "target": target}
    state = {"goals": f"goal {number}", "context": [f"hour {number}"], "attention": "you", "emotions": "calm"}
    return json.dumps({"actions": [said, {"type": "DONE", "content": "", "target": ""}], "cognitive_state": state})


class Cast:
    """A model for tests: plays by a script, counts what is under way, and holds, fails or is stopped as it is told.

    Args:
        gather: for a purpose, how many calls must be under way before any of them is answered.
        fails: whether a request fails.
        cost_usd: of each call.
    """

    name = "cast"

    def __init__(
        self,
        *,
        gather: dict[str, int] | None = None,
        fails: Callable[[Request], bool] = lambda _: False,
        cost_usd: float = 0.0,
    ) -> None:
        self.script = Script()
        self.calls: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.cancelled = 0
        self.under_way: Counter[str] = Counter()
        self.replies: Callable[[Request], str] | None = None
        self.endless = False
        self._gather = gather or {}
        self._fails = fails
        self._cost_usd = cost_usd

    async def complete(self, request: Request) -> Reply:
        """Answer a request."""
        purpose = request.purpose
        self.calls[purpose] += 1
        self.under_way[purpose] += 1
        self.most[purpose] = max(self.most[purpose], self.under_way[purpose])
        try:
            if self.endless:
                await asyncio.sleep(3600)
            for _ in range(2000):
                if self.most[purpose] >= self._gather.get(purpose, 0):
                    break
                await asyncio.sleep(0.005)
            else:
                raise AssertionError(f"only {self.most[purpose]} {purpose} calls were under way at once")
            await asyncio.sleep(0)
            if self._fails(request):
                raise ModelRequestError("the model refuses this one")
            form = {"act": "turn", "consolidate": "notes"}.get(purpose, "text")
            prompt = "\n".join(each.content for each in request.messages)
            text = self.replies(request) if self.replies is not None else self.script(prompt, form)
            return Reply(text, 10, 10, self._cost_usd, self.name)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way[purpose] -= 1


class Stock:
    """A client of TinyTroupe's own that answers by the same script."""

    def __init__(self) -> None:
        self.script = Script()

    def send_message(self, current_messages: Any, response_format: Any = None, **_options: Any) -> dict[str, str]:
        """The reply as TinyTroupe gets it."""
        prompt = "\n".join(str(each["content"]) for each in current_messages)
        form = "turn" if "CognitiveAction" in str(response_format) else "text"
        if "Unnamed parameters" in prompt or "consolidation" in prompt:
            form = "notes" if form == "text" else form
        return {"role": "assistant", "content": self.script(prompt, form)}

    def get_cost_stats(self) -> dict[str, int]:
        """Nothing is counted."""
        return {}


def remembered(persons: list[Any]) -> dict[str, Any]:
    """All that persons remember and have in mind."""
    return {
        person.name: (
            person.episodic_memory.retrieve_all(),
            person.episodic_memory.get_current_episode(),
            person.semantic_memory.memories,
            {name: value for name, value in person._mental_state.items() if name != "working_semantic_memory"},
            (person.actions_count, person.stimuli_count, person._current_episode_event_count),
        )
        for person in persons
    }


@pytest.fixture
def short_episodes(tinytroupe, monkeypatch) -> None:
    """Episodes end after few records."""
    monkeypatch.setattr(tinytroupe.person.TinyPerson, "MIN_EPISODE_LENGTH", 2)
    monkeypatch.setattr(tinytroupe.person.TinyPerson, "MAX_EPISODE_LENGTH", 7)


# ------------------------------------------------------------------ nothing is left


def everything(tt: Any) -> dict[str, Any]:
    """What every module of TinyTroupe and every class in it has under which name, by identity, and the registries' content."""
    found: dict[str, Any] = {}
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] != "tinytroupe":
            continue
        found[name] = {key: id(value) for key, value in vars(module).items()}
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__.partition(".")[0] == "tinytroupe":
                found[f"{value.__module__}.{value.__qualname__}"] = {key: id(each) for key, each in vars(value).items()}
    found["clients"] = dict(tt.clients._api_type_to_client)
    found["override"] = tt.clients._api_type_override
    found["classes"] = dict(tt.registry.JsonSerializableRegistry.class_mapping)
    found["config"] = dict(getattr(tt.config, "_config", {}))
    found["client"] = tt.clients.client()
    return found


def test_every_module_is_as_before(tinytroupe):
    """After an acceleration every module, class, registry and the client in use are what they were, while it lasts they are not."""
    world = world_of(tinytroupe, people(tinytroupe))
    before = everything(tinytroupe)
    with accelerate(model=Cast()):
        assert everything(tinytroupe) != before
        world.run(1)
    assert everything(tinytroupe) == before
    assert patches._patches is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("troupelab")]


def test_every_module_is_as_before_after_a_failure(tinytroupe):
    """An exception inside the with-block passes through, and everything is undone."""
    persons = people(tinytroupe)
    before = everything(tinytroupe)

    def fail() -> None:
        with accelerate(model=Cast()):
            persons[0].listen_and_act("Hello.")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert everything(tinytroupe) == before
    assert type(persons[0].episodic_memory) is tinytroupe.memory.EpisodicMemory
    assert not set(ROSTER) & set(persons)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_overlapping_accelerations_may_be_closed_in_any_order(tinytroupe, order):
    """Whichever is closed first, the others go on, each with its own model, and after the last one all is as before."""
    persons = people(tinytroupe)
    world = world_of(tinytroupe, persons)
    before = everything(tinytroupe)
    models = [Cast() for _ in range(3)]
    for model in models:
        model.script = models[0].script
    fast = [accelerate(model=model).start() for model in models]
    left = list(range(3))
    for number in order:
        world.run(1)
        fast[number].stop()
        left.remove(number)
        assert fast[number].state == "done"
    assert left == []
    assert everything(tinytroupe) == before
    assert sum(model.calls["act"] for model in models) == 4 * 3
    assert all(type(person.episodic_memory) is tinytroupe.memory.EpisodicMemory for person in persons)
    assert {person.actions_count for person in persons} == {6}


def test_an_acceleration_that_cannot_be_opened_leaves_nothing(tinytroupe, tmp_path):
    """A cache file that cannot be used is told when it is opened, and nothing has been changed."""
    persons = people(tinytroupe)
    before = everything(tinytroupe)
    with pytest.raises((TroupeLabError, OSError)):
        accelerate(model=Cast(), cache=tmp_path).start()
    assert everything(tinytroupe) == before
    assert not set(ROSTER) & set(persons)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("troupelab")]


def test_memories_that_cannot_be_kept_are_refused_before_anything_is_changed(tinytroupe):
    """A person who remembers something that no JSON can hold is told when it is opened; everybody has their own memories as before."""
    persons = people(tinytroupe, 3)
    persons[0].listen("Hello.")
    endless: dict[str, Any] = {"type": "stimulus", "role": "user"}
    endless["content"] = endless
    persons[1].episodic_memory._store(endless)
    before = everything(tinytroupe)
    memories = [person.episodic_memory for person in persons]
    with pytest.raises(InputError):
        accelerate(model=Cast()).start()
    assert everything(tinytroupe) == before
    assert not set(ROSTER) & set(persons)
    assert patches._patches is None
    assert all(type(person.episodic_memory) is tinytroupe.memory.EpisodicMemory for person in persons)
    assert [person.episodic_memory.count() for person in persons] == [1, 1, 0]
    assert persons[1].episodic_memory is memories[1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("troupelab")]


def test_it_is_opened_once_and_closed_as_often_as_one_likes(tinytroupe):
    """Opening it again is refused with a sentence; closing it again, or one that never was open, does nothing."""
    fast = accelerate(model=Cast())
    fast.stop()
    fast.start().stop()
    fast.stop()
    with pytest.raises(BridgeError, match="call accelerate"):
        fast.start()


def test_limits_are_checked_before_anything_is_changed(tinytroupe):
    """An unknown limit, or one out of range, is refused by its name."""
    with pytest.raises(LimitError):
        accelerate(model=Cast(), recent_max_recrods=3)
    with pytest.raises(LimitError):
        accelerate(model=Cast(), recent_max_records=-3)
    assert patches._patches is None


# ------------------------------------------------------------------ the same as stock


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize("consolidates", [True, False])
def test_persons_remember_the_same_as_in_stock(tinytroupe, consolidates):
    """For the same replies all memories, notes, states of mind and times are the same as without us, value by value."""
    tinytroupe.config.update("enable_memory_consolidation", consolidates)
    tinytroupe.clients.register_client("script", Stock())
    tinytroupe.clients.force_api_type("script")
    persons = people(tinytroupe)
    world = world_of(tinytroupe, persons)
    world.broadcast("Welcome.")
    world.run(4, timedelta_per_step=HOUR)
    stock = remembered(persons)
    stock_actions = [len(person.episodic_memory.retrieve_all(item_type="action")) for person in persons]
    forget(tinytroupe)
    persons = people(tinytroupe)
    world = world_of(tinytroupe, persons)
    with accelerate(model=Cast(), recent_max_records=8, total_max_bytes=400_000) as fast:
        world.broadcast("Welcome.")
        world.run(4, timedelta_per_step=HOUR)
        assert fast.frames.errors.empty
        during = remembered(persons)
    after = remembered(persons)
    assert stock_actions == [8, 8, 8, 8]
    assert during == after
    for name, mine in after.items():
        for part, theirs in zip(mine, stock[name], strict=True):
            assert part == theirs
    if consolidates:
        assert all(mine[2] for mine in after.values())
    assert world.current_datetime == START + 4 * HOUR


def test_run_returns_what_stock_returns(tinytroupe):
    """`return_actions` gives the actions of each step by name, as stock does, in parallel and one after another."""
    tinytroupe.clients.register_client("script", Stock())
    tinytroupe.clients.force_api_type("script")
    given = []
    for is_fast in (False, True):
        forget(tinytroupe)
        world = world_of(tinytroupe, people(tinytroupe))
        with accelerate(model=Cast()) if is_fast else ExitStack():
            given.append(world.run(2, return_actions=True))
            given.append(world.run(1, return_actions=True, parallelize=False, randomize_agents_order=False))
    assert given[0] == given[2]
    assert given[1] == given[3]
    assert set(given[0][0]) == {f"Person {number}" for number in range(4)}


def test_memories_are_tinytroupe_s_own_afterwards_and_grow_on(tinytroupe):
    """After the with-block persons have TinyTroupe's own classes with all in them, and remember more as they always did."""
    persons = people(tinytroupe, 2)
    with accelerate(model=Cast(), recent_max_records=5):
        for number in range(20):
            persons[0].listen(f"number {number}")
        assert type(persons[0].episodic_memory) is not tinytroupe.memory.EpisodicMemory
        assert isinstance(persons[0].episodic_memory, tinytroupe.memory.EpisodicMemory)
    persons[0].listen("after")
    assert type(persons[0].episodic_memory) is tinytroupe.memory.EpisodicMemory
    assert type(persons[0].semantic_memory) is tinytroupe.memory.SemanticMemory
    assert heard(persons[0]) == [*(f"number {number}" for number in range(20)), "after"]


def test_memories_of_the_user_s_own_making(tinytroupe):
    """A memory with lengths of its own keeps them, and one that is put in its place meanwhile is the one that counts, and stays."""
    memory = tinytroupe.memory.EpisodicMemory(2, 3)
    first = tinytroupe.person.TinyPerson("Person 0", episodic_memory=memory)
    (second,) = [tinytroupe.person.TinyPerson("Person 1")]
    with accelerate(model=Cast(), recent_max_records=5):
        third = tinytroupe.person.TinyPerson("Person 2", episodic_memory=tinytroupe.memory.EpisodicMemory(1, 1))
        for person in (first, second, third):
            for number in range(9):
                person.listen(f"number {number}")
        assert [len(person.episodic_memory.retrieve_recent()) for person in (first, third)] == [6, 3]
        second.act()
        second.episodic_memory = tinytroupe.memory.EpisodicMemory(4, 5)
        assert second.last_remembered_action() is None
        second.act()
        assert second.last_remembered_action()["content"] == saying("Person 1", 2)
    for person, lengths in ((first, (2, 3)), (second, (4, 5)), (third, (1, 1))):
        found = person.episodic_memory
        assert type(found) is tinytroupe.memory.EpisodicMemory
        assert (found.fixed_prefix_length, found.lookback_length) == lengths
    assert first.episodic_memory.count() == third.episodic_memory.count() == 9
    assert second.episodic_memory.count() == 2


def test_notes_can_be_found_again_while_it_lasts(tinytroupe):
    """What is learnt can be searched, which stock cannot do; the notes are there afterwards."""
    (person,) = people(tinytroupe, 1)
    facts = ["The kettle leaks.", "Omar sells bicycles.", "The choir sings on Thursdays."]
    with accelerate(model=Cast()):
        person.semantic_memory.store_all(
            [{"content": fact, "type": "consolidated", "simulation_timestamp": None} for fact in facts]
        )
        assert "bicycles" in person.retrieve_relevant_memories("Who sells a bicycle?", top_k=1)[0]
    assert [fact in each["content"] for fact, each in zip(facts, person.semantic_memory.memories, strict=True)] == [
        True
    ] * 3


# ------------------------------------------------------------------ calls


def test_all_agents_wait_for_the_model_at_once(tinytroupe):
    """All calls of a step are under way together, and each is known by agent and purpose in the frames."""
    world = world_of(tinytroupe, people(tinytroupe, 30))
    model = Cast(gather={"act": 30})
    with accelerate(model=model) as fast:
        world.run(2)
        calls = fast.frames.calls
        acts = calls[calls.purpose == "act"]
        assert fast.agent_names == tuple(f"Person {number}" for number in range(30))
    assert acts.groupby("agent", observed=False).size().to_dict() == {f"Person {number}": 2 for number in range(30)}
    assert sorted(set(acts.step)) == [0, 1]
    assert set(acts.tokens_in) == {10}
    assert model.most["act"] == 30


@pytest.mark.usefixtures("short_episodes")
def test_consolidations_and_sketches_run_beside_each_other(tinytroupe):
    """A broadcast that ends everybody's episode has all sketches under way at once, and all consolidations."""
    persons = people(tinytroupe, 12)
    world = world_of(tinytroupe, persons)
    model = Cast(gather={"consolidate": 12})
    with accelerate(model=model) as fast:
        for number in range(7):
            world.broadcast(f"This is number {number}.")
        assert [len(person.semantic_memory.retrieve_all()) for person in persons] == [1] * 12
        calls = fast.frames.calls
        consolidations = fast.frames.consolidations
    assert model.most["consolidate"] == 12
    assert set(calls.agent[calls.purpose == "consolidate"]) == {person.name for person in persons}
    assert set(consolidations.agent) == {person.name for person in persons}
    assert set(consolidations.records_in) == {7}
    assert [len(person.semantic_memory.memories) for person in persons] == [1] * 12


def test_minibios_asked_for_by_threads_run_beside_each_other(tinytroupe):
    """Sketches of ten persons, asked for by ten threads, are under way at once, each under its person's name."""
    persons = people(tinytroupe, 10)
    model = Cast(gather={"minibio": 10})
    with accelerate(model=model) as fast, ThreadPoolExecutor(10) as pool:
        sketches = list(pool.map(lambda person: person.minibio(), persons))
        calls = fast.frames.calls
    assert all("sketch" in sketch for sketch in sketches)
    assert sorted(calls.agent) == sorted(person.name for person in persons)
    assert set(calls.purpose) == {"minibio"}


def test_listen_and_act_works_in_the_calling_thread(tinytroupe):
    """A person spoken to in a cell acts in that very thread, and its actions come back."""
    (person,) = people(tinytroupe, 1)
    seen = []
    model = Cast()
    with accelerate(model=model) as fast:
        stored = person.store_in_memory
        person.store_in_memory = lambda value: (seen.append(threading.get_ident()), stored(value))[1]
        actions = person.listen_and_act("Good morning.", return_actions=True)
        del person.store_in_memory
        assert fast.transcript().content.tolist() == [saying("Person 0", 1)]
    assert [each["action"]["type"] for each in actions] == ["TALK", "DONE"]
    assert set(seen) == {threading.get_ident()}


def test_plain_threads_may_ask_the_client(tinytroupe):
    """Twenty threads that block in TinyTroupe's client are answered at once, as calls of nobody in particular."""
    model = Cast(gather={"other": 20})
    with accelerate(model=model) as fast, ThreadPoolExecutor(20) as pool:
        client = tinytroupe.clients.client()
        asked = [[{"role": "user", "content": f"Question {number}?"}] for number in range(20)]
        replies = list(pool.map(client.send_message, asked))
        calls = fast.frames.calls
        assert client.get_cost_stats()["model_calls"] == 20
        client.reset_cost_stats()
        assert client.get_cost_stats()["model_calls"] == 0
    assert replies == [{"role": "assistant", "content": "A sketch of a person."}] * 20
    assert calls.agent.isna().all()
    assert set(calls.purpose) == {"other"}


def test_a_client_that_was_kept_falls_back_to_the_one_before(tinytroupe):
    """Whoever kept our client beyond the with-block is answered by the client that TinyTroupe had."""
    tinytroupe.clients.register_client("script", Stock())
    tinytroupe.clients.force_api_type("script")
    with accelerate(model=Cast()) as fast:
        client = tinytroupe.clients.client()
    assert client.send_message([{"role": "user", "content": "Hello?"}])["content"] == "A sketch of a person."
    assert fast.frames.calls.empty


def test_a_factory_makes_people_side_by_side(tinytroupe):
    """A factory in parallel mode makes all people it was asked for, who belong to the acceleration and act in it."""
    inner = tl.ScriptedModel(7, latency_s=0.0)
    model = Cast()

    async def played(request: Request) -> Reply:
        model.under_way["any"] += 1
        model.most["any"] = max(model.most["any"], model.under_way["any"])
        try:
            await asyncio.sleep(0.02)
            return await inner.complete(request)
        finally:
            model.under_way["any"] -= 1

    model.complete = played  # type: ignore[method-assign]
    with accelerate(model=model) as fast, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        factory = tinytroupe.factory.TinyPersonFactory(
            context="People who live near a harbour.",
            sampling_space_description="Adults of all ages.",
            total_population_size=8,
        )
        made = factory.generate_people(8, parallelize=True, verbose=False)
        assert len({person.name for person in made}) == 8
        assert set(fast.agent_names) >= {person.name for person in made}
        world = world_of(tinytroupe, made)
        world.run(1)
        assert fast.frames.errors.empty
        assert (fast.frames.acts.agent.value_counts() >= 1).sum() >= 8
    assert model.most["any"] >= 4
    assert all(type(person.episodic_memory) is tinytroupe.memory.EpisodicMemory for person in made)


def test_parallel_map_runs_in_greenlets(tinytroupe):
    """TinyTroupe's parallel map has all of its calls under way at once, and keeps their order."""
    model = Cast(gather={"other": 30})
    with accelerate(model=model):
        client = tinytroupe.clients.client()
        found = tinytroupe.parallel.parallel_map(
            list(range(30)), lambda n: client.send_message([{"role": "user", "content": f"{n}?"}])["role"] + str(n)
        )
        found = list(found.values()) if isinstance(found, dict) else list(found)
    assert [each if isinstance(each, str) else each[1] for each in found] == [f"assistant{n}" for n in range(30)]


# ------------------------------------------------------------------ faculties, and the feed


def test_faculties_that_call_asyncio_run_work(tinytroupe):
    """A faculty with an event loop of its own runs it, and may ask the model from there; what it returns counts."""
    client_of = tinytroupe.clients.client
    done: list[tuple[str, str, int]] = []

    class Asking(sys.modules["tinytroupe.agent.mental_faculty"].TinyMentalFaculty):  # type: ignore[misc, name-defined]
        """Looks something up in a loop of its own."""

        def process_action(self, agent: Any, action: Any) -> bool:
            """React to talk."""
            if action["type"] != "TALK":
                return False

            async def look_up() -> str:
                await asyncio.sleep(0)
                return "found"

            reply = client_of().send_message([{"role": "user", "content": f"What of {action['content']}?"}])
            done.append((agent.name, asyncio.run(look_up()) + reply["role"], threading.get_ident()))
            return True

        def actions_definitions_prompt(self) -> str:
            """Nothing is said of it."""
            return ""

        def actions_constraints_prompt(self) -> str:
            """Nothing is said of it."""
            return ""

    before = dict(tinytroupe.registry.JsonSerializableRegistry.class_mapping)
    persons = people(tinytroupe, 5)
    for person in persons:
        person.add_mental_faculties([Asking("Asking")])
    world = world_of(tinytroupe, persons)
    try:
        with accelerate(model=Cast()) as fast:
            world.run(1)
            persons[0].listen_and_act("And you?")
            assert fast.frames.errors.empty
            calls = fast.frames.calls
        assert sorted(name for name, *_ in done) == ["Person 0", *sorted(person.name for person in persons)]
        assert {text for _, text, _ in done} == {"foundassistant"}
        assert calls.purpose.value_counts().to_dict()["act"] >= 6
        assert all(type(person._mental_faculties[0]) is Asking for person in persons)
    finally:
        tinytroupe.registry.JsonSerializableRegistry.class_mapping.clear()
        tinytroupe.registry.JsonSerializableRegistry.class_mapping.update(before)


@pytest.mark.parametrize("text", ["a [/b] b", "[bold", "[/]", "[link=x]y"])
def test_markup_in_a_reply_does_not_end_the_run(tinytroupe, monkeypatch, capsys, text):
    """With displays on, what looks like markup in a reply is shown and remembered as text."""
    monkeypatch.setattr(tinytroupe.person.TinyPerson, "communication_display", True)
    monkeypatch.setattr(tinytroupe.world.TinyWorld, "communication_display", True)
    persons = people(tinytroupe, 2)
    world = world_of(tinytroupe, persons)
    model = Cast()
    model.replies = lambda request: turn(f"{text} {saying(str(request.agent), request.step)}", "Person 1")
    with accelerate(model=model) as fast:
        world.run(2)
        assert fast.frames.errors.empty
        said = [f"{text} {saying(str(agent), step)}" for step in range(2) for agent in range(2)]
        assert fast.transcript().content.tolist() == said
    assert said[2] in heard(persons[1])
    if "minimal" not in tinytroupe.version:
        assert capsys.readouterr().out


# ------------------------------------------------------------------ failures


def test_a_failing_call_is_an_event_and_the_others_go_on(tinytroupe):
    """Whose call fails loses its turn, which is told; everybody else acts, and is heard."""
    persons = people(tinytroupe)
    world = world_of(tinytroupe, persons)
    with accelerate(model=Cast(fails=lambda request: request.agent == 2), max_attempts=1) as fast:
        world.run(2)
        errors, transcript = fast.frames.errors, fast.transcript()
        assert fast.state == "running"
    assert set(errors.kind) == {"ModelRequestError"}
    assert set(errors.agent) == {"Person 2"}
    assert errors.message.str.startswith("Person 2 lost its turn").sum() == 2
    assert Counter(transcript.agent) == {"Person 0": 2, "Person 1": 2, "Person 3": 2}
    assert heard(persons[1]) == [saying("Person 0", 1), saying("Person 0", 2)]
    assert heard(persons[3]) == []


def test_a_tool_that_wants_to_end_the_process_costs_a_turn(tinytroupe, quitter):
    """SystemExit out of a faculty is an act that failed: it is told, everybody else acts, and the next step is as any."""
    persons = people(tinytroupe)
    persons[0].add_mental_faculties([quitter])
    world = world_of(tinytroupe, persons)
    before = everything(tinytroupe)
    with accelerate(model=Cast()) as fast:
        world.run(2)
        assert set(fast.frames.errors.agent) == {"Person 0"}
        assert Counter(fast.transcript().agent)["Person 3"] == 2
    assert everything(tinytroupe) == before


def test_everybody_failing_raises(tinytroupe):
    """A step in which nobody could act raises the first failure, as a typed error."""
    persons = people(tinytroupe)
    world = world_of(tinytroupe, persons)
    with accelerate(model=Cast(fails=lambda _: True), max_attempts=1) as fast:
        with pytest.raises(ModelRequestError):
            world.run(2)
        assert fast.frames.errors.message.str.contains("lost its turn").sum() == 4
        with pytest.raises(ModelRequestError):
            persons[0].listen_and_act("Hello?")


def test_failing_notes_are_an_event_and_the_episode_stays(tinytroupe, short_episodes):
    """When a consolidation fails nothing is lost: the episode's records stay, and that there are no notes is told."""
    persons = people(tinytroupe, 2)
    with accelerate(model=Cast(fails=lambda request: request.purpose == "consolidate"), max_attempts=1) as fast:
        for number in range(7):
            persons[0].listen(f"number {number}")
        assert persons[0].semantic_memory.retrieve_all() == []
        assert persons[0].episodic_memory.get_current_episode() == []
        errors = fast.frames.errors
    assert set(errors.agent) == {"Person 0"}
    assert errors.message.str.contains("stay as they are").sum() == 1
    assert len(heard(persons[0])) == 7


@pytest.mark.parametrize(
    "reply", ["", "no JSON at all", '{"actions": "none"}', "{}", '{"actions": [], "cognitive_state": {}}']
)
def test_replies_that_are_of_no_use_cost_a_turn_at_most(tinytroupe, reply):
    """A model that answers one person with rubbish costs that one its turn, or nothing; the others act, and nothing hangs."""
    world = world_of(tinytroupe, people(tinytroupe, 3))
    model = Cast()
    model.replies = lambda request: reply if request.agent == 0 else turn(f"{request.agent}")
    with accelerate(model=model, max_attempts=2) as fast:
        world.run(1)
        assert fast.transcript().agent.tolist() == ["Person 1", "Person 2"]
        assert set(fast.frames.errors.agent) <= {"Person 0"}


@pytest.fixture(scope="module")
def server() -> Iterator[Rehearsal]:
    """A rehearsal server."""
    with Rehearsal(latency="const:0.005", seed=7, retry_after_s=0.02) as server:
        yield server


def test_calls_over_http_with_429s_are_tried_again(tinytroupe, server, monkeypatch):
    """The model that TinyTroupe's configuration names, at its address: a third of the calls are turned away, and no turn is lost."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    server.reset()
    server.configure(p429=0.34)
    persons = people(tinytroupe, 6)
    world = world_of(tinytroupe, persons)
    with accelerate() as fast:
        world.run(1)
        assert fast.model.name == tinytroupe.config.get("model")
        calls, errors = fast.frames.calls, fast.frames.errors
        lost = errors[errors.message.str.contains("lost its turn")]
    server.configure(p429=0.0)
    assert lost.empty
    acts = calls[calls.purpose == "act"]
    assert len(acts) >= 6
    assert acts.attempts.sum() > len(acts)
    assert server.stats()["requests"] >= acts.attempts.sum()
    assert all(person.actions_count > 0 for person in persons)


def test_an_interrupt_leaves_no_call_behind(tinytroupe):
    """Interrupted like a cell, a run raises KeyboardInterrupt; every call that was under way is cancelled, and all is undone."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("only a main thread is interrupted")
    world = world_of(tinytroupe, people(tinytroupe, 6))
    before = everything(tinytroupe)
    model = Cast()
    model.endless = True

    def interrupt() -> None:
        eventually("six calls are under way", lambda: model.under_way["act"] == 6)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with accelerate(model=model) as fast:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            world.run(1)
        thread.join()
        eventually("no call is under way", lambda: not fast.in_flight and not fast.queued)
        assert model.cancelled == 6
        model.endless = False
        world.run(1)
        assert len(fast.transcript()) == 6
    assert everything(tinytroupe) == before


# ------------------------------------------------------------------ limits while it runs


def test_fewer_calls_at_once_take_effect_between_steps(tinytroupe):
    """Lowered to one, calls go one after another from then on; the change is in the frames."""
    world = world_of(tinytroupe, people(tinytroupe, 8))
    model = Cast(gather={"act": 8})
    with accelerate(model=model) as fast:
        world.run(1)
        assert model.most["act"] == 8
        fast.limits.update(max_concurrency=1, note="one by one")
        model.most.clear()
        model._gather = {}
        world.run(1)
        changes = fast.frames.limits
    assert model.most["act"] == 1
    assert changes.field.tolist() == ["max_concurrency"]
    assert changes.note.tolist() == ["one by one"]


def test_more_calls_at_once_take_effect_within_a_step(tinytroupe):
    """Six calls that wait for one another, two let through: raised from another thread, the limit lets them all go on."""
    world = world_of(tinytroupe, people(tinytroupe, 6))
    model = Cast(gather={"act": 6})
    with accelerate(model=model, max_concurrency=2) as fast, ThreadPoolExecutor(1) as pool:
        running = pool.submit(world.run, 1)
        eventually("two calls are under way", lambda: model.under_way["act"] == 2)
        assert fast.in_flight == 2
        fast.limits.update(max_concurrency=6)
        running.result(WAIT_S)
    assert model.most["act"] == 6


def test_memory_limits_take_effect_from_the_next_step_on(tinytroupe):
    """A lowered cap on recent records is obeyed by the next step's end, and nothing is forgotten."""
    (person,) = persons = people(tinytroupe, 1)
    world = world_of(tinytroupe, persons)
    with accelerate(model=Cast(), recent_max_records=50) as fast:
        for number in range(40):
            person.listen(f"number {number}")
        fast.limits.update(recent_max_records=6)
        world.run(2)
        sizes = fast.frames.memory
        assert sizes.recent_records.iloc[-1] <= 6
        assert sizes.recent_records.max() >= 40
    assert heard(person)[:40] == [f"number {number}" for number in range(40)]


@pytest.mark.parametrize("limit", ["max_tokens", "max_cost_usd"])
def test_a_guardrail_pauses_and_raising_it_goes_on(tinytroupe, limit):
    """What is spent up stops all calls; another thread raises the limit, and the very same run goes on to its end."""
    persons = people(tinytroupe, 3)
    world = world_of(tinytroupe, persons)
    with accelerate(
        model=Cast(cost_usd=0.5), max_concurrency=1, **{limit: {"max_tokens": 100, "max_cost_usd": 2}[limit]}
    ) as fast:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(world.run, 4)
            try:
                eventually("it pauses", lambda: fast.state == "paused")
                assert not running.done()
            finally:
                fast.limits.update(**{limit: None})
            running.result(WAIT_S)
        assert fast.state == "running"
        assert len(fast.transcript()) == 12
    assert [person.actions_count for person in persons] == [8] * 3


def test_pause_and_resume(tinytroupe):
    """While paused no call begins; resumed, everything goes on; closing a paused one does not hang."""
    world = world_of(tinytroupe, people(tinytroupe, 3))
    model = Cast()
    with accelerate(model=model) as fast, ThreadPoolExecutor(1) as pool:
        fast.pause()
        running = pool.submit(world.run, 1)
        eventually("three wait", lambda: fast.queued == 3)
        assert model.calls["act"] == 0
        fast.resume()
        running.result(WAIT_S)
        fast.pause()
    assert model.calls["act"] == 3
    assert fast.state == "done"


# ------------------------------------------------------------------ where it is called from


def test_it_works_inside_a_running_event_loop(tinytroupe):
    """Called as in a notebook, in a thread whose own event loop runs, everything works and that loop is left alone."""
    world = world_of(tinytroupe, people(tinytroupe))

    async def cell() -> int:
        with accelerate(model=Cast()) as fast:
            world.run(2)
            world.agents[0].listen_and_act("Hello.")
            await asyncio.sleep(0)
            return len(fast.transcript())

    assert asyncio.run(cell()) == 9


def test_two_threads_run_two_worlds_at_once(tinytroupe):
    """Two worlds that are run from two threads go on side by side: both steps' calls are under way together."""
    worlds = []
    for number in range(2):
        persons = [tinytroupe.person.TinyPerson(f"Person {10 * number + each}") for each in range(3)]
        worlds.append(world_of(tinytroupe, persons, f"Town {number}"))
    model = Cast(gather={"act": 6})
    with accelerate(model=model) as fast, ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(world.run, 2) for world in worlds]:
            done.result(WAIT_S)
        assert fast.frames.errors.empty
        assert len(fast.transcript()) == 12
    assert model.most["act"] == 6


def test_a_person_may_make_another_act_within_its_turn(tinytroupe):
    """A faculty that speaks to another person and waits for its answer gets it, in the midst of a step."""
    answered: list[str] = []

    class Phone(sys.modules["tinytroupe.agent.mental_faculty"].TinyMentalFaculty):  # type: ignore[misc, name-defined]
        """Calls somebody up."""

        def process_action(self, agent: Any, action: Any) -> bool:
            """Call the friend, whatever is done."""
            if action["type"] == "TALK":
                answered.append(friend.listen_and_act("It is me.", return_actions=True)[0]["action"]["content"])
            return False

        def actions_definitions_prompt(self) -> str:
            """Nothing is said of it."""
            return ""

        def actions_constraints_prompt(self) -> str:
            """Nothing is said of it."""
            return ""

    persons = people(tinytroupe, 2)
    friend = tinytroupe.person.TinyPerson("Person 9")
    persons[0].add_mental_faculties([Phone("Phone")])
    world = world_of(tinytroupe, persons)
    try:
        with accelerate(model=Cast()) as fast:
            world.run(1)
            assert fast.frames.errors.empty
            calls = fast.frames.calls
    finally:
        tinytroupe.registry.JsonSerializableRegistry.class_mapping.pop("Phone", None)
    assert answered == [saying("Person 9", 1)]
    assert Counter(calls.agent[calls.purpose == "act"]) == {"Person 0": 1, "Person 1": 1, "Person 9": 1}


def test_persons_that_come_and_go_between_steps(tinytroupe):
    """Who comes into the world while it lasts acts from its next step on, and who leaves no longer."""
    persons = people(tinytroupe, 2)
    world = world_of(tinytroupe, persons)
    with accelerate(model=Cast()) as fast:
        world.run(1)
        world.add_agent(tinytroupe.person.TinyPerson("Person 2"))
        world.run(1)
        world.agents.remove(persons[0])
        world.run(1)
        transcript = fast.transcript()
    acted = [sorted(transcript.agent[transcript.step == step]) for step in range(3)]
    assert acted == [["Person 0", "Person 1"], ["Person 0", "Person 1", "Person 2"], ["Person 1", "Person 2"]]


def test_specifications_with_memories_are_written_as_tinytroupe_s_own(tinytroupe, tmp_path):
    """A person's file with its memories and state of mind is the same with and without us."""
    (person,) = people(tinytroupe, 1)
    for number in range(9):
        person.listen(f"number {number}")
    person.semantic_memory.store("Tea is hot.")
    files = [tmp_path / "stock.json", tmp_path / "ours.json"]
    wanted = {"include_memory": True, "include_mental_state": True}
    person.save_specification(str(files[0]), **wanted)
    with accelerate(model=Cast(), recent_max_records=5):
        person.save_specification(str(files[1]), **wanted)
    stock, ours = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    assert ours == stock
    assert len(ours["episodic_memory"]["episodic_buffer"]) == 9


def test_lone_surrogates_and_long_texts_in_replies(tinytroupe, caplog):
    """A reply with half a character, control characters or a megabyte in it is acted out, remembered and shown."""
    caplog.set_level(
        logging.CRITICAL, logger="tinytroupe"
    )  # what is logged of it cannot be sent from one process of tests to another
    texts = ["half \ud83d of it", "nul \x00 and bell \x07", "long " * 40_000]
    persons = people(tinytroupe, 3)
    world = world_of(tinytroupe, persons)
    model = Cast()
    model.replies = lambda request: turn(texts[request.agent], f"Person {(request.agent + 1) % 3}")
    with accelerate(model=model, recent_max_records=5, response_max_bytes=4_000_000) as fast:
        world.run(1)
        world.broadcast("half \udc00 of another")
        assert fast.frames.errors.empty
        assert len(fast.transcript()) == 3
        for person in persons:
            for number in range(8):
                person.listen(f"number {number}")
    assert [len(heard(person)) for person in persons] == [10] * 3
    assert heard(persons[0])[0].startswith("long long")
    assert all(heard(person)[1] == "half \udc00 of another" for person in persons)


# ------------------------------------------------------------------ again


def test_the_same_code_again_pays_once(tinytroupe, tmp_path):
    """With a cache file, the same code run again asks the model for nothing and gives the same; another seed asks anew."""
    told, models = [], [Cast() for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        forget(tinytroupe)
        persons = people(tinytroupe)
        world = world_of(tinytroupe, persons)
        with accelerate(model=model, cache=tmp_path / "replies.sqlite", seed=seed) as fast:
            world.run(3, timedelta_per_step=HOUR)
            told.append((fast.transcript().content.tolist(), remembered(persons)))
            sources = set(fast.frames.calls.source)
        assert sources == ({"cache"} if model is models[1] else {"model"})
    assert [model.calls["act"] for model in models] == [12, 0, 12]
    assert told[0] == told[1]


def test_two_accelerations_one_after_another(tinytroupe):
    """The same world goes on in a second acceleration where the first one ended; each has its own frames."""
    persons = people(tinytroupe)
    world = world_of(tinytroupe, persons)
    fast: list[Acceleration] = []
    for _ in range(2):
        with accelerate(model=Cast()) as each:
            world.run(2)
            fast.append(each)
    assert [len(each.transcript()) for each in fast] == [8, 8]
    assert [person.actions_count for person in persons] == [8] * 4
    assert [each.progress().step for each in fast] == [1, 1]


def test_a_social_network_runs(tinytroupe):
    """A network, which stock cannot run, takes its steps: who is related is accessible, and what is said arrives."""
    persons = people(tinytroupe, 3)
    network = tinytroupe.network.TinySocialNetwork("Net", broadcast_if_no_target=False)
    network.add_relation(persons[0], persons[1], "friends")
    network.add_relation(persons[1], persons[2], "friends")
    for person in persons:
        if person not in network.agents or person.environment is not network:
            with suppress(ValueError):
                network.add_agent(person)
    with pytest.raises(TypeError):
        network.run(1)
    with accelerate(model=Cast()) as fast:
        network.run(2)
        assert fast.frames.errors.empty
        assert len(fast.transcript()) == 6
    assert {each.name for each in persons[0].accessible_agents} == {"Person 1"}
    assert {each.name for each in persons[1].accessible_agents} == {"Person 0", "Person 2"}


def test_a_simulation_under_control_begins_ends_and_replays(tinytroupe, tmp_path):
    """TinyTroupe's control keeps its own trace: begun, run and ended under us, and replayed from its file without a call."""
    file, told, models = tmp_path / "trace.json", [], [Cast(), Cast()]
    for model in models:
        forget(tinytroupe)
        with accelerate(model=model):
            tinytroupe.control.begin(str(file))
            try:
                persons = people(tinytroupe, 2)
                world = world_of(tinytroupe, persons)
                world.run(1, parallelize=False, randomize_agents_order=False)
                told.append([person.episodic_memory.retrieve_all() for person in persons])
            finally:
                tinytroupe.control.end()
                tinytroupe.control.reset()
    assert models[0].calls["act"] == 2
    assert models[1].calls["act"] == 0
    assert told[0] == told[1]


def test_what_a_dashboard_looks_at(tinytroupe):
    """Its state, progress, counts and name are there before, while and after it is open; a dashboard can be made of it."""
    world = world_of(tinytroupe, people(tinytroupe, 3))
    fast = accelerate(model=Cast())
    assert (fast.state, fast.agent_names, fast.in_flight, fast.queued) == ("ready", (), 0, 0)
    with fast:
        world.run(2)
        assert "running" in repr(fast)
        assert (fast.state, fast.steps, fast.name) == ("running", 2, "TinyTroupe")
        assert fast.progress().acts_done == 6
        with suppress(ImportError):
            tl.Dashboard(fast).close()
    assert fast.state == "done"
    assert fast.frames.steps.shape[0] == 2
    assert fast.now_s() > 0


def test_many_rounds_keep_nobody(tinytroupe):
    """Persons and worlds that are forgotten under an acceleration are free, and so is the acceleration when it is closed."""
    import gc
    import weakref

    dead: list[Any] = []
    with accelerate(model=Cast()):
        for _ in range(3):
            forget(tinytroupe)
            persons = people(tinytroupe, 2)
            world = world_of(tinytroupe, persons)
            world.run(1)
            dead += [weakref.ref(each) for each in (*persons, world)]
            del persons, world
        forget(tinytroupe)
        gc.collect()
        assert [each() for each in dead] == [None] * 9
