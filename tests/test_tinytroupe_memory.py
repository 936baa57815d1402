"""TinyTroupe's memories on our tiers: they give exactly what TinyTroupe's own give, within limits, and are written as those."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from troupelab.bridges.tinytroupe.accelerate import accelerate
from troupelab.bridges.tinytroupe.diary import Diary
from troupelab.bridges.tinytroupe.hub import Hub
from troupelab.bridges.tinytroupe.tiers import make_episodic, make_semantic
from troupelab.errors import InputError
from troupelab.folder import new_store
from troupelab.limits import Limits
from troupelab.memory.memory import Memory
from troupelab.memory.pool import Pool
from troupelab.models.model import Reply, Request

TIGHT = {"max_examples": 60, "deadline": None, "suppress_health_check": list(HealthCheck)}
KINDS = ("action", "stimulus", "feedback")


class Silent:
    """A model that must not be asked."""

    name = "silent"

    async def complete(self, request: Request) -> Reply:
        raise AssertionError(f"a model was asked: {request.purpose}")


@pytest.fixture(autouse=True)
def vectors(_imported: None) -> Iterator[list[str]]:
    """The texts for which TinyTroupe's own index asked for vectors; it gets the same one for each, without a network."""
    asked: list[str] = []
    try:
        from llama_index.core import MockEmbedding, Settings
    except ImportError:
        yield asked
        return

    class Counting(MockEmbedding):
        """Gives the same vector for every text."""

        def _get_text_embedding(self, text: str) -> list[float]:
            asked.append(text)
            return [0.5] * self.embed_dim

    before, Settings.embed_model = Settings._embed_model, Counting(embed_dim=4)
    yield asked
    Settings._embed_model = before


@contextmanager
def diary_under(limits: Limits) -> Iterator[Diary]:
    """A diary whose memory has a disk, under these limits."""
    store = new_store(None)
    pool = Pool(store, scratch=lambda: store.path.parent / "scratch", notes=False)
    try:
        yield Diary(Memory(0, limits, pool), "Elif", Hub())
    finally:
        store.close()


@cache
def classes(tinytroupe: Any) -> tuple[Any, Any]:
    """Our two classes, made once."""
    return make_episodic(tinytroupe), make_semantic(tinytroupe)


def value(kind: str, text: str) -> dict[str, Any]:
    """A value as TinyTroupe makes it."""
    if kind == "action":
        content: Any = {"action": {"type": "TALK", "content": text, "target": ""}, "cognitive_state": {"goals": text}}
    elif kind == "stimulus":
        content = {"stimuli": [{"type": "CONVERSATION", "content": text, "source": "Omar"}]}
    else:
        content = text
    role = {"action": "assistant", "stimulus": "user"}.get(kind, "system")
    return {"role": role, "content": content, "type": kind, "simulation_timestamp": None}


def outcome(call: Any) -> Any:
    """What a call gives, or the kind of error that it raises."""
    try:
        return call()
    except Exception as error:
        return type(error).__name__


# ------------------------------------------------------------------ episodic

whole = st.one_of(st.none(), st.integers(0, 9), st.integers(10, 60))
item_type = st.one_of(st.none(), st.sampled_from([*KINDS, "nothing"]))
values = st.builds(value, st.sampled_from(KINDS), st.text(max_size=12))
operations = st.one_of(
    st.tuples(st.just("store"), values),
    st.tuples(st.just("store_all"), st.lists(values, max_size=12)),
    st.tuples(st.just("commit_episode")),
    st.tuples(st.just("clear"), st.one_of(st.none(), st.integers(0, 30)), st.one_of(st.none(), st.integers(0, 30))),
    st.tuples(st.just("step")),
    st.tuples(st.just("retrieve"), whole, whole, st.booleans(), item_type),
    st.tuples(st.just("retrieve_recent"), st.booleans(), item_type),
    st.tuples(st.just("retrieve_first"), whole, st.booleans(), item_type),
    st.tuples(st.just("retrieve_last"), whole, st.booleans(), item_type),
    st.tuples(st.just("retrieve_all"), item_type),
    st.tuples(st.just("retrieve_relevant"), st.just("tea"), st.just(3)),
    st.tuples(st.just("get_current_episode"), st.one_of(st.none(), st.lists(st.sampled_from(KINDS), max_size=2))),
    st.tuples(st.just("count")),
)


