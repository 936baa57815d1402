"""The limiter, the parser, the pipeline and the scripted model."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from helpers import quick_run
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.events import CallDone, Failed
from troupelab.livelimits import LiveLimits
from troupelab.models.limiter import Limiter
from troupelab.models.model import NOTES, NOW, PEOPLE, PERSONA, sections
from troupelab.models.parse import parse_object
from troupelab.models.pipeline import Pipeline
from troupelab.people.acts import EXPECTED, MAX_ACTIONS, read_turn

BIG = {"max_bytes": 100_000, "max_depth": 16}


# ---------------------------------------------------------------------- limiter


def test_slots_go_first_come_first_served_and_never_beyond_the_size():
    """Twenty tasks through three slots begin in their order, at most three at once."""
    began, most = [], 0

    async def work(limiter, number):
        nonlocal most
        async with limiter.slot():
            began.append(number)
            most = max(most, limiter.in_flight)
            await asyncio.sleep(0)

    async def main():
        limiter = Limiter(3)
        await asyncio.gather(*(work(limiter, number) for number in range(20)))
        return limiter.in_flight, limiter.queued

    assert asyncio.run(main()) == (0, 0)
    assert began == list(range(20))
    assert most == 3


def test_a_resize_is_felt_at_once():
    """Growing lets waiters in; shrinking lets nobody in until enough have left."""

    async def main():
        limiter, leave = Limiter(1), asyncio.Event()

        async def work():
            async with limiter.slot():
                await leave.wait()

        tasks = [asyncio.create_task(work()) for _ in range(6)]
        await asyncio.sleep(0)
        seen = [(limiter.in_flight, limiter.queued)]
        for size in (4, 2):
            limiter.resize(size)
            await asyncio.sleep(0)
            seen.append((limiter.in_flight, limiter.queued))
        leave.set()
        await asyncio.gather(*tasks)
        return seen

    assert asyncio.run(main()) == [(1, 5), (4, 2), (4, 2)]


def test_a_held_limiter_lets_nobody_in():
    """While held, free slots stay empty; released, everyone comes in."""

    async def main():
        limiter = Limiter(5)
        limiter.hold(True)

        async def work():
            async with limiter.slot():
                return True

        tasks = [asyncio.create_task(work()) for _ in range(3)]
        await asyncio.sleep(0.01)
        held = limiter.in_flight, limiter.queued
        limiter.hold(False)
        return held, await asyncio.gather(*tasks)

    assert asyncio.run(main()) == ((0, 3), [True, True, True])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=25), st.integers(1, 4))
def test_no_slot_is_ever_lost_to_a_cancellation(plan, size):
    """Whatever is cancelled, and whenever, all slots are free in the end and those not cancelled have run."""

    async def main():
        limiter, ran = Limiter(size), []

        async def work(number, turns):
            async with limiter.slot():
                for _ in range(turns):
                    await asyncio.sleep(0)
                ran.append(number)

        tasks = [asyncio.create_task(work(number, turns)) for number, (turns, _) in enumerate(plan)]
        for task, (turns, cancel) in zip(tasks, plan, strict=True):
            await asyncio.sleep(0)
            if cancel:
                task.cancel()
            assert limiter.in_flight <= size
            del turns
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        finished = [number for number, outcome in enumerate(outcomes) if outcome is None]
        assert sorted(ran) == finished
        assert all(number in finished for number, (_, cancel) in enumerate(plan) if not cancel)
        assert (limiter.in_flight, limiter.queued) == (0, 0)

    asyncio.run(main())


# ---------------------------------------------------------------------- parser


@pytest.mark.parametrize(
    "text",
    [
        '{"actions": [{"type": "DONE"}]}',
        'Sure! Here it is:\n```json\n{"actions": [{"type": "DONE"}]}\n```\nAnything else?',
        '{"thoughts": 1} {"actions": [{"type": "DONE"}]}',
        "I think {this} is it: " + '{"actions": [{"type": "DONE"}]}',
    ],
)
def test_an_object_is_found_in_what_models_write_around_it(text):
    """Strict JSON, fences, prose and a wrong object before the right one all give the actions."""
    assert parse_object(text, EXPECTED, **BIG)["actions"] == [{"type": "DONE"}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("I would rather not.", "not JSON"),
        ('{"actions": [', "not JSON"),
        ("[1, 2]", "no JSON object"),
        ('{"answer": 1}', "no JSON object with actions or action"),
        ('{"actions": "' + "x" * 200_000 + '"}', "longer than response_max_bytes"),
        ('{"actions": "' + "ä" * 60_000 + '"}', "longer than response_max_bytes"),
        ('{"actions": ' + "[" * 30 + "]" * 30 + "}", "deeper than response_max_depth"),
        ('{"actions": ' + "[" * 40_000, "not JSON"),
        ("{" * 90_000, "not JSON"),
        ('{"a":' * 15_000, "not JSON"),
    ],
    ids=lambda value: value[:30],
)
def test_what_cannot_be_read_says_why(text, reason):
    """Every unusable reply ends in a ReplyError with its reason and at most 200 characters of the reply."""
    with pytest.raises(tl.ReplyError, match=reason) as caught:
        parse_object(text, EXPECTED, **BIG)
    assert len(caught.value.excerpt) <= 200


@settings(max_examples=300)
@given(st.text(st.sampled_from('{}[]",:\\ abactions1'), max_size=300))
def test_no_text_breaks_the_parser(text):
    """Any text gives an object with an expected key, or a ReplyError, and nothing else."""
    try:
        found = parse_object(text, ["actions", "a"], max_bytes=1_000, max_depth=8)
    except tl.ReplyError:
        return
    assert {"actions", "a"} & found.keys()


# ---------------------------------------------------------------------- turns


def test_a_turn_ends_with_done_and_keeps_unknown_actions():
    """What follows DONE is not part of the turn; types that nobody knows are kept, in capitals."""
    turn = read_turn({"actions": [{"type": "dance", "content": {"steps": 3}}, {"type": "DONE"}, {"type": "TALK"}]})
    assert [(action.type, action.content) for action in turn.actions] == [("DANCE", '{"steps":3}'), ("DONE", "")]


def test_tinytroupes_single_action_is_a_turn_too():
    """`action` instead of `actions` is understood, with its state of mind."""
    turn = read_turn(
        {
            "action": {"type": "THINK", "content": "x", "target": None},
            "cognitive_state": {"goals": ["a"], "emotions": "calm"},
        }
    )
    assert turn.actions[0].target == ""
    assert turn.state == {"goals": '["a"]', "emotions": "calm"}


def test_actions_beyond_the_number_are_counted():
    """A model that never stops gets its first actions, and the rest are counted."""
    turn = read_turn({"actions": [{"type": "TALK", "content": "again"}] * (MAX_ACTIONS + 5)})
    assert (len(turn.actions), turn.left_out) == (MAX_ACTIONS, 5)


@pytest.mark.parametrize(
    "bad",
    [{"actions": []}, {"actions": "TALK"}, {"actions": [1]}, {"action": {"content": "x"}}, {"action": {"type": 3}}],
)
def test_a_turn_without_usable_actions_is_refused(bad):
    """No list, an empty one, or an action without a type raises."""
    with pytest.raises(tl.ReplyError, match="action"):
        read_turn(bad)


# ---------------------------------------------------------------------- pipeline


class Replies:
    """A model that answers from a list: a text, an error to raise, or seconds to hang."""

    name = "replies"

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.seeds = []
        self.asked = []

    async def complete(self, request):
        self.seeds.append(request.seed)
        self.asked.append(request)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, float):
            await asyncio.sleep(outcome)
            outcome = GOOD
        return tl.Reply(outcome, 10, 5, 0.25, self.name)


GOOD = '{"actions": [{"type": "DONE"}]}'


def complete(model, **limits):
    """Send one request through a pipeline; returns the turn or the error, and the events."""
    events = []
    pipeline = Pipeline(model, LiveLimits(tl.Limits(**limits)), emit=events.append, clock=time.monotonic)
    message = (tl.ChatMessage("user", "x"),)

    async def main():
        try:
            return await pipeline.complete(
                lambda attempt: tl.Request("act", 2, 3, 0, attempt, attempt, message), read_turn, EXPECTED
            )
        finally:
            await pipeline.drain()

    try:
        return asyncio.run(main()), events
    except tl.ModelError as error:
        return error, events


def test_a_call_is_one_event_with_what_it_took():
    """A call that goes well emits one row: who, what for, tokens, cost, one attempt, from the model, no error."""
    turn, (event,) = complete(Replies(GOOD))
    assert turn.actions[0].type == "DONE"
    assert isinstance(event, CallDone)
    assert (event.agent, event.step, event.purpose, event.source, event.cached) == (2, 3, "act", "model", False)
    assert (event.tokens_in, event.tokens_out, event.cost_usd, event.attempts, event.error) == (10, 5, 0.25, 1, "")


def test_a_bad_reply_is_asked_for_again_with_another_seed_and_the_reason():
    """A reply that cannot be read costs an error event and another attempt, which is told why; and all tokens count."""
    model = Replies("nonsense", GOOD)
    turn, (failure, call) = complete(model)
    assert turn.actions
    assert isinstance(failure, Failed)
    assert (failure.kind, failure.attempt) == ("ReplyError", 1)
    assert "asked again" in failure.message
    assert (call.attempts, call.tokens_in, call.error) == (2, 20, "")
    assert model.seeds == [0, 1]
    assert "could not be used: the reply is not JSON" in model.asked[1].messages[-1].content
    assert model.asked[1].messages[:-1] == model.asked[0].messages


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("nonsense", "ReplyError"),
        (10.0, "ModelTimeoutError"),
        (RuntimeError("boom"), "ModelServerError"),
        (tl.ModelConnectionError("lost"), "ModelConnectionError"),
    ],
)
def test_a_call_that_keeps_failing_is_given_up_after_max_attempts(outcome, kind):
    """Unreadable, hanging and raising models end in a ModelError; each attempt is an event, the call one more."""
    error, events = complete(Replies(*[outcome] * 3), max_attempts=3, timeout_s=0.05)
    assert type(error).__name__ == kind
    assert [type(event).__name__ for event in events] == ["Failed"] * 3 + ["CallDone"]
    assert "given up after attempt 3" in events[2].message
    assert (events[3].attempts, events[3].error) == (3, kind)


@pytest.mark.parametrize("error", [tl.ModelError("no"), tl.ModelRequestError("no"), tl.ModelSetupError("no")])
def test_what_cannot_pass_is_asked_once(error):
    """A refused request, a wrong key and a plain ModelError are not sent again."""
    raised, events = complete(Replies(error))
    assert raised is error
    assert [type(event).__name__ for event in events] == ["Failed", "CallDone"]
    assert events[1].attempts == 1


def test_a_busy_endpoint_is_waited_for_beyond_max_attempts_but_not_beyond_the_deadline():
    """429s do not use up the attempts; the deadline ends them."""
    busy = tl.ModelBusyError("later", retry_after_s=0.01)
    turn, events = complete(Replies(busy, busy, GOOD), max_attempts=1)
    assert turn.actions
    assert events[-1].attempts == 3
    error, events = complete(Replies(*[tl.ModelBusyError("later", retry_after_s=5.0)] * 2), deadline_s=1.0)
    assert type(error) is tl.ModelBusyError
    assert events[-1].attempts == 1


def test_a_synchronous_model_is_called_on_threads_as_many_at_once_as_the_limit_says():
    """A model whose complete is a plain function answers beside the loop, max_concurrency at a time."""

    class Plain:
        name = "plain"

        def __init__(self):
            self.now = self.most = 0
            self.lock = threading.Lock()

        def complete(self, request):
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.02)
            with self.lock:
                self.now -= 1
            return tl.Reply(GOOD, 1, 1, 0.0, self.name)

    model = Plain()
    run = quick_run(model=model, steps=2, limits=tl.Limits(max_concurrency=3)).start().wait(30)
    assert model.most == 3
    assert run.summary()["acts_lost"] == 0


# ---------------------------------------------------------------------- the scripted model


def prompt(persona, *stimuli, people="You can talk to: Omar.", notes="none yet"):
    """A prompt as the agents send it, with what was just heard."""
    lines = "\n".join(
        json.dumps({"type": "CONVERSATION", "source": who, "content": what}, separators=(",", ":"))
        for who, what in stimuli
    )
    text = f"Rules.{PERSONA}{persona.to_json()}{PEOPLE}{people}{NOTES}{notes}{NOW}You just heard:\n{lines}"
    return (tl.ChatMessage("system", text),)


def reply(messages, seed=1, model=None):
    """What the scripted model answers, as an object."""
    model = model or tl.ScriptedModel(7, latency_s=0.0, repeat_rate=0.0)
    return json.loads(asyncio.run(model.complete(tl.Request("act", 0, 0, 0, 0, seed, messages))).text)


def said(messages, seeds=range(40), **options):
    """All that it says and thinks over some seeds."""
    return " ".join(action["content"] for seed in seeds for action in reply(messages, seed, **options)["actions"])


def test_the_same_request_has_the_same_reply_and_another_seed_another():
    """Replies depend on the request and the model's seed, not on what was asked before."""
    messages = prompt(tl.Persona.load("amara_okafor"), ("Omar", "The lamp costs 79 euros."))
    assert reply(messages, 1) == reply(messages, 1)
    assert len({json.dumps(reply(messages, seed)) for seed in range(30)}) > 10
    other = tl.ScriptedModel(8, latency_s=0.0, repeat_rate=0.0)
    assert said(messages) != said(messages, model=other)


