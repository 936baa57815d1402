"""A recommendation: which limits to choose, in words with reasons. Any thread may call it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from troupelab.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from troupelab.limits import Number

__all__ = ["Recommendation", "recommend"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Limits, and why these."""

    limits: dict[str, Number]
    words: str
    enough: bool
    """Whether they keep as much as was asked for."""

    def apply(self, run: Any) -> None:
        """Give them to a run, with a note that says where they come from.

        Raises:
            LimitError: they do not fit beside the run's other limits.
        """
        run.limits.update(note="recommended by a sweep", **self.limits)

    def __str__(self) -> str:
        return self.words

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.words)}</p>"


def recommend(frame: pd.DataFrame, space: tuple[str, ...], embedder: str, least: float) -> Recommendation:
    """Choose among the points of a sweep; `Sweep.recommend` says how."""
    if not isinstance(least, int | float) or not 0 <= least <= 1:
        raise InputError("recommend", "min_relative_recall", "a share from 0 to 1", found=repr(least)[:80])
    # Where there is one replicate alone, no interval is known, and the value itself has to do.
    sure = frame["relative_recall_low"].fillna(frame["relative_recall"])
    # Among points that take the same, the one that keeps more.
    less = frame.assign(sure=sure, lost=-sure).sort_values(["bytes", "cost", "lost", "regret"], kind="stable")
    order = less.drop(columns="lost")
    enough = order[order["sure"] >= least]
    biggest = order["bytes"].max()
    if enough.empty:
        best = order.sort_values("sure", kind="stable").iloc[-1]
        words = (
            f"No point keeps {least:.0%} of what unlimited memory finds with 95 % certainty. The nearest is {_named(best, space)}: "
            f"{_kept(best)}. Widen the space, or ask for less."
        )
        return Recommendation(_limits(best, space), words + _by(embedder), enough=False)
    best = enough.iloc[0]
    words = (
        f"{_named(best, space)} {_kept(best)}, with {best['bytes'] / biggest:.0%} of the bytes of the largest point "
        f"({_bytes(best['bytes'])} at the peak) and about {best['cost']:,.0f} tokens of memory in a prompt."
    )
    smaller = order[order["bytes"] < best["bytes"]]
    if len(smaller):
        following = smaller.iloc[-1]
        words += f" The next smaller, {_named(following, space)}, {_kept(following)}, of which less than the {least:.0%} asked for is certain."
    else:
        words += " No smaller point was tried: there may be one that would do."
    if best["regret"] > 0.005:
        words += f" It has for good lost what would have answered {best['regret']:.0%} of the questions."
    if best["relative_recall"] > 1.0:
        words += " It finds more than unlimited memory does: there is less to look through, and notes lead to what they are about."
    return Recommendation(_limits(best, space), words + _by(embedder), enough=True)


def _by(embedder: str) -> str:
    return f" Texts were compared by {embedder}; with another embedder these figures differ."


def _limits(point: Any, space: tuple[str, ...]) -> dict[str, Number]:
    return {name: _plain(point[name]) for name in space}


def _plain(value: Any) -> Number:
    """A frame's value as a limit takes it: pandas makes floats of whole numbers beside None."""
    if value is None or value != value:
        return None
    value = value.item() if hasattr(value, "item") else value
    whole: Number = int(value) if isinstance(value, float) and value.is_integer() and value > 1 else value
    return whole


def _named(point: Any, space: tuple[str, ...]) -> str:
    return ", ".join(f"{name}={_plain(point[name])}" for name in space)


def _kept(point: Any) -> str:
    low, high = point["relative_recall_low"], point["relative_recall_high"]
    between = f" [{low:.2f}–{high:.2f}]" if low == low else ""
    return f"keeps {point['relative_recall']:.2f}{between} of what unlimited memory finds"


def _bytes(value: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"
