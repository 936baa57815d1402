"""A Run of a TinyTroupe world: controls, limits and records as of any Run, folders that are gone on with, and persons given back."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import troupes
from helpers import eventually
from townsfolk import HOUR, SAYINGS, START, forget, heard, people, world_of

import troupelab as tl
from troupelab.bridges.tinytroupe import patches, seams
from troupelab.bridges.tinytroupe.accelerate import accelerate
from troupelab.bridges.tinytroupe.adopt import AdoptedRun, adopt
from troupelab.bridges.tinytroupe.troupe import ROSTER
from troupelab.dashboard.panels import Panels
from troupelab.errors import BridgeError, CheckpointError, InputError, LimitError, ModelRequestError, RunError
from troupelab.models.model import Reply, Request

WAIT_S = 30.0


def saying(agent: int, step: int, voice: str = "") -> str:
    """What a person says in a step."""
    return f"{SAYINGS[(5 * step + agent) % len(SAYINGS)]} ({agent} in {step}{voice})"


def turn(text: str, target: str, step: int = 0) -> str:
    """A turn with one thing said, in TinyTroupe's form."""
    said = {"type": "TALK", "content": text, "target": target}
    state = {"goals": f"goal {step}", "context": [f"hour {step}"], "attention": "you", "emotions": "calm"}
    return json.dumps({"actions": [said, {"type": "DONE", "content": "", "target": ""}], "cognitive_state": state})


class Cast:
    """A model whose replies are a function of the request alone; it can be held, and made to fail.

    Args:
        voice: said with everything, to tell models apart.
        fails: whether a request fails.
        latency_s: of each call.
        cost_usd: of each call.
    """

    name = "cast"

    def __init__(
        self,
        voice: str = "",
        *,
        fails: Callable[[Request], bool] = lambda _: False,
        latency_s: float = 0.0,
        cost_usd: float = 0.0,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.asked: list[Request] = []
        self.under_way = self.most = 0
        self.open = threading.Event()
        self.open.set()
        self._voice = voice
        self._fails = fails
        self._latency_s = latency_s
        self._cost_usd = cost_usd

    async def complete(self, request: Request) -> Reply:
        """Answer a request."""
        self.calls[request.purpose] += 1
        self.asked.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self._latency_s)
            while not self.open.is_set():
                await asyncio.sleep(0.005)
            if self._fails(request):
                raise ModelRequestError("the model refuses this one")
            return Reply(self._text(request), 10, 10, self._cost_usd, self.name)
        finally:
            self.under_way -= 1

    def _text(self, request: Request) -> str:
        if request.purpose == "act":
            text = saying(request.agent, request.step, self._voice)
            return turn(text, f"Person {(request.agent + 1) % 4}", request.step)
        if request.purpose == "ask":
            return json.dumps({"answer": f"I am number {request.agent}{self._voice}."})
        if request.purpose == "consolidate":
            note = {"content": f"Note of step {request.step}.", "type": "consolidated", "simulation_timestamp": None}
            return json.dumps({"consolidation": [note]})
        return "A sketch of a person."


def town(tt: Any, count: int = 4) -> Any:
    """The world that most tests play."""
    world = world_of(tt, people(tt, count))
    world.broadcast("Welcome.")
    return world


def remembered(world: Any) -> dict[str, Any]:
    """All that the persons of a world remember and have in mind, and the world's time, as JSON would have it."""
    return json.loads(
        json.dumps(
            {"time": str(world.current_datetime)}
            | {
                person.name: [
                    person.episodic_memory.retrieve_all(),
                    person.episodic_memory.get_current_episode(),
                    person.semantic_memory.memories,
                    person._mental_state,
                    [person.actions_count, person.stimuli_count, person._current_episode_event_count],
                    sorted(each.name for each in person.accessible_agents),
                ]
                for person in world.agents
            }
        )
    )


def said(run: AdoptedRun) -> list[tuple[int, str, str]]:
    """A run's transcript: step, agent and content."""
    transcript = run.transcript()
    return list(zip(transcript.step.tolist(), map(str, transcript.agent), transcript.content.tolist(), strict=True))


@pytest.fixture
def short_episodes(tinytroupe, monkeypatch) -> None:
    """Episodes end after few records."""
    monkeypatch.setattr(tinytroupe.person.TinyPerson, "MIN_EPISODE_LENGTH", 2)
    monkeypatch.setattr(tinytroupe.person.TinyPerson, "MAX_EPISODE_LENGTH", 9)


# ------------------------------------------------------------------ what is recorded


def test_a_run_of_a_world_is_recorded_as_any_run(tinytroupe):
    """Transcript, acts, calls, steps, memories and the summary are filled; the world's clock and the persons have gone on."""
    world = town(tinytroupe)
    with adopt(world, Cast(), steps=3, step_time=HOUR, seed=5) as run:
        assert run.state == "ready"
        run.start().wait(WAIT_S)
        assert run.state == "done"
        assert said(run) == [(step, f"Person {n}", saying(n, step)) for step in range(3) for n in range(4)]
        frames = run.frames
        assert frames.acts.shape[0] == 12
        assert Counter(frames.calls.purpose)["act"] == 12
        assert Counter(frames.calls.agent[frames.calls.purpose == "act"]) == {f"Person {n}": 3 for n in range(4)}
        assert frames.steps.step.tolist() == [0, 1, 2]
        assert frames.errors.empty
        assert set(frames.memory.agent) == {f"Person {n}" for n in range(4)}
        assert run.progress().acts_done == 12
        assert run.summary()["transcript_sha256"]
        assert world.current_datetime == START + 3 * HOUR
        assert run.agent_names == tuple(f"Person {n}" for n in range(4))
    assert [person.actions_count for person in world.agents] == [6] * 4
    assert [heard(person) for person in world.agents] == [
        ["Welcome.", *(saying((n - 1) % 4, step) for step in range(3))] for n in range(4)
    ]