def test_a_reply_takes_up_the_stimulus_and_the_persona():
    """Over some draws, what was said is quoted, and the persona's own beliefs and tastes come up; another's do not."""
    amara, oskar = tl.Persona.load("amara_okafor"), tl.Persona.load("oskar_leitner")
    text = said(prompt(amara, ("Omar", "The lamp costs 79 euros.")))
    assert "79 euros" in text
    assert any(belief in text for belief in amara.get("beliefs"))
    assert any(like in text for like in amara.get("preferences")["likes"])
    assert not any(belief in text for belief in oskar.get("beliefs"))


def test_only_people_within_earshot_are_spoken_to():
    """Targets are empty or among those whom the prompt says one can talk to; REACH_OUT goes to those within reach."""
    persona = tl.Persona.load("elif_aydin")
    people = 'You can talk to: Omar.\nWithin reach: ["Lisa"]'
    messages = prompt(persona, ("Moderator", "It costs 79 euros."), ("Omar", "I paid 40."), people=people)
    actions = [action for seed in range(80) for action in reply(messages, seed)["actions"]]
    assert {action["target"] for action in actions if action["type"] == "TALK"} == {"", "Omar"}
    assert {action["target"] for action in actions if action["type"] == "REACH_OUT"} == {"Lisa"}


