"""Retention: what probes say about a memory, in numbers with intervals.

Recall@k is the share of questions whose fact is among the k best things that retrieval finds. Answers of one agent in one run are not independent:
the intervals of recall are percentile bootstraps over agents (Efron, 1979; 1,000 draws with a fixed seed), where there is one agent Wilson's
(1927) score interval. All at 95 %. Pure; any thread may call it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from troupelab.telemetry.recorder import Batch

__all__ = ["Retention", "Share", "interval", "retention", "share"]

_DRAWS = 1_000
_Z = 1.959964
AGE_EDGES = (0, 5, 10, 20, 40, 80, 160, 320, 640)
"""Facts are put together by age: from so many steps up to before the next."""

_TIERS = ("recent", "archive", "notes")


class Share(NamedTuple):
    """A share of `n` questions, with its 95 % interval; NaN where there were none."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return "–" if not self.n else f"{self.value:.2f} [{self.low:.2f}–{self.high:.2f}]"


class Recorded(Protocol):
    """Whatever has events in columns: a recorder."""

    def read(self, family: str, since: int = 0) -> Batch:
        """Rows of a family."""

    def count(self, family: str) -> int:
        """How many rows it ever had."""


def share(hits: NDArray[np.bool_], clusters: NDArray[np.integer]) -> Share:
    """A share and its interval, by the clusters that its observations belong to.

    >>> str(share(np.array([True, True, False, True]), np.array([0, 0, 0, 0])))
    '0.75 [0.30–0.95]'
    """
    n = len(hits)
    if not n:
        return Share(np.nan, np.nan, np.nan, 0)
    value = float(hits.mean())
    _, which = np.unique(clusters, return_inverse=True)
    groups = int(which.max()) + 1
    if groups < 2:
        middle = (value + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * np.sqrt(value * (1 - value) / n + _Z**2 / (4 * n**2))
        return Share(value, float(max(0.0, min(value, middle - half))), float(min(1.0, max(value, middle + half))), n)
    right, asked = np.bincount(which, hits), np.bincount(which)
    drawn = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), _DRAWS)
    shares = (drawn @ right) / (drawn @ asked)
    low, high = np.quantile(shares, [0.025, 0.975]).tolist()
    return Share(value, min(low, value), max(high, value), n)


# Student's t at 97.5 %, for 1, 2, … degrees of freedom; from R's qt(0.975, df).
_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
)


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean of replicates and its 95 % interval by Student's t (1908); of a single one the interval is not known: NaN.

    >>> [round(value, 3) for value in interval(np.array([0.8, 0.9, 1.0]))]
    [0.9, 0.652, 1.148]
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan, math.nan
    mean = float(known.mean())
    if len(known) == 1:
        return mean, math.nan, math.nan
    freedom = len(known) - 1
    t = _T[freedom - 1] if freedom <= len(_T) else _Z + (_Z**3 + _Z) / (4 * freedom)  # Fisher and Cornish (1960)
    half = t * float(known.std(ddof=1)) / math.sqrt(len(known))
    return mean, mean - half, mean + half


