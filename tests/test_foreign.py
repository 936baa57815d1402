"""The scripted model on prompts that are not laid out like ours: turns, functions, people, and any JSON Schema."""

from __future__ import annotations

import asyncio
import html
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.models.fill import fill
from troupelab.models.foreign import ANY_OBJECT, recognises
from troupelab.models.foreign_people import computed, name_for
from troupelab.models.foreign_turn import turn_prompt
from troupelab.models.model import NOW, PEOPLE, PERSONA, ChatMessage, Request, Schema, sections

TEXT = {"type": "string"}


def closed(**properties):
    """A closed object with these properties, as pydantic's strict schemas have it."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


ACTION = closed(type=TEXT, content=TEXT, target=TEXT)
STATE = closed(goals=TEXT, context={"type": "array", "items": TEXT}, attention=TEXT, emotions=TEXT)
ACTIONS = Schema(
    "CognitiveActionsModel", closed(actions={"type": "array", "items": ACTION}, cognitive_state={"$ref": "#/$defs/S"})
)
ACTIONS.schema["$defs"] = {"S": STATE}
ONE_ACTION = Schema("CognitiveActionModel", closed(action=ACTION, cognitive_state=STATE))
REASONED = Schema("CognitiveActionsModelWithReasoning", closed(reasoning=TEXT, **ACTIONS.schema["properties"]))
ANY_SCALAR = {"anyOf": [TEXT, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}]}
SCALAR = Schema(
    "LLMScalarWithJustificationResponse", closed(justification=TEXT, value=ANY_SCALAR, confidence={"type": "number"})
)

PERSONA_OF_MARTA = {
    "name": "Marta Quillbrook",
    "age": 44,
    "occupation": {"title": "Harbour Pilot", "description": "Brings ships in."},
    "long_term_goals": ["To retire to the hills"],
    "personality": {"traits": ["You are never late."], "big_five": {"extraversion": "High. Loud."}},
    "preferences": {"interests": ["Tide tables"], "likes": ["Black coffee"], "dislikes": ["Fog at noon"]},
    "beliefs": ["The sea owes nobody anything."],
}
EVENTS = (
    "- [STIMULUS:CONVERSATION] from ENV [@2030-01-01T08:00:00]: The ferry to the island will cost 14 euros from May on.",
    "- [ACTION:TALK] to Osman [@2030-01-01T08:00:00]: I would not pay 14 euros for that.",
    "- [STIMULUS:CONVERSATION] from Osman [@2030-01-01T08:05:00]: The ferry needs a new engine, and the engine costs 90,000 euros.",
    "It has needed it for years.",
)


def act_messages(*, persona=None, events=EVENTS, heard="Then who pays for the engine, Marta?", reachable=()):
    """A prompt for a turn, with the same structure as TinyTroupe's: texts that are JSON strings, a fenced persona, events."""
    lines = "\n".join(f"  {each}" for each in events)
    people = "\n".join(f"  - {html.escape(each)}: somebody nearby" for each in reachable)
    system = (
        'Play a person. Reply as in ```json\n{"actions": [...], "cognitive_state": {...}}\n```\n'
        f"## Persona\n```json\n{json.dumps(persona or PERSONA_OF_MARTA, indent=4)}\n```\n"
        f"Here are the accessible agents:\n{people}\n\nOthers are away.\n"
        "These are the available semantic memories:\n  - I said: the pier is 80 years old.\n\n#### Episodes\n"
        f"Episodic memories:\n\n{lines}\n"
    )
    stimuli = {"stimuli": [{"type": "CONVERSATION", "content": heard, "source": "Osman"}]}
    return (
        ChatMessage("system", json.dumps(system)),
        ChatMessage("user", json.dumps("Act now.")),
        ChatMessage("user", json.dumps(stimuli)),
    )


def call_messages(task, *unnamed, typed="", **named):
    """A prompt that has a model execute a function, with the same structure as TinyTroupe's."""
    user = (
        f"Do it.\n ## Unnamed parameters\n{json.dumps(unnamed, indent=4)}\n\n"
        f" ## Named parameters\n{json.dumps(named, indent=4)}\n\n ## Output\nNothing else.\n"
    )
    return ChatMessage("system", task), ChatMessage("user", user), ChatMessage("system", typed)


