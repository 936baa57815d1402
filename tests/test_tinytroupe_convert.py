"""Personas, memories and transcripts go from TinyTroupe to TroupeLab and back, and no model is asked for it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pandas as pd
import pytest
from helpers import memories as held_by
from helpers import quick_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.bridges.tinytroupe import convert, values
from troupelab.bridges.tinytroupe.convert import (
    from_transcript,
    memories,
    remember,
    to_person,
    to_persona,
    to_records,
    to_values,
    transcript,
)
from troupelab.errors import BridgeError, InputError, PersonaError, StoreError
from troupelab.ids import make_id, split_id
from troupelab.memory.record import OWN_ACTION, Record
from troupelab.people.persona import Persona

START, STEP = datetime(2026, 3, 2, 8), timedelta(minutes=30)
STIMULI = frozenset({"CONVERSATION", "THOUGHT", "SOCIAL", "VISUAL", "LOCATION"})
NUMBER = count()


class FailingClient:
    """A client that must not be asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*_args: object, **_options: object) -> Any:
            self.asked.append(name)
            raise AssertionError(f"a model was asked: {name}")

        return fail


class HearingClient:
    """A client that keeps what it is sent, and answers with an empty object."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def send_message(self, messages: list[dict[str, str]], **_options: object) -> dict[str, str]:
        """Answer."""
        self.heard.append(messages[-1]["content"])
        return {"role": "assistant", "content": "{}"}


def put_in(found: Any, client: object) -> None:
    """Have all of TinyTroupe's calls go to a client."""
    found.clients.register_client("convert", client)
    found.clients.force_api_type("convert")


@pytest.fixture
def troupe(tinytroupe: Any) -> Iterator[Any]:
    """TinyTroupe with a client that must not be asked."""
    put_in(tinytroupe, failing := FailingClient())
    yield tinytroupe
    assert failing.asked == []


def new_name(stem: str = "Somebody") -> str:
    """A name that nobody has."""
    return f"{stem} {next(NUMBER)}"


def someone(name: str | None = None, **persona: Any) -> Any:
    """A person with a name of its own, who remembers nothing."""
    return to_person(Persona({"type": "TinyPerson", "persona": {**persona, "name": name or new_name()}}))


def world_of(troupe: Any, run: tl.Run, **options: Any) -> Any:
    """A TinyWorld with the people of a run."""
    return troupe.world.TinyWorld(new_name("World"), [to_person(each) for each in run.world.personas], **options)


def stimulus(kind: str, text: str, source: str, at: str | None = None) -> dict[str, Any]:
    """What TinyTroupe remembers of something heard."""
    content = {"stimuli": [{"type": kind, "content": text, "source": source}]}
    return {"role": "user", "content": content, "type": "stimulus", "simulation_timestamp": at}


def action(kind: str, text: str, target: str, at: str | None = None) -> dict[str, Any]:
    """What TinyTroupe remembers of something done."""
    content = {"action": {"type": kind, "content": text, "target": target}}
    return {"role": "assistant", "content": content, "type": "action", "simulation_timestamp": at}


def at_step(step: int) -> str:
    """The time of a step, as TinyTroupe writes it."""
    return (START + step * STEP).isoformat()


def flat(text: str) -> str:
    """A text without the line breaks and marks that TinyTroupe puts into it to show it."""
    return "".join(text.replace(">", "").split())


# ------------------------------------------------------------------ personas

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
JSON = st.recursive(
    LEAVES,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=8), each, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["type", "age", "persona", "mental_state", "occupation", "relationships", "datetime"]) | st.text(
    max_size=8
)


@pytest.mark.parametrize("shipped", Persona.names())
def test_a_shipped_persona_comes_back_equal(troupe, shipped):
    """Each of our persona files becomes a TinyPerson, and the very same persona again."""
    persona = Persona.load(shipped)
    person = to_person(persona)
    assert isinstance(person, troupe.person.TinyPerson)
    assert person.name == persona.name
    assert to_persona(person) == persona


