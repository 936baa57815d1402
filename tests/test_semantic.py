"""The semantic cache: what it finds, what it never takes for the same, what it keeps, and how its hits are checked."""

from __future__ import annotations

import gc
import json
import math
import re
import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troupelab.bench.semantic import run
from troupelab.models.model import Reply
from troupelab.models.semantic import SemanticCache
from troupelab.text.embed import HashingEmbedder
from troupelab.text.similar import may_merge
from troupelab.text.wordllama import WordLlamaEmbedder

needs_wordllama = pytest.mark.skipif(find_spec("wordllama") is None, reason="wordllama is not installed")
EMBEDDER = HashingEmbedder(64)
DIGITS = re.compile(r"\d+")


class Alike:
    """An embedder to which all texts are one, but for those without words."""

    name = "alike"
    dims = 4

    def embed(self, texts):
        """The same direction for each."""
        return np.array([[1.0 if text.split() else 0.0, 0, 0, 0] for text in texts], dtype=np.float32).reshape(-1, 4)


class Angles(Alike):
    """An embedder that is told how far each text is from the others that it was not told of."""

    def __init__(self, cosines):
        self.cosines = cosines

    def embed(self, texts):
        """A vector with the cosine that was told for each."""
        cosines = [self.cosines.get(text, 1.0) for text in texts]
        return np.array([[cosine, math.sqrt(1 - cosine**2), 0, 0] for cosine in cosines], dtype=np.float32)


def reply(text):
    """A reply with this text."""
    return Reply(text, 1, 1, 0.0, "none")


def fits(one, other):
    """Whether two short questions may have one answer: the guard, and the same digits in the same order."""
    return may_merge(one, other) and "".join(DIGITS.findall(one)) == "".join(DIGITS.findall(other))


def texts_of(cache, scope, gists, similarity=0.8):
    """What is found for some gists, as the replies' texts."""
    hits = [cache.find(scope, gist, similarity) for gist in gists]
    return [hit and hit.reply.text for hit in hits]


gists = st.one_of(
    st.builds(
        "{}{} the lamp{} costs {} euros{}".format,
        st.sampled_from(["", "Well, ", "Thanks. "]),
        st.sampled_from(["Ada says", "Elif says", "we think", "We think"]),
        st.sampled_from(["", " never", " in May"]),
        st.sampled_from(["79", "97", "1,000", "1000", "two"]),
        st.sampled_from(["", ".", "?", "!"]),
    ),
    st.text(max_size=20),  # lone surrogates too
)
moves = st.lists(st.tuples(st.sampled_from(["put", "find"]), st.integers(0, 2), gists), max_size=60)

# ---------------------------------------------------------------------- what is found


@settings(max_examples=150, deadline=None)
@given(moves, st.integers(1, 12), st.sampled_from([0.5, 0.8, 0.93]), st.booleans())
def test_the_cache_finds_what_a_plain_list_finds(plan, capacity, similarity, alike):
    """Whatever comes, a hit is the best of its scope that may be merged, has the same digits, and the bounds hold."""
    embedder = Alike() if alike else EMBEDDER
    cache, plain = SemanticCache(embedder, capacity=capacity), []
    for place, (what, scope, gist) in enumerate(plan):
        if what == "put":
            cache.put(scope, gist, reply(str(place)))
            if not any((kept[0], kept[1]) == (scope, gist) for kept in plain):
                plain = [*plain, (scope, gist, str(place))][-capacity:]
        else:
            hit = cache.find(scope, gist, similarity)
            vector = embedder.embed([gist])[0]
            cosines = [
                (1.5 if gist == other else min(1.0, round(float(np.vecdot(vector, embedder.embed([other])[0])), 5)))
                for _, other, _ in plain
            ]
            near = sorted(
                (-cosine, order)
                for order, cosine in enumerate(cosines)
                if plain[order][0] == scope and cosine >= similarity
            )
            expected = next((plain[order] for _, order in near if fits(gist, plain[order][1])), None)
            assert (hit and (scope, hit.gist, hit.reply.text)) == expected
            assert hit is None or sorted(DIGITS.findall(hit.gist.replace(",", ""))) == sorted(
                DIGITS.findall(gist.replace(",", ""))
            )
        assert len(cache) == len(plain)


