"""Sentences and words: how the rest of this wing takes a text apart.

An analysis is pure and cached (bounded), because in a conversation every hearer remembers the same text and would take
it apart again. Any thread may call it.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

__all__ = ["STOP", "Sentence", "analyse", "content_words"]

_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*\s+|\n+")
_WORD = re.compile(r"\d+(?:[.,:/-]\d+)*%?|[^\W\d_]+(?:['’-][^\W\d_]+)*")
_CACHED_CHARS = 2_000

STOP = frozenset(
    "a about above after again all also am an and any are as at be because been before being below between both but by can "
    "could did do does doing don down during each even every few for from further get got had has have having he her here hers "
    "him his how i if in into is it its it's just know let like made make many may me might more most much must my no nor not now "
    "of off on once one only or other our out over own really said same say says see she should since so some still such than "
    "that that's the their them then there these they thing things think this those through to too under until up us very was "
    "way we well were what when where which while who whom whose why will with would yes yet you your i'm i'd i'll i've don't "
    "can't you're without within between beside against across along among around toward upon instead".split()
)
"""Words that say how, not what. English only: in other languages all words count, which costs precision, not facts."""

_NAMES_TOO = frozenset({"May", "Will"})


class Sentence(msgspec.Struct, frozen=True, gc=False):
    """A sentence, the different words in it that say what it is about, and the facts that must not be lost.

    Tuples, not sets: thousands are kept, and the garbage collector need not look at any of them.
    """

    text: str
    words: tuple[str, ...]
    facts: tuple[str, ...]


def content_words(text: str) -> list[str]:
    """The words of a text that say what it is about, in lower case and in their order.

    >>> content_words("Would you buy the lamp for 79 euros?")
    ['buy', 'lamp', '79', 'euros']
    """
    return _telling(_WORD.findall(text.lower()))


def _telling(lower: list[str]) -> list[str]:
    return [word for word in lower if word not in STOP and (len(word) > 2 or word[0].isdigit())]


def _facts(words: list[str]) -> tuple[str, ...]:
    """Numbers, and names: words with a capital letter that do not merely begin the sentence."""
    found = [word for word in words if word[0].isdigit()]
    found += [word for word in words[1:] if word[0].isupper() and (word.lower() not in STOP or word in _NAMES_TOO)]
    if words and len(words[0]) > 1 and words[0].isupper():
        found.append(words[0])
    return tuple(dict.fromkeys(found))


def _analyse(text: str) -> tuple[Sentence, ...]:
    sentences = []
    start = 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
        part = text[start:end].strip()
        start = end
        words = _WORD.findall(part)
        if words:
            meaning = _telling([word.lower() for word in words])
            sentences.append(Sentence(part, tuple(dict.fromkeys(meaning)), _facts(words)))
    return tuple(sentences)


_analyse_cached = lru_cache(maxsize=4_096)(_analyse)


def analyse(text: str) -> tuple[Sentence, ...]:
    """Take a text apart into sentences with their content words and facts (numbers and names).

    >>> [sorted(sentence.facts) for sentence in analyse("It costs 79 euros. We asked Elif Aydın.")]
    [['79'], ['Aydın', 'Elif']]
    """
    return _analyse_cached(text) if len(text) <= _CACHED_CHARS else _analyse(text)
