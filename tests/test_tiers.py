"""The tiers of memory: what the claims are about, counted."""

from __future__ import annotations

import gc
import warnings
from functools import cache
from itertools import islice

import msgspec
import pytest

import troupelab as tl
from troupelab.bench import material
from troupelab.errors import InputError
from troupelab.events import Consolidated, Deduped, Evicted
from troupelab.ids import make_id
from troupelab.memory.pool import Pool
from troupelab.memory.record import MAX_TEXT_CHARS, OWN_ACTION, Record
from troupelab.store import Store
from troupelab.text.embed import HashingEmbedder

WORDS = "ferry bread lamp town price bees winter market bridge harbour cheese violin".split()


def record(
    agent: int, step: int, text: str, place: int = 0, kind: str = "CONVERSATION", source: str = "Elif"
) -> Record:
    """A record of something heard, or with another kind done."""
    message = OWN_ACTION if kind in ("TALK", "THINK") else make_id(99, step, place)
    return Record(make_id(agent, step, place), kind, source, text, message)


@cache
def texts(chars: int) -> list[str]:
    """Texts of so many characters, each unlike the others."""
    return list(islice(material.talk(7, chars), 6_000))


def talk(number: int, chars: int = 300) -> str:
    """One of them."""
    return texts(chars)[number]


@pytest.fixture
def store(tmp_path):
    """A store in a folder."""
    with Store.open(tmp_path / "run.sqlite") as opened:
        yield opened


def filled(store: Store, *, agents: int = 1, steps: int = 3_000, events: list | None = None, **limits: object):
    """Memories that have lived through some steps, one record each."""
    chosen = tl.Limits(**limits)
    pool = Pool(store, emit=(events if events is not None else []).append)
    memories = [tl.Memory(agent, chosen, pool) for agent in range(agents)]
    for step in range(steps):
        for memory in memories:
            memory.begin(step, chosen)
            memory.store([record(memory.agent, step, talk(step * agents + memory.agent))])
            memory.settle()
    pool.shelf.flush()
    return pool, memories


# ---------------------------------------------------------------------- the archive


def test_a_question_about_some_steps_opens_their_segments_alone(store):
    """Of some ten segments, a range within one opens one, across a border two, and sums over a range none."""
    pool, (memory,) = filled(store)
    segments = memory.archive.segments
    assert segments >= 8
    first = memory.archive._last_steps[0]
    for start, end, opened in ((10, 60, 1), (first - 3, first + 3, 2), (0, 2_999, segments)):
        pool.shelf.shrink_cache(0)
        before = pool.shelf.opened
        assert [each.step for each in memory.between(start, end)] == list(range(start, end + 1))
        assert pool.shelf.opened - before == opened
    before = pool.shelf.opened
    total = memory.over(0, 3_000)
    assert total.records == memory.size().archive_records
    assert total.best_importance == 1.0
    assert memory.over(10, 20).records == memory.archive._tree[0].records
    assert pool.shelf.opened == before


def test_what_was_opened_is_at_hand_until_the_cache_is_full(store):
    """The read cache answers a question asked again, and never holds more than its cap."""
    pool, (memory,) = filled(store, segment_cache_max_bytes=400_000)
    memory.between(10, 60)
    before = pool.shelf.opened
    memory.between(10, 60)
    assert pool.shelf.opened == before
    memory.between(0, 3_000)
    assert 0 < pool.shelf.cache_bytes <= 400_000


def test_archived_records_take_little_on_disk(store):
    """A record of 300 characters takes less than 150 bytes in the archive."""
    _, (memory,) = filled(store, steps=2_000, recent_max_records=4)
    assert 0 < memory.size().archive_bytes / memory.archive.segments / 256 < 150


def test_records_past_their_age_live_on_only_in_notes(store):
    """max_age_steps drops what is older word for word, says so, and leaves the notes."""
    events: list = []
    _, (memory,) = filled(store, steps=1_000, events=events, max_age_steps=300)
    assert [each.step for each in memory.between(0, 1_000)] == list(range(699, 1_000))
    gone = [event for event in events if isinstance(event, Evicted)]
    assert {event.rule for event in gone} == {"max_age_steps"}
    assert sum(event.records for event in gone) == 699
    assert memory.notes[0].first_step == 0