def test_a_like_question_gets_the_kept_answer_and_another_does_not():
    """Punctuation and a polite word make no difference; a number, a name, a negation and an opposite do."""
    cache = SemanticCache(EMBEDDER)
    cache.put(5, "Ada, would you buy the desk lamp for 79 euros in spring?", reply("Yes."))
    same = [
        "Ada, would you buy the desk lamp for 79 euros, in spring?",
        "Ada would you buy the desk lamp for 79 euros in spring?",
    ]
    others = [
        "Ada, would you buy the desk lamp for 97 euros in spring?",
        "Ada, would you buy the desk lamp for 79 dollars in spring?",
        "Eve, would you buy the desk lamp for 79 euros in spring?",
        "Ada, would you not buy the desk lamp for 79 euros in spring?",
        "Ada, would you sell the desk lamp for 79 euros in spring?",
        "Ada, would you buy the desk lamp for 79 euros in autumn?",
        "Ada, you would buy the desk lamp for 79 euros in spring.",
    ]
    assert texts_of(cache, 5, same) == ["Yes."] * len(same)
    assert texts_of(cache, 5, others, 0.1) == [None] * len(others)
    assert texts_of(cache, 6, same, 0.1) == [None] * len(same)


def test_in_a_short_question_one_word_is_left_to_the_cosine():
    """Another word for the same is near enough, a word for something else is not."""
    cache = SemanticCache(Angles({"Is the answer ready?": 0.95, "Is the dinner ready?": 0.6}))
    cache.put(1, "Is the response ready?", reply("Yes."))
    assert texts_of(cache, 1, ["Is the answer ready?", "Is the dinner ready?"], 0.93) == ["Yes.", None]


def test_one_word_more_makes_a_long_question_another():
    """A vector does not hear one adjective among many words; a polite word still makes no difference."""
    question = (
        "Imagine a market with bread, cheese, olives, apples, honey, flowers, wooden toys and warm socks. Which stand "
        "would you visit, what would you carry home, and how would your neighbours talk about the evening?"
    )
    cache = SemanticCache(Alike())
    cache.put(1, question, reply("The cheese."))
    assert texts_of(cache, 1, ["Thanks. " + question, question.replace("wooden", "wooden,")]) == ["The cheese."] * 2
    assert texts_of(cache, 1, [question.replace("evening", "rainy evening"), question.replace("warm ", "")]) == [
        None,
        None,
    ]


def test_the_same_text_comes_first_then_the_nearest_then_the_oldest():
    """Order among what may be merged: equal, nearer, earlier."""
    cache = SemanticCache(Angles({"a lamp": 0.85, "the lamp!": 0.91}))
    for text in ("a lamp", "the lamp!", "the lamp,", "the lamp;"):
        cache.put(1, text, reply(text))
    assert texts_of(cache, 1, ["the lamp!", "a lamp", "the lamp;", "the lamp"]) == [
        "the lamp!", "a lamp", "the lamp;", "the lamp,",
    ]  # fmt: skip


def test_the_threshold_is_exact_to_five_digits():
    """0.93 is enough for 0.93, and 0.92998 is not; what is told is rounded."""
    cache = SemanticCache(Angles({"the lamp!": 0.93, "the desk!": 0.92998}))
    cache.put(1, "the lamp!", reply("kept"))
    cache.put(2, "the desk!", reply("kept"))
    assert texts_of(cache, 1, ["the lamp"], 0.93) == ["kept"]
    assert texts_of(cache, 2, ["the desk"], 0.93) == [None]
    assert cache.find(2, "the desk", 0.92).similarity == 0.92998


def test_so_much_is_compared_and_no_more():
    """Near ones with other digits do not count; too many with other names hide the one that would fit."""
    cache = SemanticCache(Alike())
    for number in range(1_000):
        cache.put(1, f"room {number}", reply(str(number)))
    assert texts_of(cache, 1, ["room 999!", "room 1000"]) == ["999", None]
    for number in range(400):
        cache.put(
            2,
            f"Is it in the room of Ada{'abcdefghijklmnopqrst'[number % 20]}{'uvwxyzabcdefghijklmn'[number // 20]}",
            reply(""),
        )
    cache.put(2, "Is it in the room of Elif", reply("here"))
    assert texts_of(cache, 2, ["Is it in the room of Elif!", "Is it in the room of Elif"]) == [None, "here"]