KEYS = 'Answer as {"justification": justification, "value": value, "confidence": confidence}. '


def ask(messages, schema=None, seed=1, model_seed=0):
    """The text of the scripted model's reply."""
    request = Request("act", 0, 0, 0, 0, seed, tuple(messages), schema=schema)
    return asyncio.run(tl.ScriptedModel(model_seed, latency_s=0.0).complete(request)).text


def answer(messages, schema=None, seed=1):
    """The object that the reply holds."""
    return json.loads(ask(messages, schema, seed))


def valid(value, schema, root):
    """Whether a value is what a schema of pydantic's kind describes."""
    if "$ref" in schema:
        return valid(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return any(valid(value, each, root) for each in schema["anyOf"])
    if "const" in schema:
        return value == schema["const"]
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema["type"]
    if kind == "string":
        return isinstance(value, str) and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)
    if kind in ("integer", "number"):
        kinds = int if kind == "integer" else int | float
        return (
            isinstance(value, kinds)
            and not isinstance(value, bool)
            and schema.get("minimum", -(10**9)) <= value <= schema.get("maximum", 10**9)
            and schema.get("exclusiveMinimum", -(10**9)) < value < schema.get("exclusiveMaximum", 10**9)
        )
    if kind == "array":
        bounded = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9)
        return isinstance(value, list) and bounded and all(valid(each, schema["items"], root) for each in value)
    if kind == "object":
        properties = schema.get("properties", {})
        return (
            isinstance(value, dict)
            and set(schema.get("required", ())) <= value.keys() <= properties.keys()
            and all(valid(each, properties[name], root) for name, each in value.items())
        )
    return value is None if kind == "null" else isinstance(value, bool)


# ---------------------------------------------------------------------- turns


@pytest.mark.parametrize("schema", [ACTIONS, REASONED, ONE_ACTION], ids=lambda each: each.name)
def test_a_turn_has_the_form_that_is_asked_for(schema):
    """Actions up to DONE, or one, with a state of mind; targets are people whom the prompt names."""
    for seed in range(40):
        found = answer(act_messages(reachable=["Osman", "Ida O'Dell"]), schema, seed)
        assert valid(found, schema.schema, ACTIONS.schema)
        actions = found["actions"] if "actions" in found else [found["action"]]
        assert {each["type"] for each in actions} <= {"THINK", "TALK", "DONE"}
        assert {each["target"] for each in actions} <= {"", "Osman", "Ida O'Dell"}
        if "actions" in found:
            assert actions[-1]["type"] == "DONE"
            assert found["cognitive_state"]["emotions"]


def test_a_turn_is_spoken_by_the_persona_about_what_was_heard():
    """Beliefs, tastes, work and goals are the persona's, topics those of the conversation; the seed decides which."""
    said = " ".join(ask(act_messages(), ACTIONS, seed) for seed in range(60))
    for own in ("The sea owes nobody anything.", "a harbour pilot", "fog at noon", "retire to the hills"):
        assert own in said
    assert "the engine" in said
    assert "newcomer" not in said


def test_the_same_prompt_gets_the_same_turn_and_another_seed_another():
    """An answer depends on the request's text and seeds alone."""
    messages = act_messages()
    assert ask(messages, ACTIONS, 5) == ask(messages, ACTIONS, 5)
    assert len({ask(messages, ACTIONS, seed) for seed in range(10)}) > 3
    assert len({ask(messages, ACTIONS, 5, model_seed=seed) for seed in range(10)}) > 3


def test_a_prompt_for_a_turn_is_laid_out_as_ours():
    """The persona, who is there, and only what came since the last action is new; continued lines belong together."""
    parts = sections(turn_prompt(act_messages(reachable=["Ida O'Dell"])))
    assert json.loads(parts[PERSONA])["name"] == "Marta Quillbrook"
    assert parts[PEOPLE].startswith("You can talk to: Ida O'Dell, Osman.")
    new = [json.loads(each) for each in parts[NOW].splitlines()]
    assert [each["content"][-27:] for each in new] == [
        "It has needed it for years.",
        "who pays for the engine, Marta?"[-27:],
    ]
    assert "80 years old" in parts["\n# Notes\n"]
    assert "Marta Quillbrook: I would not pay 14 euros" in parts["\n# Recently\n"]