@settings(**TIGHT)
@given(
    operations=st.lists(operations, min_size=5, max_size=45),
    records=st.integers(5, 20),
    total=st.sampled_from([None, 100_000]),
    prefix=st.integers(0, 6),
    lookback=st.integers(0, 12),
)
def test_any_sequence_gives_what_tinytroupe_s_own_memory_gives(
    tinytroupe, operations, records, total, prefix, lookback
):
    """Stored, committed, cleared and retrieved in any order, our memory and TinyTroupe's agree at every point, most of it in the archive."""
    made, _ = classes(tinytroupe)
    limits = Limits(recent_max_records=records, total_max_bytes=total, dedup_similarity=None)
    own = tinytroupe.memory.EpisodicMemory(prefix, lookback)
    with diary_under(limits) as diary:
        ours = made(diary, fixed_prefix_length=prefix, lookback_length=lookback)
        assert isinstance(ours, tinytroupe.memory.EpisodicMemory)
        step = 0
        for name, *arguments in operations:
            if name == "step":
                step += 1
                diary.memory.begin(step, limits)
                continue
            theirs = outcome(lambda: getattr(own, name)(*copy.deepcopy(arguments)))  # noqa: B023
            assert outcome(lambda: getattr(ours, name)(*copy.deepcopy(arguments))) == theirs, (name, arguments)  # noqa: B023
            assert (ours.memory, ours.episodic_buffer) == (own.memory, own.episodic_buffer), (name, arguments)
        assert ours.retrieve_all() == own.retrieve_all()
        assert ours.retrieve_recent() == own.retrieve_recent()
        assert list(diary.newest_first()) == own.retrieve_all()[::-1]
        assert diary.memory.size().recent_records <= records
        assert ours.to_json() == own.to_json()
        assert vars(ours.plain()) == vars(own)


def test_negative_and_missing_numbers_are_as_in_tinytroupe(tinytroupe):
    """Numbers below zero and None slice as they do there, in every retrieval."""
    made, _ = classes(tinytroupe)
    own = tinytroupe.memory.EpisodicMemory(2, 3)
    with diary_under(Limits(recent_max_records=5)) as diary:
        ours = made(diary, fixed_prefix_length=2, lookback_length=3)
        for number in range(17):
            for memory in (own, ours):
                memory.store(value(KINDS[number % 3], f"number {number}"))
        for n in (None, -30, -17, -3, -1, 0, 1, 16, 17, 18, 400):
            for told in (True, False):
                assert ours.retrieve_first(n, told) == own.retrieve_first(n, told), n
                assert ours.retrieve_last(n, told) == own.retrieve_last(n, told), n
                assert ours.retrieve(n, n, told) == own.retrieve(n, n, told), n
                assert ours.retrieve(n, 2, told, "action") == own.retrieve(n, 2, told, "action"), n


def test_forty_first_values_are_found_wherever_they_lie(tinytroupe):
    """A long prefix comes from the archive, and stays right when values after or before it were cleared."""
    made, _ = classes(tinytroupe)
    own = tinytroupe.memory.EpisodicMemory(40, 5)
    with diary_under(Limits(recent_max_records=6, total_max_bytes=100_000)) as diary:
        ours = made(diary, fixed_prefix_length=40, lookback_length=5)
        for number in range(90):
            for memory in (own, ours):
                memory.store(value("stimulus", f"number {number}"))
                if number % 7 == 0:
                    memory.commit_episode()
        assert ours.retrieve_recent() == own.retrieve_recent()
        for arguments in ((3, None), (None, 4), (2, 2), (500, 500)):
            for memory in (own, ours):
                memory.clear(*arguments)
                memory.store(value("action", f"after {arguments}"))
            assert ours.retrieve_recent() == own.retrieve_recent(), arguments
            assert ours.count() == own.count(), arguments
            for memory in (own, ours):
                memory.commit_episode()


