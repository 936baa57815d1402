"""Words, vectors and key sentences."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troupelab.errors import MissingPackageError
from troupelab.text import wordllama
from troupelab.text.embed import HashingEmbedder, same_topic
from troupelab.text.extract import key_sentences
from troupelab.text.wordllama import WordLlamaEmbedder, default_embedder
from troupelab.text.words import _ANY_WORD, _word_finder, analyse, content_words

needs_wordllama = pytest.mark.skipif(find_spec("wordllama") is None, reason="wordllama is not installed")
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


@needs_wordllama
@settings(deadline=None)
@given(st.lists(st.text(max_size=80), max_size=5))
def test_meanings_are_units_or_zero_and_do_not_depend_on_the_batch(texts):
    """With wordllama too: length one (zero without words), lone surrogates or not, and the same singly and in a batch."""
    embedder = WordLlamaEmbedder()
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), embedder.dims)
    assert vectors.dtype == np.float32
    for text, row in zip(texts, vectors, strict=True):
        assert float(np.sqrt(np.vecdot(row, row))) == pytest.approx(1 if text.split() else 0, abs=1e-5)
        assert np.array_equal(embedder.embed([text])[0], row)


@needs_wordllama
def test_what_is_handed_out_may_be_changed():
    """Writing into a vector changes nobody else's."""
    embedder = WordLlamaEmbedder()
    before = embedder.embed(["a warm loaf"])
    embedder.embed(["a warm loaf"])[:] = 7
    assert np.array_equal(embedder.embed(["a warm loaf"]), before)


@needs_wordllama
def test_a_huge_text_takes_no_longer_than_its_beginning():
    """Ten million characters, in words or in one piece, are embedded by their beginning."""
    embedder = WordLlamaEmbedder()
    huge = ["warm bread " * 1_000_000, "x" * 10_000_000, " " * 10_000_000]
    embedder.embed([huge[0][:30]])
    began = time.perf_counter()
    vectors = embedder.embed(huge)
    assert time.perf_counter() - began < 2
    assert float(np.vecdot(vectors[0], embedder.embed(["warm bread"])[0])) > 0.99
    assert not vectors[2].any()


@needs_wordllama
def test_word_by_word_is_near_the_package_itself():
    """The cosine with wordllama's own result is at least 0.99 for texts as people and models write them."""
    probe = """
import logging, pathlib, sys
import numpy as np, wordllama
from troupelab.text.wordllama import WordLlamaEmbedder
texts = [
    "The ferry leaves at 16:30, doesn't it?", "Überraschung: İstanbul’da 12,5 % – très bien!", "我们明天去", "</s>x",
    "As a nurse I'd never buy ready-made gazpacho; it's 4.99 euros & not fresh :-)", "word" * 100, "🎉", "Hi",
]
package = wordllama.WordLlama.load(cache_dir=str(pathlib.Path(wordllama.__file__).parent), disable_download=True)
print(float(np.vecdot(package.embed(texts, norm=True), WordLlamaEmbedder().embed(texts)).min()))
"""
    # A process of its own: importing the package sets up the root logger.
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) >= 0.99


@needs_wordllama
def test_wordllama_needs_no_network_and_brings_no_warnings():
    """With sockets out of order and every warning an error, loading and embedding work; neither sets up a logger."""
    probe = """
import socket, sys
def refuse(*args, **options):
    raise OSError("no network in this test")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
from troupelab.text.wordllama import default_embedder
embedder = default_embedder()
assert "tokenizers" not in sys.modules, "loaded before it is needed"
assert embedder.embed(["warm bread"]).any()
import logging
assert not logging.root.handlers
assert "wordllama" not in sys.modules and "requests" not in sys.modules
print(embedder.name)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", probe], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("wordllama-256\n", "")


@pytest.mark.parametrize("package", ["wordllama", "tokenizers"])
def test_without_wordllama_the_error_says_how_to_install_it(monkeypatch, package):
    """Where it or its tokenizer is missing, the error is one sentence with the command, and the default is another one."""
    monkeypatch.setattr(wordllama, "_model", None)
    monkeypatch.setitem(sys.modules, package, None)
    for use in (WordLlamaEmbedder().load, lambda: WordLlamaEmbedder().embed(["a text that no other test embeds"])):
        with pytest.raises(MissingPackageError, match=r"pip install .*wordllama"):
            use()
    assert WordLlamaEmbedder().dims == 256
    assert isinstance(default_embedder(), HashingEmbedder)


@pytest.mark.parametrize(
    "header", [b'{"embedding.weight":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]}}', b'{"other":{}}', b"\xff"]
)
def test_unknown_weights_are_refused(tmp_path, header):
    """A package whose files are others than expected is named as such; nothing is read as numbers that are none."""
    (tmp_path / "weights").write_bytes(len(header).to_bytes(8, "little") + header + bytes(32))
    with pytest.raises(MissingPackageError, match="the installed wordllama has"):
        wordllama._mapped(tmp_path / "weights")


@needs_wordllama
def test_meanings_beat_words():
    """A paraphrase that shares no content word is nearer than another topic."""
    query, near, far = WordLlamaEmbedder().embed(
        ["the shop that sells loaves shuts", "the bakery closes", "a new ferry"]
    )
    assert np.vecdot(query, near) > np.vecdot(query, far)


def test_each_embedder_says_from_where_on_a_topic_is_shared():
    """The scales differ; an embedder that says nothing gets one half."""
    assert same_topic(HashingEmbedder()) == 0.25
    assert same_topic(WordLlamaEmbedder()) == 0.45

    class Plain:
        name, dims = "plain", 4

        def embed(self, texts):
            return np.zeros((len(texts), 4), dtype=np.float32)

    assert same_topic(Plain()) == 0.5


@given(st.text(max_size=300))
def test_the_fast_way_to_words_finds_the_same(text):
    """The spelt-out Latin letters give the same words as all letters do, in any text that they are used for."""
    assert _word_finder(text)(text) == _ANY_WORD.findall(text)


def test_a_bare_answer_stays_with_its_reason():
    """Yes and No are what a survey is about: they are kept with what follows, and alone where nothing does."""
    text = "No. I would not use it because the children stay."
    assert key_sentences([text], 1.0) == [[text]]
    assert key_sentences(["Yes.", "No."], 1.0, ["Ann", "Ben"]) == [["Yes."], ["No."]]


def test_what_two_people_say_is_kept_for_each():
    """The same words of two people are two statements."""
    said = "I would rate it a 3."
    assert key_sentences([said] * 2, 1.0, ["Ann", "Ben"]) == [[said], [said]]
    assert key_sentences([said] * 2, 1.0, ["Ann", "Ann"]) == [[said], []]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "I like these: 1. Art, 2. Music festivals. That is all.",
            ["I like these: 1. Art, 2. Music festivals.", "That is all."],
        ),
        ("1. Art.\n2. Music.", ["1. Art.", "2. Music."]),
        ("It costs 79. We asked.", ["It costs 79.", "We asked."]),
        ("I saw Dr. Ng at St. Mary's. He was kind.", ["I saw Dr. Ng at St. Mary's.", "He was kind."]),
    ],
)
def test_lists_and_abbreviations_are_not_cut(text, sentences):
    """A list's number and an abbreviation end no sentence; a sentence that ends in a number does end."""
    assert [sentence.text for sentence in analyse(text)] == sentences
