"""The snapshot: a run's panels as still pictures in a cell's output, to be seen where the notebook is only read.

Each picture is an output of its own: figures that live in JupyterLab and VS Code, a PNG for whoever shows no such thing (GitHub, nbviewer, nbconvert,
a notebook that is not trusted), and its numbers as text. There is no HTML beside a PNG: readers take HTML first and then strip what
draws in it. Nothing in it asks for plotly.js or any widget. Any thread may call these.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from troupelab.dashboard.panels import Panels
from troupelab.dashboard.pictures import INK, draw, fit, numbers, told
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tables import table

__all__ = ["Snapshot", "Still", "snapshot"]

LIVE_BYTES = 100_000
"""A figure with more numbers than this is only a picture: a notebook should stay small."""


class Still:
    """One panel at one moment.

    Args:
        name: the panel's.
        figure: what it shows, to be restyled or saved.
        png: its picture; empty where there is none.
        why: the sentence that says why there is none.
    """

    def __init__(self, name: str, figure: go.Figure, png: bytes = b"", why: str = "") -> None:
        self.name = name
        self.figure = figure
        self.png = png
        self.why = why

    def __repr__(self) -> str:
        return told(self.figure)

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        figure = self.figure.to_json()
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        if len(figure) <= LIVE_BYTES:
            bundle["application/vnd.plotly.v1+json"] = json.loads(figure)
        if not self.png:
            return {**bundle, "text/html": self._html()}, {}
        size = {"width": int(self.figure.layout.width), "height": int(self.figure.layout.height)}
        return {**bundle, "image/png": base64.b64encode(self.png).decode()}, {"image/png": size}

    def _html(self) -> str:
        """The numbers as a table, where there is no picture."""
        rows = numbers(self.figure)
        shown = table(("line", "least", "greatest", "at the end"), rows) if rows else ""
        return f"<p>{html.escape(repr(self))}</p>{shown}<p>{html.escape(self.why)}</p>"


class Snapshot:
    """A run's panels at one moment; as a cell's last expression it leaves a picture of each.

    Args:
        stills: the panels, in their order.
    """

    def __init__(self, stills: list[Still]) -> None:
        self._stills = stills

    def __iter__(self) -> Iterator[Still]:
        return iter(self._stills)

    def __len__(self) -> int:
        return len(self._stills)

    def __getitem__(self, name: str) -> Still:
        """The still of a panel, by its name."""
        return {still.name: still for still in self}[name]

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for still in self:
            display(still)  # type: ignore[no-untyped-call]

    def save(self, folder: str | Path) -> list[Path]:
        """Write each panel as files: PNG, SVG and Plotly's JSON, or the JSON alone where there are no pictures.

        Args:
            folder: where to; made where it is not there.

        Returns:
            The files.

        Raises:
            OSError: the folder cannot be written.
        """
        place = Path(folder)
        drawings, _ = draw([still.figure for still in self], "svg") if all(still.png for still in self) else ([], "")
        files: list[Path] = []
        place.mkdir(parents=True, exist_ok=True)
        for number, still in enumerate(self):
            found = {"json": still.figure.to_json().encode(), "png": still.png}
            if drawings:
                found["svg"] = _on_white(drawings[number])
            for ending, content in found.items():
                if content:
                    files.append(place / f"{still.name}.{ending}")
                    files[-1].write_bytes(content)
        return files


def _on_white(drawing: bytes) -> bytes:
    """An SVG that stands alone has no text around it whose colour it could take."""
    return drawing.replace(b"currentColor", INK.encode()).replace(b'style="', b'style="background: #ffffff; ', 1)


def snapshot(run: Shown, *, view: Callable[[Panels], None] | None = None) -> Snapshot:
    """Take a picture of each panel of a run, as it stands now.

    With kaleido (`pip install kaleido`) and a Chromium or Chrome there are PNGs; without, the figures and a table of their numbers.

    Args:
        run: a run, or whatever else a dashboard can show, at any time of its life.
        view: sets the panels up before they read: their time axis, or which agents are lines.

    Returns:
        What is to be a cell's last expression; `save` writes files.
    """
    panels = Panels(run)
    if view is not None:
        view(panels)
    panels.read()
    figures = [fit(panel) for panel in panels]
    pictures, why = draw(figures, "png")
    found = pictures or [b""] * len(figures)
    return Snapshot(
        [Still(panel.name, figure, png, why) for panel, figure, png in zip(panels, figures, found, strict=True)]
    )
