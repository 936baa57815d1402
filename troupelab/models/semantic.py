"""The semantic cache: a question that is like one that was answered before gets that answer, if the user wants it so.

Of a question, the scope must be equal (a number that stands for all that must: model, persona, temperature, purpose),
and only the gist may be worded otherwise: as near as `cache_similarity` says, with no other number, name or negation in
it (see `troupelab.text.similar.may_merge`), and, where it is long, with the same content words. Some of the hits are
put to the model all the same, in the shadow, so that how often a kept answer is another than the model's is counted and
not assumed.

It owns the kept answers, in RAM; one thread, that of the engine's loop.
"""

from __future__ import annotations

import math
import re
import sys
from array import array
from collections import deque
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from troupelab.ids import uniform
from troupelab.models.model import Reply
from troupelab.text.embed import Embedder, Vectors, same_topic
from troupelab.text.similar import may_merge
from troupelab.text.words import content_words

__all__ = ["Hit", "SemanticCache", "SemanticStats"]

_FIRST_ROWS = 64
_ROW_BYTES = 4
_ENTRY_BYTES = 900
"""What an entry takes beside its texts and its vector, with its share of the tables and a scope for itself alone."""
_MARGIN = 1e-4  # float32 sums may be so far off
_MOST_CHARS = 10_000
_COMPARED_CHARS = 50
"""So many characters are compared word by word, the nearest first, and each text counts for some more: the loop waits
for it, up to 10 ms where that many are near."""
_Z_95 = 1.959964

_FEW_WORDS = 8
_STEM_LETTERS = 5
_POLITE = frozenset("thanks thank please well okay sure hello hey dear sorry".split())