@pytest.mark.usefixtures("short_episodes")
def test_it_remembers_what_an_acceleration_remembers(tinytroupe):
    """Both doors give the same memories, notes and states of mind for the same replies."""
    found = []
    for adopts in (True, False):
        forget(tinytroupe)
        world = town(tinytroupe)
        if adopts:
            with adopt(world, Cast(), steps=4, step_time=HOUR) as run:
                run.start().wait(WAIT_S)
        else:
            with accelerate(model=Cast()):
                world.run(4, timedelta_per_step=HOUR)
        found.append(remembered(world))
    assert found[0] == found[1]
    assert all(found[0][f"Person {n}"][2] for n in range(4))


def test_all_agents_act_at_once_and_no_more_than_allowed(tinytroupe):
    """Thirty persons' calls are under way together; under a limit of three, never more than three."""
    for limit, most in ((100, 30), (3, 3)):
        forget(tinytroupe)
        model = Cast(latency_s=0.05)
        with adopt(town(tinytroupe, 30), model, steps=1, limits={"max_concurrency": limit}) as run:
            run.start().wait(WAIT_S)
        assert model.most == most
        assert model.calls["act"] == 30


# ------------------------------------------------------------------ controls


def test_steps_pauses_and_goes_on_at_the_right_places(tinytroupe):
    """After one step all its actions have been delivered and nothing of the next is done; resumed, the run ends as if undisturbed."""
    world = town(tinytroupe)
    with adopt(world, Cast(), steps=4, step_time=HOUR) as run:
        for step in range(2):
            run.step(1)
            run.wait(WAIT_S, until="paused")
            assert [heard(person)[-1] for person in world.agents] == [saying((n - 1) % 4, step) for n in range(4)]
            assert world.current_datetime == START + (step + 1) * HOUR
            assert run.progress().acts_done == 4 * (step + 1)
            assert [person._actions_buffer for person in world.agents] == [[]] * 4
        run.resume()
        run.wait(WAIT_S)
        assert run.state == "done"
    assert [len(heard(person)) for person in world.agents] == [5] * 4
    stepped = remembered(world)
    forget(tinytroupe)
    world = town(tinytroupe)
    with adopt(world, Cast(), steps=4, step_time=HOUR) as run:
        run.start().wait(WAIT_S)
    assert remembered(world) == stepped


def test_a_pause_in_the_middle_of_a_step(tinytroupe):
    """Acts under way finish, none begins; resumed, the step is completed and everybody has acted once."""
    model = Cast()
    model.open.clear()
    with adopt(town(tinytroupe), model, steps=2, limits={"max_concurrency": 2}) as run:
        run.start()
        eventually("two are under way", lambda: model.under_way == 2)
        run.pause()
        model.open.set()
        run.wait(WAIT_S, until="paused")
        eventually("both have ended", lambda: model.under_way == 0)
        calls = model.calls["act"]
        assert 2 <= calls < 8
        time.sleep(0.05)
        assert model.calls["act"] == calls
        run.resume()
        run.wait(WAIT_S)
    assert model.calls["act"] == 8
    assert Counter(request.agent for request in model.asked) == dict.fromkeys(range(4), 2)


def test_stop_ends_the_run_and_keeps_the_persons_whole(tinytroupe):
    """A stopped run has nothing under way; its persons can be used, and the world can be run by an acceleration."""
    model = Cast(latency_s=0.01)
    world = town(tinytroupe)
    with adopt(world, model, steps=500) as run:
        run.start()
        eventually("two steps are over", lambda: len(run.frames.steps) >= 2)
        run.stop()
        run.wait(WAIT_S)
        assert run.state == "stopped"
        assert model.under_way == 0
    with accelerate(model=Cast("!")) as fast:
        world.run(1)
        assert fast.frames.errors.empty
        assert len(fast.transcript()) == 4


def test_stop_now_cancels_what_is_under_way(tinytroupe):
    """Stopped at once, calls are cancelled and closing does not wait for them."""
    model = Cast()
    model.open.clear()
    with adopt(town(tinytroupe), model, steps=2) as run:
        run.start()
        eventually("four are under way", lambda: model.under_way == 4)
        run.stop(now=True)
        run.wait(WAIT_S)
        assert run.state == "stopped"
        assert model.under_way == 0


def test_stop_of_a_run_that_an_intervention_paused(tinytroupe):
    """Paused before a step's first act, a run can be stopped: it ends, and nobody has acted in that step."""
    world = town(tinytroupe)
    with adopt(world, Cast(), steps=4, interventions=[tl.Intervention(lambda run: run.pause(), at=2)]) as run:
        run.start().wait(WAIT_S, until="paused")
        run.stop()
        run.wait(5)
        assert run.state == "stopped"
        assert len(said(run)) == 8
    assert [len(heard(person)) for person in world.agents] == [3] * 4


def test_limits_change_while_it_runs(tinytroupe):
    """A lowered cap on recent records holds from a step on, a lowered concurrency at once; both stand in the frames."""
    model = Cast()
    with adopt(town(tinytroupe), model, steps=8, limits={"recent_max_records": 100}) as run:
        run.step(4)
        run.wait(WAIT_S, until="paused")
        assert run.frames.memory.recent_records.max() > 8
        run.limits.update(recent_max_records=6, max_concurrency=1, note="smaller")
        model.most = 0
        run.resume()
        run.wait(WAIT_S)
        sizes, changes = run.frames.memory, run.frames.limits
        (from_step,) = set(changes.effective_step[changes.field == "recent_max_records"])
        assert from_step == 4
        assert sizes[sizes.step >= from_step].groupby("agent", observed=True).recent_records.last().max() <= 6
        assert model.most == 1
        assert set(changes.note) == {"smaller"}
    assert len(run.tiny_world.agents[0].episodic_memory.retrieve_all()) == 1 + 8 * 3


