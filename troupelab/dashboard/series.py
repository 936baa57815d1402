"""Series of numbers over time that stay small however long a run gets: bins that widen, quantiles, decimation.

A dashboard holds one set of these; only its UI thread touches them. They keep what is drawn, never the events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["AgentLine", "AgentSums", "Floats", "TimeBins", "Trace", "decimate", "quantiles", "spread_labels"]

Floats: TypeAlias = NDArray[Any]

Trace: TypeAlias = dict[str, Any]
"""What a trace should be: arrays, lists of texts and single settings, by dotted path."""

LATENCY_EDGES: Floats = np.geomspace(1e-4, 4e3, 513)
"""Edges of the latency buckets in seconds, 3.5 % apart: quantiles read from them are within 2 %."""


class TimeBins:
    """Equal bins of time since the start, which widen to the double whenever more than `limit` would be needed.

    Columns belong to a bin and are folded by their rule when bins widen: `sum` adds neighbours, `keep` lets the later one stand.
    A new bin begins with 0 where neighbours add up; where one stands, with that of the bin before, or not-a-number.
    """

    def __init__(self, *, limit: int = 240, width_s: float = 0.05) -> None:
        self.limit = limit
        self.width_s = width_s
        self.count = 0
        self._columns: dict[str, Floats] = {}
        self._rules: dict[str, str] = {}

    def column(self, name: str, rule: str, *, wide: int = 0, dtype: str = "float64") -> None:
        """Add a column of one number a bin, or of `wide` numbers."""
        shape = (self.limit, wide) if wide else (self.limit,)
        self._columns[name] = np.zeros(shape, dtype=dtype)
        self._rules[name] = rule

    def __getitem__(self, name: str) -> Floats:
        """The column's bins so far, which may be written to."""
        return self._columns[name][: self.count]

    def cover(self, until_s: float) -> int:
        """Make sure that a time has its bin, widening bins if need be; returns how many bins there were before."""
        while until_s >= self.limit * self.width_s:
            self._widen()
        before = self.count
        self.count = max(self.count, int(until_s / self.width_s) + 1)
        for name, column in self._columns.items():
            if self.count > before and self._rules[name] == "keep":
                column[before : self.count] = column[before - 1] if before else np.nan
        return before

    def carry(self, name: str, at_s: Floats, values: Floats) -> None:
        """Write values with their times, in order, into a column that keeps; each stands until the next one. All must be covered."""
        place = np.maximum.accumulate(self.index(at_s))
        later = np.searchsorted(place, np.arange(place[0], self.count), side="right") - 1
        self[name][place[0] :] = values[later]

    def index(self, at_s: Floats) -> NDArray[Any]:
        """The bins' numbers of some times, all of which must be covered."""
        return np.clip((at_s / self.width_s).astype(np.int64), 0, max(0, self.count - 1))

    def _widen(self) -> None:
        half = (self.count + 1) // 2
        for name, column in self._columns.items():
            if self.count % 2 and self._rules[name] == "keep":
                column[self.count] = column[self.count - 1]
            pairs = column[: 2 * half].reshape(half, 2, *column.shape[1:])
            folded = pairs.sum(axis=1) if self._rules[name] == "sum" else pairs[:, 1].copy()
            column[:half] = folded
            column[half:] = 0
        self.width_s *= 2
        self.count = half

    def centres(self) -> Floats:
        """The middle of each bin, in seconds."""
        return (np.arange(self.count) + 0.5) * self.width_s


def quantiles(counts: NDArray[Any], shares: tuple[float, ...], edges: Floats = LATENCY_EDGES) -> Floats:
    """Read quantiles from rows of bucket counts; a row without any gives not-a-number.

    >>> counts = np.zeros((1, 512), int); counts[0, 300] = 10
    >>> bool(LATENCY_EDGES[300] <= quantiles(counts, (0.5,))[0, 0] <= LATENCY_EDGES[301])
    True
    """
    below = np.cumsum(counts, axis=1)
    total = below[:, -1]
    rows = np.arange(len(counts))
    out = np.full((len(shares), len(counts)), np.nan)
    for place, share in enumerate(shares):
        wanted = share * total
        bucket = np.minimum((below < wanted[:, None]).sum(axis=1), counts.shape[1] - 1)
        inside = counts[rows, bucket]
        before = below[rows, bucket] - inside
        part = np.divide(wanted - before, inside, out=np.full(len(counts), 0.5), where=inside > 0)
        out[place] = edges[bucket] * (edges[bucket + 1] / edges[bucket]) ** np.clip(part, 0, 1)
    out[:, total == 0] = np.nan
    return out