_DIGITS = re.compile(r"\d+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_GROUPS = re.compile(r",(?=\d{3}(?!\d))")
_VERDICT = re.compile(r"\W*(?:(yes|yeah|yep|sí)|(no|nope|nah)|(maybe|perhaps))(?=\s*(?:[^\w\s'’]|$))", re.IGNORECASE)


class Hit(NamedTuple):
    """A kept answer, the cosine between the two questions (rounded to 1e-5), and the question that it was given to."""

    reply: Reply
    similarity: float
    gist: str


class SemanticStats(NamedTuple):
    """What was asked and found, and of the hits that were checked, how many were false, with the bounds of that rate.

    The bounds are Wilson's (1927), for 95 %: from 0 to 1 before the first check, when the rate itself is NaN.
    """

    lookups: int
    hits: int
    shadows: int
    false_hits: int
    false_hit_rate: float
    false_hit_rate_low: float
    false_hit_rate_high: float


class _Entry(msgspec.Struct, gc=False):
    scope: int
    gist: str
    reply: Reply
    row: int
    size_bytes: int


class _Shelf:
    """What is kept of one scope, in the order in which it came."""

    __slots__ = ("by_gist", "digits", "rows")

    def __init__(self) -> None:
        self.by_gist: dict[str, _Entry] = {}
        self.rows = array("q")
        self.digits = array("Q")


class SemanticCache:
    """Answers to questions, found by how near another question is.

    Args:
        embedder: gives the vectors that are compared.
        capacity: how many answers are kept; the oldest goes when one more comes. Fewer are kept where their vectors
            would take more than half of `max_bytes`.
        max_bytes: how much RAM the answers, questions and vectors may take.
        shadow_fraction: the share of hits that `wants_shadow` picks.
        seed: another seed picks others.

    Raises:
        ValueError: an argument is out of its range.

    >>> from troupelab.text.embed import HashingEmbedder
    >>> cache = SemanticCache(HashingEmbedder())
    >>> cache.put(1, "Would you buy the lamp for 79 euros?", Reply("Yes.", 9, 1, 0.0, "m"))
    >>> cache.find(1, "would you buy the lamp for 79 euros", 0.9) is None  # a question and a statement
    True
    >>> cache.find(1, "Would you buy the lamp, for 79 euros?", 0.9).reply.text
    'Yes.'
    >>> cache.find(1, "Would you buy the lamp for 97 euros?", 0.8)
    >>> cache.find(2, "Would you buy the lamp for 79 euros?", 0.8)
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        capacity: int = 4_096,
        max_bytes: int = 32_000_000,
        shadow_fraction: float = 0.05,
        seed: int = 0,
    ) -> None:
        vector_bytes = _ROW_BYTES * embedder.dims
        if capacity < 1 or max_bytes < 2 * (vector_bytes + _ENTRY_BYTES) or not 0 <= shadow_fraction <= 1:
            raise ValueError(
                f"expected capacity >= 1, max_bytes >= {2 * (vector_bytes + _ENTRY_BYTES)} and "
                f"shadow_fraction from 0 to 1, not {capacity}, {max_bytes} and {shadow_fraction}"
            )
        self._embedder = embedder
        self._capacity = min(capacity, max_bytes // (2 * vector_bytes))
        self._max_bytes = max_bytes
        self._shadow_fraction = shadow_fraction
        self._seed = seed
        self._vectors: Vectors = np.zeros((0, embedder.dims), dtype=np.float32)
        self._in_row: list[_Entry | None] = []
        self._free: list[int] = []
        self._oldest: deque[_Entry] = deque()
        self._shelves: dict[int, _Shelf] = {}
        self._entry_bytes = 0
        self._lookups = self._hits = self._shadows = self._false_hits = 0

    def __len__(self) -> int:
        """How many answers are kept."""
        return len(self._oldest)

    @property
    def ram_bytes(self) -> int:
        """What the kept answers take, at most; never above `max_bytes`."""
        return self._entry_bytes + self._vectors.nbytes

    def find(self, scope: int, gist: str, similarity: float) -> Hit | None:
        """The kept answer to the nearest question that may be taken for this one.

        The very same text comes first, then the higher cosine, then what was kept earlier. A gist without words is like
        no other. Questions with other digits are passed over; the nearest of all others, up to 10,000 characters
        together, are compared word by word. Longer ones are found by the very same text alone.

        Args:
            scope: stands for all that must be equal.
            gist: what may be worded otherwise.
            similarity: the least cosine, above 0 and up to 1.

        Raises:
            ValueError: `similarity` is out of its range.
        """
        if not 0 < similarity <= 1:
            raise ValueError(f"expected a similarity above 0 and up to 1, not {similarity}")
        self._lookups += 1
        shelf = self._shelves.get(scope)
        hit = None if shelf is None else self._nearest(shelf, gist, similarity)
        self._hits += hit is not None
        return hit

    def put(self, scope: int, gist: str, reply: Reply) -> None:
        """Keep an answer; the oldest ones go where there is no room.

        A question that has an answer in this scope keeps the one it has, and what would take more than a quarter of
        `max_bytes` is not kept.
        """
        size_bytes = _ENTRY_BYTES + sys.getsizeof(gist) + sys.getsizeof(reply.text)
        shelf = self._shelves.get(scope)
        if size_bytes > self._max_bytes // 4 or (shelf is not None and gist in shelf.by_gist):
            return
        vector, digits = self._vector(gist), _digits(gist)
        if vector is None:
            return
        if len(self) == self._capacity:
            self._drop_oldest()
        row = self._free_row()
        while self.ram_bytes + size_bytes > self._max_bytes:
            self._drop_oldest()
        entry = _Entry(scope, gist, reply, row, size_bytes)
        self._vectors[row] = vector
        self._in_row[row] = entry
        shelf = self._shelves.setdefault(scope, _Shelf())  # the one before may have gone with its last entry
        shelf.by_gist[gist] = entry
        shelf.rows.append(row)
        shelf.digits.append(digits)
        self._oldest.append(entry)
        self._entry_bytes += size_bytes

    def wants_shadow(self, key: int) -> bool:
        """Whether the hit for this request is to be checked: drawn by the key alone, whatever came before it.

        >>> from troupelab.text.embed import HashingEmbedder
        >>> cache = SemanticCache(HashingEmbedder(), shadow_fraction=0.25)
        >>> sum(cache.wants_shadow(key) for key in range(1_000))
        257
        """
        return uniform(self._seed, "semantic shadow", call=key) < self._shadow_fraction

    def judge(self, kept: str, fresh: str) -> bool:
        """Whether two replies answer differently, as far as words tell; nothing is counted.

        Of a JSON reply all texts and numbers in it are compared, whatever they belong to; of any other, the text. Two
        replies differ

        - where they speak of different things: their cosine is below the embedder's `same_topic`,
        - where both begin a text with a bare verdict (yes, no, maybe), and none with the same one,
        - where both name numbers, and none that both name.

        This tells an answer to another question, another verdict, another price; it does not tell a finer difference in
        opinion. And a model that samples does not give the same answer twice: what this says of two fresh replies to
        one and the same request is the rate to compare a false-hit rate with.
        """
        if kept == fresh:
            return False
        mine, theirs = _said(kept), _said(fresh)
        if _apart(_verdicts(mine), _verdicts(theirs)) or _apart(_numbers(mine), _numbers(theirs)):
            return True
        one, other = " ".join(mine), " ".join(theirs)
        if one == other:
            return False
        vectors = self._embedder.embed([one, other])
        return not float(np.vecdot(vectors[0], vectors[1])) >= same_topic(self._embedder)

    async def prepare(self, kept: str, fresh: str) -> None:
        """Have at hand what `check` compares of two replies, where the embedder fetches vectors from elsewhere.

        Raises:
            ModelError: it cannot be had.
        """
        if (prepare := getattr(self._embedder, "prepare", None)) is not None:
            await prepare([" ".join(_said(kept)), " ".join(_said(fresh))])

    def check(self, kept: str, fresh: str) -> bool:
        """Count a shadow check: whether the kept reply was false (see `judge`), given what the model says now."""
        false_hit = self.judge(kept, fresh)
        self._shadows += 1
        self._false_hits += false_hit
        return false_hit

    def stats(self) -> SemanticStats:
        """What was asked, found and checked so far."""
        rate = self._false_hits / self._shadows if self._shadows else math.nan
        bounds = _wilson(self._false_hits, self._shadows)
        return SemanticStats(self._lookups, self._hits, self._shadows, self._false_hits, rate, *bounds)

    def _nearest(self, shelf: _Shelf, gist: str, similarity: float) -> Hit | None:
        same = shelf.by_gist.get(gist)
        if same is not None:
            return Hit(same.reply, 1.0, gist)
        vector = self._vector(gist)
        if vector is None:
            return None
        rows = np.frombuffer(shelf.rows, dtype=np.int64)
        cosines = self._cosines(rows, vector)
        near = (cosines >= similarity - _MARGIN).nonzero()[0]
        if near.size:
            near = near[np.frombuffer(shelf.digits, dtype=np.uint64)[near] == _digits(gist)]
        exact = np.minimum(cosines[near].astype(np.float64).round(5), 1.0)
        left = _MOST_CHARS
        for place in np.argsort(-exact, kind="stable").tolist():
            entry = self._in_row[rows[near[place]]]
            if entry is None or exact[place] < similarity:
                break
            left -= _COMPARED_CHARS + max(len(gist), len(entry.gist))
            if left < 0:
                break
            if _same_question(gist, entry.gist):
                return Hit(entry.reply, float(exact[place]), entry.gist)
        return None

    def _vector(self, gist: str) -> NDArray[np.float32] | None:
        """A question's vector; without one (an embedder may be anybody's) it is found by the very same text alone."""
        try:
            vector: NDArray[np.float32] = self._embedder.embed([gist])[0]
        except Exception:
            return None
        return vector

    def _cosines(self, rows: NDArray[np.int64], vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """The cosine of each of these rows, in their order; no matrix product, since that would wake BLAS's threads."""
        few = 4 * len(rows) < len(self._in_row)  # otherwise all are compared where they lie: moving takes longer
        among = self._vectors[rows] if few else self._vectors[: len(self._in_row)]
        cosines: NDArray[np.float32] = np.vecdot(among, vector)
        return cosines if few else cosines[rows]

    def _free_row(self) -> int:
        if self._free:
            return self._free.pop()
        row = len(self._in_row)
        if row == len(self._vectors):
            grown = np.zeros((min(self._capacity, max(_FIRST_ROWS, 2 * row)), self._embedder.dims), dtype=np.float32)
            grown[:row] = self._vectors
            self._vectors = grown
        self._in_row.append(None)
        return row

    def _drop_oldest(self) -> None:
        entry = self._oldest.popleft()
        shelf = self._shelves[entry.scope]
        del shelf.by_gist[entry.gist], shelf.rows[0], shelf.digits[0]  # the oldest of all is the oldest of its scope
        if not shelf.rows:
            del self._shelves[entry.scope]
        self._in_row[entry.row] = None
        self._free.append(entry.row)
        self._entry_bytes -= entry.size_bytes


