"""Personas, worlds, and how speech reaches people."""

from __future__ import annotations

import json

import pytest
from helpers import quick_run
from hypothesis import given
from hypothesis import strategies as st

import troupelab as tl
from troupelab.memory.pool import Pool
from troupelab.people.acts import Action
from troupelab.people.stage import Stage

SEVENTEEN = (
    "name age gender nationality residence education long_term_goals occupation style personality preferences skills beliefs behaviors "
    "health relationships other_facts"
).split()


# ---------------------------------------------------------------------- personas


@pytest.mark.parametrize("name", tl.Persona.names())
def test_a_shipped_persona_is_whole(name):
    """Each shipped persona has TinyTroupe's seventeen keys and opinions of its own."""
    persona = tl.Persona.load(name).to_dict()["persona"]
    assert list(persona) == SEVENTEEN
    assert len(persona["beliefs"]) == 5
    assert 18 <= persona["age"] <= 99
    assert {"traits", "big_five"} <= persona["personality"].keys()


def test_shipped_personas_can_be_told_apart():
    """No two share a name, an occupation or a belief; there are at least 25 of them, from at least 20 countries."""
    personas = [tl.Persona.load(name) for name in tl.Persona.names()]
    assert len(personas) >= 25
    assert len({persona.name for persona in personas}) == len(personas)
    assert len({persona.get("occupation")["title"] for persona in personas}) == len(personas)
    assert len({persona.get("nationality") for persona in personas}) >= 20
    beliefs = [belief for persona in personas for belief in persona.get("beliefs")]
    assert len(set(beliefs)) == len(beliefs)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=8), values, max_size=6), st.dictionaries(st.text(max_size=8), values, max_size=3)
)
def test_a_persona_file_survives_loading_and_saving(extra, outside):
    """Whatever else a file holds, unknown keys and their order included, is written back the same."""
    import tempfile
    from pathlib import Path

    spec = {**outside, "type": "TinyPerson", "persona": {**extra, "name": "Ann"}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ann.agent.json"
        tl.Persona(spec).save(file)
        again = tl.Persona.load(file)
        assert json.dumps(json.loads(file.read_text())) == json.dumps(spec)
        assert again.to_dict() == spec
        assert again == tl.Persona(spec)


def test_published_personas_load_and_survive(real_personas, tmp_path):
    """TinyTroupe's own published personas come through unchanged; the few that are not valid JSON are refused by name."""
    loaded = 0
    for number, raw in enumerate(real_personas):
        file = tmp_path / f"{number}.agent.json"
        if raw.get("spec"):
            file.write_text(json.dumps(raw["spec"]))
            persona = tl.Persona.load(file)
            assert persona.to_dict() == raw["spec"]
            loaded += 1
        else:
            file.write_text(raw["raw"])
            with pytest.raises(tl.PersonaError, match=f"{number}.agent.json"):
                tl.Persona.load(file)
    assert loaded >= 38


def test_a_fragment_adds_to_a_persona(tmp_path):
    """Lists are joined without repeats, objects merged, and what the persona says already stays."""
    file = tmp_path / "sailing.fragment.json"
    fragment = {
        "type": "Fragment",
        "persona": {"name": "nobody", "preferences": {"likes": ["wind"], "drinks": ["tea"]}, "boats": 2},
    }
    file.write_text(json.dumps(fragment))
    persona = tl.Persona({"type": "TinyPerson", "persona": {"name": "Ann", "preferences": {"likes": ["rain", "wind"]}}})
    merged = persona.with_fragment(tl.Fragment.load(file)).to_dict()["persona"]
    assert merged == {"name": "Ann", "preferences": {"likes": ["rain", "wind"], "drinks": ["tea"]}, "boats": 2}
    assert tl.Fragment.load(file).to_dict() == fragment
    assert persona.get("boats") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected valid JSON"),
        ("[1]", "expected an object"),
        ('{"type": "Fragment", "persona": {"name": "A"}}', "type: expected one of TinyPerson, found 'Fragment'"),
        ('{"persona": {"name": "A"}}', "type: expected"),
        ('{"type": "TinyPerson"}', "persona: expected an object, found nothing"),
        ('{"type": "TinyPerson", "persona": []}', "persona: expected an object"),
        ('{"type": "TinyPerson", "persona": {}}', "persona.name: expected a text"),
        ('{"type": "TinyPerson", "persona": {"name": 5}}', "persona.name: expected a text, found 5"),
        ('{"type": "TinyPerson", "persona": {"name": " "}}', "persona.name: expected a text of 1 to 120"),
        ('{"type": "TinyPerson", "persona": {"name": "A", "x": ' + "[" * 30 + "]" * 30 + "}}", "24 levels"),
        ("\xff\xfe", "expected valid JSON in UTF-8"),
    ],
    ids=lambda value: value[:25],
)
def test_a_malformed_persona_names_file_field_and_what_was_expected(tmp_path, content, message):
    """Each way to be malformed ends in one PersonaError with all three."""
    file = tmp_path / "bad.agent.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(tl.PersonaError) as caught:
        tl.Persona.load(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["\ud800", {1, 2}, object()], ids=["surrogate", "set", "object"])