def test_a_short_age_condenses_before_the_cap_is_reached(store):
    """Where records may stay only some steps, they are condensed for their age, not for their number."""
    events: list = []
    _, (memory,) = filled(store, steps=100, events=events, max_age_hours=20.0)
    reasons = {event.reason for event in events if isinstance(event, Consolidated)}
    assert reasons == {"age"}
    assert memory.size().recent_records == 21
    assert memory.size().archive_records == 0


def test_a_full_archive_drops_the_oldest_segments_of_all(store):
    """archive_max_bytes is kept, the oldest go first whoever they are of, and an event says so."""
    events: list = []
    pool, memories = filled(store, agents=3, steps=2_000, events=events, archive_max_bytes=450_000)
    pool.shelf.reap()
    pool.begin(2_000, tl.Limits(archive_max_bytes=400_000))
    assert pool.disk_bytes <= 400_000
    assert pool._charged == sum(memory.ram_bytes for memory in memories)
    dropped = [event for event in events if isinstance(event, Evicted) and event.dropped]
    assert {event.rule for event in dropped} == {"archive_max_bytes"}
    left = [memory.between(0, 2_000) for memory in memories]
    assert sum(event.records for event in dropped) == 3 * 2_000 - sum(map(len, left))
    assert all(each[-1].step == 1_999 for each in left)
    assert max(each[0].step for each in left) - min(each[0].step for each in left) < 600


# ---------------------------------------------------------------------- what agents share


def test_a_broadcast_is_stored_once(store):
    """A text that a hundred agents hear is there once in RAM and once on disk, and gone when nobody remembers it."""
    limits = tl.Limits(recent_max_records=4, consolidate_to=0.0)
    pool = Pool(store, notes=False)
    memories = [tl.Memory(agent, limits, pool) for agent in range(100)]
    said = [talk(number, 2_000) for number in range(4)]
    for step, text in enumerate(said):
        for memory in memories:
            memory.begin(step, limits)
            memory.store([record(memory.agent, step, str(text.encode(), "utf-8"))])  # a copy of its own each
    common = pool.shelf.common
    assert [common.holders(text) for text in said] == [100] * 4
    assert len({id(memory.recent(1)[0].text) for memory in memories}) == 1
    assert common.saved_bytes > 99 * 4 * 1_500
    for memory in memories:
        memory.end_episode()
        memory.save()
    pool.shelf.flush()
    assert len(common) == 0
    on_disk = {kind: sum(block.size_bytes for block in store.blocks(kind)) for kind in ("texts", "records")}
    assert 0 < on_disk["texts"] < sum(map(len, said))
    assert on_disk["records"] / 100 < 400
    assert [len(memory.between(0, 9)) for memory in memories] == [4] * 100
    assert [each.text for each in memories[42].between(0, 9)] == said
    assert len(store.blocks("texts")) >= 1
    for memory in memories:
        memory.begin(50, tl.Limits(max_age_steps=1))
    store.flush()
    assert store.blocks("records") == []
    assert store.blocks("texts") == []


@pytest.mark.parametrize("embedder", [None, HashingEmbedder()])
def test_common_knowledge_is_one_copy_until_somebody_changes_it(store, embedder):
    """Fifty agents refer to one copy of a thousand facts; who must drop some has a copy of its own; at zero it is free."""
    facts = [f"Fact {number}: the {WORDS[number % 12]} costs {number} euros." for number in range(1_000)]
    pool = Pool(store, embedder=embedder)
    limits = tl.Limits(semantic_max_notes=2_000)
    known = pool.knowledge(facts)
    alone = pool.used_bytes
    memories = [tl.Memory(agent, limits, pool) for agent in range(50)]
    for memory in memories:
        memory.learn(known)
    assert known.holders == 50
    assert pool.used_bytes - alone < 2 * known.ram_bytes + 50 * 8_000
    before = [memory.relevant("What does the violin cost, 47 euros?", 3, tiers=("notes",)) for memory in memories]
    assert before.count(before[0]) == 50
    assert before[0][0].item.text == facts[47]

    memories[7].begin(1, limits.replace(semantic_max_notes=900))
    assert known.holders == 49
    assert [len(memory.notes) for memory in memories[6:9]] == [1_000, 900, 1_000]
    assert memories[7].notes[0].text == facts[100]
    assert memories[6].relevant("What does the violin cost, 47 euros?", 3, tiers=("notes",)) == before[6]
    for memory in memories:
        memory.begin(2, limits.replace(semantic_max_notes=1))
    assert known.holders == 0
    assert known.ram_bytes == 0
    assert [memory.notes[0].text for memory in memories] == [facts[-1]] * 50