def test_somebody_who_is_alone_and_heard_nothing_begins():
    """Without events, stimuli or people there is a turn all the same, for nobody in particular."""
    found = answer(act_messages(events=())[:2], ACTIONS)
    assert found["actions"][-1]["type"] == "DONE"
    assert {each["target"] for each in found["actions"]} == {""}


def test_a_persona_without_beliefs_speaks_from_its_traits():
    """What a persona is told that it is, it says of itself."""
    persona = {name: value for name, value in PERSONA_OF_MARTA.items() if name != "beliefs"}
    said = " ".join(ask(act_messages(persona=persona), ACTIONS, seed) for seed in range(30))
    assert "I am never late." in said


def test_one_action_at_a_time_ends_in_done():
    """Where an action of this turn is already in the conversation, DONE follows."""
    messages = (*act_messages(), ChatMessage("assistant", "{}"), ChatMessage("user", "Go on."))
    assert answer(messages, ONE_ACTION)["action"]["type"] == "DONE"


def test_a_turn_is_recognised_without_a_schema():
    """By what its system message has in it."""
    assert answer(act_messages())["cognitive_state"]["context"]


# ---------------------------------------------------------------------- functions


def memory(kind, content):
    """A remembered event, as TinyTroupe's memory holds it."""
    return {"role": "user", "content": content, "type": kind, "simulation_timestamp": "2030-01-01"}


MEMORIES = [
    memory(
        "stimulus",
        {"stimuli": [{"type": "CONVERSATION", "content": "The engine costs 90,000 euros.", "source": "Osman"}]},
    ),
    memory(
        "action",
        {
            "action": {"type": "TALK", "content": "I would give 50 euros. Well.", "target": ""},
            "cognitive_state": {"emotions": "Generous."},
        },
    ),
]


@pytest.mark.parametrize("by_name", [False, True])
def test_memories_are_consolidated(by_name):
    """What was said, heard and felt remains, with its numbers and who said it, stamped with the time that is given."""
    task = 'Sum up as {"consolidation": [...]}.'
    if by_name:
        messages = call_messages(task, memories=MEMORIES, timestamp="2030-01-02")
    else:
        messages = call_messages(task, MEMORIES, "2030-01-02", "context", "Marta")
    for schema in (ANY_OBJECT, Schema("object", {}), None):
        notes = answer(messages, schema)["consolidation"]
        assert {each["type"] for each in notes} == {"consolidated"}
        assert {each["simulation_timestamp"] for each in notes} == {"2030-01-02"}
        text = " ".join(each["content"] for each in notes)
        assert "I said: I would give 50 euros." in text
        assert "Osman said: The engine costs 90,000 euros." in text
        assert "I felt: Generous." in text


def test_nothing_to_consolidate_is_said_so():
    """An empty episode, or one in another form, still gives a list of notes."""
    for memories in ([], [None, 3, {"content": "I saw the pier."}]):
        notes = answer(call_messages("the consolidation", memories, None), ANY_OBJECT)["consolidation"]
        assert all(isinstance(each["content"], str) for each in notes)
        assert notes


def test_a_person_is_sketched_in_plain_sentences():
    """The short biography's complement is text, from the persona as Python prints it, quotes and all."""
    persona = {**PERSONA_OF_MARTA, "beliefs": ['It\'s "wet" at sea\\land.'], "married": False, "pet": None}
    user = f"**Short biography:** Marta is 44.\n\n**Detailed specification:** {persona!r}\n"
    said = {ask([ChatMessage("system", "Sketch."), ChatMessage("user", user)], None, seed) for seed in range(5)}
    for each in said:
        assert each.startswith("Marta spends much time on tide tables, likes black coffee")
        assert 'It\'s "wet" at sea\\land.' in each
        assert "to retire to the hills" in each


