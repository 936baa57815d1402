"""Sentences and words: how the rest of this wing takes a text apart.

An analysis is pure and cached (bounded), because in a conversation every hearer remembers the same text and would take
it apart again. Any thread may call it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import msgspec

__all__ = ["STOP", "Sentence", "analyse", "content_words"]

# One class of characters to begin with, which the regex engine looks for much faster than for one of two beginnings.
_SENTENCE_END = re.compile(r"[.!?…。！？\n](?:(?<=\n)\n*|(?<!\n)[\"'”’)\]]*\s+)")
_ANY_WORD = re.compile(r"\d+(?:[.,:/-]\d+)*%?|[^\W\d_]+(?:['’-][^\W\d_]+)*")
# The same for Latin letters, spelt out, which takes two thirds of the time; `_BEYOND` finds what it does not know.
_LATIN = r"A-Za-z\u00aa\u00b2\u00b3\u00b5\u00b9\u00ba\u00bc-\u00be\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_LATIN_WORD = re.compile(rf"[{_LATIN}]+(?:['’-][{_LATIN}]+)*|[0-9]+(?:[.,:/-][0-9]+)*%?")
_BEYOND = re.compile(r"[^\x00-\u024f\u2000-\u2063]")
# Before a full stop: a list's number at the sentence's beginning or after a comma, or an abbreviation.
_NO_END = re.compile(r"(?:(?:^|[,;:(])\s*\(?\d{1,3}|\b(?:dr|mr|mrs|ms|st|vs|prof|approx|e\.g|i\.e))$", re.IGNORECASE)
_LOOK_BACK = 12
_ANSWERS = frozenset("yes yeah yep no nope never maybe perhaps absolutely definitely certainly exactly sure".split())
_LONGEST_ANSWER = 12
_CACHED_CHARS = 2_000
_KNOWN_WORDS = 16_384

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


_NUMBER, _NAME = 1, 2


class _Words(dict[str, tuple[str, int, str]]):
    """What is known of each word that was met.

    What it means (in lower case; nothing for a stop word), whether it is a number or like a name, and the word itself, so that
    analyses share one copy of it.
    """

    def __missing__(self, word: str) -> tuple[str, int, str]:
        if len(self) >= _KNOWN_WORDS:
            self.clear()  # seldom, and words are quickly met again
        lower, digit = word.lower(), word[0].isdigit()
        meaning = lower if lower not in STOP and (len(lower) > 2 or digit) else ""
        name = word[0].isupper() and (lower not in STOP or word in _NAMES_TOO)
        known = self[word] = (word if meaning == word else meaning, _NUMBER if digit else _NAME if name else 0, word)
        return known


_words = _Words()


def _word_finder(text: str) -> Callable[[str], list[str]]:
    return _LATIN_WORD.findall if text.isascii() or not _BEYOND.search(text) else _ANY_WORD.findall


def content_words(text: str) -> list[str]:
    """The words of a text that say what it is about, in lower case and in their order.

    >>> content_words("Would you buy the lamp for 79 euros?")
    ['buy', 'lamp', '79', 'euros']
    """
    return [meaning for word in _word_finder(text)(text.lower()) if (meaning := _words[word][0])]


def _facts(known: list[tuple[str, int, str]]) -> tuple[str, ...]:
    """Numbers, and names: words with a capital letter that do not merely begin the sentence, or follow its bare answer."""
    marked = [(kind, place) for place, (_, kind, _) in enumerate(known) if kind]
    begins = 1 if len(known) > 1 and known[0][2].lower() in _ANSWERS else 0
    if not marked and not known[0][2].isupper():
        return ()
    found = [known[place][2] for kind, place in marked if kind == _NUMBER]
    found += [known[place][2] for kind, place in marked if kind == _NAME and place > begins]
    found += [word for _, _, word in known[: begins + 1] if len(word) > 1 and word.isupper()]
    return tuple(dict.fromkeys(found))


def _ends(text: str) -> list[int]:
    """Where sentences end; the full stop of "Dr." or of a list's "2." is no end, and a bare "No." belongs to what follows."""
    ends: list[int] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        at = match.start()
        if text[at] == "." and _NO_END.search(text[max(start, at - _LOOK_BACK) : at]):
            continue
        if text[at] != "\n" and at - start <= _LONGEST_ANSWER and text[start:at].strip().lower() in _ANSWERS:
            continue
        start = match.end()
        ends.append(start)
    return [*ends, len(text)]


def _analyse(text: str) -> tuple[Sentence, ...]:
    sentences = []
    start = 0
    words_of = _word_finder(text)
    for end in _ends(text):
        part = text[start:end].strip()
        start = end
        words = words_of(part)
        if words:
            known = [_words[word] for word in words]
            meaning = tuple(dict.fromkeys([word for word, _, _ in known if word]))
            if not meaning and len(words) == 1 and words[0].lower() in _ANSWERS:
                meaning = (words[0].lower(),)
            sentences.append(Sentence(part, meaning, _facts(known)))
    return tuple(sentences)


_analyse_cached = lru_cache(maxsize=1_024)(_analyse)  # some 2 kB each


def analyse(text: str) -> tuple[Sentence, ...]:
    """Take a text apart into sentences with their content words and facts (numbers and names).

    >>> [sorted(sentence.facts) for sentence in analyse("It costs 79 euros. We asked Elif Aydın.")]
    [['79'], ['Aydın', 'Elif']]
    """
    return _analyse_cached(text) if len(text) <= _CACHED_CHARS else _analyse(text)