def test_published_personas_come_back_equal(troupe, real_personas):
    """TinyTroupe's own persona files keep every key of the persona on their way."""
    specs = [each["spec"] for each in real_personas if "spec" in each]
    assert len(specs) == 40
    for spec in specs:
        persona = to_persona(to_person(Persona(spec), name=new_name()))
        named = persona.to_dict()["persona"]
        assert {**named, "name": spec["persona"]["name"]} == spec["persona"]
        assert list(named) == list(spec["persona"])


@given(content=st.dictionaries(KEYS, JSON, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_persona_comes_back_equal(troupe, content):
    """Whatever JSON a persona holds, keys that mean something to TinyTroupe included, it comes back."""
    spec = {"type": "TinyPerson", "persona": {**content, "name": new_name()}}
    person = to_person(Persona(spec))
    assert to_persona(person).to_dict() == spec
    assert person.name == spec["persona"]["name"]


def test_a_persona_and_its_person_share_nothing(troupe):
    """What a person learns about itself later changes no persona, in neither direction."""
    persona = Persona({"type": "TinyPerson", "persona": {"name": new_name(), "skills": ["baking"]}})
    person = to_person(persona)
    before = to_persona(person)
    person._persona["skills"].append("plumbing")
    assert persona.get("skills") == before.get("skills") == ["baking"]
    assert to_persona(person).get("skills") == ["baking", "plumbing"]


def test_a_saved_persona_is_a_file_that_tinytroupe_loads(troupe, tmp_path):
    """A person goes through one of our files and comes out of TinyTroupe's own loader."""
    persona = to_persona(someone(age=44, occupation={"title": "Baker"}))
    persona.save(file := tmp_path / "baker.agent.json")
    loaded = troupe.person.TinyPerson.load_specification(str(file), new_agent_name=new_name())
    assert {**loaded._persona, "name": persona.name} == persona.to_dict()["persona"]


def test_mental_faculties_come_along(troupe):
    """A faculty that a person has is in its persona's file, and in the person that is made of it."""
    person = someone()
    faculty = getattr(troupe.agent, "RecallFaculty", None)
    if faculty is None:
        pytest.skip("this TinyTroupe has no faculty to try")
    person._mental_faculties.append(faculty())
    persona = to_persona(person)
    twin = to_person(persona, name=new_name())
    assert [type(each) for each in twin._mental_faculties] == [faculty]
    assert to_persona(twin).to_dict()["mental_faculties"] == persona.to_dict()["mental_faculties"]


def test_a_name_that_is_taken_is_refused(troupe):
    """A second person of the same name is refused with a way out, which works."""
    persona = to_persona(first := someone())
    with pytest.raises(BridgeError, match=r"name=…"):
        to_person(persona)
    assert troupe.person.TinyPerson.all_agents[first.name] is first
    other = to_person(persona, name=new_name())
    assert to_persona(other).name == other.name != first.name


@pytest.mark.parametrize("name", ["", "  ", "x" * 121, 7])
def test_a_name_that_is_none_is_refused(troupe, name):
    """An empty or endless name is refused, and nobody is made."""
    before = set(troupe.person.TinyPerson.all_agents)
    with pytest.raises(PersonaError):
        to_person(Persona.load("yusuf_karimov"), name=name)
    assert set(troupe.person.TinyPerson.all_agents) == before


def test_what_tinytroupe_cannot_load_leaves_nobody_behind(troupe):
    """A file with a faculty that does not exist is refused with its name, and the name stays free."""
    spec = {"type": "TinyPerson", "mental_faculties": [{"type": "NoSuchFaculty"}], "persona": {"name": new_name()}}
    with pytest.raises(BridgeError, match="cannot make a person"):
        to_person(Persona(spec))
    assert to_person(Persona({**spec, "mental_faculties": []})).name == spec["persona"]["name"]


def test_a_persona_that_no_file_can_hold_is_refused(troupe):
    """Objects, endless nesting and megabytes are refused with the person's name."""
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep]
    for wrong in (object(), deep, "x" * 4_100_000):
        person = someone()
        person._persona["odd"] = wrong
        with pytest.raises(PersonaError, match=person.name):
            to_persona(person)


def test_only_people_and_worlds_are_taken(troupe):
    """Anything else is refused by its type's name."""
    run = quick_run(steps=1)
    for call in (to_persona, memories, transcript, lambda wrong: remember(wrong, run, run.agent_names[0])):
        with pytest.raises(BridgeError, match="not str"):
            call("Lisa")
    with pytest.raises(BridgeError, match="not str"):
        from_transcript(pd.DataFrame(), "a world")
    run.close()


# ------------------------------------------------------------------ records and values

WORDS = st.text(max_size=30)
RECORDS = st.builds(
    lambda step, kind, source, text, own: (step, kind, source, text, own),
    st.integers(0, 50), st.sampled_from(["TALK", "THINK", "CONVERSATION", "SOCIAL", "FEEDBACK", "DONE"]), WORDS,
    WORDS | WORDS.map(lambda text: f"(to Bo) {text}"), st.booleans(),
)  # fmt: skip


@given(drawn=st.lists(RECORDS, max_size=12))
def test_records_come_back_from_values(drawn):
    """Kind, role, text, step and who spoke survive; ids do as far as they say who and when."""
    drawn = sorted(drawn, key=lambda each: each[0])
    records = []
    for place, (step, kind, source, text, own) in enumerate(drawn):
        own = own and kind not in ("CONVERSATION", "FEEDBACK")
        source = "Lisa" if own else "" if kind == "FEEDBACK" else source
        records.append(
            Record(make_id(4, step, place), kind, source, text, OWN_ACTION if own else make_id(2, step, place))
        )
    back = to_records(to_values(records, start=START, step=STEP), agent=4, name="Lisa", start=START, step=STEP)
    assert [(each.kind, each.role, each.source, each.text, each.step) for each in back] == [
        (each.kind, each.role, each.source, each.text, each.step) for each in records
    ]
    assert all(split_id(each.id).agent == 4 for each in back)
    assert len({each.id for each in back}) == len(back)


VALUES = (
    st.builds(stimulus, st.sampled_from(sorted(STIMULI)), WORDS, WORDS)
    | st.builds(action, st.sampled_from(["TALK", "THINK", "DONE"]), WORDS, st.sampled_from(["", "Bo", "Ana Maria"]))
    | st.builds(
        lambda text: {"role": "system", "content": text, "type": "feedback", "simulation_timestamp": None}, WORDS
    )
)


@given(drawn=st.lists(st.tuples(st.integers(0, 20), VALUES), max_size=12))
def test_values_come_back_from_records(drawn):
    """What TinyTroupe remembers is equal after it was records, times included."""
    given_values = [
        {**value, "simulation_timestamp": at_step(step)} for step, value in sorted(drawn, key=lambda each: each[0])
    ]
    records = to_records(given_values, agent=0, start=START, step=STEP)
    assert to_values(records, start=START, step=STEP) == given_values


def test_real_events_come_back_equal(real_events):
    """5,725 things that real agents said, thought and heard are the same values after they were records."""
    scenes: dict[str, list[dict[str, Any]]] = {}
    for event in real_events:
        scene = scenes.setdefault(event["scene"], [])
        at = at_step(len(scene) // 7)
        make = stimulus if event["kind"] in STIMULI else action
        scene.append(make(event["kind"], event["text"], (event["source" if make is stimulus else "target"]) or "", at))
    assert sum(map(len, scenes.values())) == 5725
    for scene in scenes.values():
        records = to_records(scene, agent=0, start=START, step=STEP)
        assert to_values(records, start=START, step=STEP) == scene
        assert [record.step for record in records] == [place // 7 for place in range(len(scene))]
        counted = to_records(scene, agent=0)
        assert [(each.id, each.text) for each in counted] == [(each.id, each.text) for each in records]


def test_what_has_no_counterpart_is_what_the_docstring_names():
    """A state of mind is dropped, lists become JSON, several stimuli become several records, and None becomes empty."""
    odd = action("TALK", "", "")
    odd["content"] = {
        "action": {"type": "TALK", "content": ["a", 1], "target": None},
        "cognitive_state": {"goals": "x"},
    }
    two = stimulus("SOCIAL", "One.", "Bo")
    two["content"]["stimuli"].append({"type": "VISUAL", "content": "Two.", "source": None})
    done, one, other = to_records([odd, two], agent=0, name="Lisa")
    assert (done.text, done.source, done.role) == ('["a",1]', "Lisa", "action")
    assert [(each.kind, each.source, each.text) for each in (one, other)] == [
        ("SOCIAL", "Bo", "One."),
        ("VISUAL", "", "Two."),
    ]
    assert to_values([done]) == [action("TALK", '["a",1]', "")]


def test_steps_are_counted_where_no_start_is_given():
    """Each new time is a step; what has no time belongs to what came before it."""
    times = [None, "a", "a", None, "b", "a"]
    records = to_records([action("TALK", "Hello.", "", at) for at in times], agent=0)
    assert [each.step for each in records] == [0, 0, 0, 0, 1, 0]


def test_an_interview_is_heard_not_done():
    """What an agent was asked in an interview is a stimulus, and its answer an action."""
    asked = Record(make_id(0, 1, 0), "CONVERSATION", "Interviewer", "How was it?", OWN_ACTION)
    answered = Record(make_id(0, 1, 1), "TALK", "Lisa", "Fine.", OWN_ACTION)
    assert to_values([asked, answered]) == [
        stimulus("CONVERSATION", "How was it?", "Interviewer"),
        action("TALK", "Fine.", ""),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        "a text", {"role": "user"}, {"content": {"stimuli": ["Hello."]}}, stimulus("X", "y" * 10_000_001, ""),
        {"content": {"action": {"type": "TALK", "content": {1, 2, 3}, "target": {(1,): 2}}}},
    ],
)  # fmt: skip
def test_what_is_no_memory_is_refused(wrong):
    """Other objects and endless texts are refused with their place."""
    with pytest.raises(InputError, match=r"value 1|characters"):
        to_records([action("TALK", "Hello.", ""), wrong], agent=0)


def test_times_that_do_not_fit_are_refused():
    """A time before the start, none at all, one with a zone where the start has none, and steps without length."""
    for at in ("2020-01-01T00:00:00", "yesterday", "2026-03-02T08:00:00+01:00", "9999-12-31T00:00:00"):
        with pytest.raises(InputError, match="simulation_timestamp"):
            to_records([action("TALK", "Hello.", "", at)], agent=0, start=START, step=timedelta(seconds=1))
    far = [Record(make_id(0, 4_000_000, 0), "TALK", "", "", OWN_ACTION)]
    with pytest.raises(InputError, match="start"):
        to_values(far, start=START, step=timedelta(days=365))
    with pytest.raises(InputError, match="step"):
        to_values([], step=timedelta(0))


def test_too_much_is_refused(monkeypatch):
    """More than is converted at once, and more than a step can hold, are refused with what to do."""
    with pytest.raises(InputError, match="in parts"):
        to_records([action("TALK", "Hello.", "")] * 16_385, agent=0)
    monkeypatch.setattr(values, "MAX_VALUES", 3)
    for call in (to_values, lambda many: to_records(many, agent=0)):
        with pytest.raises(InputError, match="in parts"):
            call(
                to_records([action("TALK", "Hello.", "")] * 3, agent=0) * 2
                if call is to_values
                else [action("A", "", "")] * 4
            )


# ------------------------------------------------------------------ memories


def test_memories_of_both_tiers_are_one_frame(troupe):
    """What a person heard, did, was told by the system and knows stands in one frame, in order."""
    person = someone()
    person.listen("Bread?", source=someone("Bo the Baker"), communication_display=False)
    person.episodic_memory.store_all(
        [action("TALK", "Two loaves.", "Bo the Baker", at_step(1)), {"role": "system", "content": "Do not repeat yourself.",
         "type": "feedback", "simulation_timestamp": None}]
    )  # fmt: skip
    person.semantic_memory.store(
        {"content": "Bread costs 3.", "type": "consolidated", "simulation_timestamp": at_step(2)}
    )
    frame = memories(person)
    assert list(frame.columns) == ["tier", "kind", "role", "source", "target", "text", "timestamp", "type"]
    assert frame.tier.tolist() == ["episodic"] * 3 + ["semantic"]
    assert frame.kind.tolist() == ["CONVERSATION", "TALK", "FEEDBACK", "CONSOLIDATED"]
    assert frame.source.tolist() == ["Bo the Baker", "", "", ""]
    assert frame.target.tolist() == ["", "Bo the Baker", "", ""]
    assert "Bread costs 3." in frame.text.iloc[-1]
    assert frame.type.tolist() == ["stimulus", "action", "feedback", "consolidated"]


def test_a_person_without_memories_has_an_empty_frame(troupe):
    """The columns are there where nothing is."""
    frame = memories(someone())
    assert len(frame) == 0
    assert "text" in frame.columns


@pytest.mark.parametrize("kept", [False, True], ids=["no folder", "folder"])
def test_a_person_remembers_what_an_agent_of_a_run_does(troupe, tmp_path, kept):
    """Records, archived ones too, come as an episode that is over, notes as knowledge; also from a folder that is closed."""
    options = {"folder": tmp_path / "run"} if kept else {}
    run = quick_run(limits=tl.Limits(recent_max_records=5), steps=4, **options).start().wait(60)
    name = run.agent_names[1]
    person = someone()
    added = remember(person, run, name)
    frame = memories(person)
    episodes, known = frame[frame.tier == "episodic"], frame[frame.tier == "semantic"]
    records = held_by(quick_run(limits=tl.Limits(recent_max_records=5), steps=4).start().wait(60))[1]
    assert to_records(person.episodic_memory.retrieve_all(), agent=1, name=name)  # they are read back
    assert [each.text for each in to_records(person.episodic_memory.retrieve_all(), agent=1)] == [
        each.text for each in records[0]
    ]
    assert episodes.source[episodes.type == "stimulus"].tolist() == [
        each.source for each in records[0] if each.role == "stimulus"
    ]
    assert len(known) == len(records[1]) > 0
    assert all(note.text in text for note, text in zip(records[1], known.text, strict=True))
    assert added == len(frame)
    assert person.episodic_memory.get_current_episode() == []
    assert episodes.timestamp.iloc[0] == run.world.start.isoformat()


def test_a_run_that_is_paused_can_be_remembered(troupe):
    """The memory of an agent is read on the run's own loop while that lives."""
    run = quick_run(steps=6)
    run.step(2)
    run.wait(60, until="paused")
    person = someone()
    assert remember(person, run, run.agent_names[0]) == len(memories(person)) > 0
    run.stop()
    run.wait(60)


def test_an_agent_that_is_not_there_cannot_be_remembered(troupe):
    """The message lists who is."""
    run = quick_run(steps=1)
    with pytest.raises(BridgeError, match=run.agent_names[0]):
        remember(someone(), run, "Nobody")
    run.close()


def test_a_folder_that_is_gone_is_an_error(troupe, tmp_path):
    """A run whose folder was deleted has nothing to remember, and says so."""
    run = quick_run(steps=1, folder=tmp_path / "run").start().wait(60)
    for file in (tmp_path / "run").iterdir():
        file.unlink()
    person = someone()
    with pytest.raises(StoreError):
        remember(person, run, run.agent_names[0])
    assert len(memories(person)) == 0


# ------------------------------------------------------------------ transcripts


def test_a_run_in_a_tinyworld_is_the_same_transcript(troupe):
    """A run's transcript, remembered by TinyPersons, is read out of their memories as it was."""
    run = quick_run(steps=4).start().wait(60)
    frame = run.transcript()
    world = world_of(troupe, run, initial_datetime=START)
    assert from_transcript(frame, world) > len(frame) > 20
    pd.testing.assert_frame_equal(transcript(world), frame, check_names=True)
    last = max(memories(person).timestamp.max() for person in world.agents)
    assert last == START.isoformat()


def test_who_hears_what_in_a_transcript(troupe):
    """All hear what is said to all, one what is said to it, nobody what is thought; what is heard comes a step later."""
    names = [new_name(stem) for stem in ("Ana", "Bo", "Cem")]
    world = troupe.world.TinyWorld(new_name("World"), [someone(name) for name in names], initial_datetime=None)
    ana, bo, cem = names
    frame = pd.DataFrame(
        [
            (0, ana, "TALK", "", "To all."), (0, ana, "THINK", "", "To myself."), (0, bo, "TALK", cem.upper(), "To one."),
            (1, cem, "TALK", "Nobody", "To none."), (1, cem, "REACH_OUT", ana, ""), (1, bo, "TALK", bo, "To me."),
        ],
        columns=["step", "agent", "action", "target", "content"],
    )  # fmt: skip
    assert from_transcript(frame, world, start=START, step=STEP) == 6 + 2 + 1 + 1
    heard = {
        person.name: [each for each in person.episodic_memory.retrieve_all() if each["type"] == "stimulus"]
        for person in world.agents
    }
    assert heard[ana] == [stimulus("SOCIAL", f"{cem} would like to talk with you.", cem, at_step(2))]
    assert heard[bo] == [stimulus("CONVERSATION", "To all.", ana, at_step(1))]
    assert heard[cem] == [
        stimulus("CONVERSATION", "To all.", ana, at_step(1)),
        stimulus("CONVERSATION", "To one.", bo, at_step(1)),
    ]
    assert memories(world.agents[2]).type.tolist() == ["stimulus", "stimulus", "action", "action"]
    assert transcript(world).step.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_world_without_time_has_one_step(troupe):
    """Where no memory has a time, all is step 0, person by person in order."""
    names = [new_name(), new_name()]
    world = troupe.world.TinyWorld(new_name("World"), [someone(name) for name in names], initial_datetime=None)
    frame = pd.DataFrame(
        {
            "step": [0, 1, 1],
            "agent": [names[1], names[0], names[1]],
            "action": "TALK",
            "target": None,
            "content": list("abc"),
        }
    )
    world.current_datetime = None
    from_transcript(frame, world)
    got = transcript(world)
    assert got.step.tolist() == [0, 0, 0]
    assert got.content.tolist() == ["b", "a", "c"]
    assert got.target.tolist() == ["", "", ""]


def test_what_is_no_transcript_is_refused_and_nobody_remembers_it(troupe, monkeypatch):
    """Missing columns, wrong steps and texts, strangers, and far too much are refused before anything is remembered."""
    name = new_name()
    world = troupe.world.TinyWorld(new_name("World"), [someone(name), someone()])
    good = pd.DataFrame({"step": [0], "agent": [name], "action": ["TALK"], "target": [""], "content": ["Hello."]})
    wrong: list[tuple[Any, type[Exception], str]] = [
        ([], InputError, "DataFrame"),
        (good.drop(columns="target"), InputError, "no target"),
        (good.assign(step=-1), InputError, "step"),
        (good.assign(step=0.5), InputError, "step"),
        (good.assign(step="later"), InputError, "step"),
        (good.assign(content=[{"a": 1}]), InputError, "content"),
        (good.assign(agent="A stranger"), BridgeError, "A stranger"),
    ]
    for frame, error, match in wrong:
        with pytest.raises(error, match=match):
            from_transcript(frame, world)
    for option in ({"step": timedelta(0)}, {"step": timedelta(days=10**6)}):
        with pytest.raises(InputError, match="step"):
            from_transcript(good, world, **option)
    monkeypatch.setattr(convert, "MAX_VALUES", 5)
    with pytest.raises(BridgeError, match="fewer rows"):
        from_transcript(pd.concat([good] * 3), world)
    assert all(len(memories(person)) == 0 for person in world.agents)


def test_tinytroupe_shows_and_extracts_a_run(troupe):
    """TinyTroupe's own view of a world and its extractor's prompt hold every line of a run's transcript."""
    if importlib.util.find_spec("tinytroupe.extraction") is None:
        pytest.skip("this TinyTroupe has no extractors: it is our own minimal package")
    run = quick_run(steps=2).start().wait(60)
    world = world_of(troupe, run, initial_datetime=START)
    from_transcript(run.transcript(), world)
    shown = flat(world.pretty_current_interactions(max_content_length=None))
    put_in(troupe, client := HearingClient())
    extractor = importlib.import_module("tinytroupe.extraction").ResultsExtractor()
    assert extractor.extract_results_from_world(world, extraction_objective="What is thought of it?") == {}
    extractor.extract_results_from_agent(world.agents[0])
    asked = flat(client.heard[0])
    for line in run.transcript().content:
        assert flat(line) in shown
        assert flat(line) in asked
    assert world.agents[0].name in client.heard[1]
