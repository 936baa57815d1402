"""Interventions: functions of the run that are called between two steps, and may tell agents something, change a limit or pause.

What such a function sees is what all have finished before the step that it is called for, and what it does holds from that step on. So a run
with interventions is the same in either order and at any concurrency: in free order, everybody waits for the step before a step with an
intervention, and nowhere else. Pure data; any thread may read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from troupelab.errors import RunError

__all__ = ["Intervention", "next_due"]


@dataclass(frozen=True, slots=True)
class Intervention:
    """A function to call with the run before some steps.

    Args:
        do: called with the run, in a thread of its own; it may call `run.tell`, `run.limits.update`, `run.pause`, and read what the
            run shows.
        at: the step before which it is called, or several.
        every: or every so many steps, the first time before step `every`.
        when: or before each step (of `at` or `every`, where given) for which this, called with the run, is true.
        once: whether it is called once at most.

    Raises:
        RunError: `at` or `every` is out of range, or nothing says when.

    >>> def rumour(run: Any) -> None:
    ...     run.tell("The ferry will be cut in May.", to=["Tove Haugen"])
    >>> Intervention(rumour, at=3).is_due(3), Intervention(rumour, every=5).is_due(12)
    (True, False)
    """

    do: Callable[[Any], object]
    at: int | Sequence[int] | None = None
    every: int | None = None
    when: Callable[[Any], bool] | None = None
    once: bool = False

    def __post_init__(self) -> None:
        steps = self.steps
        if not callable(self.do) or not (self.when is None or callable(self.when)):
            raise RunError("an intervention's `do` and `when` are functions of the run")
        if any(not isinstance(step, int) or step < 0 for step in steps):
            raise RunError(f"an intervention's `at` is a step from 0, or several, not {self.at!r}")
        if self.every is not None and (not isinstance(self.every, int) or self.every < 1):
            raise RunError(f"an intervention's `every` is a number of steps from 1, not {self.every!r}")
        if not steps and self.every is None and self.when is None:
            raise RunError("an intervention needs `at`, `every` or `when`")

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps in `at`."""
        return () if self.at is None else (self.at,) if isinstance(self.at, int) else tuple(self.at)

    @property
    def name(self) -> str:
        """The function's name, to tell of it."""
        return getattr(self.do, "__name__", type(self.do).__name__)

    def is_due(self, step: int) -> bool:
        """Whether it is called, or its condition looked at, before a step."""
        if self.at is None and self.every is None:
            return True
        return step in self.steps or (self.every is not None and step > 0 and step % self.every == 0)

    def next_due(self, step: int) -> int | None:
        """The first step after this one before which it is due."""
        if self.at is None and self.every is None:
            return step + 1
        later = [each for each in self.steps if each > step]
        if self.every is not None:
            later.append((step // self.every + 1) * self.every)
        return min(later, default=None)


def next_due(interventions: Sequence[Intervention], step: int) -> int | None:
    """The first step after this one before which something is due.

    >>> next_due([Intervention(print, at=(3, 9)), Intervention(print, every=4)], 4)
    8
    """
    return min((due for each in interventions if (due := each.next_due(step)) is not None), default=None)