@dataclass(frozen=True, repr=False)
class Retention:
    """What is found of planted facts; made by `retention`, `Replayed.recall()` or of a run's recorder."""

    columns: Mapping[str, NDArray[Any]]
    embedder: str
    """What compared texts: figures depend on it. Empty for words alone."""
    duplicate_ratio: float
    """The share of records that said the same as an earlier one and were merged with it."""
    bytes_held: float
    """What recent records and notes of all agents take at the end."""

    @property
    def questions(self) -> int:
        """How many were asked."""
        return len(self.columns["rank"])

    @property
    def recall(self) -> Share:
        """Recall@k over all questions."""
        return self._share(self._all)

    @property
    def held(self) -> Share:
        """The share of questions whose fact is still held in some tier, found or not."""
        return self._share(self._all, self.columns["held"] != "")

    @property
    def easy(self) -> Share:
        """Recall@k of questions that share a word with their fact."""
        return self._share(self.columns["shares_word"])

    @property
    def hard(self) -> Share:
        """Recall@k of questions that share no word with their fact."""
        return self._share(~self.columns["shares_word"])

    @property
    def wrong_neighbour(self) -> Share:
        """The share of questions at which the wrong neighbour came before the fact, or without it."""
        rank, wrong = self.columns["rank"], self.columns["neighbour_rank"]
        return self._share(self._all, (wrong > 0) & ((rank == 0) | (wrong < rank)))

    @property
    def half_life_steps(self) -> float | None:
        """The age at which recall is half of what it is among the youngest facts, between two age bins in proportion; None where it never is."""
        table = self._by_age()
        if not table:
            return None
        half = table[0][1].value / 2
        for (age, before), (later, after) in pairwise(table):
            if after.value <= half < before.value:
                return float(age + (later - age) * (before.value - half) / (before.value - after.value))
        return None

    @property
    def facts_kept(self) -> int:
        """How many facts are held at the end: of each agent those that its last asking found in some tier."""
        names = np.unique(self.columns["probe"].astype(str), return_inverse=True)[1] if self.questions else np.array([])
        last: dict[tuple[int, int], bool] = {}
        for agent, name, held in zip(self.columns["agent"].tolist(), names.tolist(), self.columns["held"], strict=True):
            last[agent, name] = held != ""
        return sum(last.values())

    @property
    def bytes_per_fact(self) -> float:
        """What memories take in RAM at the end for each fact that is held; NaN where none is."""
        kept = self.facts_kept
        return self.bytes_held / kept if kept else float("nan")

    def relative_to(self, other: Retention) -> Share:
        """Recall as a share of another's over the same questions (that of unlimited memory, say); the interval is over agents, paired.

        It may be above 1: less to look through makes some facts easier to find.
        """
        ours, theirs = self.columns["rank"] > 0, other.columns["rank"] > 0
        agents = max(int(each.columns["agent"].max(initial=-1)) for each in (self, other)) + 1
        if not agents or not theirs.any():
            return Share(np.nan, np.nan, np.nan, 0)
        mine, his = (np.bincount(each.columns["agent"], hits, agents) for each, hits in ((self, ours), (other, theirs)))
        value = float(mine.sum() / his.sum())
        drawn = np.random.default_rng(0).multinomial(agents, np.full(agents, 1 / agents), _DRAWS)
        right = drawn @ his
        shares = (drawn @ mine)[right > 0] / right[right > 0]
        low, high = np.quantile(shares, [0.025, 0.975]).tolist()
        return Share(value, min(low, value), max(high, value), self.questions)

    def regret(self, unlimited: Retention) -> Share:
        """The share of questions that unlimited memory answers and this one cannot, since the fact is held nowhere any more: what was dropped and would have been found."""
        key = ("step", "agent", "probe", "wording")
        answered = {
            asked for asked, rank in zip(_rows(unlimited, key), unlimited.columns["rank"].tolist(), strict=True) if rank
        }
        lost = np.array(
            [
                held == "" and asked in answered
                for asked, held in zip(_rows(self, key), self.columns["held"], strict=True)
            ],
            dtype=bool,
        )
        return self._share(self._all, lost)

    def table(self) -> pd.DataFrame:
        """Recall by age and by the tier that holds the fact: columns by, value, recall, low, high, held, questions."""
        import pandas as pd

        rows = [("all", "", *self.recall[:3], self.held.value, self.questions)]
        age = self.columns["age_steps"]
        for low, high in zip(AGE_EDGES, (*AGE_EDGES[1:], np.inf), strict=True):
            mask = (age >= low) & (age < high)
            if mask.any():
                told = f"{low} to {int(high) - 1} steps" if np.isfinite(high) else f"{low} steps and more"
                rows.append(("age", told, *self._row(mask)))
        for tier in (*_TIERS, ""):
            mask = self.columns["held"] == tier
            if mask.any():
                rows.append(("held in", tier or "nothing", *self._row(mask)))
        for name, mask in (
            ("shared words", self.columns["shares_word"]),
            ("no shared word", ~self.columns["shares_word"]),
        ):
            if mask.any():
                rows.append(("question", name, *self._row(mask)))
        return pd.DataFrame(rows, columns=["by", "value", "recall", "low", "high", "held", "questions"])

    def _row(self, mask: NDArray[np.bool_]) -> tuple[float, float, float, float, int]:
        found = self._share(mask)
        return (found.value, found.low, found.high, float((self.columns["held"][mask] != "").mean()), found.n)

    def _by_age(self) -> list[tuple[float, Share]]:
        """The mean age of each bin that has questions, and recall there."""
        age = self.columns["age_steps"]
        bins = np.searchsorted(AGE_EDGES, age, side="right")
        return [(float(age[bins == each].mean()), self._share(bins == each)) for each in np.unique(bins).tolist()]

    @property
    def _all(self) -> NDArray[np.bool_]:
        return np.ones(self.questions, dtype=bool)

    def _share(self, mask: NDArray[np.bool_], hits: NDArray[np.bool_] | None = None) -> Share:
        hits = self.columns["rank"] > 0 if hits is None else hits
        mask = np.asarray(mask, dtype=bool)
        return share(np.asarray(hits, dtype=bool)[mask], self.columns["agent"][mask])

    def __repr__(self) -> str:
        half = self.half_life_steps
        return (
            f"<Retention: recall {self.recall} of {self.questions} questions, held {self.held.value:.2f}, half-life "
            f"{'none' if half is None else f'{half:.0f} steps'}{f', by {self.embedder}' if self.embedder else ''}>"
        )

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>{self.table().round(2).to_html(index=False, escape=True)}"


def retention(recorder: Recorded, *, embedder: str = "") -> Retention:
    """What probes found in a run, a recording or a replay.

    Args:
        recorder: its recorder.
        embedder: the name of what compared texts, to be told with the figures.

    >>> from troupelab.models.scripted import ScriptedModel
    >>> from troupelab.run import Run
    >>> run = Run("product_launch", ScriptedModel(7, latency_s=0.0), steps=10, seed=7).start().wait(60)
    >>> told = retention(run.recorder)
    >>> told.questions > 50, 0 < told.recall.low <= told.recall.value <= told.recall.high <= 1
    (True, True)
    """
    memory = recorder.read("memory").columns
    last = {agent: place for place, agent in enumerate(memory["agent"].tolist())}
    places = np.array(list(last.values()), dtype=np.intp)
    held = float(memory["recent_bytes"][places].sum() + memory["note_bytes"][places].sum()) if len(places) else 0.0
    merged = recorder.count("dedups")
    kept = float(memory["recent_records"][places].sum()) if len(places) else 0.0
    condensed = float(recorder.read("consolidations").columns["records_in"].sum())
    stored = merged + kept + condensed
    return Retention(recorder.read("probes").columns, embedder, merged / stored if stored else 0.0, held)


def _rows(found: Retention, names: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(found.columns[name].tolist() for name in names), strict=True))
