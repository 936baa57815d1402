"""Fingerprints, the ring that finds what sounds alike, and the guards that keep facts apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from troupelab.text.embed import HashingEmbedder
from troupelab.text.ring import Ring, Rounded
from troupelab.text.similar import fingerprint, may_merge
from troupelab.text.words import analyse

any_text = st.text(max_size=200)  # lone surrogates too
DIMS = 24


def unit(values):
    """A vector of length one; zeros stay."""
    vector = np.array(values, dtype=np.float32)
    return vector / max(float(np.sqrt(np.vecdot(vector, vector))), 1e-9)


vectors = st.lists(st.integers(-3, 3), min_size=DIMS, max_size=DIMS).map(unit)

# --- fingerprints


@given(any_text)
def test_fingerprints_ignore_case_and_white_space(text):
    """Any text has a fingerprint that a uint64 holds and that wider gaps and other case leave as it is."""
    found = fingerprint(text)
    assert found == fingerprint(f" {text}\n") == fingerprint(text.casefold()) == fingerprint(text.replace(" ", "\t  "))
    assert int(np.uint64(found)) == found


@given(any_text, any_text)
def test_fingerprints_tell_texts_apart(one, other):
    """Texts that differ in more than case and white space have different fingerprints."""
    assume(one.casefold().split() != other.casefold().split())
    assert fingerprint(one) != fingerprint(other)


def test_fingerprints_keep_words_apart():
    """White space is narrowed, not removed."""
    assert fingerprint("no where") != fingerprint("nowhere")


# --- the ring


@settings(max_examples=150)
@given(
    st.integers(1, 40),
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 3), vectors),
            st.tuples(st.just("add"), st.integers(0, 3), st.none()),
            st.tuples(st.just("forget"), st.integers(0, 60), st.none()),
            st.tuples(st.just("forget one"), st.integers(0, 40), st.none()),
            st.tuples(st.just("renew"), st.integers(0, 40), st.none()),
        ),
        max_size=80,
    ),
    vectors,
    st.sampled_from([0.2, 0.5, 0.9]),
)
def test_a_ring_finds_what_a_plain_list_finds(capacity, moves, query, at_least):
    """Whatever was added and forgotten, the ring holds the newest, and finds the same records by hash and by vector."""
    ring, plain = Ring(DIMS, capacity), []
    for place, (what, number, vector) in enumerate(moves):
        if what == "add":
            ring.add(place, number, vector)
            plain = [*plain, (place, number, vector)][-capacity:]
        elif what == "forget":
            ring.forget_up_to(number)
            plain = [record for record in plain if record[0] > number]
        elif plain:
            key, *rest = plain.pop(number % len(plain))
            if what == "renew":
                ring.renew(key, place)
                plain.append((place, *rest))
            else:
                ring.forget(key)
        assert len(ring) == len(plain)
    for number in range(4):
        assert ring.same(number) == [key for key, mine, _ in reversed(plain) if mine == number]
    exact = {key: 0.0 if vector is None else float(np.vecdot(vector, query)) for key, _, vector in plain}
    found = ring.similar(query, at_least)
    assert found == sorted(found, key=lambda pair: (-pair[1], pair[0]))
    assert {key for key, cosine in exact.items() if cosine >= at_least + 0.01} <= {key for key, _ in found}
    for key, cosine in found:
        assert cosine >= at_least
        assert cosine == round(cosine, 5)
        assert cosine == pytest.approx(exact[key], abs=0.01)
    keys = np.array([key for key, _, _ in plain], dtype=np.int64)
    held = ring.vectors(keys)
    if len(plain):
        whole = np.stack([np.zeros(DIMS, dtype=np.float32) if vector is None else vector for _, _, vector in plain])
        rounded = Rounded.of(whole)
        assert (held.rows == rounded.rows)[rounded.scales > 0].all()
        assert (held.scales == rounded.scales).all()
        assert np.allclose(held.unit(), whole, atol=0.01)
    assert ring.vectors(np.append(keys, 10**6)) is None


def test_a_ring_takes_little_until_it_is_used_and_never_more_than_said():
    """No RAM before the first record, little for a few, and a fixed most however many are added."""
    ring = Ring(256)
    assert ring.ram_bytes == 0
    vector = unit(range(256))
    sizes = []
    for key in range(2_000):
        ring.add(key, key, vector)
        sizes.append(ring.ram_bytes)
    assert sizes[9] < 7_000
    assert sizes == sorted(sizes)
    assert sizes[-1] == sizes[600] < 150_000
    assert len(ring) == 512
    assert ring.same(2_000 - 513) == []
    assert ring.same(2_000 - 512) == [2_000 - 512]


def test_a_ring_that_is_emptied_again_and_again_does_not_grow():
    """A memory that archives its records often needs room for the few between, not for 512."""
    ring = Ring(256)
    for key in range(3_000):
        ring.add(key, key, unit(range(256)))
        if key % 7 == 0:
            ring.forget_up_to(key)
    assert ring.ram_bytes < 7_000


def test_a_ring_without_vectors_finds_by_hash_only():
    """Where there is no embedder, equal texts are still found."""
    ring = Ring(0)
    ring.add(5, fingerprint("rain"), None)
    ring.add(2**61, fingerprint("Rain "), None)
    assert ring.same(fingerprint("RAIN")) == [2**61, 5]
    assert ring.similar(np.zeros(0, dtype=np.float32), 0.5) == []
    assert ring.ram_bytes < 3_000


def test_the_zero_vector_is_like_nothing():
    """A text without words matches no record, and no record of such a text is matched."""
    ring = Ring(4)
    zero, one = np.zeros(4, dtype=np.float32), unit([1, 0, 0, 0])
    ring.add(1, 1, zero)
    ring.add(2, 2, one)
    assert ring.similar(zero, 0.01) == []
    assert ring.similar(one, 0.01) == [(2, 1.0)]


def test_equally_near_records_come_in_the_order_of_their_keys():
    """Ties are broken by the lower key, so that the same inputs always merge with the same record."""
    ring = Ring(DIMS)
    for key in range(30):
        ring.add(key, key, unit([1] * DIMS))
    assert [key for key, _ in ring.similar(unit([1] * DIMS), 0.9)] == list(range(30))


@pytest.mark.parametrize(("dims", "capacity"), [(-1, 5), (8, 0)])
def test_an_impossible_ring_is_refused(dims, capacity):
    """Sizes that make no sense are named in the error."""
    with pytest.raises(ValueError, match=f"{dims} and {capacity}"):
        Ring(dims, capacity)


# --- the guards

frames = st.sampled_from(
    [
        "We will meet {} at the mill, and the bread should be warm",
        "{} and then I went to the harbour to buy fish.",
        "It rained. {} was all that we talked about!",
        "Honestly, the ferry costs too much, and that is about {}",
    ]
)
numbers = st.integers(2, 10**7)
names = st.sampled_from("Ann Ben Elif Aydın Kiruna WanderLux NATO O'Hara José Will April Łódź".split())
negations = st.sampled_from(["not", "never", "don't", "without", "no", "nobody", "cannot", "won’t"])


@given(any_text)
def test_every_text_may_merge_with_itself(text):
    """No text breaks the guards, and each is the same as itself, whatever the gaps between its words."""
    assert may_merge(text, text)
    assert may_merge(text, f"  {text}\n")


@given(any_text, any_text)
def test_the_guards_do_not_ask_who_came_first(one, other):
    """Two texts may merge in both orders or in neither."""
    assert may_merge(one, other) == may_merge(other, one)


@given(frames, numbers, numbers, st.sampled_from(["{}", "{}%", "${}", "{} kg", "{} euros", "{:,}", "{}th"]))
def test_another_number_never_merges(frame, one, other, form):
    """Texts that differ in one number, however it is written, stay apart."""
    assume(one != other)
    assert not may_merge(frame.format(form.format(one)), frame.format(form.format(other)))


@given(frames, names, names)
def test_another_name_never_merges(frame, one, other):
    """Texts that differ in one name, also where it begins the sentence, stay apart."""
    assume(one != other)
    assert not may_merge(frame.format(one), frame.format(other))


@given(frames, negations, st.booleans())
def test_a_negation_more_never_merges(frame, negation, late):
    """A text and the same with a word that negates stay apart."""
    plain = frame.format("the man")
    words = plain.split()
    words.insert(len(words) - 1 if late else 2, negation)
    assert not may_merge(plain, " ".join(words))


@settings(max_examples=60)
@given(st.data())
def test_real_talk_with_one_fact_changed_never_merges(real_events, data):
    """In what real agents said, another number or name, or a negation more, keeps the two apart."""
    text = data.draw(st.sampled_from(real_events[:1_500]))["text"]
    facts = [fact for sentence in analyse(text) for fact in sentence.facts]
    if facts:
        fact = data.draw(st.sampled_from(facts))
        assert not may_merge(text, text.replace(fact, "4711" if fact[0].isdigit() else "Xanthippe", 1))
    words = text.split()
    words.insert(data.draw(st.integers(0, len(words))), "not")
    assert not may_merge(text, " ".join(words))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It costs 1,000 euros.", "It costs 1000 €."),
        ("It rose by 10 percent.", "It rose by 10%."),
        ("The two lamps are nice.", "The 2 lamps are nice."),
        ("Finished; waiting for your next question.", "Finished, and waiting for the next question."),
        ("Waiting for any question.", "I am waiting for any question."),
        ("I’d love a warm loaf.", "I'd love a warm loaf!"),
        ("I answered the market-research question.", "I answered the market research question."),
        ("I have submitted my answer to the survey.", "I have provided my answer to the survey."),
    ],
)
def test_other_words_for_the_same_may_merge(one, other):
    """What differs in spelling, function words or one content word of a short text may merge."""
    assert may_merge(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("She has two dogs.", "She has three dogs."),
        ("I went once.", "I went twice."),
        ("Take half of it.", "Take it."),
        ("She came first.", "She came second."),
        ("It costs 5 kg of flour.", "It costs 5 g of flour."),
        ("It costs $79.", "It costs €79."),
        ("It is -5 outside.", "It is 5 outside."),
        ("A twenty-two year old", "A twenty-three year old"),
        ("A two-year-old horse", "A three-year-old horse"),
        ("Python 3.10 is out", "Python 3.1 is out"),
        ("Ann pays 5, Ben pays 7.", "Ann pays 7, Ben pays 5."),
        ("Ann called Ben.", "Ben called Ann."),
        ("The US has left.", "The us has left."),
        ("Plan B is good.", "Plan C is good."),
        ("Prices will increase in spring.", "Prices will decrease in spring."),
        ("I agree with that.", "I disagree with that."),
        ("It was before lunch.", "It was after lunch."),
        ("I always cook.", "I sometimes cook."),
        ("That is likely.", "That is unlikely."),
        ("It is useful.", "It is useless."),
        ("It is possible to swim.", "It is impossible to swim."),
        ("You may swim.", "You must swim."),
        ("He sings well.", "She sings well."),
        ("The ferry leaves.", "The ferry leaves?"),
        ("When does it open?", "Where does it open?"),
        ("I like only tea.", "I like tea."),
        ("All pupils came.", "Some pupils came."),
        ("The dog bit the man.", "The man bit the dog."),
        ("Nous ne venons pas.", "Nous venons."),
        ("我喜欢茶", "我喜欢酒"),
        (
            "The menu on the wall lists soup, bread, olives, grilled fish, baked beans, plum cake and cherry tart.",
            "The menu on the wall lists soup, bread, olives, grilled fish, baked beans, plum cake and lemon tart.",
        ),
        ("a " * 11_000 + "lamp", "a " * 11_000 + "door"),
    ],
)
def test_what_says_something_else_stays_apart(one, other):
    """Numbers, units, names, opposites, persons, questions, bounds and the order of words are told apart."""
    assert not may_merge(one, other)


def test_real_talk_is_told_once(real_events):
    """Equal texts of real agents are found by hash, and what the guards let through at 0.93 has the same facts."""
    embedder, ring, merged = HashingEmbedder(), Ring(256), []
    texts = [event["text"] for event in real_events[:2_000]]
    for key, (text, vector) in enumerate(zip(texts, embedder.embed(texts), strict=True)):
        if not ring.same(fingerprint(text)):
            merged += [(text, texts[old]) for old, _ in ring.similar(vector, 0.93) if may_merge(text, texts[old])]
            ring.add(key, fingerprint(text), vector)
    for one, other in merged:
        assert [piece for piece in one if piece.isdigit()] == [piece for piece in other if piece.isdigit()]