def decimate(x: Floats, y: Floats, limit: int = 1000) -> tuple[Floats, Floats]:
    """Thin a line to at most `limit` points, so that each stretch keeps its lowest and its highest.

    Stretches have 2, 4, 8, … points, counted from the start: what was sent before stays true while the line grows.

    >>> x, y = decimate(np.arange(4000.0), np.where(np.arange(4000) == 1234, 99.0, 0.0))
    >>> len(y) <= 1000, float(y.max())
    (True, 99.0)
    """
    if len(y) <= limit:
        return x, y
    size = 4
    while 2 * -(-len(y) // size) > limit:
        size *= 2
    full = len(y) // size
    starts = np.arange(full) * size
    block = y[: full * size].reshape(full, size)
    picks = np.stack([starts + block.argmin(axis=1), starts + block.argmax(axis=1)], axis=1)
    if len(y) % size:
        rest = y[full * size :]
        picks = np.vstack([picks, [[full * size + rest.argmin(), full * size + rest.argmax()]]])
    order = np.sort(picks, axis=1).ravel()
    return x[order], y[order]


class AgentSums:
    """What all agents hold together over time, from what each of them told last.

    Args:
        agents: how many there are; what others tell is passed over.
        names: the columns.

    >>> sums = AgentSums(2, ("size",))
    >>> sums.add(np.array([0.0, 0.01, 0.06]), np.array([0, 1, 0]), [np.array([5, 7, 9])])
    >>> sums.bins["size"].tolist()
    [12.0, 16.0]
    """

    def __init__(self, agents: int, names: Sequence[str]) -> None:
        self.bins = TimeBins()
        for name in names:
            self.bins.column(name, "keep")
        self._names = tuple(names)
        self._latest = np.zeros((len(names), agents))

    def add(self, at_s: Floats, agent: Floats, values: Sequence[Floats]) -> None:
        """Add what agents told, in order: the times, the agents, and an array for each column."""
        known = (agent >= 0) & (agent < self._latest.shape[1])
        if not known.any():
            return
        rows = np.stack([column[known] for column in values]).astype(float)
        agent = agent[known]
        self.bins.cover(float(at_s[known].max()))
        place = np.maximum.accumulate(self.bins.index(at_s[known]))
        cuts = np.searchsorted(place, np.arange(place[0], self.bins.count + 1))
        for number in range(place[0], self.bins.count):
            part = slice(cuts[number - place[0]], cuts[number - place[0] + 1])
            self._latest[:, agent[part]] = rows[:, part]  # of several rows of an agent the last one stands
            for name, total in zip(self._names, self._latest.sum(axis=1), strict=True):
                self.bins[name][number] = total


class AgentLine:
    """The samples of one agent, growing by doubling so that adding is cheap."""

    def __init__(self, width: int) -> None:
        self._rows = np.empty((256, width))
        self._count = 0

    def add(self, rows: Floats) -> None:
        """Add rows: the time, then one number a column."""
        need = self._count + len(rows)
        if need > len(self._rows):
            bigger = np.empty((max(need, 2 * len(self._rows)), self._rows.shape[1]))
            bigger[: self._count] = self._rows[: self._count]
            self._rows = bigger
        self._rows[self._count : need] = rows
        self._count = need

    def column(self, number: int) -> Floats:
        """One column of all rows."""
        return self._rows[: self._count, number]


def spread_labels(values: list[float], span: float, gap: float = 0.075) -> list[float]:
    """Move labels apart on an axis from 0 to `span`, keeping their order, so that none covers another or leaves the axis.

    >>> spread_labels([5.0, 5.0, 9.0], 10.0, gap=0.1)
    [4.5, 5.5, 9.0]
    >>> spread_labels([0.0, 0.0], 10.0, gap=0.1)
    [0.0, 1.0]
    """
    least = min(span * gap, span / max(1, len(values) - 1))
    order = sorted(range(len(values)), key=lambda place: values[place])
    groups: list[tuple[float, list[int]]] = []  # where the middle is, and whose labels stand around it
    for place in order:
        groups.append((_within(values[place], 1, least, span), [place]))
        while len(groups) > 1:
            (low, lower), (high, upper) = groups[-2:]
            if high - low >= least * (len(lower) + len(upper)) / 2 - 1e-9 * span:
                break
            both = lower + upper
            middle = sum(values[member] for member in both) / len(both)
            groups[-2:] = [(_within(middle, len(both), least, span), both)]
    out = [0.0] * len(values)
    for middle, members in groups:
        for rank, member in enumerate(members):
            out[member] = middle + least * (rank - (len(members) - 1) / 2)
    return out


def _within(middle: float, count: int, least: float, span: float) -> float:
    half = least * (count - 1) / 2
    return min(max(middle, half), max(span - half, half))
