"""Memory: caps, consolidation and finding things again."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.events import Consolidated, Evicted
from troupelab.ids import make_id
from troupelab.memory.pool import Pool
from troupelab.memory.record import OWN_ACTION, Note, Record
from troupelab.memory.semantic import NOTE_INDEX_BYTES, Semantic
from troupelab.memory.shelf import Shelf
from troupelab.text.embed import HashingEmbedder
from troupelab.text.sketch import SKETCH_BYTES

AGENT = 0


def record(
    step: int, place: int = 0, text: str = "The lamp costs 79 euros.", kind: str = "CONVERSATION", source: str = "Elif"
) -> Record:
    """A record of one step, of something heard or done."""
    message = OWN_ACTION if kind in ("TALK", "THINK") else make_id(1, step, place)
    return Record(make_id(AGENT, step, place), kind, source, text, message)


def numbered(count: int, **options: object) -> list[Record]:
    """As many records as asked, one a step, with the step in the text."""
    return [record(number, text=f"Page {number} has errors.", **options) for number in range(count)]


def remember(agent: int, limits: tl.Limits, pool: Pool | None = None, **shared: object) -> tl.Memory:
    """A memory; what it shares with others, in a pool of its own where none is given."""
    return tl.Memory(agent, limits, pool or Pool(**shared))


def test_consolidation_starts_at_high_water_and_stops_at_low_water():
    """Nothing is condensed up to the high water; then the oldest go until the low water is reached."""
    memory = remember(AGENT, tl.Limits(recent_max_records=10, consolidate_at=0.8, consolidate_to=0.5))
    memory.store(numbered(8))
    assert memory.take_jobs() == []
    memory.store([record(8)])
    (job,) = memory.take_jobs()
    assert [each.step for each in job.records] == [0, 1, 2, 3]
    assert memory.size().recent_records == 5


def test_a_lowered_cap_is_obeyed_when_the_step_begins():
    """Beginning a step under a lower cap shrinks the recent tier at once, with its reason in the event."""
    events = []
    memory = remember(AGENT, tl.Limits(recent_max_records=100), emit=events.append)
    memory.store(numbered(60))
    memory.begin(60, tl.Limits(recent_max_records=20))
    assert memory.size().recent_records == 10
    memory.settle()
    assert [event.reason for event in events] == ["limit lowered"]


def test_a_raised_cap_loses_nothing():
    """Raising a cap leaves every record where it was."""
    memory = remember(AGENT, tl.Limits(recent_max_records=10))
    memory.store(numbered(10))
    memory.begin(11, tl.Limits(recent_max_records=None, recent_max_bytes=None))
    memory.store(numbered(60)[10:])
    assert memory.size().recent_records == 60
    assert memory.take_jobs() == []


def test_a_record_larger_than_the_cap_is_condensed_at_once():
    """One record over recent_max_bytes does not stay, and its numbers are in a note."""
    memory = remember(AGENT, tl.Limits(recent_max_bytes=2_000))
    memory.store([record(0, text="It costs 79 euros. " + "So it goes. " * 1_000)])
    assert memory.size().recent_records == 0
    memory.settle()
    assert "79" in memory.notes[0].text


def test_records_on_their_way_to_notes_can_still_be_found():
    """Between being taken and becoming notes, records count and are found."""
    memory = remember(AGENT, tl.Limits(recent_max_records=4))
    memory.store(numbered(6))
    assert len(memory.between(0, 10)) == 6
    assert memory.size().total_bytes > memory.size().recent_bytes
    assert [found.item.step for found in memory.relevant("page 0", 1)] == [0]
    memory.settle()
    assert len(memory.between(0, 10)) == 3


def test_notes_over_their_cap_go_oldest_first_and_an_event_says_so():
    """semantic_max_notes drops the oldest notes and names the rule."""
    events = []
    limits = tl.Limits(recent_max_records=4, consolidate_to=0.0, semantic_max_notes=2)
    memory = remember(AGENT, limits, emit=events.append)
    for start in range(0, 40, 5):
        memory.store(record(start + place, text=f"Page {start + place}.") for place in range(5))
        memory.settle()
    assert len(memory.notes) == 2
    assert memory.notes[-1].last_step == 39
    dropped = [event for event in events if isinstance(event, Evicted)]
    assert {event.rule for event in dropped} == {"semantic_max_notes"}
    assert sum(event.records for event in dropped) == 6
    assert memory.size().note_bytes == sum(note.size_bytes + NOTE_INDEX_BYTES + SKETCH_BYTES for note in memory.notes)


def test_notes_say_who_said_what():
    """A note names the speaker of each sentence, and what came from nobody says so."""
    memory = remember(AGENT, tl.Limits(recent_max_records=4, consolidate_to=0.0))
    memory.store([record(0, source="Elif"), record(1, text="It rains in May.", source=""), *numbered(3, source="Omar")])
    memory.settle()
    lines = "\n".join(note.text for note in memory.notes).splitlines()
    assert lines[:2] == ["Elif: The lamp costs 79 euros.", "It was said: It rains in May."]


def test_last_and_recent_see_the_newest():
    """`last` finds by kind or role, `recent` keeps the order, and both are calm about nothing."""
    memory = remember(AGENT, tl.Limits())
    assert memory.last("TALK") is None
    assert memory.recent(3) == []
    memory.store(
        [record(0), record(1, kind="TALK", source="Me"), record(2, kind="THINK", source="Me"), record(3, text="A jar.")]
    )
    assert memory.last("TALK").step == 1
    assert memory.last("action").step == 2
    assert memory.last("stimulus").step == 3
    assert [each.step for each in memory.recent(2)] == [2, 3]
    assert [each.step for each in memory.between(1, 2)] == [1, 2]


@pytest.mark.parametrize("embedder", [None, HashingEmbedder()])
def test_relevant_finds_by_content_across_tiers(embedder):
    """A question finds the note and the record that speak of it, best first, and nothing for an empty question."""
    memory = remember(
        AGENT,
        tl.Limits(recent_max_records=6, consolidate_to=0.3, retain_fraction=1.0, dedup_similarity=None),
        embedder=embedder,
    )
    talk = ["The ferry will be cut in May.", "Bread is warm today.", "Chess is a cruel game.", "Bees sleep in winter."]
    memory.store(record(step, text=text) for step, text in enumerate(talk * 2))
    memory.settle()
    memory.begin(9, tl.Limits(recent_max_records=6, consolidate_to=0.3))
    found = memory.relevant("What about the ferry in May?", k=2)
    assert all("ferry" in hit.item.text for hit in found)
    assert {type(hit.item) for hit in found} == {Note, Record} or len(found) == 1
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    assert memory.relevant("", k=3) == []
    assert memory.relevant("ferry", k=0) == []


def test_equally_good_finds_go_by_id():
    """Ties are decided by the record's id, so that the order never depends on chance."""
    memory = remember(AGENT, tl.Limits(dedup_similarity=None), embedder=HashingEmbedder())
    memory.store(record(0, place, text="The same words.") for place in range(5))
    found = memory.relevant("same words", k=3)
    assert [hit.item.id for hit in found] == [make_id(AGENT, 0, place) for place in range(3)]


