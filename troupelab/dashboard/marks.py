"""The marks on the time axes: changes of limits, forks, alerts, pauses, new lives, and up to where everything is kept.

Kinds are told apart by their symbols, and each hover text begins with its kind. Marks that would stand on one another are drawn as
one that lists them, so that many stay calm. Only the dashboard's UI thread may call this.
"""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from troupelab.dashboard.effects import Effect, StepSums
from troupelab.dashboard.look import BLUE, GREY, ORANGE, for_plot, seconds_text, value_text
from troupelab.dashboard.series import Trace
from troupelab.dashboard.shown import News
from troupelab.limits import Limits

__all__ = ["EVERYONE", "MAX_MARKS", "Drawn", "Mark", "Marks", "drawn", "trace"]

MAX_MARKS = 200
"""So many of the newest marks are kept."""

APART = 0.014
"""Marks closer than this share of the axis, about 6 px of a panel beside another, are drawn as one."""

LISTED = 12
"""Of how many marks that are drawn as one the hover text tells; of up to three it tells all."""

EVERYONE = ("all", "")
"""What the log of limits writes for a change that is not for some agents alone."""

LIVES_AGAIN = "first it lives through its past again"
"""The reason with which a run enters a new life."""

AT_ONCE_S = 0.1
"""A guardrail's pause and its alert are told within so much, and are one mark."""

HEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where on its line a mark can be hovered over."""

# Plotly's numbers of symbols: triangle-down, diamond, star, square, triangle-right, circle, triangle-up.
STYLES = {
    "limit change": (6, GREY),
    "fork": (2, BLUE),
    "alert": (17, ORANGE),
    "pause": (1, GREY),
    "resume": (8, GREY),
    "new life": (8, BLUE),
    "several": (0, GREY),
    "kept": (5, GREY),
}


@dataclass(slots=True)
class Mark:
    """One thing that happened; `before_step` places a mark where the steps before that one ended."""

    kind: str
    at_s: float
    head: str
    lines: tuple[str, ...] = ()
    before_step: int = -1
    effect: Effect | None = None
    why: str = ""

    @property
    def text(self) -> str:
        """The whole hover text."""
        return "<br>".join([self.head, *self.lines, *(self.effect.lines if self.effect is not None else ())])


class Drawn(NamedTuple):
    """A mark as it is drawn: when, Plotly's number of its symbol, its colour, its text, and whether it is a foot without a line."""

    at_s: float
    symbol: int
    color: str
    text: str
    foot: bool = False


class Marks:
    """All marks of a run.

    Args:
        agents: how many agents it has.
        parted: the step at which it left another run's past; -1 where it did not.
        keeps: whether a fork or a resumed life can begin from what it keeps.
    """

    def __init__(self, *, agents: int = 0, parted: int = -1, keeps: bool = False) -> None:
        self._marks: deque[Mark] = deque(maxlen=MAX_MARKS)
        self._sums = StepSums(agents)
        self._parted = parted
        self._keeps = keeps
        self._kept: tuple[int, float] = (-1, 0.0)
        self._full_s = np.inf
        self._paused: Mark | None = None

    def take(self, news: News) -> None:
        """Take in what is marked, and what came after the changes that are."""
        for row in _rows(news, "limits"):
            effect = Effect(str(row["field"]), int(row["effective_step"]))
            self._marks.append(_limit_mark(row, effect))
        for row in _rows(news, "forks"):
            told = f"<b>fork</b> from step {row['step']}"
            changed = f"with {for_plot(row['changed'])}" if row["changed"] else ""
            lines = tuple(line for line in (changed, "a second run has the past that is left of here") if line)
            self._marks.append(Mark("fork", float(row["at_s"]), told, lines, before_step=int(row["step"])))
        for row in _rows(news, "alerts"):
            self._alerted(row)
        for row in _rows(news, "runs"):
            self._entered(float(row["at_s"]), str(row["state"]), str(row["reason"]))
        for row in _rows(news, "steps"):
            if row["at_s"] <= self._full_s:
                self._kept = max(self._kept, (int(row["step"]), float(row["end_s"])))
        waiting = [mark.effect for mark in self._marks if mark.effect is not None and not mark.effect.settled]
        self._sums.take(news, {step for effect in waiting for step in effect})
        for effect in waiting:
            effect.tell(self._sums)

    def _alerted(self, row: Mapping[str, Any]) -> None:
        at_s, kind = float(row["at_s"]), str(row["kind"])
        if kind == "journal_max_bytes":
            self._full_s = min(self._full_s, at_s)
        for mark in [mark for mark in self._marks if _is_one(mark, "pause", at_s, kind)]:
            self._marks.remove(mark)
        step = f", step {row['step']}" if row["step"] >= 0 else ""
        head = f"<b>alert</b>: {for_plot(kind)}{step}"
        self._marks.append(Mark("alert", at_s, head, tuple(_wrapped(row["message"])), why=kind))

    def _entered(self, at_s: float, state: str, reason: str) -> None:
        if state == "paused":
            # A pause at the start, or after steps that were asked for, is as usual as a full stop.
            if not reason or reason.startswith("after step "):
                return
            why = reason.partition(": ")[0]
            self._paused = Mark("pause", at_s, "<b>pause</b>", tuple(_wrapped(reason)), why=why)
            if not any(_is_one(mark, "alert", at_s, why) for mark in self._marks):
                self._marks.append(self._paused)
        elif state == "running" and reason == LIVES_AGAIN:
            told = "the run was resumed: what is left of here is its earlier life"
            self._marks.append(Mark("new life", at_s, "<b>new life</b>", (told,)))
            self._paused = None
        else:
            if self._paused is not None and state == "running" and at_s >= self._paused.at_s:
                head = f"<b>resume</b> after a pause of {seconds_text(at_s - self._paused.at_s)}"
                self._marks.append(Mark("resume", at_s, head))
            self._paused = None

    def drawn(self, end_s: float, ended_s: Callable[[int], float]) -> list[Drawn]:
        """What to draw on an axis that ends at a time.

        Args:
            end_s: where the axis ends.
            ended_s: tells when all steps before one had ended.
        """
        marks = [mark for mark in self._marks if mark.before_step < 0]
        for mark in self._marks:
            if mark.before_step >= 0:
                mark.at_s = ended_s(mark.before_step)
                marks.append(mark)
        if self._parted >= 0:
            past_s = ended_s(self._parted)
            told = "what is left of here is the past of both runs"
            marks.append(Mark("fork", past_s, f"<b>fork</b> from step {self._parted}", (told,)))
            lives = [mark for mark in marks if mark.kind == "new life" and mark.at_s >= past_s]
            if lives:  # the first life of a fork began with the fork
                marks.remove(min(lives, key=lambda mark: mark.at_s))
        found = drawn(marks, APART * end_s)
        step, at_s = self._kept
        if self._keeps and step >= 0:
            told = f"step {step} is over for everybody: a fork can begin after it,<br>and a run with a folder can be resumed from it"
            found.append(Drawn(at_s, *STYLES["kept"], f"<b>kept up to here</b><br>{told}", foot=True))
        return found