def test_what_is_retrieved_is_a_copy(tinytroupe):
    """Whoever changes what was retrieved changes nothing that is remembered."""
    made, _ = classes(tinytroupe)
    with diary_under(Limits()) as diary:
        ours = made(diary, fixed_prefix_length=2, lookback_length=3)
        ours.store(value("stimulus", "tea"))
        ours.retrieve_all()[0]["content"]["stimuli"][0]["content"] = "coffee"
        ours.retrieve_all().clear()
        assert ours.retrieve_all() == [value("stimulus", "tea")]


# ------------------------------------------------------------------ semantic


FACTS = [
    "The kettle in the kitchen leaks and must be mended.",
    "Omar sells bicycles in the old harbour.",
    "The choir sings on Thursday evenings.",
    "Elif wants to learn Portuguese before summer.",
]


def semantic(tinytroupe: Any, diary: Diary) -> tuple[Any, Any]:
    """Ours and TinyTroupe's, with the same in them."""
    ours, own = classes(tinytroupe)[1](diary), tinytroupe.memory.SemanticMemory()
    given: list[Any] = [
        {"content": fact, "type": kind, "simulation_timestamp": f"2026-03-0{day}T10:00"}
        for day, (fact, kind) in enumerate(
            zip(FACTS, ("consolidated", "reflection", "action", "other"), strict=True), 1
        )
    ]
    given += ["A plain string.", {"content": "Without a time.", "type": "information", "simulation_timestamp": None}]
    for memory in (ours, own):
        memory.store_all(copy.deepcopy(given))
    return ours, own


def test_engrams_are_those_of_tinytroupe(tinytroupe):
    """Dictionaries of every type and plain strings become the engrams that TinyTroupe makes of them."""
    with diary_under(Limits()) as diary:
        ours, own = semantic(tinytroupe, diary)
        assert isinstance(ours, tinytroupe.memory.SemanticMemory)
        assert ours.memories == own.memories
        assert ours.retrieve_all() == own.memories
        assert [each["type"] for each in ours.retrieve_all("reflection")] == ["reflection"]
        assert ours.filter_by_item_types(ours.retrieve_all(), ["action"]) == [own.memories[2]]
        assert len(ours.retrieve_all()) == len(FACTS) + 2


@pytest.mark.parametrize("fact", FACTS)
def test_the_fitting_engram_is_found_first(tinytroupe, fact):
    """What TinyTroupe cannot find again is found: the engram that a question is about comes first, and no more than are asked for."""
    with diary_under(Limits()) as diary:
        ours, _ = semantic(tinytroupe, diary)
        words = " ".join(sorted(fact.strip(".").split(), key=len)[-3:])
        found = ours.retrieve_relevant(f"What about {words}?", top_k=2)
        assert fact in found[0]
        assert len(found) <= 2
        assert ours.retrieve_relevant("  ") == []


def test_nothing_is_found_in_an_empty_memory(tinytroupe):
    """A semantic memory without engrams finds nothing and has nothing."""
    with diary_under(Limits()) as diary:
        ours = classes(tinytroupe)[1](diary)
        assert ours.retrieve_relevant("tea") == ours.retrieve_all() == ours.memories == []