@pytest.mark.parametrize("limit", ["max_tokens", "max_cost_usd"])
def test_a_guardrail_pauses_and_raising_it_goes_on(tinytroupe, limit):
    """What is spent up pauses the run, which says why; raised, everybody has acted in every step in the end."""
    most = {"max_tokens": 120, "max_cost_usd": 3.0}[limit]
    model = Cast(cost_usd=0.5)
    with adopt(town(tinytroupe), model, steps=4, limits={limit: most, "max_concurrency": 1}) as run:
        run.start().wait(WAIT_S, until="paused")
        assert limit in run.paused_for
        assert model.calls["act"] < 16
        run.limits.update(**{limit: None})
        run.wait(WAIT_S)
        assert len(run.transcript()) == 16


# ------------------------------------------------------------------ telling, asking, intervening


def test_what_the_run_tells_is_heard(tinytroupe):
    """Told to some, before the start and between steps, it is heard by those in the step that `tell` says, as TinyTroupe's stimulus."""
    world = town(tinytroupe)
    with adopt(world, Cast(), steps=3, step_time=HOUR) as run:
        run.start(paused=True)
        assert run.tell("The ferry is cut.", to=["Person 1", "Person 2"], source="A stranger") == 0
        run.step(1)
        run.wait(WAIT_S, until="paused")
        assert run.tell("Look, snow!", kind="VISUAL") == 1
        run.resume()
        run.wait(WAIT_S)
    assert ["The ferry is cut." in heard(person) for person in world.agents] == [False, True, True, False]
    for person in world.agents:
        stimuli = [each["content"]["stimuli"][0] for each in person.episodic_memory.retrieve_all(item_type="stimulus")]
        (snow,) = [each for each in stimuli if each["content"] == "Look, snow!"]
        assert snow["type"] == "VISUAL"
        assert heard(person).index("Look, snow!") == len(heard(person)) - 3
    (ferry,) = [
        each["content"]["stimuli"][0]
        for each in world.agents[1].episodic_memory.retrieve_all(item_type="stimulus")
        if "ferry" in each["content"]["stimuli"][0]["content"]
    ]
    assert ferry["source"] == "A stranger"


def test_asking_answers_and_is_remembered_only_if_asked_for(tinytroupe):
    """Before, while paused and after: an answer comes and nothing is remembered; with `remember`, question and answer are."""
    world = town(tinytroupe)
    person = world.agents[2]
    model = Cast()
    with adopt(world, model, steps=2) as run:
        assert run.ask("Person 2", "Who are you?") == "I am number 2."
        run.step(1)
        run.wait(WAIT_S, until="paused")
        before = person.episodic_memory.retrieve_all()
        assert run.ask("Person 2", "And now?") == "I am number 2."
        assert person.episodic_memory.retrieve_all() == before
        assert run.ask("Person 2", "And for ever?", remember=True) == "I am number 2."
        added = person.episodic_memory.retrieve_all()[len(before) :]
        assert "And for ever?" in json.dumps(added[0])
        assert "I am number 2." in json.dumps(added[-1])
        with pytest.raises(RunError, match="no agent"):
            run.ask("Nobody", "Who?")
        run.resume()
        run.wait(WAIT_S)
        assert run.ask("Person 2", "And after?") == "I am number 2."
        asked = [request for request in model.asked if request.purpose == "ask"]
        calls = run.frames.calls
        assert set(calls.agent[calls.purpose == "ask"]) == {"Person 2"}
    assert len(asked) == 4
    assert any("Who are you?" in each.content for each in asked[0].messages)
    assert any("Person 2" in each.content for each in asked[0].messages)
    assert "And now?" not in json.dumps(person.episodic_memory.retrieve_all())


def test_asking_works_while_it_runs(tinytroupe):
    """Asked amid a step, a person answers while all acts are held."""
    held = Cast()
    plain = held.complete

    async def complete(request: Request) -> Reply:
        if request.purpose == "ask":
            return Reply(held._text(request), 1, 1, 0.0, held.name)
        return await plain(request)

    held.complete = complete  # type: ignore[method-assign]
    held.open.clear()
    with adopt(town(tinytroupe), held, steps=1) as run:
        run.start()
        eventually("four are under way", lambda: held.under_way == 4)
        assert run.ask("Person 1", "Who are you?", timeout_s=WAIT_S) == "I am number 1."
        assert held.under_way == 4
        held.open.set()
        run.wait(WAIT_S)


def test_our_interventions_and_tinytroupe_s_own_take_effect(tinytroupe):
    """Ours are called before their steps with the run, TinyTroupe's at each step at which their condition holds."""
    world = town(tinytroupe)
    steering = importlib.import_module("tinytroupe.steering")
    own = steering.Intervention(targets=world.agents[0])
    own.set_functional_precondition(lambda targets: world._simulation_steps == 2)
    applied: list[int] = []

    def effect(_targets: Any) -> None:
        applied.append(world._simulation_steps)
        world.agents[0].think("It is the second step.")

    own.set_effect(effect)
    world.add_intervention(own)
    seen: list[tuple[int, int]] = []

    def ours(run: AdoptedRun) -> None:
        seen.append((run.progress().acts_done, run.tell("The price has doubled.")))

    with adopt(world, Cast(), steps=4, interventions=[tl.Intervention(ours, at=2)]) as run:
        run.start().wait(WAIT_S)
        assert run.frames.errors.empty
    assert seen == [(8, 2)]
    assert applied == [2]
    assert all(heard(person).count("The price has doubled.") == 1 for person in world.agents)
    assert heard(world.agents[0]).count("It is the second step.") == 1


def test_a_failing_intervention_of_tinytroupe_s_is_told(tinytroupe):
    """Whatever the world's own step raises is an event; under "raise" it ends the run."""
    for on_error in ("skip", "raise"):
        forget(tinytroupe)
        world = town(tinytroupe)
        broken = importlib.import_module("tinytroupe.steering").Intervention(targets=world.agents[0])
        broken.set_functional_precondition(lambda _targets: True)

        def effect(_targets: Any) -> None:
            raise LookupError("no such thing")

        broken.set_effect(effect)
        world.add_intervention(broken)
        with adopt(world, Cast(), steps=2, on_error=on_error) as run:
            run.start()
            if on_error == "raise":
                with pytest.raises(RunError, match="no such thing"):
                    run.wait(WAIT_S)
            else:
                run.wait(WAIT_S)
            errors = run.frames.errors
            assert set(errors.kind) == {"LookupError"}
            assert errors.message.str.contains("no such thing").all()