def test_what_the_notes_hold_can_come_up_again():
    """Something with a number in the notes is remembered aloud now and then; without notes it is not."""
    persona = tl.Persona.load("elif_aydin")
    notes = "- steps 0 to 3: Omar: The bakery owes 4711 crowns."
    assert "4711" in said(prompt(persona, ("Omar", "Good evening to you."), notes=notes))
    assert "4711" not in said(prompt(persona, ("Omar", "Good evening to you.")))


def test_repeats_come_at_about_the_set_rate():
    """With repeat_rate 1 all talk to others repeats a belief; with 0 none begins that way."""
    messages = prompt(tl.Persona.load("elif_aydin"), ("Omar", "The lamp is quiet."))
    always = tl.ScriptedModel(7, latency_s=0.0, repeat_rate=1.0)
    talk = [
        action["content"]
        for seed in range(30)
        for action in reply(messages, seed, always)["actions"]
        if action["type"] == "TALK"
    ]
    assert all(any(belief in each for belief in tl.Persona.load("elif_aydin").get("beliefs")) for each in talk)
    assert len(set(talk)) <= 15


@pytest.mark.parametrize(
    "text",
    ["", "Hello.", PERSONA + "not json" + NOW + '{"type": 3}', PERSONA + "[]" + NOW + '{"type":"X","content":"."}'],
)
def test_a_prompt_without_its_sections_still_gets_a_turn(text):
    """A foreign or broken prompt is answered with a valid turn."""
    assert read_turn(reply((tl.ChatMessage("user", text),))).actions[-1].type == "DONE"