def test_a_persona_made_in_python_must_be_json(value):
    """What no JSON file could hold is refused when the persona is made, not in the middle of a run."""
    with pytest.raises(tl.PersonaError, match="values that JSON has"):
        tl.Persona({"type": "TinyPerson", "persona": {"name": "Ann", "x": value}})


def test_a_file_that_is_too_big_is_not_read(tmp_path):
    """More than four megabytes are refused by size."""
    file = tmp_path / "big.agent.json"
    file.write_bytes(b" " * 4_000_001)
    with pytest.raises(tl.PersonaError, match="at most 4000000 bytes, found 4000001"):
        tl.Persona.load(file)


def test_a_persona_that_is_not_there_lists_those_that_are():
    """An unknown name shows the known ones."""
    with pytest.raises(tl.PersonaError, match="amara_okafor"):
        tl.Persona.load("nobody_here")


def test_sampling_scales_and_repeats():
    """Five hundred personas have five hundred names, the same for the same seed, others for another."""
    one, again, other = (tl.Persona.sample(500, seed) for seed in (1, 1, 2))
    assert len({persona.name for persona in one}) == 500
    assert one == again
    assert [persona.name for persona in one] != [persona.name for persona in other]
    assert [persona.name for persona in tl.Persona.sample(40, 1)] == [persona.name for persona in one[:40]]


# ---------------------------------------------------------------------- worlds


