"""Probes: facts that agents are told at known steps, and questions that should find them again.

A probe tells nothing about how good an answer would sound; it tells whether a memory still has what an answer needs, and whether the
real retrieval path finds it. No model is needed. A `neighbour` is a fact so like the probe's own that a careless memory
takes it for the answer. Immutable; any thread may use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from troupelab.errors import InputError
from troupelab.text.words import analyse, content_words

__all__ = ["MAX_PROBES", "Probe", "probe_from"]

MAX_PROBES = 1_000
_MAX_CHARS = 4_000
_MAX_WORDINGS = 20
_MAX_STEP = 1_000_000


@dataclass(frozen=True, slots=True)
class Probe:
    """A fact, when and to whom it is told, and what is asked about it.

    Args:
        name: what tables and panels call it.
        fact: what is told, word for word.
        question: what should find it.
        paraphrases: the same asked in other words, best in some that share none with the fact.
        neighbour: a like fact with another value, told to the same agents; empty for none.
        answer: what a text must contain to hold the fact, all of it, upper or lower case; empty for the fact's own numbers and names, or
            where it has none, all of its words that say what it is about.
        step: when the fact is told.
        neighbour_step: when the neighbour is.
        to: who is told, by index; None for everybody.

    Raises:
        InputError: a text is missing or too long, a step is out of range, or the neighbour holds the answer, too.

    >>> probe = Probe("ferry", "The last ferry leaves at 21:40.", "When does the boat stop for the night?", answer=("21:40",))
    >>> probe.is_held_by("Elif: the last ferry leaves at 21:40 now."), probe.shares_word(0)
    (True, False)
    """

    name: str
    fact: str
    question: str
    paraphrases: tuple[str, ...] = ()
    neighbour: str = ""
    answer: tuple[str, ...] = ()
    step: int = 0
    neighbour_step: int = 0
    to: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("name", "fact", "question", "neighbour"):
            self._check_text(field, getattr(self, field), required=field != "neighbour")
        for field in ("paraphrases", "answer"):
            values = getattr(self, field)
            if isinstance(values, str) or not isinstance(values, Sequence) or len(values) > _MAX_WORDINGS:
                raise InputError("probe", field, f"up to {_MAX_WORDINGS} texts", found=repr(values)[:80])
            for value in values:
                self._check_text(field, value, required=True)
            object.__setattr__(self, field, tuple(values))
        for field in ("step", "neighbour_step"):
            value = getattr(self, field)
            if type(value) is not int or not 0 <= value <= _MAX_STEP:
                raise InputError("probe", field, f"a whole number from 0 to {_MAX_STEP}", found=repr(value)[:80])
        if not self.answer:
            facts = [fact for sentence in analyse(self.fact) for fact in sentence.facts]
            words = facts or content_words(self.fact) or [self.fact]
            object.__setattr__(self, "answer", tuple(dict.fromkeys(words)))
        if not self.is_held_by(self.fact):
            raise InputError("probe", "answer", "texts that the fact itself contains", found=repr(self.answer)[:80])
        if self.neighbour and self.is_held_by(self.neighbour):
            raise InputError(
                "probe", "neighbour", "a fact with another value: this one holds the answer", found=self.neighbour[:80]
            )

    def _check_text(self, field: str, value: object, *, required: bool) -> None:
        if not isinstance(value, str) or len(value) > _MAX_CHARS or (required and not value.strip()):
            expected = f"a text of {1 if required else 0} to {_MAX_CHARS} characters"
            raise InputError("probe", field, expected, found=repr(value)[:80])

    @property
    def wordings(self) -> tuple[str, ...]:
        """The question, then its paraphrases."""
        return (self.question, *self.paraphrases)

    @property
    def keys(self) -> tuple[str, ...]:
        """The answer as it is compared."""
        return tuple(part.casefold() for part in self.answer)

    def is_held_by(self, text: str) -> bool:
        """Whether a text contains the answer."""
        folded = text.casefold()
        return all(part in folded for part in self.keys)

    def shares_word(self, wording: int) -> bool:
        """Whether a wording has a word in common with the fact, of those that say what a text is about."""
        return not set(content_words(self.wordings[wording])).isdisjoint(content_words(self.fact))

    def to_dict(self) -> dict[str, Any]:
        """The probe as a world file has it, but for `to`, which is written by the world."""
        return {
            "name": self.name,
            "fact": self.fact,
            "question": self.question,
            "paraphrases": list(self.paraphrases),
            "neighbour": self.neighbour,
            "answer": list(self.answer),
            "step": self.step,
            "neighbour_step": self.neighbour_step,
        }


def probe_from(raw: dict[str, Any], to: tuple[int, ...] | None) -> Probe:
    """Make a probe of what a file says of it.

    Raises:
        InputError: something in it is missing, unknown or of another type.
    """
    known = set(Probe.__dataclass_fields__) - {"to"}
    unknown = [key for key in raw if key not in known | {"to"}]
    if unknown:
        raise InputError(
            "probe", repr(unknown[0])[:80], f"one of {', '.join(sorted(known))} and to", found="an unknown field"
        )
    missing = [key for key in ("name", "fact", "question") if key not in raw]
    if missing:
        raise InputError("probe", missing[0], "a text", found="nothing")
    given = {key: raw[key] for key in known if key in raw}
    if "neighbour_step" not in given and "step" in given:
        given["neighbour_step"] = given["step"]
    return Probe(**given, to=to)
