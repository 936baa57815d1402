"""What the transcript's search looks for, which rows match, and how they are marked.

A standing query keeps the numbers of the rows that match, and looks at new rows only; the rows themselves stay in the recorder.
`matching` is pure and may be called on any thread; a `Found` belongs to whoever made it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troupelab.dashboard.look import isolated, plain

__all__ = ["PAGE_ROWS", "Found", "Query", "marked", "matching"]

PAGE_ROWS = 200
MAX_WORDS = 20
_AT_ONCE = 4096
"""Rows that are looked at before it is asked whether anybody still wants to know."""


@dataclass(frozen=True)
class Query:
    """What is looked for; what is empty looks for everything.

    Args:
        words: all must occur in what was said; case does not matter, and nothing in them has a special meaning.
        agents: their indexes.
        action: the kind of action.
        first: the first step.
        last: the last step; None has no end.
    """

    words: tuple[str, ...] = ()
    agents: tuple[int, ...] = ()
    action: str = ""
    first: int = 0
    last: int | None = None

    @staticmethod
    def words_of(typed: str) -> tuple[str, ...]:
        """The words of what somebody typed.

        >>> Query.words_of("  The price, the PRICE ")
        ('the', 'price,', 'price')
        """
        return tuple(dict.fromkeys(typed.casefold().split()))[:MAX_WORDS]

    def as_code(self, names: Sequence[str]) -> str:
        r"""The same in Python, for a run called `run`.

        >>> Query(("lamp",), (0,), "TALK", 2, 5).as_code(["Ann"])
        'run.transcript().query("step >= 2 and step <= 5 and agent in [\'Ann\'] and action == \'TALK\' and content.str.casefold().str.contains(\'lamp\', regex=False)", engine="python")'
        """
        parts = [f"step >= {self.first}"] if self.first else []
        parts += [f"step <= {self.last}"] if self.last is not None else []
        parts += [f"agent in {[names[agent] for agent in self.agents]!r}"] if self.agents else []
        parts += [f"action == {self.action!r}"] if self.action else []
        parts += [f"content.str.casefold().str.contains({word!r}, regex=False)" for word in self.words]
        if not parts:
            return "run.transcript()"
        asked = " and ".join(parts)
        quoted = f'"{asked}"' if '"' not in asked and "\\" not in asked else repr(asked)
        return f'run.transcript().query({quoted}, engine="python")'


def matching(
    query: Query, columns: Mapping[str, NDArray[Any]], wanted: Callable[[], bool] = lambda: True
) -> NDArray[np.int64] | None:
    """The places of the rows that match, in their order; None where it is no longer `wanted`.

    >>> rows = {"step": np.array([0, 0, 1]), "agent": np.array([0, 1, 0]),
    ...         "action": np.array(["TALK", "DONE", "TALK"], dtype=object),
    ...         "content": np.array(["A lamp.", "", "No."], dtype=object)}
    >>> matching(Query(("LAMP".casefold(),)), rows).tolist(), matching(Query(), rows).tolist()
    ([0], [0, 2])
    """
    action, step = columns["action"], columns["step"]
    fits = (action == query.action) if query.action else (action != "DONE")
    fits = fits.astype(bool) & (step >= query.first)
    if query.last is not None:
        fits &= step <= query.last
    if query.agents:
        fits &= np.isin(columns["agent"], query.agents)
    places = np.flatnonzero(fits)
    if not query.words:
        return places
    content, kept = columns["content"], []
    for start in range(0, len(places), _AT_ONCE):
        if not wanted():
            return None
        for place in places[start : start + _AT_ONCE].tolist():
            said = content[place].casefold()
            if all(word in said for word in query.words):
                kept.append(place)
    return np.array(kept, dtype=np.int64)


@dataclass
class Found:
    """Which rows match a standing query, as far as it has been looked, and which page of them is shown.

    `next` is the number of the first row that was not looked at; `before` the number of a row, older than which all of the page is, None
    for the newest page.
    """

    query: Query
    next: int = 0
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    before: int | None = None

    def add(self, start: int, end: int, places: NDArray[np.int64]) -> None:
        """Rows `start` to `end - 1` were looked at, and those at some places match."""
        self.rows = np.concatenate([self.rows, places + start])
        self.next = end

    def forget(self, oldest: int) -> None:
        """Rows before `oldest` are gone."""
        if len(self.rows) and self.rows[0] < oldest:
            self.rows = self.rows[np.searchsorted(self.rows, oldest) :]

    def _end(self) -> int:
        if self.before is None:
            return len(self.rows)
        end = int(np.searchsorted(self.rows, self.before))
        return (
            end if end else min(PAGE_ROWS, len(self.rows))
        )  # the page's rows have left the recorder: the oldest ones then

    def span(self) -> tuple[int, int]:
        """From which place to before which place in `rows` the page goes."""
        end = self._end()
        return max(0, end - PAGE_ROWS), end

    def page(self) -> NDArray[np.int64]:
        """The numbers of the page's rows."""
        start, end = self.span()
        return self.rows[start:end]

    def stay(self) -> None:
        """Stay at the rows that are shown now, whatever comes."""
        if self.before is None:
            self.before = self.next

    def older(self) -> None:
        """Turn to the page of older rows, where there is one."""
        start, _ = self.span()
        if start:
            self.before = int(self.rows[start])

    def newer(self) -> None:
        """Turn to the page of newer rows, where there is one."""
        end = min(self._end() + PAGE_ROWS, len(self.rows))
        self.before = self.next if end == len(self.rows) else int(self.rows[end])


def _folded(text: str) -> tuple[str, list[int]]:
    """A text without case, and for each of its letters the place in the text that it comes from."""
    parts = [letter.casefold() for letter in text]
    return "".join(parts), [place for place, part in enumerate(parts) for _ in part]


def marked(text: str, words: Sequence[str], limit: int = 400) -> str:
    """A text as HTML, with the words marked; of a long one the part where the first of them stands.

    >>> marked("Is the <b>LAMP</b> dear?", ["lamp"])
    'Is the &lt;b&gt;<mark>LAMP</mark>&lt;/b&gt; dear?'
    """
    if words and len(text) > limit:
        first = min((place for word in words if (place := text.casefold().find(word)) >= 0), default=0)
        if first > limit // 2:
            text = "…" + text[max(0, first - limit // 4) :]
    shown = plain(text, limit)
    folded, places = _folded(shown)
    inside = bytearray(len(shown))
    for word in words:
        at = folded.find(word)
        while at >= 0:
            first, last = places[at], places[at + len(word) - 1]
            inside[first : last + 1] = b"\x01" * (last + 1 - first)
            at = folded.find(word, at + len(word))
    parts, start = [], 0
    for place in range(1, len(shown) + 1):
        if place == len(shown) or inside[place] != inside[start]:
            piece = html.escape(shown[start:place])
            parts.append(f"<mark>{piece}</mark>" if inside[start] else piece)
            start = place
    whole = "".join(parts)
    return isolated(whole)
