"""Words, vectors and key sentences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troupelab.text.embed import HashingEmbedder
from troupelab.text.extract import key_sentences
from troupelab.text.words import analyse, content_words

any_text = st.text(st.characters(codec="utf-8"), max_size=200)
plain = st.lists(
    st.sampled_from("the lamp costs 79 euros . Ruiz said 14 pages ? bread! \n rain in Kiruna 3 May".split(" ")),
    max_size=30,
).map(" ".join)


@given(any_text)
def test_any_text_can_be_taken_apart(text):
    """No text breaks the analysis, and each sentence is a part of the text."""
    assert all(sentence.text in text for sentence in analyse(text))


def test_sentences_end_where_a_reader_says_so():
    """Full stops inside numbers do not end a sentence; question marks, dots and line breaks do."""
    found = [sentence.text for sentence in analyse("It costs 6.50 a jar. “Who pays?”  I do\nEnd")]
    assert found == ["It costs 6.50 a jar.", "“Who pays?”", "I do", "End"]


def test_facts_are_numbers_and_names():
    """Numbers with their percent signs and dates, and capitalised words inside a sentence, are facts."""
    (sentence,) = analyse("On 2026-05-03 the price of Ladle rose by 12.5% in Kiruna")
    assert set(sentence.facts) == {"2026-05-03", "Ladle", "12.5%", "Kiruna"}


def test_content_words_leave_out_what_only_connects():
    """Function words go, in any case and with apostrophes."""
    assert content_words("The ferry, I'd say, will NOT be cut") == ["ferry", "cut"]


@settings(max_examples=200)
@given(st.lists(plain, min_size=1, max_size=6), st.floats(0.05, 1.0))
def test_every_number_and_name_survives(texts, retain):
    """Whatever share is kept, each number and name of each text is in what is kept."""
    kept = key_sentences(texts, retain, [f"speaker {place}" for place in range(len(texts))])
    for text, sentences in zip(texts, kept, strict=True):
        facts = {fact for sentence in analyse(text) for fact in sentence.facts}
        left = {fact for sentence in sentences for fact in analyse(sentence)[0].facts} if sentences else set()
        in_earlier = {fact for other in kept for sentence in other for part in analyse(sentence) for fact in part.facts}
        assert facts <= left | in_earlier


@given(st.lists(any_text, max_size=6), st.floats(0.05, 1.0))
def test_what_is_kept_is_in_the_text_and_within_the_share(texts, retain):
    """Kept sentences stand in their text; without facts, their characters stay within the share."""
    kept = key_sentences(texts, retain)
    assert len(kept) == len(texts)
    for text, sentences in zip(texts, kept, strict=True):
        assert all(sentence in text for sentence in sentences)
    if not any(sentence.facts for text in texts for sentence in analyse(text)):
        assert sum(len(sentence) for sentences in kept for sentence in sentences) <= retain * sum(map(len, texts))


def test_a_number_is_kept_for_each_who_said_it():
    """Two people who rate with the same number both keep their sentence."""
    texts = ["I would give it a 2.", "For me it is a 2 at best."]
    assert key_sentences(texts, 0.05, ["Ann", "Ben"]) == [[texts[0]], [texts[1]]]


def test_a_sentence_that_everybody_says_is_kept_once():
    """Repetition does not fill the notes."""
    texts = ["The bread is warm today."] * 5
    assert sum(map(len, key_sentences(texts, 1.0))) == 1


def test_more_is_kept_of_real_talk_when_the_share_is_larger(real_events):
    """On real agents' talk, the kept share grows with retain_fraction, and every number survives."""
    texts = [event["text"] for event in real_events[:400]]
    sizes = []
    for retain in (0.05, 0.15, 0.25):
        kept = key_sentences(texts, retain)
        sizes.append(sum(len(sentence) for sentences in kept for sentence in sentences))
        left = {
            fact for sentences in kept for sentence in sentences for part in analyse(sentence) for fact in part.facts
        }
        assert {
            fact for text in texts for sentence in analyse(text) for fact in sentence.facts if fact[0].isdigit()
        } <= left
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


@given(st.lists(any_text, max_size=5))
def test_vectors_are_units_or_zero_and_do_not_depend_on_the_batch(texts):
    """Each row has length one (zero without words), and embedding one by one gives the same rows."""
    embedder = HashingEmbedder(64)
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), 64)
    assert vectors.dtype == np.float32
    norms = np.linalg.norm(vectors, axis=1)
    assert np.all(np.isclose(norms, 1, atol=1e-5) | (norms == 0))
    for text, row in zip(texts, vectors, strict=True):
        assert np.array_equal(embedder.embed([text])[0], row)


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("When does the ferry leave?", "The ferry leaves at 16:30.", "The bread was warm."),
        ("closing the bakery", "The bakery closes in May.", "We closed the debate on phones."),
    ],
)
def test_what_shares_words_is_nearer(query, near, far):
    """A text about the same things is nearer than one about others, other endings included."""
    one, two, three = HashingEmbedder().embed([query, near, far])
    assert one @ two > one @ three
