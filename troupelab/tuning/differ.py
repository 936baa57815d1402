"""These would go: what one set of limits keeps of a run's past and another drops, record by record. Any thread may call it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from troupelab.limits import Limits, Number
from troupelab.tuning.replay import TIERS, Source, replay
from troupelab.tuning.stream import Stream

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["would_go"]


def would_go(
    source: Source, a: Mapping[str, Number] | Limits | None, b: Mapping[str, Number] | Limits | None
) -> pd.DataFrame:
    """List the records that stand in a better tier under limits `a` than under `b` at the end of a run's past.

    Tiers, best first: `recent` (word for word, in RAM), `archive` (word for word, on disk), `notes only` (a sentence of it stands in a note),
    `dropped`. Nothing is asked of a model.

    Args:
        source: a recording or its folder, a run, or a `Stream`.
        a: limits; None for the run's own.
        b: other limits; None for the run's own.

    Returns:
        The records, in the order in which they came: agent, step, kind, source, text, and `under_a` and `under_b`, the tiers. Rows with
        `under_b == "dropped"` are what is gone for good.

    Raises:
        LimitError: a limit is unknown or out of range.
        CheckpointError: there is no run.

    >>> from troupelab.models.scripted import ScriptedModel
    >>> from troupelab.run import Run
    >>> run = Run("product_launch", ScriptedModel(7, latency_s=0.0), steps=10, seed=7).start().wait(60)
    >>> gone = would_go(run, None, {"recent_max_records": 5, "max_age_steps": 3})
    >>> bool((gone.under_b == "dropped").any()), len(would_go(run, None, None))
    (True, 0)
    """
    stream = Stream.of(source)
    ours, theirs = (replay(stream, limits, ask_every=0).records() for limits in (a, b))
    places = {tier: place for place, tier in enumerate(TIERS)}
    ours["under_b"] = theirs["tier"]
    worse = ours["tier"].astype(str).map(places) < ours["under_b"].astype(str).map(places)
    return (
        ours[worse]
        .rename(columns={"tier": "under_a"})[["agent", "step", "kind", "source", "text", "under_a", "under_b"]]
        .reset_index(drop=True)
    )