@pytest.mark.parametrize(
    ("embedder", "expected"), [(HashingEmbedder(), ["ferry is cut", "ferry is late"]), (None, ["Bees", "Rain"])]
)
def test_recall_brings_the_notes_that_fit_in_their_order(embedder, expected):
    """The notes of a prompt are those that fit what was heard, oldest first; without an embedder, the newest."""
    limits = tl.Limits(recent_max_records=4, consolidate_to=0.0, retain_fraction=1.0, dedup_similarity=None)
    memory = remember(AGENT, limits, embedder=embedder)
    for step, text in enumerate(
        ["The ferry is cut.", "Bread is warm.", "The ferry is late.", "Bees sleep.", "Rain fell."]
    ):
        memory.store(record(step, place, text=text) for place in range(5))
        memory.settle()
    notes = memory.recall(["When is the ferry?"], 2)
    assert len(notes) == 2
    assert all(part in note.text for part, note in zip(expected, notes, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=400), min_size=30, max_size=60, unique=True))
def test_the_byte_count_is_what_python_allocates(texts):
    """The running count is within 15 % of what pympler measures for the records themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pympler import asizeof
    memory = remember(AGENT, tl.Limits(recent_max_records=None))
    records = [record(step, text=text) for step, text in enumerate(texts)]
    memory.store(records)
    measured = sum(
        asizeof.flatsize(each) + sum(asizeof.asizeof(value) for value in (each.id, each.text, each.message_id)) + 8
        for each in records
    )
    assert memory.size().recent_bytes == pytest.approx(measured, rel=0.15)


def test_real_talk_is_condensed_and_its_numbers_found_again(real_events):
    """Real agents' talk under a small cap: caps hold, the kept share is near what was asked, and a price is found in a note."""
    events = []
    limits = tl.Limits(recent_max_records=50, retain_fraction=0.6)
    memory = remember(AGENT, limits, embedder=HashingEmbedder(), emit=events.append)
    for step, event in enumerate(real_events[:1_000]):
        memory.begin(step, limits)
        memory.store([record(step, text=event["text"], source=event["source"] or "")])
        memory.settle()
        assert memory.size().recent_records <= 50
    done = [event for event in events if isinstance(event, Consolidated)]
    assert len(done) > 30
    assert sum(event.bytes_after for event in done) < sum(event.bytes_before for event in done)
    found = memory.relevant("propensity of purchasing ready-to-drink bottled gazpacho", k=3, tiers=("notes",))
    assert all("gazpacho" in hit.item.text for hit in found)
    assert len(found) == 3