def test_what_is_pinned_is_kept_word_for_word_and_dropped_last(store):
    """A goal is a note of its own with all its words, and survives the notes around it."""
    limits = tl.Limits(recent_max_records=8, consolidate_to=0.0, retain_fraction=0.05, semantic_max_notes=3)
    memory = tl.Memory(0, limits, Pool(store))
    goal = "I want to find out, slowly and quietly, who it was that sold the bridge."
    memory.store([record(0, 0, goal, kind="INTERNAL_GOAL_FORMULATION", source="Me")])
    for step in range(1, 200):
        memory.begin(step, limits)
        memory.store([record(0, step, talk(step))])
        memory.settle()
    assert len(memory.notes) == 3
    assert memory.notes[0].text == f"Me: {goal}"


# ---------------------------------------------------------------------- merging


def test_what_is_said_again_is_one_record_with_both_times():
    """A repetition takes the earlier record in: newest place, both times, how often; the longer text stays."""
    events: list = []
    limits = tl.Limits(dedup_similarity=0.9)
    memory = tl.Memory(0, limits, Pool(embedder=HashingEmbedder(), emit=events.append))
    said = "The ferry to the island leaves from the old harbour in the morning"
    for step, text in (
        (3, said),
        (5, "Bread is warm."),
        (8, said.replace("ferry", "ferry ", 1)),
        (9, f"{said}, you know!"),
    ):
        memory.begin(step, limits)
        memory.store([record(0, step, text)])
    bread, ferry = memory.recent(10)
    assert bread.text == "Bread is warm."
    assert (ferry.first_step, ferry.step, ferry.times) == (3, 9, 3)
    assert ferry.text == f"{said}, you know!"
    merges = [event for event in events if isinstance(event, Deduped)]
    assert [(event.kept_id, event.merged_id, event.times) for event in merges] == [
        (make_id(0, 8, 0), make_id(0, 3, 0), 2),
        (make_id(0, 9, 0), make_id(0, 8, 0), 3),
    ]
    assert [each.id for each in memory.between(3, 3)] == [ferry.id]
    assert memory.stored == 4


@pytest.mark.parametrize(
    ("one", "other", "kind", "source"),
    [
        ("The lamp costs 79 euros in town.", "The lamp costs 97 euros in town.", "CONVERSATION", "Elif"),
        ("We will meet Ann at the bridge.", "We will meet Ben at the bridge.", "CONVERSATION", "Elif"),
        ("I would buy the lamp today.", "I would not buy the lamp today.", "CONVERSATION", "Elif"),
        ("The lamp is bright and warm.", "The lamp is bright and warm.", "THINK", "Elif"),
        ("The lamp is bright and warm.", "The lamp is bright and warm.", "CONVERSATION", "Omar"),
    ],
)
def test_what_differs_in_a_fact_is_never_merged(one, other, kind, source):
    """Another number, name, negation, kind or speaker keeps two records apart, however alike they sound."""
    memory = tl.Memory(0, tl.Limits(dedup_similarity=0.8), Pool(embedder=HashingEmbedder()))
    memory.store([record(0, 0, one), record(0, 0, other, 1, kind, source)])
    assert [each.text for each in memory.recent(9)] == [one, other]


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "text", ["", " ", "\ud800 alone", "\x00", "日本" * 50, "a" * 3_000_000, "word " * 2_000_000, "1 2. " * 99]
)
def test_any_text_comes_back_as_it_was(store, text):
    """Empty, lone surrogates, NUL, ten million characters: recent, archived and opened anew, it is what was stored."""
    limits = tl.Limits(recent_max_records=4, recent_max_bytes=2_000, retain_fraction=0.05)
    memory = tl.Memory(0, limits, Pool(store, embedder=HashingEmbedder()))
    memory.store([record(0, 0, text), record(0, 0, "A jar of honey.", 1)])
    assert memory.size().recent_bytes <= 2_000
    memory.settle()
    memory.save()
    memory = tl.Memory(0, limits, Pool(store, embedder=HashingEmbedder()))
    store.flush()
    again = tl.Memory(0, limits, Pool(store, embedder=HashingEmbedder()))
    for each in (memory, again):
        assert [found.text for found in each.between(0, 0)] == [text, "A jar of honey."]
    assert all(len(note.text) <= 8_000 for note in memory.notes)


