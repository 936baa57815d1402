"""Figures off the screen: at a fixed width, told in a sentence and in numbers, and drawn as PNG or SVG.

Drawing needs kaleido and a Chromium or Chrome that is installed; neither is imported or looked for before, and none is ever downloaded.
Any thread may call these, also one whose event loop runs: the drawing has a thread and a loop of its own, and its browser ends with it.
"""

from __future__ import annotations

import asyncio
import html
import re
import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from troupelab.dashboard.panel import Panel

__all__ = ["INK", "WIDTH", "draw", "fit", "numbers", "plain", "told"]

WIDTH = 640
"""How many pixels wide a still picture is: it fits a notebook's cell, and a page of paper."""
INK = "#1b1f24"
PAPER = "#ffffff"
SCALE = 1.5
TIME_OUT_S = 60.0
MOST_TOLD = 8
_OWN_COLOR = "#010203"
"""Stands for the colour of the text around a picture, which plotly.js cannot know."""


def fit(panel: Panel, width: int = WIDTH) -> go.Figure:
    """What a panel shows now at a fixed width, dark on white, with room for its labels as in the dashboard (see live.js)."""
    figure = panel.filled()
    layout = figure.layout
    end = max(0.4, 1 - layout.meta["labels_px"] / (width - layout.margin.l - layout.margin.r))
    figure.update_layout(width=width, paper_bgcolor=PAPER, font_color=INK)
    figure.layout.xaxis.domain = (0, end)
    if "xaxis2" in layout:
        figure.layout.xaxis2.domain = (end + 0.005, 1)
    for trace in figure.data:
        if trace.type == "heatmap":
            trace.colorbar.x = end + 0.012
        for key in ("x", "y", "z"):
            if key in trace and isinstance(trace[key], np.ndarray) and trace[key].dtype == np.float64:
                trace[key] = trace[key].astype(np.float32)  # half the room in a notebook, and finer than any screen
    return figure


def plain(text: object) -> str:
    """A label of a figure as plain text: without tags, on one line.

    >>> plain("<b>R&amp;D</b><br>&lt;i&gt;")
    'R&D <i>'
    """
    return " ".join(html.unescape(re.sub(r"<[^<>]*>", " ", str(text or ""))).replace("■", " ").split())


def numbers(figure: go.Figure) -> list[tuple[str, str, str, str]]:
    """The lines of a figure: the name of each, its least and its greatest value, and its last one."""
    rows = []
    for trace in figure.data:
        is_line = trace.type == "scatter" and "lines" in (trace.mode or "") and trace.text is None
        values = trace.z if trace.type == "heatmap" else trace.y if is_line else None
        found = np.asarray([] if values is None else values, dtype=float).ravel()
        found = found[np.isfinite(found)]
        if len(found):
            name = "all agents" if trace.type == "heatmap" else plain(trace.meta or trace.name)
            last = "" if trace.type == "heatmap" else f"{found[-1]:,.4g}"
            rows.append((name, f"{found.min():,.4g}", f"{found.max():,.4g}", last))
    return rows


def told(figure: go.Figure) -> str:
    """What a figure shows, in a sentence: its title, its labels, and where its lines end."""
    labels = "; ".join(filter(None, (plain(note.text) for note in figure.layout.annotations)))
    ends = [f"{name} {last} (from {least} to {most})" for name, least, most, last in numbers(figure) if last]
    more = f", and {len(ends) - MOST_TOLD} more" if len(ends) > MOST_TOLD else ""
    lines = f". At the end: {', '.join(ends[:MOST_TOLD])}{more}" if ends else ""
    return f"{plain(figure.layout.title.text)}{': ' if labels else ''}{labels}{lines}."


def draw(figures: Sequence[go.Figure], form: Literal["png", "svg"]) -> tuple[list[bytes], str]:
    """Draw figures, all in one browser that ends when they are drawn.

    SVGs have no background, and the colour of the text that they stand in.

    Returns:
        The pictures, and ""; or none, and a sentence that says why and what to do.
    """
    try:
        import kaleido
    except ImportError:
        return (
            [],
            "There are no pictures, since kaleido is not installed: pip install kaleido, and have a Chromium or Chrome.",
        )
    if form == "svg":
        figures = [
            go.Figure(figure).update_layout(paper_bgcolor="rgba(0,0,0,0)", font_color=_OWN_COLOR) for figure in figures
        ]
    pictures: list[bytes] = []
    failures: list[Exception] = []

    async def work() -> None:
        async with kaleido.Kaleido(n=1, timeout=TIME_OUT_S, mathjax=False) as browser:
            for figure in figures:
                size = {
                    "width": figure.layout.width,
                    "height": figure.layout.height,
                    "scale": SCALE if form == "png" else 1,
                }
                pictures.append(await browser.calc_fig(figure, opts={"format": form, **size}))

    def go_on() -> None:
        try:
            asyncio.run(asyncio.wait_for(work(), TIME_OUT_S))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=go_on, name="troupelab-pictures", daemon=True)
    thread.start()
    thread.join()
    if failures:
        return [], _why(failures[0])
    return [_own_color(picture) if form == "svg" else picture for picture in pictures], ""


def _why(error: Exception) -> str:
    if type(error).__name__ == "ChromeNotFoundError":
        return "There are no pictures, since no Chromium or Chrome was found: install one, or name its file in BROWSER_PATH."
    what = "took too long" if isinstance(error, TimeoutError) else f"failed ({type(error).__name__})"
    return f"There are no pictures, since drawing them in the browser {what}: try once more, or name another browser in BROWSER_PATH."


def _own_color(picture: bytes) -> bytes:
    """An SVG in the colour of the text around it, no wider than its place."""
    red, green, blue = bytes.fromhex(_OWN_COLOR[1:])
    text = picture.decode().replace(f"rgb({red}, {green}, {blue})", "currentColor")
    return text.replace('style=""', 'style="max-width: 100%; height: auto"', 1).encode()
