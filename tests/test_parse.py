"""The parser's ladder: a corpus of broken replies, and what holds for any text."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import troupelab as tl
from troupelab.bench.parse import attacks, mutations, reply
from troupelab.models.parse import parse_object
from troupelab.people.acts import EXPECTED, read_turn

LIMITS = {"max_bytes": 65_536, "max_depth": 16}
CORPUS = json.loads((Path(__file__).parent / "broken_replies.json").read_text(encoding="utf-8"))

CONTENTS = st.text(st.sampled_from("abc ABC.,;:!?'\"{}[]\\/\néß–“”😀"), max_size=30)
TURNS = st.builds(
    lambda actions, state: {"actions": actions, **state},
    st.lists(
        st.fixed_dictionaries({"type": st.sampled_from(["TALK", "THINK"]), "content": CONTENTS, "target": CONTENTS}),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([{}, {"cognitive_state": {"goals": "to go on"}}]),
)
DAMAGE = st.lists(
    st.tuples(
        st.integers(0, 500), st.integers(0, 3), st.sampled_from(["", *"{}[]:,'\"\n ", "“", "//", "```", '",', '"}'])
    ),
    min_size=1,
    max_size=4,
)


def parse(text):
    """What a turn's reply is read with."""
    return parse_object(text, EXPECTED, **LIMITS)


