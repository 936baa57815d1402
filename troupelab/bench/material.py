"""Material for benchmarks: made-up talk of a wanted length, the same for the same seed.

The words come from the shipped personas, one after another as they follow each other there (a Markov chain over pairs of words), with
numbers strewn in: compresses like talk, and hardly ever repeats. Pure; any thread may call it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from troupelab.people.persona import Persona

__all__ = ["talk"]

_NUMBER_EVERY = 25


@lru_cache(maxsize=1)
def _followers() -> dict[str, list[str]]:
    followers: dict[str, list[str]] = {}
    for name in Persona.names():
        words = "".join(
            letter if letter.isalpha() or letter in " '.," else " " for letter in Persona.load(name).to_json()
        ).split()
        for one, other in pairwise(words):
            followers.setdefault(one, []).append(other)
    return followers


def talk(seed: int, chars: int = 300) -> Iterator[str]:
    """Texts of exactly `chars` characters, without end.

    >>> one, other = talk(7), talk(7)
    >>> next(one) == next(other), len(next(one))
    (True, 300)
    """
    rng = random.Random(seed)  # noqa: S311  nothing secret
    followers = _followers()
    starts = list(followers)
    word = starts[0]
    while True:
        words: list[str] = []
        length = 0
        while length < chars:
            following = followers.get(word)
            word = rng.choice(following) if following else rng.choice(starts)
            said = str(rng.randrange(1_000)) if rng.randrange(_NUMBER_EVERY) == 0 else word
            words.append(said)
            length += len(said) + 1
        yield " ".join(words)[:chars]
