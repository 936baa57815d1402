"""The space of a sweep: which limits, and which values of each. Pure; any thread may call it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from troupelab.errors import InputError, LimitError
from troupelab.limits import FIELDS, Limits

if TYPE_CHECKING:
    from troupelab.limits import Number

__all__ = ["Space", "check_space", "grid"]

Space = Mapping[str, "Sequence[Number] | tuple[float, float]"]
"""By a limit's name either a list of values, or (lowest, highest) as a tuple, for a search."""

_MAX_POINTS = 100_000


def check_space(space: Space, *, search: bool) -> dict[str, list[Number] | tuple[float, float]]:
    """Refuse a space that is empty, or names what is no limit of memory, or values out of range.

    Args:
        space: the space.
        search: whether (lowest, highest) is allowed.

    Raises:
        InputError: it is empty, or a limit has no values, or a range where a grid needs values.
        LimitError: a limit is unknown, no limit of memory, or a value out of range.

    >>> check_space({"recent_max_records": [15, 40]}, search=False)
    {'recent_max_records': [15, 40]}
    """
    if not isinstance(space, Mapping) or not space:
        raise InputError(
            "sweep", "space", "limits with their values, as in {'recent_max_records': [15, 40, 120]}", found="none"
        )
    checked: dict[str, list[Number] | tuple[float, float]] = {}
    for name, values in space.items():
        if name not in FIELDS:
            raise LimitError(f"there is no limit {name!r}; the limits are {', '.join(FIELDS)}")
        if FIELDS[name].group not in {"memory", "storage"}:
            raise LimitError(f"{name} is no limit of memory: it changes nothing in a replay")
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InputError("sweep", name, "a list of values that is not empty", found=repr(values)[:80])
        for value in values:
            Limits().replace(**{name: value})
        if isinstance(values, tuple) and len(values) == 2 and search:
            if any(value is None for value in values) or not values[0] < values[1]:  # type: ignore[operator]
                raise InputError("sweep", name, "(lowest, highest)", found=repr(values)[:80])
            checked[name] = (float(values[0]), float(values[1]))  # type: ignore[arg-type]
        else:
            checked[name] = list(dict.fromkeys(values))
    return checked


def grid(space: Mapping[str, Any]) -> list[dict[str, Number]]:
    """Every combination of a space's values, the last limit changing fastest.

    Raises:
        InputError: there are too many.

    >>> grid({"a": [1, 2], "b": [3]})
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    count = 1
    for values in space.values():
        count *= len(values)
    if count > _MAX_POINTS:
        raise InputError("sweep", "space", f"at most {_MAX_POINTS} points: use method='optuna'", found=str(count))
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
