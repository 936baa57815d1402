"""The Pareto front: the points that no other is better than in everything. Pure; any thread may call it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["front"]


def front(values: NDArray[np.float64], maximise: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which points are dominated by no other: none is as good in all objectives and better in one.

    Args:
        values: shape (points, objectives); a point with a NaN is on no front.
        maximise: of each objective, whether more is better.

    >>> front(np.array([[1.0, 0.5], [2.0, 0.9], [3.0, 0.8]]), np.array([False, True])).tolist()
    [True, True, False]
    """
    costs = np.where(maximise, -values, values)
    known: NDArray[np.bool_] = np.logical_not(np.isnan(costs).any(axis=1))
    on = known.copy()
    for place in np.flatnonzero(known).tolist():
        no_worse = (costs <= costs[place]).all(axis=1) & known
        better = (costs < costs[place]).any(axis=1)
        on[place] = not (no_worse & better).any()
    return on