def drawn(marks: Sequence[Mark], apart_s: float) -> list[Drawn]:
    """Marks in the order of time; those that lie within `apart_s` of a first one are drawn as one with it.

    >>> [found.text for found in drawn([Mark("pause", 1.0, "one"), Mark("alert", 1.1, "two"), Mark("pause", 5.0, "three")], 0.5)]
    ['one<br><br>two', 'three']
    """
    groups: list[list[Mark]] = []
    for mark in sorted(marks, key=lambda mark: mark.at_s):
        if groups and mark.at_s - groups[-1][0].at_s < apart_s:
            groups[-1].append(mark)
        else:
            groups.append([mark])
    return [_as_one(group) for group in groups]


def _as_one(group: Sequence[Mark]) -> Drawn:
    kinds = {mark.kind for mark in group}
    style = STYLES[kinds.pop() if len(kinds) == 1 else "several"]
    if len(group) <= 3:
        return Drawn(group[0].at_s, *style, "<br><br>".join(mark.text for mark in group))
    heads = [mark.head for mark in group[:LISTED]]
    more = [f"and {len(group) - LISTED} more"] if len(group) > LISTED else []
    return Drawn(group[0].at_s, *style, "<br>".join([f"<b>{len(group)} marks</b>:", *heads, *more]))


def trace(marks: Sequence[Drawn]) -> Trace:
    """A vertical line for each mark, as a trace over an axis from 0 to 1; live.js makes the same."""
    found: dict[str, list[Any]] = {
        key: [] for key in ("x", "y", "text", "marker.size", "marker.symbol", "marker.color")
    }
    for at_s, symbol, color, text, foot in marks:
        heights = (0.0,) if foot else HEIGHTS
        for place, y in enumerate((*heights, np.nan), start=1):
            size = (7.0 if foot else 9.0) if place == len(heights) else 0.0
            for key, value in zip(found, (at_s, y, text, size, symbol, color), strict=True):
                found[key].append(value)
    numbers = {
        key: np.array(values, dtype=float) for key, values in found.items() if key not in ("text", "marker.color")
    }
    return {**found, **numbers}


def _rows(news: News, family: str) -> list[dict[str, Any]]:
    """The newest rows of a family, one by one."""
    if family not in news:
        return []
    columns = {name: column[-2 * MAX_MARKS :].tolist() for name, column in news[family].columns.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _is_one(mark: Mark, kind: str, at_s: float, why: str) -> bool:
    return mark.kind == kind and mark.why == why and abs(mark.at_s - at_s) <= AT_ONCE_S


def _limit_mark(row: Mapping[str, Any], effect: Effect) -> Mark:
    known = Limits.fields().get(str(row["field"]))
    unit = known.unit if known else ""
    whom = "" if row["agents"] in EVERYONE else f" for {for_plot(row['agents'])}"
    change = f"{value_text(float(row['old']), unit)} → {value_text(float(row['new']), unit)}"
    head = f"<b>limit change</b>{whom}: {for_plot(known.label if known else row['field'])}, {change}"
    lines = (*_wrapped(row["note"]), f"effective from step {row['effective_step']}, changed by {for_plot(row['by'])}")
    return Mark("limit change", float(row["at_s"]), head, lines, effect=effect)


def _wrapped(text: object, width: int = 72, limit: int = 360) -> list[str]:
    """Any text in harmless lines that are not too wide for a hover label.

    >>> _wrapped("one <b> two", width=5)
    ['one', '&lt;b&gt;', 'two']
    """
    plain = " ".join(str(text)[: 2 * limit].split())
    plain = plain if len(plain) <= limit else plain[: limit - 1] + "…"
    return [for_plot(line) for line in textwrap.wrap(plain, width)]