def _same_question(one: str, other: str) -> bool:
    """Whether two questions that sound alike may have one answer.

    `may_merge` lets a long text have one word more than the other, for which a record may go and an answer may not: at
    a cosine of 0.93 it took 99.9 % of 1,123 real texts for the same with an adjective put into them.
    """
    if not may_merge(one, other):
        return False
    mine, theirs = _stems(one), _stems(other)
    return max(len(mine), len(theirs)) <= _FEW_WORDS or mine == theirs


def _digits(text: str) -> int:
    """A number for the digits in a text and their order: "1,000" and "1000" are one, "2" and "two" are not."""
    return xxhash.xxh3_64_intdigest("".join(_DIGITS.findall(text)).encode())


def _stems(text: str) -> list[str]:
    return [word[:_STEM_LETTERS] for word in content_words(text) if word not in _POLITE]


def _said(text: str) -> list[str]:
    """The texts and numbers in a JSON reply, in their order; of any other reply, all of it."""
    try:
        left: list[Any] = [orjson.loads(text)]
    except orjson.JSONDecodeError:
        return [text]
    found = []
    while left:
        value = left.pop()
        if isinstance(value, dict | list):
            left += reversed(list(value.values()) if isinstance(value, dict) else value)
        elif value is not None and value != "":
            found.append(str(value))
    return found


def _numbers(said: list[str]) -> set[str]:
    return {_GROUPS.sub("", number) for text in said for number in _NUMBER.findall(text)}


def _verdicts(said: list[str]) -> set[int]:
    """Which of yes, no and maybe the texts begin with."""
    return {found.lastindex or 0 for text in said if (found := _VERDICT.match(text))}


def _apart(mine: set[Any], theirs: set[Any]) -> bool:
    return bool(mine) and bool(theirs) and mine.isdisjoint(theirs)


def _wilson(found: int, of: int) -> tuple[float, float]:
    """Wilson's interval (95 %) for a share."""
    if not of:
        return 0.0, 1.0
    share, squared = found / of, _Z_95 * _Z_95
    middle = (share + squared / (2 * of)) / (1 + squared / of)
    half = _Z_95 * math.sqrt(share * (1 - share) / of + squared / (4 * of * of)) / (1 + squared / of)
    return max(0.0, middle - half), min(1.0, middle + half)
