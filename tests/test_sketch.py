"""Sketches of words: what a note's 128 bytes tell of its text, and what a search makes of them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.ids import make_id
from troupelab.memory import policy, semantic
from troupelab.memory.pool import Pool
from troupelab.memory.record import Note, Record
from troupelab.store import Store
from troupelab.text.embed import HashingEmbedder
from troupelab.text.sketch import SKETCH_BITS, SKETCH_BYTES, bits_of, having, sketches
from troupelab.text.words import content_words

WORDS = "ferry bread lamp town price bees winter market bridge harbour cheese violin".split()


def noted(texts, embedder) -> tl.Memory:
    """A memory with a note of each text, whose vector says nothing."""
    limits = tl.Limits(recent_max_records=100, consolidate_to=0.0, dedup_similarity=None)
    memory = tl.Memory(0, limits, Pool(embedder=embedder))
    for step, text in enumerate(texts):
        memory.begin(step, limits)
        memory.store([Record(make_id(0, step, 0), "CONVERSATION", "Elif", text, step)])
    memory.end_episode()
    for job in memory.take_jobs():
        memory.admit(job, job.verbatim())
    assert len(memory.notes) == len(texts)
    return memory


@given(st.lists(st.text(max_size=300) | st.lists(st.sampled_from(WORDS)).map(" ".join), max_size=5), st.booleans())
def test_a_sketch_has_the_bit_of_each_word_and_no_other(texts, again):
    """Every content word of a text has its bit in the text's sketch, and every bit is of a word."""
    found = sketches(texts, again=again)
    assert found.shape == (len(texts), SKETCH_BYTES)
    assert found.dtype == np.uint8
    for text, sketch in zip(texts, found, strict=True):
        bits = {bit for word in content_words(text) for bit in bits_of([word]).tolist()}
        assert sorted(bits) == np.flatnonzero(np.unpackbits(sketch)).tolist() == bits_of([text]).tolist()


def test_words_are_known_by_their_first_letters():
    """The end of a long word makes no other word, names with more than one word are found by either, and few words share a bit."""
    assert bits_of(["gardener"]).tolist() == bits_of(["Gardening"]).tolist()
    assert set(bits_of(["Aydın"]).tolist()) < set(bits_of(["Elif Aydın"]).tolist())
    assert bits_of(["and of the"]).tolist() == []
    assert len(bits_of([f"{number}" for number in range(100)])) > 100 - 100 * 100 / SKETCH_BITS


@settings(max_examples=40, deadline=None)
@given(data=st.data(), embedder=st.sampled_from([None, HashingEmbedder(32)]), facts=st.integers(0, 3))
def test_a_search_knows_the_words_of_every_note_wherever_it_lies(data, embedder, facts):
    """After adding, dropping, leaving RAM, changing what is common and reopening, the tier's words are those of its texts."""
    folder = Path(tempfile.mkdtemp())
    store = Store.open(folder / "run.sqlite")
    roomy = tl.Limits(semantic_max_notes=None)
    known = [f"The {WORDS[number]} of {number} towns." for number in range(facts)]

    def opened() -> tl.Memory:
        pool = Pool(store, scratch=lambda: folder / "scratch", embedder=embedder)
        memory = tl.Memory(0, roomy, pool)
        if known:
            memory.learn(pool.knowledge(known))
        return memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic, "_WARM_FROM", data.draw(st.sampled_from([4, 1_000]), "faster copies from"))
        memory, made = opened(), 0
        for _ in range(data.draw(st.integers(1, 10), "calls")):
            call = data.draw(st.sampled_from(["add", "add", "drop", "note texts", "note vectors", "reopen"]))
            if call == "add":
                more = data.draw(st.integers(1, 70))
                texts = [f"{WORDS[n % 7]} {WORDS[n % 5]} costs {n}" for n in range(made, made + more)]
                memory.remember([Note(make_id(0, 0, made + n), 0, 0, 1, text) for n, text in enumerate(texts)])
                made += more
            elif call == "drop":
                memory.begin(0, tl.Limits(semantic_max_notes=max(1, len(memory.notes) - data.draw(st.integers(1, 40)))))
                memory.begin(0, roomy)
            elif call == "reopen":
                memory.save()
                store.flush()
                memory = opened()
            else:
                memory.move(call)
            texts = [note.text for note in memory.notes]
            bits = bits_of(data.draw(st.lists(st.sampled_from([*WORDS, "3", "town costs 17"]), max_size=3)))
            found = memory._semantic.having(bits)
            assert found.tolist() == having(sketches(texts).T[bits // 8], bits).tolist()
            assert found.flags.c_contiguous  # so that sums over words are made in one order
            for word in {"ferry", "17"}:
                (row,) = memory._semantic.having(bits_of([word]))
                assert all(has for has, text in zip(row, texts, strict=True) if word in text.split())
    store.close()
    shutil.rmtree(folder)


@pytest.mark.parametrize("embedder", [None, HashingEmbedder()])
def test_a_word_finds_the_note_that_has_it_where_vectors_say_nothing(embedder):
    """Words and names find a note, in another form too, and the name of who spoke finds it as well."""
    texts = [f"Page {number} has a misprint." for number in range(40)]
    texts[7], texts[23] = "Marmalade costs 79 euros.", "They gardened in Kiruna."
    memory = noted(texts, embedder)
    for question, step in (("the price of marmalade", 7), ("Who was gardening?", 23), ("What costs 79?", 7)):
        assert memory.relevant(question, 1)[0].item.last_step == step
        if embedder is not None:
            assert memory.recall([question], 1)[0].last_step == step
    assert len(memory.relevant("Elif", 50)) == 40
    assert memory.relevant("Where is it?", 5) == []


@pytest.mark.parametrize("embedder", [None, HashingEmbedder()])
def test_a_rare_word_counts_more_than_a_common_one(embedder):
    """Of two notes with one word of the question each, the one whose word is in few notes comes first."""
    texts = [f"The ferry leaves at {number}." for number in range(30)]
    texts[4] = "Saffron leaves at dawn."
    found = noted(texts, embedder).relevant("ferry saffron", 2)
    assert found[0].item.last_step == 4
    assert found[0].score > 2 * found[1].score


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), max_size=6), st.data())
def test_overlap_is_a_share_and_grows_with_each_word(rows, data):
    """The overlap is from 0 (no word) to 1 (all words), and no smaller for a text with more of the words."""
    counts = np.array(data.draw(st.lists(st.integers(0, 50), min_size=len(rows), max_size=len(rows))), dtype=np.int64)
    has = np.array(rows, dtype=np.bool_).reshape(len(rows), 4)
    has[:, 0], has[:, 1] = True, False
    has[:, 3] |= has[:, 2]
    found = policy.overlap(has, policy.rarity(counts, 50))
    if rows:
        assert found[0] == pytest.approx(1.0)
    assert found[1] == 0.0
    assert found[2] <= found[3] <= 1.0 + 1e-6


def test_records_are_compared_by_their_words_and_who_said_them():
    """Among recent records, a name that is no part of the text finds what its bearer said."""
    memory = tl.Memory(0, tl.Limits(dedup_similarity=None), Pool(embedder=HashingEmbedder()))
    for step in range(6):
        source = "Aino" if step == 2 else "Elif"
        memory.store([Record(make_id(0, step, 0), "CONVERSATION", source, f"The bread is number {step}.", step)])
    (best,) = memory.relevant("Which bread does Aino mean?", 1)
    assert best.item.source == "Aino"