def world(**changes):
    """A small valid world's content, with changes; None removes a field."""
    people = [{"type": "TinyPerson", "persona": {"name": name}} for name in ("Ann", "Ben", "Cleo", "Dov")]
    content = {
        "type": "TroupeLabWorld",
        "format": 1,
        "name": "small",
        "start": "2026-01-01T09:00:00",
        "step_minutes": 10,
        "agents": people,
    }
    return {key: value for key, value in {**content, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("name", "agents", "groups"),
    [("product_launch", 8, 1), ("classroom_debate", 12, 1), ("town", 25, 5), ("market_panel", 20, 4)],
)
def test_a_shipped_world_is_playable(name, agents, groups):
    """Each shipped world has its cast, its circles of hearers, an opening and something that happens later."""
    found = tl.World.load(name)
    assert len(found.personas) == agents
    circles = {frozenset({agent, *found.audience[agent]}) for agent in range(agents)}
    assert len(circles) == groups
    assert {event.step == 0 for event in found.events} == {True, False}
    assert max(event.step for event in found.events) < found.steps


def test_any_number_can_sit_on_the_market_panel():
    """World.sample gives as many agents as asked, at tables of five, and another seed other people."""
    found = tl.World.sample(agents=103, seed=7)
    assert len(found.personas) == 103
    assert {len(hearers) for hearers in found.audience} == {4, 2}
    assert found.agent_names != tl.World.sample(agents=103, seed=8).agent_names


def test_edges_say_who_hears_whom():
    """With edges, the second hears the first and not the other way round."""
    found = tl.World.from_dict(world(hears={"edges": [["Ann", "Ben"], ["Ann", "Cleo"], ["Ben", "Ann"]]}))
    assert found.audience == ((1, 2), (0,), (), ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "TinyWorld"}, "type: expected one of TroupeLabWorld"),
        ({"format": 9}, "format: expected a format up to 1"),
        ({"name": None}, "name: expected a text, found nothing"),
        ({"start": "yesterday"}, "start: expected a date and time"),
        ({"step_minutes": 0}, "step_minutes: expected a number from 0.001"),
        ({"steps": "many"}, "steps: expected a whole number from 1 to 1e+06, found 'many'"),
        ({"agents": []}, "agents: expected a list of personas"),
        ({"agents": [7]}, "agents[0]: expected a persona's name"),
        ({"agents": [{"type": "TinyPerson", "persona": {}}]}, "agents[0]: persona.name: expected a text"),
        (
            {"agents": [{"type": "TinyPerson", "persona": {"name": "Ann"}}] * 2},
            "agents[1]: expected names that differ, found a second 'Ann'",
        ),
        ({"agents": {"sample": -1}}, "agents.sample: expected a whole number"),
        ({"hears": "nobody"}, 'hears: expected "everyone"'),
        (
            {"hears": {"groups": {"A": ["Zoe"]}}},
            "hears.groups.A: expected the name of an agent of this world, found 'Zoe'",
        ),
        (
            {"hears": {"edges": [["Ann", "Zoe"]]}},
            "hears.edges[0]: expected the name of an agent of this world, found 'Zoe'",
        ),
        ({"hears": {"edges": [["Ann"]]}}, "hears.edges[0]: expected a pair of names"),
        ({"reach_out": [["Ann", "Zoe"]]}, "reach_out[0]: expected the name of an agent"),
        ({"opening": ["Hello"]}, "opening[0]: expected an object with a text"),
        ({"opening": [{"text": "x", "to": "Zoe"}]}, "opening[0].to: expected the name of an agent"),
        ({"events": [{"text": "x"}]}, "events[0].step: expected a whole number"),
        ({"events": [{"step": 1, "text": "x" * 20_001}]}, "events[0].text: expected at most 20000 characters"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_malformed_world_names_file_field_and_what_was_expected(tmp_path, changes, message):
    """Each way to be malformed ends in one error of ours with all three."""
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(world(**changes)))
    with pytest.raises(tl.InputError) as caught:
        tl.World.load(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_world_lists_the_known_ones():
    """A name that is no world shows those there are; a file that is not there says so."""
    with pytest.raises(tl.WorldError, match=r"atlantis: expected a file, or one of .*product_launch"):
        tl.World.load("atlantis")
    with pytest.raises(tl.WorldError, match=r"no/such\.json: expected a file that exists"):
        tl.World.load("no/such.json")


def test_a_named_cast_cannot_be_resized():
    """Asking a world with a cast of its own for another number of agents is refused."""
    with pytest.raises(tl.WorldError, match="8 agents, since this world names its cast"):
        tl.World.load("product_launch", agents=9)


# ---------------------------------------------------------------------- the stage


def stage(**changes):
    """A stage over a small world, and the events that it emits."""
    events = []
    found = tl.World.from_dict(world(**changes))
    return Stage(
        found, tl.LiveLimits(agents=found.agent_names), pool=Pool(), emit=events.append, clock=lambda: 0.0
    ), events


def heard(on, step):
    """What each agent on a stage hears in a step."""
    return [[(message.source, message.text) for message in agent.hear(step)] for agent in on.agents]


def test_talk_is_heard_a_step_later_by_those_who_hear():
    """Talk to nobody in particular reaches all who hear the speaker, at the next step and not before."""
    on, events = stage(hears={"groups": {"A": ["Ann", "Ben"], "B": ["Cleo", "Dov"]}})
    on.deliver(on.agents[0], 4, (Action("TALK", "Hi.", ""), Action("TALK", "You.", "ben")))
    assert heard(on, 4) == [[], [], [], []]
    assert heard(on, 5) == [[], [("Ann", "Hi."), ("Ann", "You.")], [], []]
    assert events == []


def test_what_cannot_be_delivered_is_an_event():
    """Talk to somebody outside, to nobody known, and reaching out where there is no way, are events and reach nobody."""
    on, events = stage(hears={"groups": {"A": ["Ann", "Ben"], "B": ["Cleo", "Dov"]}}, reach_out=[["Ann", "Dov"]])
    actions = (
        Action("TALK", "x", "Cleo"),
        Action("TALK", "x", "Zoe"),
        Action("REACH_OUT", "x", "Cleo"),
        Action("TALK", "x", "Dov"),
    )
    on.deliver(on.agents[0], 0, actions)
    assert heard(on, 1) == [[], [], [], []]
    assert [event.kind for event in events] == ["Undeliverable"] * 4
    assert "TALK to 'Zoe' reached nobody" in events[1].message


def test_reaching_out_opens_a_conversation_both_ways():
    """After REACH_OUT the sender can talk at once, and the other one from the step in which it hears of it."""
    on, events = stage(hears={"groups": {"A": ["Ann", "Ben"], "B": ["Cleo", "Dov"]}}, reach_out=[["Ann", "Dov"]])
    ann, dov = on.agents[0], on.agents[3]
    assert (on.within_reach(ann), on.within_reach(dov)) == (["Dov"], ["Ann"])
    on.deliver(ann, 0, (Action("REACH_OUT", "A word?", "Dov"), Action("TALK", "The ferry!", "Dov")))
    assert [message.kind for message in dov.hear(1)] == ["SOCIAL", "CONVERSATION"]
    on.deliver(dov, 1, (Action("TALK", "Really?", "Ann"),))
    assert heard(on, 2)[0] == [("Dov", "Really?")]
    assert (on.listeners(dov), on.within_reach(ann)) == (["Ann", "Cleo"], [])
    assert events == []


def test_an_inbox_is_sorted_however_it_was_filled():
    """The world's word comes first, then messages by the sender's index and order, whoever came first."""
    on, _ = stage(events=[{"step": 1, "text": "Rain."}])
    for sender in (3, 1, 2):
        on.deliver(on.agents[sender], 0, (Action("TALK", f"a{sender}", ""), Action("TALK", f"b{sender}", "")))
    on.open_step(1)
    assert [text for _, text in heard(on, 1)[0]] == ["Rain.", "a1", "b1", "a2", "b2", "a3", "b3"]


def test_transcripts_follow_the_personas():
    """With personas shuffled between the places, the same seed gives another transcript, and beliefs move with their owners."""
    found = tl.World.load("product_launch")
    shuffled = found.with_personas([*found.personas[3:], *found.personas[:3]])
    one, other = (quick_run(each, steps=6).start().wait(60) for each in (found, shuffled))
    assert one.recorder.transcript_sha256() != other.recorder.transcript_sha256()
    for run in (one, other):
        talk = run.transcript().groupby("agent", observed=True)["content"].agg(" ".join)
        for persona in found.personas:
            # Others' beliefs may be quoted; one's own must be there.
            assert any(belief in talk[persona.name] for belief in persona.get("beliefs"))


def test_a_cast_can_only_be_replaced_by_as_many():
    """with_personas wants one persona a place, all of different names."""
    found = tl.World.load("product_launch")
    with pytest.raises(tl.WorldError, match="8 personas, found 7"):
        found.with_personas(found.personas[:7])
    with pytest.raises(tl.WorldError, match="names that differ"):
        found.with_personas([found.personas[0]] * 8)