def test_every_real_persona_can_be_played(real_personas):
    """Published TinyTroupe personas, with their own keys and styles, all speak."""
    for raw in real_personas:
        if raw.get("spec"):
            messages = prompt(tl.Persona(raw["spec"]), ("Omar", "The lamp costs 79 euros."))
            assert "79" in said(messages, range(12))


def test_latency_follows_its_model():
    """The drawn latencies have the median that was asked for, and a spread of zero means none."""
    model = tl.ScriptedModel(1, latency_s=0.5, latency_sigma=0.5)
    drawn = sorted(model.draw_latency_s(seed) for seed in range(2_001))
    assert drawn[1_000] == pytest.approx(0.5, rel=0.08)
    assert {tl.ScriptedModel(1, latency_s=0.5, latency_sigma=0.0).draw_latency_s(seed) for seed in range(9)} == {0.5}


@pytest.mark.parametrize("bad", [{"latency_s": -1}, {"latency_sigma": -0.1}, {"repeat_rate": 1.5}])
def test_impossible_settings_are_refused(bad):
    """Negative times and rates beyond one raise."""
    with pytest.raises(ValueError, match="must"):
        tl.ScriptedModel(**bad)


def test_sections_are_found_by_their_titles():
    """A section ends where the next begins, the first of two with one title counts, and a missing one is not there."""
    found = sections(f"a{PERSONA}b{NOTES}c{PERSONA}d")
    assert found == {"": "a", PERSONA: "b", NOTES: "c"}