def test_what_is_found_is_written_as_tinytroupe_writes_it(tinytroupe):
    """A found engram is told as the real package tells one: source, score, content, and the content is the engram as JSON."""
    with diary_under(Limits()) as diary:
        ours, own = semantic(tinytroupe, diary)
        found = ours.retrieve_relevant("Who sings in the choir on Thursday?", 1)[0]
        source, score, content = found.split("\n", 2)
        assert source == "SOURCE: (unknown)"
        assert 0 < float(score.removeprefix("SIMILARITY SCORE:")) <= 2
        assert json.loads(content.removeprefix("RELEVANT CONTENT:")) == own.memories[2]


def test_the_found_text_equals_the_real_package_s(tinytroupe):
    """TinyTroupe's own connector writes an engram that its index found in the very same way, but for the score."""
    if "minimal" in tinytroupe.version:
        pytest.skip("the minimal package finds nothing")
    fact = {"content": FACTS[0], "type": "other", "simulation_timestamp": "2026-03-01T10:00"}
    own = tinytroupe.memory.SemanticMemory()
    own.store(fact)
    connector = own.semantic_grounding_connector
    connector.documents = own._build_documents_from(own.memories)  # which its own store no longer gets as far as
    connector._post_init()
    (theirs,) = own.retrieve_relevant("kettle")
    with diary_under(Limits()) as diary:
        ours = classes(tinytroupe)[1](diary)
        ours.store(fact)
        (found,) = ours.retrieve_relevant("kettle")
    told, score, content = found.split("\n", 2)
    their_told, their_score, their_content = theirs.split("\n", 2)
    assert (told, score.partition(":")[0]) == (their_told, their_score.partition(":")[0])
    head = "RELEVANT CONTENT:"
    assert json.loads(content.removeprefix(head)) == json.loads(their_content.removeprefix(head))


# ------------------------------------------------------------------ as files, copies, states


def test_both_are_written_as_tinytroupe_s_own_and_read_as_them(tinytroupe, vectors):
    """to_json gives what TinyTroupe's own class writes for the same content; from_json of it gives TinyTroupe's own memories."""
    with diary_under(Limits(recent_max_records=5)) as diary:
        made, _ = classes(tinytroupe)
        own, ours = tinytroupe.memory.EpisodicMemory(3, 4), made(diary, fixed_prefix_length=3, lookback_length=4)
        for number in range(30):
            for memory in (own, ours):
                memory.store(value(KINDS[number % 3], f"number {number}"))
                if number == 20:
                    memory.commit_episode()
        assert ours.to_json() == own.to_json()
        read = tinytroupe.memory.EpisodicMemory.from_json(ours.to_json())
        assert type(read) is tinytroupe.memory.EpisodicMemory
        assert read.retrieve_all() == own.retrieve_all()
        assert (read.memory, read.episodic_buffer) == (own.memory, own.episodic_buffer)

        facts, plain = semantic(tinytroupe, diary)
        written, theirs = facts.to_json(), plain.to_json()
        connector, their_connector = (each.pop("semantic_grounding_connector") for each in (written, theirs))
        assert written == theirs
        assert connector == their_connector
        vectors.clear()
        known = tinytroupe.memory.SemanticMemory.from_json(facts.to_json())
        assert type(known) is tinytroupe.memory.SemanticMemory
        assert known.memories == plain.memories
        assert vectors == []
        json.dumps(ours.to_json())
        json.dumps(facts.to_json())


def test_written_under_tinytroupe_s_own_names_to_files(tinytroupe, tmp_path):
    """to_json's options work: a file, what is left out, and another name for the type."""
    made, _ = classes(tinytroupe)
    with diary_under(Limits()) as diary:
        ours = made(diary, fixed_prefix_length=3, lookback_length=4)
        ours.store(value("stimulus", "tea"))
        file = tmp_path / "memory.json"
        written = ours.to_json(suppress=["memory"], file_path=str(file), serialization_type_field_name="type")
        assert written["type"] == "EpisodicMemory"
        assert "memory" not in written
        assert json.loads(file.read_text(encoding="utf-8")) == written


