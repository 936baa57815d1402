"""Several runs in one frame: the rows of one kind of event, run under run. Any thread may call it; pandas is imported then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from troupelab.errors import InputError
from troupelab.events import FAMILIES
from troupelab.telemetry.frames import Frames

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Compared", "side_by_side"]


class Compared(Protocol):
    """What is compared: a run, as far as it is needed here."""

    frames: Frames
    forked_at: int


def side_by_side(*runs: Compared | Mapping[str, Compared], family: str = "memory") -> pd.DataFrame:
    """Put the frames of several runs under one another, with a first column `run` that tells them apart.

    A run is called "run", and a fork "fork at step 7"; where two would be called the same, they are numbered.

    Args:
        runs: the runs, or one mapping of names of your own to them.
        family: of which frame: `memory`, `acts`, `calls` and so on.

    Returns:
        The frame; `attrs["rows_lost"]` says how many older rows had left the recorders' rings.

    Raises:
        InputError: there is no such frame, or no run was given.

    >>> from troupelab.run import Run
    >>> from troupelab.models.scripted import ScriptedModel
    >>> run = Run("product_launch", ScriptedModel(7, latency_s=0.0), steps=3, seed=7).start().wait(60)
    >>> fork = run.fork({"recent_max_records": 5}, at_step=2).start().wait(60)
    >>> both = side_by_side(run, fork)
    >>> list(both.columns[:3]), list(both["run"].cat.categories)
    (['run', 'at_s', 'step'], ['run', 'fork at step 2'])
    >>> both[both.step == 2].groupby("run", observed=True).recent_records.max().to_dict()
    {'run': 19, 'fork at step 2': 5}
    """
    import pandas as pd

    if family not in FAMILIES:
        raise InputError("side_by_side", "family", f"one of {', '.join(FAMILIES)}", found=repr(family))
    named = _named(runs)
    if not named:
        raise InputError("side_by_side", "runs", "at least one run")
    frames = [getattr(run.frames, family) for run in named.values()]
    lost = sum(frame.attrs["rows_lost"] for frame in frames)
    for frame in frames:
        frame.attrs = {}
    both: pd.DataFrame = pd.concat(frames, keys=range(len(frames)), names=["run", None])
    numbers = both.index.get_level_values("run")
    both.insert(0, "run", pd.Series(pd.Categorical.from_codes(numbers.to_numpy(), pd.Index(list(named))), both.index))
    both = both.reset_index(drop=True)
    both.attrs["rows_lost"] = lost
    return both


def _named(runs: tuple[Compared | Mapping[str, Compared], ...]) -> dict[str, Compared]:
    """The runs by name."""
    named: dict[str, Compared] = {}
    for run in runs:
        if isinstance(run, Mapping):
            named.update(run)
            continue
        name = "run" if run.forked_at < 0 else f"fork at step {run.forked_at}"
        number = sum(known == name or known.startswith(f"{name} (") for known in named)
        named[f"{name} ({number + 1})" if number else name] = run
    return named