@pytest.mark.parametrize(
    ("typed", "fits"),
    [
        ("`value` **must** be either 'True' or 'False'.", lambda value: isinstance(value, bool)),
        ("`value` **must** be an integer number.", lambda value: isinstance(value, int) and 5 < value <= 9),
        ("`value` **must** be a float number.", lambda value: isinstance(value, float) and 0 <= value <= 1),
        (
            "must be exactly one of the following strings: 'red', 'blue green'.",
            lambda value: value in ("red", "blue green"),
        ),
        ("`value` must be a JSON **list**.", lambda value: isinstance(value, list)),
        ("`value` must be a list of dictionaries.", lambda value: isinstance(value[0], dict)),
        ("`value` must be a JSON structure.", lambda value: isinstance(value, dict)),
        ("`value` can be any text.", lambda value: isinstance(value, str)),
    ],
)
def test_typed_values_have_their_type(typed, fits):
    """With a justification and a confidence, by schema or by what the instruction says; scores are mostly good ones."""
    messages = [
        ChatMessage("system", "Give a score (between 0 and 9)."),
        ChatMessage("user", "Is it so that Osman paid 14 euros for the ferry?"),
        ChatMessage("system", KEYS + typed),
    ]
    for schema in (SCALAR, ANY_OBJECT, Schema("object", {}), None):
        for seed in range(8):
            found = answer(messages, schema, seed)
            assert list(found) == ["justification", "value", "confidence"]
            assert fits(found["value"])
            assert 0 <= found["confidence"] <= 1


def test_texts_that_share_words_are_near():
    """A function that asks how near two texts are gets a number that depends on them."""
    typed = KEYS + "`value` **must** be a float number."
    near = answer(call_messages("How near?", "The red ferry sails.", "A red ferry sails.", typed=typed), SCALAR)
    far = answer(call_messages("How near?", "The red ferry sails.", "Bread is sour.", typed=typed), SCALAR)
    assert near["value"] > 0.9 > 0.1 > far["value"]


def test_extractions_have_the_fields_that_are_asked_for():
    """An extraction's prompt names its fields; without a schema the reply is JSON all the same."""
    system = "Write {<KEY_1>: <EXTRACTION HERE>}.\n - <KEY_1> **must** be the following: price, opinion\n"
    found = answer([ChatMessage("system", system), ChatMessage("user", "Osman paid 14 euros for the ferry.")])
    assert found == dict.fromkeys(("price", "opinion"), "Osman paid 14 euros for the ferry.")


def test_extractions_quote_what_was_said_aloud():
    """Of a history that tells who acted how, only what was said fills the fields."""
    user = (
        "## History\nevent #0:\n[bold]Osman[/] --> Marta: [CONVERSATION] \n     > The engine costs 90,000 euros.[/]\n"
        "event #1:\n[green]Marta[/] acts: [TALK] \n     > I would give 50 euros, and not\n     > one more.[/]\n"
        "event #2:\n[grey]Marta[/] acts: [DONE] \n[/]\nThe last event was number 2.\n"
    )
    found = answer([ChatMessage("system", "{<KEY_1>: <EXTRACTION HERE>}"), ChatMessage("user", user)])
    assert found == {"value": "I would give 50 euros, and not one more."}


def test_functions_answer_with_what_they_are_given():
    """A text that combines others has their sentences; a function without a form gets no JSON."""
    assert (
        ask(call_messages("Combine.", "A lamp is nice.", "A lamp costs 79 euros."))
        == "A lamp costs 79 euros. A lamp is nice."
    )
    found = answer(call_messages("Combine.", "A lamp is nice.", typed=KEYS), SCALAR)
    assert found["value"] == "A lamp is nice."


def test_elements_are_sorted():
    """Into as many groups as are allowed, each element in one; and each to its nearest category."""
    listed = ["a red lamp", "Tom &amp; his lamp", "a table", "a chair"]
    text = "".join(f"  - {each}\n" for each in listed)
    user = ChatMessage("user", f"Find UP TO 2 groups.\n\nINPUT ELEMENTS:\n{text}")
    groups = answer([user, ChatMessage("system", "The response **MUST** be a JSON object.")], ANY_OBJECT)
    assert len(groups) == 2
    assert sorted(each for group in groups.values() for each in group) == sorted(map(html.unescape, listed))
    assert "Tom & his lamp" in groups["a red lamp"]
    user = ChatMessage(
        "user", f"The standard categories are:\n- lamp\n- table\n\nNow map the following input elements:\n{text}"
    )
    assert answer([user])[:3] == ["lamp", "lamp", "table"]


