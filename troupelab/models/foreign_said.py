"""What a prompt says: its telling sentences, what people in it said aloud, and the elements that it lists to be sorted.

The scripted model fills forms with these where the prompt is not laid out like ours. Pure; any thread may call it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from troupelab.models.character import words_in
from troupelab.models.foreign_persona import texts
from troupelab.models.model import ChatMessage
from troupelab.text.words import analyse

__all__ = ["grouped", "matched", "sentences"]

_TAIL = 4_000
_MOST_SAID = 8
_MOST_ELEMENTS = 500
_NOTHING = "There is not much to say about it."
_TALKED = re.compile(r"acts: \[TALK\] ?\n((?:[ \t]{0,40}> [^\n]{0,500}\n?){1,40})")
_MARGIN = re.compile(r"^[ \t]{0,40}> ", re.MULTILINE)
_NO_SENTENCE = re.compile(r"[{}\[\]<>|#*_`\\]|\":|^[-\"']")
_INPUT, _GROUPS = "INPUT ELEMENTS:", re.compile(r"UP TO (\d{1,4}) ")
_CATEGORIES, _TO_MAP = "standard categories", "map the following input elements"


def sentences(messages: Sequence[ChatMessage], parameters: Sequence[Any] = ()) -> list[str]:
    """The sentences of a prompt that say most, those with most numbers and names in them first; never none.

    Args:
        messages: the prompt; of its last message by a user what was said aloud counts, where it tells of such, otherwise its end.
        parameters: what counts instead, where a function is called with something.

    >>> sentences([ChatMessage("user", "So it goes. The ferry costs 14 euros.")])
    ['The ferry costs 14 euros.', 'So it goes.']
    """
    text = " ".join(texts(list(parameters)))
    if not text:
        last = next((each.content for each in reversed(messages) if each.role == "user"), "")
        talked = _TALKED.findall(last[-50 * _TAIL :])
        text = " ".join(_MARGIN.sub("", each).replace("\n", " ").replace("[/]", " ") for each in talked) or last
    found = {each.text: each for each in analyse(text[-_TAIL:]) if 8 <= len(each.text) <= 200}
    plain = [each for each in found.values() if not _NO_SENTENCE.search(each.text)]
    best = sorted(plain, key=lambda each: (-len(each.facts), each.text))
    return [each.text for each in best[:_MOST_SAID]] or [_NOTHING]


def grouped(text: str) -> dict[str, list[str]] | None:
    r"""Elements that a prompt lists, in so many groups as it allows, by the words that they share; None where it lists none.

    >>> grouped("UP TO 2 groups. INPUT ELEMENTS:\n  - a red lamp\n  - the lamp\n  - a table")
    {'a red lamp': ['a red lamp', 'the lamp'], 'a table': ['a table']}
    """
    most, found, listed = _GROUPS.search(text[:_TAIL]), _INPUT in text, text.partition(_INPUT)[2]
    if most is None or not found:
        return None
    groups: dict[str, list[str]] = {}
    for element in _elements(listed):
        nearest = _nearest(element, [*groups])
        full = len(groups) >= max(1, int(most[1]))
        if groups and (full or words_in(element) & words_in(nearest)):
            groups[nearest].append(element)
        else:
            groups[element] = [element]
    return groups


def matched(text: str) -> list[str] | None:
    """For each element that a prompt lists the category that is nearest to it; None where it lists none to choose from."""
    before, found, after = text.partition(_TO_MAP)
    categories = _elements(before) if found and _CATEGORIES in before else []
    return [_nearest(element, categories) for element in _elements(after)] if categories else None


def _elements(text: str) -> list[str]:
    lines = (each.strip() for each in text[: 100 * _TAIL].split("\n"))
    return [html.unescape(each[2:]) for each in lines if each.startswith("- ")][:_MOST_ELEMENTS]


def _nearest(element: str, among: list[str]) -> str:
    words = words_in(element[:_TAIL])
    return max(among, key=lambda each: len(words & words_in(each[:_TAIL])), default="")
