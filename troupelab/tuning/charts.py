"""The figures of sweeps and experiments, as plotly draws them. One quantity an axis, units in titles, labels where the points are.

plotly is imported when a figure is made. Any thread may call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["arms", "one_factor", "parallel", "pareto"]

# Okabe and Ito's colours, which colour-blind eyes tell apart, with the grey of what is not on the front.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8a8a8a"
_PLAIN: dict[str, Any] = {
    "template": "plotly_white",
    "font": {"family": "Helvetica, Arial, sans-serif", "size": 13},
    "margin": {"l": 70, "r": 30, "t": 60, "b": 60},
    "showlegend": False,
    "height": 420,
}
_TITLES = {
    "recall": "recall@5",
    "relative_recall": "recall, of that of unlimited memory",
    "bytes": "bytes of memory at the peak, all agents",
    "cost": "tokens of memory in a prompt",
    "held": "facts held (share)",
    "regret": "regret (share of questions)",
    "archive_bytes": "bytes in the archive",
    "bytes_per_fact": "bytes a fact",
}


def _figure(title: str) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(title={"text": title, "x": 0, "xanchor": "left", "xref": "paper"}, **_PLAIN)
    return figure


def _text(value: Any) -> str:
    if value is None or value != value:
        return "none"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _error(frame: pd.DataFrame, name: str) -> dict[str, Any] | None:
    low, high = f"{name}_low", f"{name}_high"
    if low not in frame or frame[low].isna().all():
        return None
    up, down = (frame[high] - frame[name]).fillna(0), (frame[name] - frame[low]).fillna(0)
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 3}


def pareto(frame: pd.DataFrame, space: Sequence[str], best: pd.DataFrame, name: str) -> go.Figure:
    """Relative recall against bytes."""
    figure = _figure(f"<b>{name}</b>: what limits keep, and what they take (95 % intervals)")
    hover = ["<br>".join(f"{field} {_text(row[field])}" for field in space) for _, row in frame.iterrows()]
    figure.add_scatter(
        x=frame["bytes"], y=frame["relative_recall"], error_y=_error(frame, "relative_recall"), mode="markers", text=hover,
        marker={"color": GREY, "size": 8}, name="points", hovertemplate="%{text}<br>%{y:.2f} at %{x:.3s}B<extra></extra>",
    )  # fmt: skip
    labels = ["<br>".join(f"{_short(field)} {_text(row[field])}" for field in space) for _, row in best.iterrows()]
    few = len(best) <= 8
    figure.add_scatter(
        x=best["bytes"], y=best["relative_recall"], mode="lines+markers+text" if few else "lines+markers", text=labels,
        textposition="bottom right", textfont={"size": 10, "color": BLUE}, line={"color": BLUE, "width": 2}, marker={"size": 9},
        name="Pareto front", hovertemplate="%{text}<br>%{y:.2f} at %{x:.3s}B<extra>on the Pareto front</extra>",
    )  # fmt: skip
    figure.add_hline(y=1.0, line={"color": GREY, "dash": "dot", "width": 1}, annotation_text="unlimited memory")
    most, least = float(frame["bytes"].max()), float(frame["bytes"].min())
    room = 0.12 * (most - least) or 1.0
    figure.update_xaxes(title=_TITLES["bytes"], tickformat=".2s", ticksuffix="B", range=[least - room, most + 2 * room])
    figure.update_yaxes(title=_TITLES["relative_recall"], rangemode="tozero")
    return figure


def _short(field: str) -> str:
    """A limit's name, as short as it can be told apart."""
    return field.replace("recent_max_", "").replace("_fraction", "").replace("_similarity", "").replace("max_", "")


def parallel(frame: pd.DataFrame, space: Sequence[str], objectives: Sequence[str]) -> go.Figure:
    """All limits and objectives as parallel axes."""
    import pandas as pd
    import plotly.graph_objects as go

    dimensions = []
    for field in space:
        values = sorted(dict.fromkeys(frame[field].dropna().tolist()))
        if len(values) <= 12:
            shown = [*values, None] if frame[field].isna().any() else values
            place = {value: at for at, value in enumerate(values)}
            codes = [len(values) if pd.isna(value) else place[value] for value in frame[field]]
            ticks = {"tickvals": list(range(len(shown))), "ticktext": [_text(value) for value in shown]}
            dimensions.append({"label": field, "values": codes, **ticks})
        else:
            dimensions.append({"label": field, "values": frame[field]})
    dimensions += [
        {"label": name, "values": frame[name], "tickformat": ".2f" if frame[name].max() < 2 else ".3s"}
        for name in dict.fromkeys((*objectives, "relative_recall"))
    ]
    line = {
        "color": frame["relative_recall"], "colorscale": "Cividis", "showscale": True,
        "colorbar": {"title": {"text": "relative<br>recall"}, "thickness": 12},
    }  # fmt: skip
    figure = go.Figure(go.Parcoords(line=line, dimensions=dimensions, labelfont={"size": 12}))
    figure.update_layout(**{**_PLAIN, "margin": {"l": 90, "r": 60, "t": 80, "b": 40}})
    return figure


def one_factor(frame: pd.DataFrame, field: str) -> go.Figure:
    """Relative recall and bytes over one limit."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.14)
    labels = [_text(value) for value in frame[field]]
    for column, (name, color) in enumerate((("relative_recall", BLUE), ("bytes", ORANGE)), 1):
        figure.add_scatter(
            x=labels, y=frame[name], error_y=_error(frame, name), mode="lines+markers", line={"color": color, "width": 2},
            marker={"size": 8}, row=1, col=column, hovertemplate=f"{field} %{{x}}: %{{y:.3s}}<extra></extra>",
        )  # fmt: skip
        figure.update_yaxes(title=_TITLES[name], rangemode="tozero", row=1, col=column)
        figure.update_xaxes(title=field, type="category", row=1, col=column)
    figure.update_yaxes(tickformat=".2s", ticksuffix="B", row=1, col=2)
    title = f"<b>{field}</b>: means over all other limits (95 % intervals over replicates)"
    figure.update_layout(title={"text": title, "x": 0, "xanchor": "left", "xref": "paper"}, **_PLAIN)
    return figure


def arms(table: pd.DataFrame, measures: Sequence[str]) -> go.Figure:
    """Each arm's mean and interval, a strip a measure."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=len(measures), cols=1, subplot_titles=list(measures), vertical_spacing=0.5 / (len(measures) + 1)
    )
    names = list(dict.fromkeys(table["arm"]))
    for row, measure in enumerate(measures, 1):
        mine = table[table["measure"] == measure].set_index("arm").loc[names].reset_index()
        error = _error(
            mine.rename(columns={"mean": measure, "low": f"{measure}_low", "high": f"{measure}_high"}), measure
        )
        figure.add_scatter(
            x=mine["mean"], y=names, error_x=error, mode="markers", marker={"color": BLUE, "size": 9}, row=row, col=1,
            hovertemplate="%{y}: %{x:.4s}<extra></extra>",
        )  # fmt: skip
        figure.update_yaxes(autorange="reversed", row=row, col=1)
    figure.update_layout(
        **{**_PLAIN, "height": 90 + 110 * len(measures), "margin": {"l": 120, "r": 30, "t": 40, "b": 40}}
    )
    return figure