# ---------------------------------------------------------------------- people


def test_names_are_new_and_of_the_form_that_is_asked_for():
    """One name, a name for a sample, several; none is among those that there are, however many these are."""
    taken: list[str] = []
    for _ in range(40):
        name = answer(call_messages("A name", already_generated_names=taken, typed=KEYS), SCALAR)["value"]
        assert name not in taken
        assert len(name.split(" ")) == 2
        taken.append(name)
    sample = {"gender": "female", "age": [20, 30]}
    plain = ask(call_messages("A name", sample_characteristics=sample, already_generated_names=taken))
    assert plain not in taken
    assert "{" not in plain
    many = answer(call_messages("Names", n=12, already_generated_names=taken, typed=KEYS), ANY_OBJECT)["value"]
    assert len(set(many)) == 12
    assert not set(many) & set(taken)


def test_names_do_not_run_out():
    """After all pairs of names come double surnames."""
    taken: set[str] = set()
    for _ in range(1_500):
        taken.add(name_for({}, taken, lambda purpose: 0))
    assert len(taken) == 1_500


@given(st.integers(1, 400), st.integers(0, 5))
def test_a_plan_adds_up(count, seed):
    """The quantities of a sampling plan are as many people as are asked for, no more than five of a kind, with all dimensions."""
    space = computed(
        {"sampling_space_description": 'Young people. {"share": {"north": 0.9, "south": 0.1}}'}, lambda _: seed
    )
    names = {each["name"] for each in space["dimensions"]}
    assert {"age", "share", "gender", "personality_traits"} <= names
    assert space["dimensions"][0] == {"name": "age", "range": [18, 30]}
    plan = computed(
        {"N": count, "sampling_dimensions": space}, lambda purpose: zlib.crc32(f"{purpose}{seed}".encode())
    )["sample_plan"]
    assert sum(each["quantity"] for each in plan) == count
    assert all(1 <= each["quantity"] <= 5 and each["sampled_values"].keys() == names for each in plan)


def test_people_of_no_description_differ_all_the_same():
    """Without a description of the population there are the dimensions that people always have."""
    space = answer(call_messages("Space", sampling_space_description=None), ANY_OBJECT)
    assert {"age", "gender", "profession"} <= {each["name"] for each in space["dimensions"]}


def test_a_person_has_every_field_and_what_was_asked_for():
    """A sample's name, age, work and country are kept; ranges and lists become one value."""
    sample = {
        "name": "Ivo Dunmere", "age": [30, 34], "profession": ["Cook", "Baker"], "country": "Chile", "gender": "male",
        "political_beliefs": "Taxes are fine.",
    }  # fmt: skip
    part = html.escape(f"- Name and others: {json.dumps(sample, indent=4)}")
    user = (
        f"## General Context\nA harbour.\n## Agent Particularities\nThey are: {part}.\n"
        'For instance {"rich": 0.1}.\n## Generation Rules\nBe deep.'
    )
    found = answer([ChatMessage("system", "Invent people."), ChatMessage("user", user)], ANY_OBJECT)
    assert (found["name"], found["gender"], found["residence"]) == ("Ivo Dunmere", "Male", "Chile")
    assert 30 <= found["age"] <= 34
    assert found["occupation"]["title"] in ("Cook", "Baker")
    assert "Taxes are fine." in found["beliefs"]
    needed = "nationality education long_term_goals style personality preferences skills behaviors health relationships other_facts"
    assert all(found[name] for name in needed.split())
    assert len(found["personality"]["big_five"]) == 5


def test_a_person_in_plain_words_keeps_them():
    """A full name and an age in plain words are kept, and the words become facts."""
    user = (
        "## Agent Particularities\n- Primary characteristics: A stubborn fisher of 61 years.\n"
        "    * Full name: Tove Larkwater\n## Generation Rules\n"
    )
    found = answer([ChatMessage("user", user)], Schema("object", {}))
    assert (found["name"], found["age"]) == ("Tove Larkwater", 61)
    assert "A stubborn fisher of 61 years." in found["other_facts"]


# ---------------------------------------------------------------------- schemas