# ------------------------------------------------------------------ failures


@pytest.mark.parametrize("policy", ["skip", "retry", "pause", "raise"])
def test_an_act_that_fails_is_dealt_with_as_asked(tinytroupe, policy):
    """Skipped, asked for again, waited for, or ended by: and in every case it is told, and nobody acts twice in a step."""
    broken = threading.Event()
    broken.set()
    left = [1]

    def fails(request: Request) -> bool:
        if (request.purpose, request.agent, request.step) != ("act", 2, 1):
            return False
        if policy == "retry":
            left[0] -= 1
            return left[0] >= 0
        return broken.is_set()

    world = town(tinytroupe)
    with adopt(world, Cast(fails=fails), steps=3, on_error=policy, limits={"max_attempts": 1}) as run:
        run.start()
        if policy == "raise":
            with pytest.raises(RunError, match="Person 2"):
                run.wait(WAIT_S)
            assert run.state == "failed"
        elif policy == "pause":
            run.wait(WAIT_S, until="paused")
            assert "Person 2" in run.paused_for
            broken.clear()
            run.resume()
            run.wait(WAIT_S)
        else:
            run.wait(WAIT_S)
        acted = Counter((step, agent) for step, agent, _ in said(run))
        assert set(run.frames.errors.agent) == {"Person 2"}
    if policy in {"retry", "pause"}:
        assert acted == {(step, f"Person {n}"): 1 for step in range(3) for n in range(4)}
    elif policy == "skip":
        assert acted == {(step, f"Person {n}"): 1 for step in range(3) for n in range(4) if (step, n) != (1, 2)}
    assert max(acted.values()) == 1
    assert type(world.agents[0].episodic_memory) is tinytroupe.memory.EpisodicMemory


def test_a_tool_that_wants_to_end_the_process_costs_a_turn(tinytroupe, quitter):
    """SystemExit out of a faculty is an act that failed: it is told, everybody else acts, and the run comes to its end."""
    world = town(tinytroupe)
    world.agents[0].add_mental_faculties([quitter])
    with adopt(world, Cast(), steps=2) as run:
        run.start().wait(WAIT_S)
        assert run.state == "done"
        assert set(run.frames.errors.agent) == {"Person 0"}
        assert Counter(agent for _, agent, _ in said(run))["Person 3"] == 2


def test_everybody_failing_does_not_hang(tinytroupe):
    """A model that answers nobody costs everybody every turn, and the run ends."""
    with adopt(town(tinytroupe), Cast(fails=lambda _: True), steps=2, limits={"max_attempts": 1}) as run:
        run.start().wait(WAIT_S)
        assert run.transcript().empty
        assert set(run.frames.errors.agent) == {f"Person {n}" for n in range(4)}


# ------------------------------------------------------------------ side by side


def test_two_adopted_worlds_do_not_touch_each_other(tinytroupe):
    """Two worlds run at once, each on its own model; one is closed while the other runs, which goes on to its end."""
    left = world_of(tinytroupe, people(tinytroupe, 4), "Left")
    right = world_of(tinytroupe, people(tinytroupe, 4, "Other"), "Right")
    slow = Cast(" right")
    slow.open.clear()
    first, second = adopt(left, Cast(" left"), steps=3), adopt(right, slow, steps=3)
    second.start()
    eventually("four are under way", lambda: slow.under_way == 4)
    first.start().wait(WAIT_S)
    assert {content.rpartition(" ")[2] for *_, content in said(first)} == {"left)"}
    first.close()
    assert type(left.agents[0].episodic_memory) is tinytroupe.memory.EpisodicMemory
    assert type(right.agents[0].episodic_memory) is not tinytroupe.memory.EpisodicMemory
    slow.open.set()
    second.wait(WAIT_S)
    assert {content.rpartition(" ")[2] for *_, content in said(second)} == {"right)"}
    assert len(said(first)) == len(said(second)) == 12
    second.close()
    assert patches._patches is None


def test_an_adopted_world_under_an_acceleration(tinytroupe):
    """What is adopted is asked of the run's model, everybody else of the acceleration's; closed, its persons can go on there."""
    adopted = world_of(tinytroupe, people(tinytroupe), "Adopted")
    free = world_of(tinytroupe, people(tinytroupe, 3, "Free"), "Free")
    with accelerate(model=Cast(" fast")) as fast:
        with adopt(adopted, Cast(" run"), steps=2) as run:
            run.start()
            free.run(2)
            run.wait(WAIT_S)
            assert {content.rpartition(" ")[2] for *_, content in said(run)} == {"run)"}
            assert len(said(run)) == 8
        assert {each.rpartition(" ")[2] for each in fast.transcript().content} == {"fast)"}
        assert len(fast.transcript()) == 6
        adopted.agents[0].listen_and_act("Still there?")
        assert len(heard(adopted.agents[0])) == 3
        assert fast.frames.errors.empty
    assert patches._patches is None
    assert type(adopted.agents[0].episodic_memory) is tinytroupe.memory.EpisodicMemory


@pytest.mark.parametrize("first", ["acceleration", "run"])
def test_an_acceleration_and_a_run_are_closed_in_any_order(tinytroupe, first):
    """Whichever was opened first, and whichever is closed first, the other one goes on, and nothing is left in the end."""
    adopted = world_of(tinytroupe, people(tinytroupe), "Adopted")
    free = world_of(tinytroupe, people(tinytroupe, 3, "Free"), "Free")
    fast, model = accelerate(model=Cast(" fast")), Cast(" run")
    if first == "acceleration":
        fast.start()
    run = adopt(adopted, model, steps=3)
    if first == "run":
        fast.start()
    model.open.clear()
    run.start()
    eventually("four are under way", lambda: model.under_way == 4)
    free.run(1)
    fast.stop()
    assert type(free.agents[0].episodic_memory) is tinytroupe.memory.EpisodicMemory
    model.open.set()
    run.wait(WAIT_S)
    assert len(said(run)) == 12
    assert len(fast.transcript()) == 3
    run.close()
    assert patches._patches is None
    assert [len(heard(person)) for person in adopted.agents] == [3] * 4
    assert type(adopted.agents[0].episodic_memory) is tinytroupe.memory.EpisodicMemory