def test_our_classes_are_not_in_tinytroupe_s_registry(tinytroupe):
    """Nothing is ever read back as a class of ours."""
    before = dict(tinytroupe.registry.JsonSerializableRegistry.class_mapping)
    made = make_episodic(tinytroupe), make_semantic(tinytroupe)
    assert tinytroupe.registry.JsonSerializableRegistry.class_mapping == before
    assert not {each.__name__ for each in made} & set(before)


def test_a_deep_copy_is_tinytroupe_s_own_memory(tinytroupe):
    """A deep copy has the same content, lives without the bridge, and shares nothing."""
    with diary_under(Limits(recent_max_records=5)) as diary:
        made, _ = classes(tinytroupe)
        ours = made(diary, fixed_prefix_length=3, lookback_length=4)
        for number in range(12):
            ours.store(value("stimulus", f"number {number}"))
        facts, plain = semantic(tinytroupe, diary)
        copied, known = copy.deepcopy(ours), copy.deepcopy(facts)
        assert type(copied) is tinytroupe.memory.EpisodicMemory
        assert copied.retrieve_all() == ours.retrieve_all()
        assert known.memories == plain.memories
        copied.store(value("stimulus", "only there"))
        assert ours.count() == 12


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_person_s_state_round_trips(tinytroupe, vectors, is_fast):
    """A complete state is the one that TinyTroupe would encode, whoever holds the memories, and decoding it brings all of it back."""
    person = tinytroupe.person.TinyPerson("Elif")
    person.define("age", 40)
    for number in range(8):
        person.listen(f"number {number}")
    person.semantic_memory.store_all([{"content": "Tea.", "type": "information", "simulation_timestamp": None}])
    stock = person.encode_complete_state()
    vectors.clear()
    with accelerate(model=Silent(), recent_max_records=5):
        state = person.encode_complete_state()
        assert state["episodic_memory"] == stock["episodic_memory"]
        assert state["semantic_memory"]["memories"] == stock["semantic_memory"]["memories"]
        assert set(state) == set(stock)
        if is_fast:
            person.listen("This is forgotten.")
            assert person.episodic_memory.count() == 9
            person.decode_complete_state(state)
            assert person.episodic_memory.count() == 8
            assert [each["content"] for each in person.semantic_memory.retrieve_all()] == [
                each["content"] for each in stock["semantic_memory"]["memories"]
            ]
            person.listen("number 8")
        assert vectors == []
    if not is_fast:
        person.listen("This is forgotten.")
        person.decode_complete_state(state)
        person.listen("number 8")
    assert type(person.episodic_memory) is tinytroupe.memory.EpisodicMemory
    heard = [each["content"]["stimuli"][0]["content"] for each in person.episodic_memory.retrieve_all()]
    assert heard == [f"number {number}" for number in range(9)]
    assert [each["content"] for each in person.semantic_memory.memories] == [
        each["content"] for each in stock["semantic_memory"]["memories"]
    ]


# ------------------------------------------------------------------ bounds, and values of all sorts


