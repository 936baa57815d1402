"""A sweep: the same past under many limits, what each costs and what it makes agents forget, and which to choose.

Nothing is asked of a model: each point is a replay, or several, of one or more recordings. Any thread may call it.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from troupelab.errors import InputError
from troupelab.tuning import charts
from troupelab.tuning.pareto import front
from troupelab.tuning.point import COLUMNS
from troupelab.tuning.recommend import Recommendation, recommend
from troupelab.tuning.replay import Source
from troupelab.tuning.retention import interval
from troupelab.tuning.search import search
from troupelab.tuning.space import Space, check_space, grid
from troupelab.tuning.stream import Stream
from troupelab.tuning.workers import Workers

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from troupelab.limits import Number

__all__ = ["Sweep", "sweep"]

MORE_IS_BETTER = frozenset({"recall", "relative_recall", "held"})


def sweep(
    source: Source | Sequence[Source],
    space: Space,
    *,
    objectives: Sequence[str] = ("bytes", "recall", "cost"),
    method: Literal["grid", "optuna"] = "grid",
    points: int = 100,
    seeds: int | Sequence[int] = 5,
    workers: int | None = None,
    storage: str | Path | None = None,
    seed: int = 0,
    progress: bool | Callable[[int, int], object] = True,
) -> Sweep:
    """Replay a run's past under many limits.

    Args:
        source: a recording, its folder, a run, the name of a recording that ships with the package, or several: each is a replicate.
        space: limits of memory, with lists of values; for a search also (lowest, highest).
        objectives: what is weighed against each other: columns of `Sweep.frame`.
        method: every combination, or a search by Optuna.
        points: how many points a search has.
        seeds: how many replicates (each draws facts of its own and the steps at which they are told, see `drawn_probes`), or which seeds; 0 for
            the facts of the run alone, without a replicate.
        workers: processes to share the work; None for as many as there are cores, 1 for none but this one. Runs that are in no folder are replayed here.
        storage: an SQLite file to keep a search in, and to go on with it: what it has measured is not measured again.
        seed: of a search.
        progress: a bar; or a function, called with how many replays are done, and how many there are.

    Raises:
        InputError: the space is empty, or an argument cannot be used.
        LimitError: a limit is unknown, or a value out of range.
        MissingPackageError: a search needs optuna.

    >>> from troupelab.models.scripted import ScriptedModel
    >>> from troupelab.run import Run
    >>> run = Run("product_launch", ScriptedModel(7, latency_s=0.0), steps=8, seed=7).start().wait(60)
    >>> found = sweep(run, {"recent_max_records": [6, 30]}, seeds=2, workers=1, progress=False)
    >>> found.frame.recent_max_records.tolist(), bool((found.frame.recall_low <= found.frame.recall).all())
    ([6, 30], True)
    """
    if method not in ("grid", "optuna"):
        raise InputError("sweep", "method", "'grid' or 'optuna'", found=repr(method)[:80])
    unknown = [name for name in objectives if name not in COLUMNS]
    if unknown or not objectives:
        raise InputError("sweep", "objectives", f"some of {', '.join(COLUMNS)}", found=repr(unknown[:1] or "none"))
    checked = check_space(space, search=method == "optuna")
    if type(points) is not int or points < 1:
        raise InputError("sweep", "points", "a whole number from 1", found=repr(points)[:80])
    drawn: list[int | None] = [*range(1, seeds + 1)] if isinstance(seeds, int) else [*seeds]
    streams = [Stream.of(each) for each in _several(source)]
    cores = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    todo = math.prod(len(values) for values in checked.values()) if method == "grid" else points
    count = min(workers or cores or 1, todo * len(streams) * max(1, len(drawn)))
    told: list[Mapping[str, Number]] = []
    rows: list[list[dict[str, Any]]] = []
    working = Workers(streams, drawn or [None], count)
    total = todo * len(streams) * max(1, len(drawn))
    bar = _Bar(progress, total)

    def measure(some: Sequence[Mapping[str, Number]]) -> list[tuple[list[float], list[dict[str, Any]]]]:
        done = sum(map(len, rows))
        found = working.run(some, lambda more, _: bar(done + more))
        told.extend(some)
        rows.extend(found)
        return [([float(np.mean([row[name] for row in each])) for name in objectives], each) for each in found]

    def earlier(limits: Mapping[str, Number], measured: list[dict[str, Any]]) -> None:
        told.append(limits)
        rows.append(measured)

    try:
        for limits in grid(checked) if method == "grid" else ():
            _fits(streams, limits)
        if method == "grid":
            measure(grid(checked))
        else:
            better = [name in MORE_IS_BETTER for name in objectives]
            search(checked, points, objectives, better, measure, earlier, seed=seed, storage=storage)
    finally:
        working.close()
        bar.close()
    return Sweep(streams, tuple(checked), told, rows, tuple(objectives))


def _fits(streams: Sequence[Stream], limits: Mapping[str, Number]) -> None:
    for stream in streams:
        stream.limits.replace(**limits)


def _several(source: Any) -> list[Any]:
    several = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    if not several:
        raise InputError("sweep", "source", "a recording, its folder, a run, or several", found="none")
    return several


class _Bar:
    def __init__(self, progress: bool | Callable[[int, int], object], total: int) -> None:
        self._call = progress if callable(progress) else None
        self._total = total
        self._bar: Any = None
        if progress is True:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit="replay", desc="sweep")

    def __call__(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        if self._call is not None:
            self._call(done, self._total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Sweep:
    """What came of a sweep; made by `sweep`."""

    def __init__(
        self,
        streams: Sequence[Stream],
        space: tuple[str, ...],
        points: Sequence[Mapping[str, Number]],
        rows: Sequence[Sequence[Mapping[str, Any]]],
        objectives: tuple[str, ...],
    ) -> None:
        self.name = ", ".join(dict.fromkeys(stream.name for stream in streams))
        self.embedder = ", ".join(dict.fromkeys(stream.embedder_name or "words alone" for stream in streams))
        """What compared texts: recall depends on it."""
        self.space = space
        """The limits that differ."""
        self.points = [dict(point) for point in points]
        self.objectives = objectives
        self._rows = [[dict(row) for row in each] for each in rows]

    @property
    def replicates(self) -> pd.DataFrame:
        """A row for each point and replicate: the limits, `replicate` (recording/seed), and the columns that `COLUMNS` explains."""
        pairs = [(point, row) for point, each in zip(self.points, self._rows, strict=True) for row in each]
        return self._with_limits([{**point, **row} for point, row in pairs], [point for point, _ in pairs])

    @property
    def frame(self) -> pd.DataFrame:
        """A row a point: the limits, and of each column the mean over replicates; of recall and relative recall with 95 % intervals (`_low`, `_high`)."""
        rows = []
        for point, each in zip(self.points, self._rows, strict=True):
            row: dict[str, Any] = dict(point)
            for name in COLUMNS:
                values = np.array([one[name] for one in each], dtype=float)
                if name == "seconds":
                    row[name] = float(values.sum())
                    continue
                value, low, high = interval(values)
                row[name] = value
                if name in ("recall", "relative_recall"):
                    row[f"{name}_low"], row[f"{name}_high"] = float(np.maximum(0.0, low)), high
            rows.append(row)
        return self._with_limits(rows, self.points)

    def _with_limits(self, rows: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Number]]) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(rows).assign(**{name: _column([point[name] for point in points]) for name in self.space})

    def pareto(self) -> pd.DataFrame:
        """The points that no other is better than in all objectives, by the first of them."""
        frame = self.frame
        better = np.array([name in MORE_IS_BETTER for name in self.objectives])
        on = front(frame[list(self.objectives)].to_numpy(dtype=float), better)
        columns = [*self.space, *self.objectives]
        columns += [name for name in ("relative_recall", "relative_recall_low") if name not in columns]
        return frame.loc[on, columns].sort_values(self.objectives[0], kind="stable").reset_index(drop=True)

    def recommend(self, min_relative_recall: float = 0.9) -> Recommendation:
        """Choose the point that takes the fewest bytes among those that keep enough, and say why.

        Args:
            min_relative_recall: how much of what unlimited memory finds must be found, by the lower end of the interval.

        Raises:
            InputError: it is not from 0 to 1.
        """
        return recommend(self.frame, self.space, self.embedder, min_relative_recall)

    def apply(self, run: Any, min_relative_recall: float = 0.9) -> Recommendation:
        """Give a run that goes on the limits that are recommended; returns the recommendation.

        Raises:
            LimitError: they do not fit beside the run's other limits.
        """
        found = self.recommend(min_relative_recall)
        found.apply(run)
        return found

    def figure(self) -> go.Figure:
        """Relative recall against bytes, a point each, with intervals; the Pareto front as a line."""
        return charts.pareto(self.frame, self.space, self.pareto(), self.name)

    def parallel_coordinates(self) -> go.Figure:
        """All limits and objectives beside each other, a line a point, coloured by recall."""
        return charts.parallel(self.frame, self.space, self.objectives)

    def one_factor(self, field: str) -> go.Figure:
        """Relative recall and bytes over one limit's values, with 95 % intervals, the mean over what the others are.

        Raises:
            InputError: the limit was not swept.
        """
        if field not in self.space:
            raise InputError("one_factor", "field", f"one of {', '.join(self.space)}", found=repr(field)[:80])
        return charts.one_factor(self.by(field), field)

    def by(self, field: str) -> pd.DataFrame:
        """For each value of a limit the mean over all points and replicates that have it, with the 95 % interval over replicates (Student's t)."""
        import pandas as pd

        frame = self.replicates
        rows = []
        values = list(dict.fromkeys(point[field] for point in self.points))
        for value in values:
            mine = frame[frame[field].isna()] if value is None else frame[frame[field] == value]
            row: dict[str, Any] = {field: value}
            for name in ("recall", "relative_recall", "held", "regret", "bytes", "cost"):
                means = mine.groupby("replicate")[name].mean().to_numpy(dtype=float)
                row[name], row[f"{name}_low"], row[f"{name}_high"] = interval(means)
            rows.append(row)
        return pd.DataFrame(rows).assign(**{field: _column(values)})

    def __repr__(self) -> str:
        replicates = len(self._rows[0]) if self._rows else 0
        return f"<Sweep of {self.name} over {', '.join(self.space)}: {len(self.points)} points, {replicates} replicates each>"

    def _repr_html_(self) -> str:
        table = self.pareto().to_html(index=False, float_format=lambda value: f"{value:.3g}")
        return f"<code>{html.escape(repr(self))}</code><br>The Pareto front:{table}"


def _column(values: Sequence[Number]) -> pd.Series[Any]:
    """Limits as they were given: pandas would make floats of whole numbers beside None, and NaN of None."""
    import pandas as pd

    return pd.Series(values, dtype=object if any(value is None for value in values) else None)