def test_persons_of_an_acceleration_can_be_adopted(tinytroupe):
    """Memories go along from the acceleration to the run and to TinyTroupe's own, in order and whole."""
    world = town(tinytroupe)
    with accelerate(model=Cast(" fast"), recent_max_records=5):
        world.run(2)
    with accelerate(model=Cast(" fast"), recent_max_records=5), adopt(world, Cast(" run"), steps=2) as run:
        run.start().wait(WAIT_S)
    assert [each.rpartition(" ")[2] for each in heard(world.agents[1])] == [
        "Welcome.",
        "fast)",
        "fast)",
        "run)",
        "run)",
    ]


# ------------------------------------------------------------------ worlds of other kinds


def test_a_world_s_own_step_is_honoured(tinytroupe):
    """A subclass that does something of its own in each step does it, once a step, on the way to the acts and after them."""
    log: list[str] = []

    class Ringing(tinytroupe.world.TinyWorld):  # type: ignore[name-defined, misc]
        """A world with a bell."""

        def _step(self, *args: Any, **kwargs: Any) -> Any:
            log.append("before")
            self.broadcast(f"The bell rings for the {self._simulation_steps}th time.")
            acted = super()._step(*args, **kwargs)
            log.append(f"after {len(acted)}")
            return acted

    world = world_of(tinytroupe, people(tinytroupe), "Ringing", Ringing)
    with adopt(world, Cast(), steps=2) as run:
        run.start().wait(WAIT_S)
        assert run.frames.errors.empty
        assert len(run.transcript()) == 8
    assert log == ["before", "after 4"] * 2
    assert [each.startswith("The bell") for each in heard(world.agents[0])] == [True, False, True, False]


def test_a_world_that_acts_one_after_another_is_honoured(tinytroupe):
    """A subclass that insists on acts one after another has them so, with each heard by the next."""

    class Orderly(tinytroupe.world.TinyWorld):  # type: ignore[name-defined, misc]
        """One after another."""

        def _step(self, timedelta_per_step: Any = None, **_ignored: Any) -> Any:
            return super()._step(timedelta_per_step=timedelta_per_step, randomize_agents_order=False, parallelize=False)

    world = world_of(tinytroupe, people(tinytroupe), "Orderly", Orderly)
    model = Cast()
    with adopt(world, model, steps=2, step_time=HOUR) as run:
        run.start().wait(WAIT_S)
        assert run.frames.errors.empty
        assert len(run.transcript()) == 8
        assert world.current_datetime == START + 2 * HOUR
    assert model.most == 1
    assert [person.actions_count for person in world.agents] == [4] * 4


def test_a_social_network_is_adopted(tinytroupe):
    """A network, which stock cannot run, plays its steps, and only who is related is accessible."""
    persons = people(tinytroupe, 3)
    network = tinytroupe.network.TinySocialNetwork("Net", broadcast_if_no_target=False)
    for one, other in ((0, 1), (1, 2)):
        network.add_relation(persons[one], persons[other], "friends")
    for person in persons:
        if person.environment is not network:
            with suppress(ValueError):
                network.add_agent(person)
    with adopt(network, Cast(), steps=2) as run:
        run.start().wait(WAIT_S)
        assert run.frames.errors.empty
        assert len(run.transcript()) == 6
    assert {each.name for each in persons[0].accessible_agents} == {"Person 1"}
    assert {each.name for each in persons[1].accessible_agents} == {"Person 0", "Person 2"}


# ------------------------------------------------------------------ folders


def undisturbed(tt: Any, steps: int = 6, folder: Path | None = None) -> tuple[Any, Any]:
    """What is remembered and was said in a run that nothing disturbs."""
    forget(tt)
    world = town(tt)
    with adopt(world, Cast(), steps=steps, step_time=HOUR, folder=folder, limits=LIMITS) as run:
        run.start().wait(WAIT_S)
        transcript = said(run)
    return remembered(world), transcript


LIMITS = {"recent_max_records": 8}


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize("way", ["step", "stop", "now", "done"])
def test_a_run_is_gone_on_with_as_if_it_had_not_been_stopped(tinytroupe, tmp_path, way):
    """Stopped between steps, amid one, at once, or at its end: gone on with, it has the same memories, states and transcript."""
    whole, transcript = undisturbed(tinytroupe)
    forget(tinytroupe)
    model = Cast(latency_s=0.003)
    first = 3 if way == "done" else 6
    with adopt(town(tinytroupe), model, steps=first, step_time=HOUR, folder=tmp_path / "run", limits=LIMITS) as run:
        if way == "step":
            run.step(3)
            run.wait(WAIT_S, until="paused")
            run.stop()
        elif way == "done":
            run.start()
        else:
            run.start()
            eventually("some have acted in the third step", lambda: model.calls["act"] >= 10)
            run.stop(now=way == "now")
        run.wait(WAIT_S)
    forget(tinytroupe)
    world, model = town(tinytroupe), Cast()
    with adopt(world, model, steps=6, step_time=HOUR, folder=tmp_path / "run", resume=True, limits=LIMITS) as run:
        run.start().wait(WAIT_S)
        assert run.state == "done"
        assert run.frames.errors.empty
        assert said(run) == transcript
    assert remembered(world) == whole
    assert model.calls["act"] <= 16


@pytest.mark.usefixtures("short_episodes")
def test_a_resumed_run_can_be_resumed_again(tinytroupe, tmp_path):
    """A step a life, over six lives: the same in the end as in one go."""
    whole, transcript = undisturbed(tinytroupe)
    for life in range(6):
        forget(tinytroupe)
        world, model = town(tinytroupe), Cast()
        with adopt(
            world, model, steps=life + 1, step_time=HOUR, folder=tmp_path / "run", resume=life > 0, limits=LIMITS
        ) as run:
            run.start().wait(WAIT_S)
            assert model.calls["act"] == 4
            lived = said(run)
    assert lived == transcript
    assert remembered(world) == whole


