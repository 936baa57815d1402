"""A picture of both orders: one lane an agent, a bar for each act, coloured by its step, on one axis of time.

Everything is read from the acts' frames of two runs. `python -m troupelab.bench.lanes FOLDER` plays them, and writes the
picture there as `lanes.png` (kaleido and a Chromium make it). Main thread only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from troupelab.bench.order import check_same, play, wall_s
from troupelab.people.world import World
from troupelab.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["lanes", "write"]

_SEED = 7
_AGENTS, _STEPS, _LATENCY_S = 25, 12, 0.3
_INK = "#26323d"
_SCALE = [(0.0, "#00224e"), (0.5, "#7c7b78"), (1.0, "#fee838")]
_BACKGROUND = "#ffffff"


def lanes(lockstep: Run, free: Run) -> go.Figure:
    """Draw the same acts as the two orders played them.

    Args:
        lockstep: a run in lockstep that has ended.
        free: the same in free order.
    """
    from plotly.subplots import make_subplots

    walls = [wall_s(lockstep), wall_s(free)]
    names = ["Lockstep: a barrier after each step", "Free order: nobody waits for those it cannot hear"]
    drawn = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=names)
    for row, (played, wall) in enumerate(zip((lockstep, free), walls, strict=True), 1):
        _draw(drawn, row, played, wall)
    tables = _tables(lockstep.world)
    drawn.update_yaxes(
        tickvals=[(table[0] + table[-1]) / 2 for table in tables],
        ticktext=[f"table {number}" for number in range(1, len(tables) + 1)],
        range=[len(lockstep.agent_names) - 0.3, -2.0], ticklabelstandoff=4, showgrid=False, zeroline=False,
    )  # fmt: skip
    drawn.update_xaxes(
        range=[0, max(walls) * 1.09], ticksuffix=" s", showgrid=True, gridcolor="#e4e8ec", zeroline=False
    )
    drawn.update_xaxes(title_text="wall time since the first act began", row=2)
    drawn.update_annotations(x=0, xanchor="left", font={"size": 14})
    for row, wall in enumerate(walls, 1):
        _mark_end(drawn, row, wall)
    _mark_steps(drawn, lockstep)
    title = (
        f"The same acts, the same words: {walls[0]:.1f} s in lockstep, {walls[1]:.1f} s in free order "
        f"({walls[0] / walls[1]:.2f} times as fast)"
    )
    subtitle = f"{len(lockstep.agent_names)} agents, a lane each; a bar is an act; a table hears only itself"
    drawn.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}, "x": 0.01, "font": {"size": 18}}, template="plotly_white", width=1200, height=980,
        font={"color": _INK}, bargap=0.14, showlegend=False, margin={"l": 75, "r": 95, "t": 120, "b": 60},
        coloraxis={
            "colorscale": _SCALE, "cmin": 1, "cmax": lockstep.steps,
            "colorbar": {"title": {"text": "step"}, "thickness": 12, "dtick": 1, "len": 0.5},
        },
    )  # fmt: skip
    return drawn


def _draw(drawn: go.Figure, row: int, played: Run, wall: float) -> None:
    acts = played.recorder.read("acts").columns
    begin, steps = float(acts["start_s"].min()), acts["step"] + 1
    drawn.add_bar(
        x=acts["end_s"] - acts["start_s"], base=acts["start_s"] - begin, y=acts["agent"], orientation="h", row=row, col=1,
        marker={"color": steps, "coloraxis": "coloraxis", "line": {"width": 0.5, "color": _BACKGROUND}},
        hovertemplate="step %{marker.color}: %{x:.2f} s<extra></extra>",
    )  # fmt: skip
    for table in _tables(played.world)[1:]:
        drawn.add_hline(y=table[0] - 0.5, line={"color": "#9aa5ae", "width": 1}, row=row, col=1)


def _mark_end(drawn: go.Figure, row: int, wall: float) -> None:
    drawn.add_vline(x=wall, line={"color": _INK, "dash": "dash", "width": 1.5}, row=row, col=1)
    drawn.add_annotation(
        x=wall, y=0, text=f" {wall:.1f} s", xanchor="left", showarrow=False, font={"size": 14}, row=row, col=1
    )


def _mark_steps(drawn: go.Figure, lockstep: Run) -> None:
    """Number the steps where they begin; in free order they have no one beginning."""
    acts = lockstep.recorder.read("acts").columns
    for step in range(lockstep.steps):
        at_s = acts["start_s"][acts["step"] == step].min() - acts["start_s"].min()
        text = f"step {step + 1}" if step == 0 else str(step + 1)
        drawn.add_annotation(
            x=at_s, y=-1.3, text=text, xanchor="left", showarrow=False, font={"size": 12}, row=1, col=1
        )


def _tables(world: World) -> list[tuple[int, ...]]:
    """The groups of a world in which groups hear only themselves, by their agents."""
    circles = {tuple(sorted((agent, *heard))) for agent, heard in enumerate(world.audience)}
    return sorted(circles)


def write(folder: str | Path) -> Path:
    """Play both orders and write the picture into a folder; returns the file."""
    world = World.sample(_AGENTS, seed=_SEED)
    lockstep = play(world, "lockstep", steps=_STEPS, latency_s=_LATENCY_S)
    free = play(world, "free", steps=_STEPS, latency_s=_LATENCY_S)
    check_same(lockstep, free)
    file = Path(folder) / "lanes.png"
    lanes(lockstep, free).write_image(file, scale=1)
    return file


if __name__ == "__main__":
    print(write(sys.argv[1] if len(sys.argv) > 1 else "data/benchmarks"))