LEAF = st.one_of(
    st.fixed_dictionaries({"type": st.just("string")}, optional={"minLength": st.integers(0, 30)}),
    st.fixed_dictionaries({"type": st.just("string")}, optional={"maxLength": st.integers(0, 30)}),
    st.builds(
        lambda kind, low, span: {"type": kind, "minimum": low, "maximum": low + span},
        st.sampled_from(["integer", "number"]),
        st.integers(-50, 50),
        st.integers(0, 40),
    ),
    st.builds(
        lambda kind, low, span: {"type": kind, "exclusiveMinimum": low, "exclusiveMaximum": low + span},
        st.sampled_from(["integer", "number"]),
        st.integers(-50, 50),
        st.integers(2, 40),
    ),
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"type": "integer"}, {"type": "number"}, {"const": 7}, {"$ref": "#/$defs/Leaf"},
         {"$ref": "#/$defs/Tree"}, {"type": "integer", "exclusiveMaximum": 0}, {"type": "number", "maximum": -0.5}]
    ),
    st.lists(st.text(max_size=5) | st.integers(), min_size=1, max_size=4).map(lambda among: {"enum": among}),
)  # fmt: skip


def _described(properties, left_out):
    required = [name for name in properties if name not in left_out]
    return {"type": "object", "properties": properties, "required": required}


SCHEMAS = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner},
            optional={"minItems": st.integers(0, 3), "maxItems": st.integers(3, 5)},
        ),
        st.builds(_described, st.dictionaries(st.text(max_size=8), inner, max_size=5), st.sets(st.text(max_size=1))),
        st.lists(inner, min_size=1, max_size=3).map(lambda among: {"anyOf": [*among, {"type": "null"}]}),
        st.lists(inner, min_size=1, max_size=3).map(lambda among: {"anyOf": among}),
    ),
    max_leaves=25,
)
DEFS = {
    "Leaf": {"enum": ["a", "b"]},
    "Tree": _described(
        {
            "name": TEXT,
            "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}},
            "next": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]},
        },
        (),
    ),
}


@settings(max_examples=150)
@given(SCHEMAS, st.integers(0, 2**32), st.text(max_size=300))
def test_an_answer_is_what_its_schema_describes(schema, seed, prompt):
    """Any schema of the pydantic kind is obeyed, also one that contains itself; the same request gets the same answer."""
    root = {**_described({"found": schema}, ()), "$defs": DEFS}
    messages = [ChatMessage("user", prompt)]
    text = ask(messages, Schema("Found", root), seed)
    assert valid(json.loads(text), root, root)
    assert text == ask(messages, Schema("Found", root), seed)


def test_texts_come_from_the_prompt():
    """Where a text is wanted stands a sentence of the prompt, and numbers fit the names of their places."""
    form = Schema("Report", closed(summary=TEXT, score={"type": "number"}, age={"type": "integer"}))
    found = answer([ChatMessage("user", "Osman paid 14 euros for the ferry. So it goes.")], form)
    assert found["summary"] in ("Osman paid 14 euros for the ferry.", "So it goes.")
    assert 0 <= found["score"] <= 1
    assert 18 <= found["age"] <= 80


def test_an_object_without_a_schema_has_the_keys_that_the_prompt_names():
    """Of any other prompt nothing is known, and it is answered with a turn, as ever."""
    found = answer([ChatMessage("user", 'The ferry is late. Write {"topic": "...", "mood": "..."}')], ANY_OBJECT)
    assert found == {"topic": "The ferry is late.", "mood": "The ferry is late."}
    assert "actions" in answer([ChatMessage("user", "Hello.")], ANY_OBJECT)
    assert "actions" in answer([ChatMessage("user", "Hello.")])
    assert not recognises([ChatMessage("user", "Hello.")], None)


def test_prompts_of_ours_are_answered_as_ever():
    """A schema changes nothing where a prompt has our sections."""
    own = [ChatMessage("user", f'{PERSONA}{{"name": "Ada"}}{NOW}{{"type": "X", "source": "Bo", "content": "Hi, 7."}}')]
    assert ask(own) == ask(own, ACTIONS) == ask(own, SCALAR)


# ---------------------------------------------------------------------- bad input