def test_a_very_long_question_is_found_by_its_own_text():
    """Beyond 10,000 characters nothing is compared."""
    cache = SemanticCache(Alike())
    for scope, chars in enumerate((9_000, 11_000)):
        cache.put(scope, "so it is " * (chars // 9), reply("kept"))
        assert texts_of(cache, scope, ["so it is " * (chars // 9)]) == ["kept"]
        assert texts_of(cache, scope, ["So it is " + "so it is " * (chars // 9 - 1)]) == [None if scope else "kept"]


def test_empty_texts_and_lone_surrogates():
    """A gist without words is found by itself alone, and half a character does no harm."""
    cache = SemanticCache(EMBEDDER)
    for gist in ("", "\ud83d", "what now \udc00?", "?"):
        cache.put(1, gist, reply(gist))
    assert texts_of(cache, 1, ["", "\ud83d", "what now \udc00?", " ", "\udc00", "?!"]) == [
        "", "\ud83d", "what now \udc00?", None, None, None,
    ]  # fmt: skip
    assert isinstance(cache.check("\ud83d", '{"a": "\udc00"}'), bool)


def test_the_same_calls_give_the_same_hits():
    """Two caches that are asked the same find the same, to the last digit."""

    def play():
        cache = SemanticCache(EMBEDDER, capacity=30)
        found = []
        for number in range(200):
            gist = f"the ferry to island {number % 40} leaves at {number % 3}{'.' * (number % 2)}"
            found.append(cache.find(number % 3, gist, 0.7))
            cache.put(number % 3, gist, reply(str(number)))
        return found, cache.stats()

    assert repr(play()) == repr(play())


@needs_wordllama
def test_real_text_with_another_number_is_never_the_same(real_events):
    """No real text answers for itself with another number in it, and most do with a word of thanks before it."""
    cache = SemanticCache(WordLlamaEmbedder())
    some = [event["text"] for event in real_events if DIGITS.search(event["text"])][:1_500:3]
    harmless = 0
    for scope, text in enumerate(some):
        cache.put(scope, text, reply("kept"))
        found = DIGITS.search(text)
        other = f"{text[: found.start()]}{int(found[0]) + 1}{text[found.end() :]}"
        assert cache.find(scope, other, 0.5) is None, other
        harmless += cache.find(scope, "Thanks. " + text, 0.93) is not None
    assert len(some) > 250
    assert harmless > 0.7 * len(some)


# ---------------------------------------------------------------------- what is kept


def test_the_oldest_goes_first_whatever_its_scope():
    """The fourth answer takes the place of the first, which was in another scope; nothing of that scope is left."""
    cache = SemanticCache(EMBEDDER, capacity=3)
    for scope in (1, 2, 2, 3):
        cache.put(scope, f"question {len(cache)} of {scope}", reply("kept"))
    assert len(cache) == 3
    assert cache.find(1, "question 0 of 1", 0.9) is None
    assert cache.find(2, "question 1 of 2", 0.9).gist == "question 1 of 2"


def test_what_stays_is_found_when_what_came_before_it_is_gone():
    """Of four questions with other numbers in one scope, the newest two are kept, and each gets its own answer."""
    cache = SemanticCache(Alike(), capacity=2)
    for number in range(4):
        cache.put(1, f"What is in room {number}?", reply(str(number)))
    assert texts_of(cache, 1, [f"So, what is in room {number}?" for number in range(4)]) == [None, None, "2", "3"]


def test_a_question_keeps_its_first_answer():
    """A second answer to the same question is not kept."""
    cache = SemanticCache(EMBEDDER)
    cache.put(1, "what now?", reply("first"))
    cache.put(1, "what now?", reply("second"))
    assert texts_of(cache, 1, ["what now?"]) == ["first"]
    assert len(cache) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6_000), st.integers(0, 6_000)), max_size=80),
    st.sampled_from([4_000, 20_000, 70_000]),
)
def test_the_cap_on_bytes_holds_after_every_call(puts, max_bytes):
    """Whatever is put in, what is kept takes no more than it may, and the newest that fits is there."""
    cache = SemanticCache(EMBEDDER, max_bytes=max_bytes)
    for place, (scope, gist_chars, reply_chars) in enumerate(puts):
        gist = f"{place} " + "x" * gist_chars
        cache.put(scope, gist, reply("y" * reply_chars))
        assert cache.ram_bytes <= max_bytes
        assert (cache.find(scope, gist, 1.0) is not None) == (len(gist) + reply_chars + 1_000 <= max_bytes // 4) or (
            abs(len(gist) + reply_chars + 1_000 - max_bytes // 4) < 200  # what a string takes beside its letters
        )


def test_the_bytes_that_are_told_are_not_less_than_those_that_are_taken():
    """What tracemalloc sees of 2,000 answers in 500 scopes is no more than `ram_bytes`, and not far below it."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = SemanticCache(Alike(), capacity=2_000)
        for place in range(4_000):
            cache.put(place % 500, f"{place} " + "x" * 300, reply(f"{place} " + "y" * 300))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.5 * cache.ram_bytes < taken <= cache.ram_bytes


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 0},
        {"max_bytes": 100},
        {"shadow_fraction": 1.5},
        {"shadow_fraction": -0.1},
        {"shadow_fraction": math.nan},
    ],
)
def test_what_is_out_of_range_is_refused(options):
    """The message names what was expected."""
    with pytest.raises(ValueError, match="expected capacity"):
        SemanticCache(EMBEDDER, **options)


@pytest.mark.parametrize("similarity", [0.0, -1.0, 1.1, math.nan])
def test_a_similarity_out_of_range_is_refused(similarity):
    """At 0 everything would be alike."""
    with pytest.raises(ValueError, match="similarity"):
        SemanticCache(EMBEDDER).find(1, "what now?", similarity)


# ---------------------------------------------------------------------- shadow checks


def test_shadows_are_drawn_by_key_alone():
    """The same keys are picked in any order, about as many as wanted; another seed picks others."""
    one, other = (SemanticCache(EMBEDDER, shadow_fraction=0.1, seed=seed) for seed in (1, 2))
    picked = {key for key in range(5_000) if one.wants_shadow(key)}
    assert picked == {key for key in reversed(range(5_000)) if one.wants_shadow(key)}
    assert picked != {key for key in range(5_000) if other.wants_shadow(key)}
    assert 400 < len(picked) < 600
    assert not any(SemanticCache(EMBEDDER, shadow_fraction=0.0).wants_shadow(key) for key in range(100))
    assert all(SemanticCache(EMBEDDER, shadow_fraction=1.0).wants_shadow(key) for key in range(100))


def act(content, kind="TALK"):
    """A turn as a model writes it."""
    return json.dumps({"actions": [{"type": kind, "content": content, "target": ""}], "cognitive_state": {"goals": ""}})


@pytest.mark.parametrize(
    ("kept", "fresh", "is_false"),
    [
        ("Yes.", "Yes.", False),
        ("Yes, I would buy the lamp.", "No, I would not buy the lamp.", True),
        (act("Yes, I would buy the lamp."), act("I would buy the lamp, yes."), False),
        (act("Yes, I would buy the lamp."), act("Maybe. I would think about the lamp."), True),
        (act("No doubt the lamp is good."), act("Yes, the lamp is good."), False),
        (act("I would pay 79 euros for the lamp."), act("I would pay 40 euros for the lamp."), True),
        (act("I would pay 1,000 euros for the lamp."), act("I would pay 1000 euros for a lamp."), False),
        (act("I would pay 79 euros for the lamp."), act("I would pay a fair price in euros for the lamp."), False),
        (act("The lamp is bright and the desk is old."), act("The lamp is bright, and old is the desk."), False),
        (act("The lamp is bright and the desk is old."), act("Every winter ferries cancel their crossings."), True),
        (act("The lamp is bright and the desk is old."), act("", "DONE"), True),
        ('{"rating": 3}', '{"rating": 4}', True),
        ('{"rating": 3}', '{"rating":  3}', False),
        ("{" * 5_000, "[" * 5_000, True),
    ],
)
def test_what_counts_as_another_answer(kept, fresh, is_false):
    """Another verdict, other numbers and another topic do; other words for the same do not; either way round."""
    cache = SemanticCache(EMBEDDER)
    assert cache.judge(kept, fresh) is is_false
    assert cache.judge(fresh, kept) is is_false
    assert cache.stats().shadows == 0


@given(st.text(max_size=60), st.text(max_size=60))
def test_judging_takes_any_text(kept, fresh):
    """No text breaks it, no text is another than itself, and the order makes no difference."""
    cache = SemanticCache(EMBEDDER)
    assert cache.judge(kept, fresh) == cache.judge(fresh, kept)
    assert not cache.judge(kept, kept)


def test_the_false_hit_rate_comes_with_its_interval():
    """5 of 100 lie between 2.2 and 11.2 percent (Wilson), none of 100 below 3.7; before any check nothing is known."""
    cache = SemanticCache(EMBEDDER)
    nothing = cache.stats()
    assert math.isnan(nothing.false_hit_rate)
    assert (nothing.false_hit_rate_low, nothing.false_hit_rate_high) == (0.0, 1.0)
    cache.put(1, "what now?", reply("Yes."))
    assert texts_of(cache, 1, ["what now?", "where to?"]) == ["Yes.", None]
    for _ in range(100):
        assert not cache.check("Yes.", "Yes.")
    assert cache.stats().false_hit_rate_low == 0.0
    assert cache.stats().false_hit_rate_high == pytest.approx(0.0370, abs=1e-4)
    cache = SemanticCache(EMBEDDER)
    for place in range(100):
        cache.check("Yes.", "No." if place < 5 else "Yes.")
    found = cache.stats()
    assert (found.lookups, found.hits, found.shadows, found.false_hits, found.false_hit_rate) == (0, 0, 100, 5, 0.05)
    assert (found.false_hit_rate_low, found.false_hit_rate_high) == pytest.approx((0.0215, 0.1118), abs=1e-4)


# ---------------------------------------------------------------------- the benchmark


def test_the_benchmark_runs_without_the_recordings(tmp_path):
    """It says that its texts are made up, and no changed text is taken for the unchanged one."""
    result = run(quick=True, data=tmp_path)
    assert "made up" in result["material"]
    figures = result["figures"]
    assert figures["false_variants"] > 100
    assert figures["false_hits_guarded_093"] == 0.0 < figures["false_hits_unguarded_093"]
    assert figures["lookup_us"] > 0