def texts_in(value):
    """Every key and text of a value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts_in(part)]
    return [text for inner in value for text in texts_in(inner)] if isinstance(value, list) else []


def plain(text):
    """A text without what a repair may move."""
    return "".join(sign for sign in text if sign not in "\"'`“”\\, \n")


# ---------------------------------------------------------------------- the corpus


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["name"])
def test_a_broken_reply_is_read_or_refused_as_the_corpus_says(case):
    """Each reply of the corpus gives its object, or an error with its reason and a part of the reply."""
    if "object" in case:
        assert parse(case["text"]) == case["object"]
        return
    with pytest.raises(tl.ReplyError, match=case["error"]) as caught:
        parse(case["text"])
    assert len(caught.value.excerpt) <= 200
    assert caught.value.excerpt in case["text"]


def test_the_corpus_is_large_and_has_both_kinds():
    """At least 60 replies, each with its own name, of which a third at least is read and a third refused."""
    assert len({case["name"] for case in CORPUS}) == len(CORPUS) >= 60
    assert len(CORPUS) / 3 < sum("object" in case for case in CORPUS) < len(CORPUS) * 2 / 3


# ---------------------------------------------------------------------- which object


def test_the_object_with_the_most_expected_keys_counts_and_then_the_last():
    """A later draft with fewer of the keys does not replace the whole one; among equals the last is meant."""
    whole, part, final = '{"a": 1, "b": 2}', '{"b": 3}', '{"b": 4, "a": 5}'
    assert parse_object(f"{whole} or {part}?", ["a", "b"], **LIMITS) == {"a": 1, "b": 2}
    assert parse_object(f"{part}, {whole}, no: {final}.", ["a", "b"], **LIMITS) == {"a": 5, "b": 4}


def test_an_inner_object_is_not_taken_for_the_broken_one_around_it():
    """Where the outer object is broken beyond repair, one inside it with another expected key is not the answer."""
    with pytest.raises(tl.ReplyError, match="not JSON"):
        parse('{"actions": [{"action": "wave"}, {"action": oops: ]}')


def test_a_mended_turn_can_be_acted_on():
    """What the repair gives goes through the reading of a turn like any other."""
    turn = read_turn(
        parse("{'actions': [{'type': 'talk', 'content': 'Good day.', 'target': 'Elif'}, {type: 'DONE'},]}")
    )
    assert [(action.type, action.content) for action in turn.actions] == [("TALK", "Good day."), ("DONE", "")]


# ---------------------------------------------------------------------- caps


@pytest.mark.parametrize("text", ["é" * 50, "x" * 100, "😀" * 25, "\ud800" * 33])
def test_the_size_is_counted_in_bytes(text):
    """A reply of just the cap is read, one of a byte less is refused, whatever characters it is made of."""
    whole = f'Hm {text} {{"actions": []}}'
    size = len(whole.encode("utf-8", "surrogatepass"))
    assert parse_object(whole, EXPECTED, max_bytes=size, max_depth=4) == {"actions": []}
    with pytest.raises(tl.ReplyError, match=rf"longer than response_max_bytes \({size - 1}\)"):
        parse_object(whole, EXPECTED, max_bytes=size - 1, max_depth=4)


@pytest.mark.parametrize("form", ["{}", "Sure: {}", "Sure: {} ,]", "{{'actions': {}, }}", '"{}"'])
@pytest.mark.parametrize("depth", [2, 5, 16])
def test_the_depth_is_capped_on_every_rung(form, depth):
    """Strict, wrapped, mended or in a string: as deep as allowed is read, one level more is refused."""
    inner = "[" * (depth - 1) + "]" * (depth - 1)
    mends = "'" in form

    def text(inside):
        return (
            form.format(inside)
            if mends
            else form.format(f'{{"actions": {inside}}}' if '"' not in form else f'{{\\"actions\\": {inside}}}')
        )

    assert parse_object(text(inner), EXPECTED, max_bytes=1_000, max_depth=depth)["actions"] is not None
    with pytest.raises(tl.ReplyError, match="deeper than response_max_depth"):
        parse_object(text(f"[{inner}]"), EXPECTED, max_bytes=1_000, max_depth=depth)


def test_the_error_shows_the_offending_place():
    """The excerpt is where strict JSON failed, not the beginning; too deep a reply shows its brackets."""
    with pytest.raises(tl.ReplyError) as caught:
        parse('{"actions": [{"type": "TALK", "content": "' + "and so on " * 800 + '", "target": here}]}')
    assert '"target": here' in caught.value.excerpt
    with pytest.raises(tl.ReplyError) as caught:
        parse('{"thoughts": "' + "and so on " * 300 + '", "actions": ' + "[" * 40 + "]" * 40 + "}")
    assert "[" * 17 in caught.value.excerpt


# ---------------------------------------------------------------------- whatever comes


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(
            st.sampled_from(
                ['{"actions":', "[", "]", "{", "}", '"', "'", ",", ":", "\\", "a", "1", "\ud800", "//", "True"]
            ),
            max_size=40,
        ).map("".join),
    )
)
def test_any_text_gives_an_object_with_an_expected_key_or_a_reply_error(text):
    """Nothing else is ever raised, nothing else ever returned, and what is returned can be written as UTF-8."""
    try:
        found = parse(text)
    except tl.ReplyError:
        return
    assert set(EXPECTED) & found.keys()
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=200, deadline=None)
@given(TURNS, st.text(max_size=60).filter(lambda text: "action" not in text), st.text(max_size=60), st.booleans())
def test_an_object_is_found_whatever_stands_around_it(turn, before, after, fenced):
    """Prose of any characters before, prose without objects after, fences or none: the object comes out unchanged."""
    written = json.dumps(turn, ensure_ascii=not fenced)
    after = after.replace("{", "").replace("}", "")
    assert parse(f"{before}\n```json\n{written}\n```{after}" if fenced else f"{before} {written} {after}") == turn


@settings(max_examples=300, deadline=None)
@given(TURNS, DAMAGE)
def test_nothing_is_invented(turn, damage):
    """However a reply is damaged, each text that comes out stands in it, but for quotes, commas, backslashes and blanks."""
    text = json.dumps(turn, ensure_ascii=False).replace("\\n", " ")
    for place, length, piece in damage:
        place = place % (len(text) + 1)
        text = text[:place] + piece + text[place + length :]
    try:
        found = parse(text)
    except tl.ReplyError:
        return
    given_text = plain(text)
    assert all(plain(each) in given_text for each in texts_in(found))


@settings(max_examples=200, deadline=None)
@given(TURNS, st.integers(1, 400), st.sampled_from(["", "\n", "\n```", "…", " (cut)"]))
def test_a_reply_that_breaks_off_is_never_taken_for_a_whole_one(turn, missing, tail):
    """Every beginning of a reply is refused, but for one that lacks the last brace alone.

    Where it breaks off within a text at what looks like the reply's end, nobody can tell it from one that lacks a quote.
    """
    assume(not any("]" in text for text in texts_in(turn)))
    written = json.dumps(turn)
    beginning = written[: max(1, len(written) - missing)]
    try:
        whole = json.loads(beginning + "}")
    except ValueError:
        with pytest.raises(tl.ReplyError):
            parse(beginning + tail)
        return
    try:
        assert parse(beginning + tail) == whole
    except tl.ReplyError:
        assert tail not in ("", "\n", "\n```") or not beginning.endswith(("]", "}"))


def test_attacks_and_broken_replies_end_in_an_object_or_a_reply_error():
    """Texts made to be slow or to confuse, up to 64 KB, and replies broken at random: no other exception, no other value."""
    for text in [*islice(attacks(), 0, None, 7), *islice(mutations(3), 500), reply()]:
        try:
            found = parse(text)
        except tl.ReplyError:
            continue
        assert set(EXPECTED) & found.keys()