@pytest.mark.usefixtures("short_episodes")
def test_a_stop_right_after_going_on_loses_nothing(tinytroupe, tmp_path):
    """Lives that are stopped at once, while they still live through what is kept, leave the folder as it was."""
    whole, transcript = undisturbed(tinytroupe)
    rest: dict[str, Any] = {"step_time": HOUR, "folder": tmp_path / "run", "limits": LIMITS}
    forget(tinytroupe)
    with adopt(town(tinytroupe), Cast(), steps=4, **rest) as run:
        run.start().wait(WAIT_S)
    for now in (True, False, True):
        forget(tinytroupe)
        with adopt(town(tinytroupe), Cast(latency_s=0.01), steps=6, resume=True, **rest) as run:
            run.start()
            run.stop(now=now)
            run.wait(WAIT_S)
    forget(tinytroupe)
    world = town(tinytroupe)
    with adopt(world, Cast(), steps=6, resume=True, **rest) as run:
        run.start().wait(WAIT_S)
        assert said(run) == transcript
    assert remembered(world) == whole


@pytest.mark.usefixtures("short_episodes")
def test_what_was_told_asked_and_cleared_is_so_after_going_on(tinytroupe, tmp_path):
    """A stimulus, an interview that is remembered and a part of a memory that was cleared are as they would be without the break."""

    def forgetful(run: AdoptedRun) -> None:
        run.tiny_world.agents[0].episodic_memory.clear(max_prefix_to_clear=2, max_suffix_to_clear=1)

    def play(*, breaks: bool) -> Any:
        forget(tinytroupe)
        world = town(tinytroupe)
        rest: dict[str, Any] = {
            "steps": 5, "step_time": HOUR, "limits": LIMITS, "folder": tmp_path / f"breaks {breaks}",
            "interventions": [tl.Intervention(forgetful, at=2, once=True)],
        }  # fmt: skip
        run = adopt(world, Cast(), **rest)
        run.step(2)
        run.wait(WAIT_S, until="paused")
        run.tell("The ferry is cut.", to="Person 1", source="A stranger")
        run.step(1)
        run.wait(WAIT_S, until="paused")
        run.ask("Person 2", "Who are you?", remember=True)
        run.step(1)
        run.wait(WAIT_S, until="paused")
        if breaks:
            run.stop()
            run.wait(WAIT_S)
            run.close()
            forget(tinytroupe)
            world = town(tinytroupe)
            run = adopt(world, Cast(), resume=True, **rest)
            run.start(paused=True)
        run.resume()
        run.wait(WAIT_S)
        transcript = said(run)
        assert run.frames.errors.empty
        run.close()
        return transcript, remembered(world)

    whole, broken = play(breaks=False), play(breaks=True)
    assert broken[0] == whole[0]
    assert broken[1] == whole[1]
    assert "The ferry is cut." in json.dumps(whole[1]["Person 1"])
    assert "Who are you?" in json.dumps(whole[1]["Person 2"])


def test_an_interview_that_is_remembered_outlives_a_stop(tinytroupe, tmp_path):
    """What a paused run's person remembers of an interview is there when the run is gone on with, without another step in between."""
    rest: dict[str, Any] = {"steps": 3, "step_time": HOUR, "folder": tmp_path / "run"}
    with adopt(town(tinytroupe), Cast(), **rest) as run:
        run.step(1)
        run.wait(WAIT_S, until="paused")
        run.ask("Person 2", "Who are you?", remember=True)
        run.stop()
        run.wait(WAIT_S)
    forget(tinytroupe)
    world = town(tinytroupe)
    with adopt(world, Cast(), resume=True, **rest) as run:
        run.start().wait(WAIT_S)
    assert heard(world.agents[2]).count("Who are you?") == 1


def test_odd_texts_are_kept_in_a_folder(tinytroupe, tmp_path):
    """Half characters, control characters and markup in replies and stimuli come back as they were when the run is gone on with."""
    texts = ["half \ud83d of it", "nul \x00", "[/b] <b>", '{"json_serializable_class_name": "TinyPerson"}']
    model = Cast()
    model._text = lambda request: turn(f"{texts[request.agent]} {saying(request.agent, request.step)}", "Person 1")  # type: ignore[method-assign]
    world = town(tinytroupe)
    with adopt(world, model, steps=2, folder=tmp_path / "run", limits=LIMITS) as run:
        run.start(paused=True)
        run.tell("nul \x00 and \ud83d", to="Person 0")
        run.resume()
        run.wait(WAIT_S)
        assert run.frames.errors.empty
        told = said(run)
    before = remembered(world)
    forget(tinytroupe)
    world = town(tinytroupe)
    with adopt(world, model, steps=2, folder=tmp_path / "run", resume=True, limits=LIMITS) as run:
        run.start().wait(WAIT_S)
        assert said(run) == told
    assert remembered(world) == before


@pytest.mark.usefixtures("short_episodes")
def test_failed_acts_are_gone_on_with_as_they_were(tinytroupe, tmp_path):
    """A turn that was lost before the break is lost after it, too, and is not asked for again."""

    def fails(request: Request) -> bool:
        return (request.agent, request.step) in {(1, 0), (2, 1), (3, 3)}

    found = []
    for breaks in (False, True):
        forget(tinytroupe)
        world = town(tinytroupe)
        rest: dict[str, Any] = {
            "step_time": HOUR,
            "folder": tmp_path / f"breaks {breaks}",
            "limits": LIMITS | {"max_attempts": 1},
        }
        with adopt(world, Cast(fails=fails), steps=2 if breaks else 5, **rest) as run:
            run.start().wait(WAIT_S)
            transcript = said(run)
        if breaks:
            forget(tinytroupe)
            world, model = town(tinytroupe), Cast(fails=fails)
            with adopt(world, model, steps=5, resume=True, **rest) as run:
                run.start().wait(WAIT_S)
                transcript = said(run)
            assert {request.step for request in model.asked} == {2, 3, 4}
        found.append((transcript, remembered(world)))
    assert len(found[0][0]) == 17
    assert found[0] == found[1]