@pytest.mark.parametrize("text", [b"bytes", None, 7, "x" * (MAX_TEXT_CHARS + 1)])
def test_what_is_no_text_is_refused_whole(text):
    """A record without a usable text raises an error that says what to do, and nothing of its batch is remembered."""
    memory = tl.Memory(0, tl.Limits())
    with pytest.raises(InputError, match="record: text: expected"):
        memory.store([record(0, 0, "Good."), Record(make_id(0, 0, 1), "TALK", "Me", text, OWN_ACTION)])
    assert memory.recent(9) == []


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize("embedder", [None, HashingEmbedder()])
def test_the_byte_count_of_a_whole_memory_is_right(store, embedder):
    """What a memory says it takes in RAM is within 15 % of what pympler finds: records, notes, vectors, ring, indexes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pympler import asizeof
    limits = tl.Limits(recent_max_records=200)
    pool = Pool(store, embedder=embedder)
    memory = tl.Memory(0, limits, pool)
    for step in range(1_500):
        memory.begin(step, limits)
        memory.store([record(0, step, talk(step))])
        memory.settle()
    pool.shelf.flush()
    for text in [each.text for each in (*memory.recent(200), *memory.notes)]:
        msgspec.msgpack.encode(text)  # CPython keeps what was written with the text, as it does when a run journals it
    gc.collect()
    shared = [pool, pool.shelf, embedder, limits, store, memory._recent._embed]
    sizer = asizeof.Asizer()
    sizer.exclude_refs(*[each for each in shared if each is not None])
    assert memory.ram_bytes == pytest.approx(sizer.asizeof(memory), rel=0.15)


# ---------------------------------------------------------------------- caps for all


def test_a_cap_for_all_moves_to_disk_what_is_fattest_and_coldest(store):
    """Under pressure, what leaves first is of the memory that is large and was not used; nothing is dropped by it."""
    events: list = []
    roomy = tl.Limits(total_max_bytes=None, recent_max_records=2_000)
    pool = Pool(store, emit=events.append)
    cold, warm, lean = (tl.Memory(agent, roomy, pool) for agent in range(3))
    for memory, count in ((cold, 1_000), (warm, 1_000), (lean, 50)):
        memory.store(record(memory.agent, 0, talk(place), place) for place in range(count))
    for step in range(1, 200):
        for memory in (warm, lean):
            memory.begin(step, roomy)
            memory.store([record(memory.agent, step, talk(step))])
    tight = roomy.replace(total_max_bytes=int(pool.used_bytes * 0.8))
    warm.begin(200, tight)
    assert pool.used_bytes <= tight.total_max_bytes
    moves = [event for event in events if isinstance(event, Evicted)]
    assert {(event.rule, event.dropped) for event in moves} == {("total_max_bytes", False)}
    assert moves[0].agent == cold.agent
    assert cold.ram_bytes < warm.ram_bytes / 2
    freed = {
        memory.agent: sum(event.bytes for event in moves if event.agent == memory.agent)
        for memory in (cold, warm, lean)
    }
    assert freed[lean.agent] == 0
    assert len(cold.between(0, 200)) == 1_000


def test_a_cap_that_cannot_be_kept_says_so_once(store):
    """Where what must stay in RAM takes more than the cap, one event says so, and nothing is lost."""
    events: list = []
    limits = tl.Limits(total_max_bytes=50_000)
    pool = Pool(store, emit=events.append)
    memories = [tl.Memory(agent, limits, pool) for agent in range(20)]
    for memory in memories:
        memory.store([record(memory.agent, 0, talk(memory.agent))])
    assert [event.kind for event in events if event.family == "errors"] == ["TotalMaxBytesTooLow"]
    assert all(len(memory.recent(5)) == 1 for memory in memories)


def test_another_embedder_can_open_what_one_has_kept(store):
    """Notes that were kept with other vectors, or none, are given new ones when they are opened: found as if made so."""
    limits = tl.Limits(recent_max_records=8)
    kinds = [None, HashingEmbedder(64), HashingEmbedder(), tl.WordLlamaEmbedder()]
    memory = tl.Memory(0, limits, Pool(store, embedder=kinds[0]))
    for step in range(60):
        memory.begin(step, limits)
        memory.store([record(0, step, f"Door {step} leads to the {WORDS[step % 12]} and the {WORDS[step % 7]}.")])
        memory.settle()
    memory.save()
    for embedder in kinds:
        opened = tl.Memory(0, limits, Pool(store, embedder=embedder))
        found = opened.relevant("Where does door 17 lead?", 1, tiers=("notes",))
        assert "Door 17 " in found[0].item.text
        assert len(opened.notes) == len(memory.notes)