HUGE = 1_000_000
NASTY = {
    "quotes": "'" * HUGE,
    "escapes": "\\'" * (HUGE // 2),
    "braces": "{" * HUGE,
    "brackets": '{"stimuli": ' + "[" * HUGE,
    "deep": '{"a":' * 3_000 + "1" + "}" * 3_000,
    "fences": "```json\n{" * (HUGE // 9),
    "lines": "\n" * HUGE,
    "events": "  - [STIMULUS:CONVERSATION] from A: x\n" * (HUGE // 39),
    "spaces": "- [STIMULUS:" + " " * HUGE,
    "words": "The ferry costs 14 euros. " * (HUGE // 26),
    "wide": "\U0001f30a\u0301ß" * (HUGE // 3),
    "halves": "\ud800\udfff\ud800" * 1_000,
    "sections": "\\n# Now\\n" * 1_000,
}


@pytest.mark.parametrize("nasty", NASTY.values(), ids=NASTY.keys())
def test_no_prompt_breaks_it(nasty):
    """A megabyte of anything, anywhere in a prompt of any kind, is answered in the form that is asked for."""
    system = f'```json "cognitive_state" accessible agents:\n{nasty}\n## Persona\n```json\n{nasty}```\nEpisodic memories:\n{nasty}'
    heard = json.dumps({"stimuli": [{"type": "CONVERSATION", "content": nasty, "source": nasty[:50]}]})
    found = answer([ChatMessage("system", system), ChatMessage("user", heard), ChatMessage("user", nasty)], ACTIONS)
    assert valid(found, ACTIONS.schema, ACTIONS.schema)
    remembered = [memory("stimulus", {"stimuli": [{"content": nasty[:300_000], "source": "A"}]})]
    assert answer(call_messages("the consolidation", remembered, "now"), ANY_OBJECT)["consolidation"]
    answer(call_messages(nasty, nasty, typed=KEYS, already_generated_names=[nasty]), SCALAR)
    answer(call_messages("Space", sampling_space_description=nasty), ANY_OBJECT)
    answer([ChatMessage("user", f"## Agent Particularities\n{nasty}\n## Generation Rules\n")], ANY_OBJECT)
    assert ask([ChatMessage("user", f"**Short biography:** x\n**Detailed specification:** {nasty}")])
    assert valid(answer([ChatMessage("user", nasty)], SCALAR), SCALAR.schema, SCALAR.schema)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_persona_and_any_parameters_are_answered(value):
    """Whatever stands where a persona, an event, a sample or a plan is expected."""
    persona = {
        "name": "Ada",
        **dict.fromkeys(("beliefs", "occupation", "preferences", "personality", "long_term_goals"), value),
    }
    messages = (*act_messages(persona=persona), ChatMessage("user", json.dumps({"stimuli": value})))
    assert valid(answer(messages, ACTIONS), ACTIONS.schema, ACTIONS.schema)
    assert answer(call_messages("the consolidation", value, value), ANY_OBJECT)["consolidation"]
    answer(call_messages("Plan", N=value, sampling_dimensions={"dimensions": value}), ANY_OBJECT)
    answer(
        call_messages(
            "Plan", N=3, sampling_dimensions={"dimensions": [{"name": "x", "values": value, "range": value}]}
        ),
        ANY_OBJECT,
    )
    ask(call_messages("Name", sample_characteristics={"gender": value}, already_generated_names=value), ANY_OBJECT)
    user = f"## Agent Particularities\n{json.dumps({'name': value, 'age': value, 'job': value})}\n## Generation Rules\n"
    assert answer([ChatMessage("user", user)], ANY_OBJECT)["name"]
    assert ask([ChatMessage("user", f"**Short biography:** x\n**Detailed specification:** {persona!r}")])


def test_a_form_that_cannot_be_ends():
    """A schema that needs itself without end, or names what is not there, is answered with what can be written."""
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]}
    assert len(json.dumps(fill(endless, "Hm."))) < 100_000
    assert fill({"$ref": "#/$defs/gone"}, "Hm.") is None
    deep: object = 1
    for _ in range(600):
        deep = [deep]
    assert answer([ChatMessage("user", "x")], Schema("Deep", {"const": deep})) is None