def test_ten_thousand_records_stay_within_the_limits(tinytroupe):
    """Records beyond the limits are on disk: RAM stays within its cap at every thousandth record, and all can be read."""
    made, _ = classes(tinytroupe)
    limits = Limits(recent_max_records=100, total_max_bytes=400_000, dedup_similarity=None)
    with diary_under(limits) as diary:
        pool = diary.memory._pool
        ours = made(diary, fixed_prefix_length=20, lookback_length=100)
        for number in range(10_000):
            ours.store(value(KINDS[number % 2], f"number {number}: " + "they talked of this and that " * 4))
            if number % 500 == 499:
                ours.commit_episode()
                diary.memory.begin(number // 500 + 1, limits)
            if number % 1000 == 999:
                size = diary.memory.size()
                assert size.recent_records <= 100
                assert size.recent_records + size.archive_records == number + 1
                assert pool.used_bytes <= 400_000
        assert ours.count() == 10_000
        assert len(ours.retrieve_recent()) == 121
        assert ours.retrieve_all()[4321]["content"]["stimuli"][0]["content"].startswith("number 4321")
        assert pool.used_bytes <= 400_000


ODD: list[Any] = [
    value("stimulus", "\ud83d alone \udc00"),
    {"role": "user", "content": {"stimuli": [{"type": 5, "content": None}]}, "type": "stimulus", "huge": 10**300},
    {"role": "user", "content": "x" * 100_000, "type": "stimulus", "simulation_timestamp": None},
    {"type": "stimulus", "content": {"a": [1, 2.5, True, None, {"b": []}]}},
    {"type": "stimulus", "content": "nul \x00, RTL \u202e, and 😀", "": ""},
    {"type": "action", "content": {"action": {"type": None, "content": ["a"], "target": 3}}},
    {"type": "action", "content": {"action": "not an object"}},
    {"type": "stimulus", "content": {"stimuli": []}},
    {"type": "stimulus", "content": {"stimuli": ["not an object"]}},
    {"type": "stimulus", "content": "like a class", "json_serializable_class_name": "TinyPerson"},
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_values_come_back_as_they_were(tinytroupe, odd):
    """Lone surrogates, huge integers, long texts and unusual shapes are remembered as they are, in RAM and from the archive."""
    made, _ = classes(tinytroupe)
    with diary_under(Limits(recent_max_records=5)) as diary:
        ours = made(diary, fixed_prefix_length=2, lookback_length=3)
        ours.store(copy.deepcopy(odd))
        assert ours.retrieve_all() == [odd]
        for number in range(12):
            ours.store(value("stimulus", f"number {number}"))
        assert ours.retrieve_all()[0] == odd
        assert diary.memory.size().archive_records > 0


def test_what_json_cannot_hold_is_kept_as_its_text_or_refused(tinytroupe):
    """A set or a date is remembered as its text; what contains itself is refused with a typed error, and nothing is stored."""
    made, _ = classes(tinytroupe)
    with diary_under(Limits()) as diary:
        ours = made(diary, fixed_prefix_length=2, lookback_length=3)
        ours.store({"type": "stimulus", "content": {1, 2}, 3: "three", "path": Path("there")})
        assert ours.retrieve_all() == [{"type": "stimulus", "content": "{1, 2}", "3": "three", "path": "there"}]
        endless: dict[str, Any] = {"type": "stimulus"}
        endless["content"] = endless
        with pytest.raises(InputError):
            ours.store(endless)
        with pytest.raises(InputError):
            diary.know(endless)
        assert ours.count() == 1


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_any_json_value_comes_back(content):
    """Whatever JSON can hold is what is read again, as a value and in an engram."""
    diary = Diary(Memory(0, Limits()), "Elif", Hub())
    diary.store(content)
    diary.know({"content": content})
    assert diary.every() == [content]
    assert diary.known() == [{"content": content}]


def test_numpy_numbers_and_not_a_number(tinytroupe):
    """NumPy's numbers and NaN are remembered in some form that JSON can hold, not refused in the middle of a run."""
    made, _ = classes(tinytroupe)
    with diary_under(Limits()) as diary:
        ours = made(diary, fixed_prefix_length=2, lookback_length=3)
        ours.store({"type": "stimulus", "content": {"number": np.int64(3), "none": float("nan")}})
        (found,) = ours.retrieve_all()
        assert str(found["content"]["number"]) == "3"
        json.dumps(found)


def test_a_note_cap_drops_the_oldest_engrams(tinytroupe):
    """semantic_max_notes bounds the engrams: the newest stay."""
    with diary_under(Limits(semantic_max_notes=10)) as diary:
        ours = classes(tinytroupe)[1](diary)
        ours.store_all([f"Fact number {number}." for number in range(30)])
        contents = [each["content"] for each in ours.retrieve_all()]
        assert [each.rpartition(" ")[2] for each in contents] == [f"{number}." for number in range(20, 30)]