def test_persons_that_come_into_a_run_or_leave_it(tinytroupe):
    """Who comes into an adopted world meanwhile hears what is said there, and who leaves it does no harm; the run ends well."""
    world = town(tinytroupe)
    newcomer = tinytroupe.person.TinyPerson("Newcomer")

    def change(run: AdoptedRun) -> None:
        world.add_agent(newcomer)
        leaver = world.agents[0]
        world.agents.remove(leaver)
        world.name_to_agent.pop(leaver.name)
        world.broadcast("Somebody came, and somebody left.")

    with adopt(world, Cast(), steps=3, interventions=[tl.Intervention(change, at=1)]) as run:
        run.start().wait(WAIT_S)
        assert run.state == "done"
        assert run.frames.errors.empty
        assert Counter(agent for _, agent, _ in said(run))["Person 3"] == 3
        (told,) = [each for each in run.frames.alerts.message if "Newcomer" in each]
        assert "does not act" in told
    assert heard(newcomer) == ["Somebody came, and somebody left."]
    assert type(newcomer.episodic_memory) is tinytroupe.memory.EpisodicMemory


def life(folder: str) -> None:
    """Play the run of a folder in this process, slowly, and print each step that has ended."""
    tt = seams.find()
    for kind in (tt.person.TinyPerson, tt.world.TinyWorld):
        kind.communication_display = False
    tt.person.TinyPerson.MIN_EPISODE_LENGTH, tt.person.TinyPerson.MAX_EPISODE_LENGTH = 2, 9
    world = town(tt)
    with adopt(world, Cast(latency_s=0.02), steps=6, step_time=HOUR, folder=folder, limits=LIMITS) as run:
        run.start()
        told = 0
        while run.state in {"ready", "running"}:
            if len(run.frames.steps) > told:
                told += 1
                print("step", flush=True)
            time.sleep(0.001)


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize("after", [1, 4])
def test_a_run_that_was_killed_is_gone_on_with(tinytroupe, tmp_path, after):
    """After kill -9 in the middle, the run that goes on in the folder ends as one that was never killed."""
    whole, transcript = undisturbed(tinytroupe)
    environment = os.environ | {seams.FOLDER_VARIABLE: str(troupes._folder()), "OPENAI_API_KEY": "none"}
    child = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    with child:
        assert child.stdout is not None
        steps = 0
        for line in child.stdout:
            steps += line.strip() == "step"
            if steps == after:
                break
        child.send_signal(signal.SIGKILL)
        child.stdout.read()
    assert child.returncode == -signal.SIGKILL
    assert steps == after
    forget(tinytroupe)
    world, model = town(tinytroupe), Cast()
    with adopt(world, model, steps=6, step_time=HOUR, folder=tmp_path / "run", resume=True, limits=LIMITS) as run:
        run.start().wait(WAIT_S)
        assert said(run) == transcript
    assert remembered(world) == whole
    assert model.calls["act"] <= 4 * (6 - after + 1)


def test_folders_that_cannot_be_gone_on_with_are_told(tinytroupe, tmp_path):
    """No folder, an empty one, one of other persons, and one with a run in it that is not to be gone on with: each its sentence."""
    with adopt(town(tinytroupe), Cast(), steps=1, folder=tmp_path / "run") as run:
        run.start().wait(WAIT_S)
    forget(tinytroupe)
    world = town(tinytroupe)
    for folder in (None, tmp_path / "empty"):
        with pytest.raises(CheckpointError, match="no run"):
            adopt(world, Cast(), steps=1, folder=folder, resume=True)
    with pytest.raises(RunError):
        adopt(world, Cast(), steps=1, folder=tmp_path / "run").start()
    forget(tinytroupe)
    others = world_of(tinytroupe, people(tinytroupe, 3, "Other"), "Elsewhere")
    with pytest.raises(CheckpointError, match="other persons: Person 0"):
        adopt(others, Cast(), steps=1, folder=tmp_path / "run", resume=True)
    assert type(others.agents[0].episodic_memory) is tinytroupe.memory.EpisodicMemory
    with adopt(others, Cast(), steps=1) as run:
        run.start().wait(WAIT_S)


def test_replies_that_were_paid_for_are_not_paid_again(tinytroupe, tmp_path):
    """With a cache, the same world adopted again asks its model for nothing."""
    told = []
    models = [Cast(), Cast()]
    for model in models:
        forget(tinytroupe)
        with adopt(town(tinytroupe), model, steps=3, step_time=HOUR, cache=tmp_path / "replies.sqlite") as run:
            run.start().wait(WAIT_S)
            told.append(said(run))
    assert [model.calls["act"] for model in models] == [12, 0]
    assert told[0] == told[1]


# ------------------------------------------------------------------ what is refused, and what is given back


def test_what_cannot_be_adopted_is_refused_with_a_sentence(tinytroupe):
    """Something else than a world, an empty world, a world or a person that is of a run, and limits out of range."""
    with pytest.raises(BridgeError, match="TinyWorld"):
        adopt("Town", Cast(), steps=1)
    with pytest.raises(BridgeError, match="no agents"):
        adopt(tinytroupe.world.TinyWorld("Empty"), Cast(), steps=1)
    world = town(tinytroupe)
    with pytest.raises(LimitError):
        adopt(world, Cast(), steps=1, limits={"recent_max_recrods": 3})
    with adopt(world, Cast(), steps=1):
        with pytest.raises(BridgeError, match="another run"):
            adopt(world, Cast(), steps=1)
        shared = tinytroupe.world.TinyWorld("Shared", [])
        shared.agents.append(world.agents[0])
        with pytest.raises(BridgeError, match="Person 0 is of another run"):
            adopt(shared, Cast(), steps=1)
    with adopt(world, Cast(), steps=1) as run, pytest.raises(RunError, match="forked"):
        run.fork()
    assert patches._patches is None