def test_notes_are_compared_as_exactly_as_promised(tmp_path):
    """The kept 8-bit vectors give cosines within 0.01 of the exact ones: in RAM, in the file, and after some are dropped."""
    embedder = HashingEmbedder()
    texts = [
        f"The {word} costs {number} euros in Kiruna."
        for number, word in enumerate("ferry bread lamp jar phone bee".split() * 5)
    ]
    vectors = embedder.embed(texts)
    tier = Semantic(AGENT, embedder, Shelf(None, lambda: tmp_path))
    tier.add([Note(number, 0, 0, 1, text) for number, text in enumerate(texts)], vectors)
    question = embedder.embed(["What does the bread cost?"])[0]
    in_ram = tier.similarity(question)
    assert in_ram == pytest.approx(vectors @ question, abs=0.01)
    moved, freed = tier.move_rows()
    assert (moved, freed > 0) == (30, True)
    assert tier.similarity(question).tolist() == in_ram.tolist()
    tier.drop_oldest(3)
    assert tier.similarity(question).tolist() == in_ram[3:].tolist()
    assert [note.text for note in tier.notes] == texts[3:]


@pytest.mark.parametrize("similarity", [1.0, 0.93])
def test_a_ring_that_is_made_anew_merges_what_the_old_one_would_have_merged(similarity):
    """Beyond the ring's 512 records, with many merges, a memory whose ring is dropped now and then remembers the same."""
    limits = tl.Limits(recent_max_records=2_000, dedup_similarity=similarity)
    kept, dropped = (tl.Memory(0, limits, Pool(embedder=HashingEmbedder())) for _ in range(2))
    for step in range(700):
        old = f"Page {step * 7 % 250} of the ferry book is lost{'!' * (step % 3)}"
        texts = [f"The lamp number {step} is here.", old, f"{old} "]
        for memory in (kept, dropped):
            memory.begin(step, limits)
            memory.store(Record(make_id(0, step, n), "TALK", "Elif", text, 0) for n, text in enumerate(texts))
            memory.settle()
        if step % 11 == 0:
            dropped.move("dedup ring")
    assert max(record.times for record in kept.between(0, 700)) > 1
    assert len(kept.recent(2_000)) > 512
    assert kept.between(0, 700) == dropped.between(0, 700)
