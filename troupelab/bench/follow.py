"""How soon the calls in flight follow `max_concurrency`, changed from 10 to 200 to 5 while a run is under load over HTTP.

Everything is read from the run's frames: a call was in flight from its end back by its latency. `follow_…_s` is the time from a change to
the first moment with as many calls in flight as it allows; fewer are reached when calls end, so one call's time is the best there is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from troupelab.bench.harness import report
from troupelab.limits import Limits
from troupelab.models.chat import ChatModel
from troupelab.models.rehearsal.process import Rehearsal
from troupelab.people.world import World
from troupelab.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["figure", "play", "run"]

_SEED = 7
_CALL_S = 1.0
_SIZES = (10, 200, 5)


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure and report; `quick` measures once, to try the benchmark itself."""
    return report("follow", lambda: measure(play()), 1 if quick else 3)


def play(agents: int = 1_000) -> Run:
    """A run of calls of one second, whose limit goes from 10 to 200 to 5."""
    with Rehearsal(latency=f"const:{_CALL_S}") as server:
        model = ChatModel("rehearsal", base_url=server.base_url, key="none")
        played = Run(World.sample(agents, seed=_SEED), model, limits=Limits(max_concurrency=_SIZES[0]), seed=_SEED)
        played.start()
        for size in _SIZES[1:]:
            time.sleep(2.5 * _CALL_S)
            played.limits.update(max_concurrency=size, note=f"{size} at once")
        time.sleep(3.5 * _CALL_S)
        played.stop(now=True)
        return played.wait(30)


def in_flight(played: Run, every_s: float = 0.01) -> tuple[NDArray[Any], NDArray[Any]]:
    """Moments, and how many calls were in flight at each, from the calls' frame."""
    calls = played.frames.calls
    ends = calls["at_s"].to_numpy()
    begins = ends - calls["latency_s"].to_numpy()
    moments = np.arange(0.0, float(ends.max()), every_s)
    counts = np.searchsorted(np.sort(begins), moments, "right") - np.searchsorted(np.sort(ends), moments, "right")
    return moments, counts


def measure(played: Run) -> Mapping[str, float]:
    """How long the calls in flight took to follow each change, and whether there ever were more than allowed after that."""
    moments, counts = in_flight(played)
    changed = played.frames.limits.query("field == 'max_concurrency'")["at_s"].tolist()
    figures = {}
    for name, at_s, size in zip(("up", "down"), changed, _SIZES[1:], strict=True):
        after = moments >= at_s
        there = counts >= size if name == "up" else counts <= size
        figures[f"follow_{name}_s"] = float(moments[after & there][0] - at_s)
    first, second = changed
    figures["beyond_the_limit"] = float(
        max(counts[moments < first].max() - _SIZES[0], counts[moments < second].max() - _SIZES[1], 0)
    )
    figures["call_s"] = float(played.frames.calls["latency_s"].median())
    return figures


def figure(played: Run) -> go.Figure:
    """Calls in flight over time, with the limit as a line."""
    import plotly.graph_objects as go

    moments, counts = in_flight(played)
    changed = played.frames.limits.query("field == 'max_concurrency'")["at_s"].tolist()
    steps = [0.0, *changed, float(moments[-1])]
    drawn = go.Figure()
    drawn.add_scatter(x=moments, y=counts, mode="lines", name="calls in flight", line={"color": "#0072B2"})
    drawn.add_scatter(
        x=steps, y=[*_SIZES, _SIZES[-1]], mode="lines", line={"shape": "hv", "dash": "dash", "color": "#D55E00"},
        name="max_concurrency",
    )  # fmt: skip
    drawn.update_layout(
        title="Calls in flight follow max_concurrency within one call's time (1 s)", xaxis_title="seconds since the start",
        yaxis_title="calls", template="plotly_white", width=900, height=420,
    )  # fmt: skip
    return drawn