def test_a_refused_adoption_changes_nothing(tinytroupe, tmp_path):
    """Whatever goes wrong when a run is made, TinyTroupe and the persons are as before."""
    world = town(tinytroupe)
    before = remembered(world)
    for wrong in ({"steps": 0}, {"steps": 1, "on_error": "never"}, {"steps": 1, "limits": {"max_concurrency": -1}}):
        with pytest.raises((tl.TroupeLabError, ValueError)):
            adopt(world, Cast(), **wrong)
    assert patches._patches is None
    assert not set(ROSTER) & set(world.agents)
    assert remembered(world) == before
    assert type(world.agents[0].episodic_memory) is tinytroupe.memory.EpisodicMemory


def test_memories_that_cannot_be_kept_are_refused(tinytroupe):
    """A person who remembers something that no JSON can hold cannot be adopted, and everybody has their own memories as before."""
    world = town(tinytroupe)
    endless: dict[str, Any] = {"type": "stimulus", "role": "user"}
    endless["content"] = endless
    world.agents[1].episodic_memory._store(endless)
    with pytest.raises(InputError):
        adopt(world, Cast(), steps=1)
    assert not set(ROSTER) & set(world.agents)
    assert patches._patches is None
    assert all(type(person.episodic_memory) is tinytroupe.memory.EpisodicMemory for person in world.agents)
    world.agents[1].episodic_memory.clear()
    with adopt(world, Cast(), steps=1) as run:
        run.start().wait(WAIT_S)
        assert len(said(run)) == 4


def test_close_gives_everything_back(tinytroupe):
    """Closed: TinyTroupe's own memories with all in them, its registries without them, no thread, no patch; closing again does nothing."""
    world = town(tinytroupe)
    run = adopt(world, Cast(), steps=2, limits=LIMITS)
    run.start().wait(WAIT_S)
    kept = remembered(world)
    run.close()
    run.close()
    assert remembered(world) == kept
    for person in world.agents:
        assert type(person.episodic_memory) is tinytroupe.memory.EpisodicMemory
        assert type(person.semantic_memory) is tinytroupe.memory.SemanticMemory
        assert person.name not in tinytroupe.person.TinyPerson.all_agents
    assert world.name not in tinytroupe.world.TinyWorld.all_environments
    assert patches._patches is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("troupelab")]
    assert len(said(run)) == 8


@pytest.mark.parametrize("way", ["not started", "done", "running"])
def test_nobody_is_kept_after_close(tinytroupe, way):
    """Persons, world and run are free once the run is closed and nobody else holds them, wherever it was."""
    world = town(tinytroupe)
    model = Cast(latency_s=0.01)
    run = adopt(world, model, steps=1 if way == "done" else 100)
    if way != "not started":
        run.start()
    if way == "done":
        run.wait(WAIT_S)
    elif way == "running":
        calls = model.calls
        eventually("it acts", lambda: calls["act"] > 4)
    run.close()
    del model
    dead = [weakref.ref(each) for each in (*world.agents, world, run)]
    del world, run
    eventually("all are free", lambda: (gc.collect(), not any(each() for each in dead))[1], timeout_s=5)


def test_a_run_that_is_dropped_gives_its_persons_back(tinytroupe):
    """A run that was never closed and that nobody holds any more gives its persons back by itself."""
    world = town(tinytroupe)
    run = weakref.ref(adopt(world, Cast(), steps=1).start().wait(WAIT_S))

    def is_back() -> bool:
        gc.collect()
        return type(world.agents[0].episodic_memory) is tinytroupe.memory.EpisodicMemory

    try:
        eventually("the persons are back", is_back, timeout_s=2)
    finally:
        if (found := run()) is not None:
            found.close()
    assert patches._patches is None
    assert len(heard(world.agents[0])) == 2


def test_a_run_can_be_made_again_after_close(tinytroupe):
    """The same world is adopted again, and goes on with what it remembers."""
    world = town(tinytroupe)
    for voice in (" one", " two"):
        with adopt(world, Cast(voice), steps=2) as run:
            run.start().wait(WAIT_S)
            assert len(said(run)) == 8
    assert [each.rpartition(" ")[2] for each in heard(world.agents[1])] == ["Welcome.", "one)", "one)", "two)", "two)"]


def test_tinytroupe_s_other_calls_go_on_beside_a_run(tinytroupe):
    """Persons of nobody keep TinyTroupe's own client and memories while a run is open; persons of the run may be spoken to."""
    world = town(tinytroupe)
    (stranger,) = people(tinytroupe, 1, "Stranger")
    with adopt(world, Cast(), steps=2) as run:
        stranger.listen("Nobody knows me.")
        assert type(stranger.episodic_memory) is tinytroupe.memory.EpisodicMemory
        run.step(1)
        run.wait(WAIT_S, until="paused")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda person: person.listen("From a cell."), world.agents))
        run.resume()
        run.wait(WAIT_S)
    assert all(heard(person).count("From a cell.") == 1 for person in world.agents)


def test_a_dashboard_shows_it(tinytroupe, dashboard):
    """A dashboard of an adopted run reads it while it plays, its sliders and buttons act on the run, and closing it ends neither."""
    with adopt(town(tinytroupe), Cast(), steps=3) as run:
        shown = dashboard(run)
        panels = Panels(run)
        run.step(1)
        run.wait(WAIT_S, until="paused")
        panels.read()
        assert not all(panel.empty for panel in panels)
        shown._controls.by_name["recent_max_records"].slider.value = 50
        assert run.limits.recent_max_records == 50
        assert [change.by for change in run.limits.log] == ["dashboard"]
        run.resume()
        run.wait(WAIT_S)
        panels.read()
        eventually(
            "the note says when",
            lambda: "effective at step 1" in shown._controls.by_name["recent_max_records"].note.value,
        )
        shown.close()
        assert run.state == "done"
        assert len(said(run)) == 12


if __name__ == "__main__":
    life(sys.argv[1])
