"""The report: a finished or running run as one page that needs nothing else, to be sent, kept or printed.

plotly.js stands in the page once; figures are JSON that a short script draws in the reader's light or dark colours. All texts
of users and models are escaped. Any thread may call `report`: it has figures of its own.
"""

from __future__ import annotations

import html
import os
import tempfile
from pathlib import Path
from typing import Any, Protocol

import plotly.graph_objects as go
import plotly.offline

from troupelab.dashboard.look import for_page
from troupelab.dashboard.panel import Panel
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.pictures import draw, fit, told
from troupelab.dashboard.pictures import numbers as lines
from troupelab.dashboard.readings import Readings
from troupelab.dashboard.report_parts import (
    alerts,
    changes,
    errors,
    limits,
    manifest,
    numbers,
    pairs,
    people,
    rows_table,
)
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tables import who

__all__ = ["report"]


class Reported(Shown, Protocol):
    """A run or a recording, as far as a report needs it; one with a `header` is told in full."""

    @property
    def world(self) -> Any:
        """What was played."""
        ...

    @property
    def seed(self) -> int:
        """Of every draw."""
        ...

    def summary(self) -> dict[str, object]:
        """The run in numbers."""
        ...


STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 1240px; padding: 18px 22px 48px; font: 15px/1.45 system-ui, sans-serif;
       color: light-dark(#1b1f24, #e6e8eb); background: light-dark(#ffffff, #15181c); }
h1 { font-size: 24px; margin: 0 0 2px; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 28px 0 6px; break-after: avoid; }
p.about { margin: 0 0 12px; color: light-dark(#4a5058, #b8bec6); }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px 16px; }
.figures > div { min-width: 0; break-inside: avoid; }
.figure text:not(.hoverlayer text) { fill: currentColor !important; }
.still svg { max-width: 100%; height: auto; }
.tables { display: flex; flex-wrap: wrap; gap: 0 40px; }
.tables section { max-width: 520px; }
.rows { overflow-x: auto; }
.rows:focus-visible { outline: 2px solid #3a86c8; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; vertical-align: top; padding: 2px 14px 2px 0; border-bottom: 1px solid rgba(128,128,128,.25); }
th, td.number { white-space: nowrap; } td { overflow-wrap: anywhere; min-width: 3em; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
@media (max-width: 900px) { .figures { grid-template-columns: minmax(0, 1fr); } }
@page { margin: 14mm; }
@media print { :root { color-scheme: light; } body { max-width: none; padding: 0; font-size: 12px; } .modebar { display: none !important; }
               .figures, .tables { display: block; } .tables section { max-width: none; } .rows { overflow: visible; }
               table { font-size: 10.5px; width: 100%; } th { white-space: normal; } tr { break-inside: avoid; } thead { display: table-header-group; } }
"""

DRAW = """
const PAPER_PX = 660;
const places = [...document.querySelectorAll(".figure")];
const draw = (fixed) => {
  for (const place of places) {
    const figure = JSON.parse(place.parentElement.querySelector("script").textContent);
    const width = fixed > 0 ? fixed : place.clientWidth;
    const { l, r } = figure.layout.margin;
    const end = Math.max(0.4, 1 - figure.layout.meta.labels_px / (width - l - r));
    figure.layout.width = width;
    figure.layout.xaxis.domain = [0, end];
    if (figure.layout.xaxis2) figure.layout.xaxis2.domain = [end + 0.005, 1];
    for (const trace of figure.data) if (trace.colorbar) trace.colorbar.x = end + 0.012;
    Plotly.react(place, figure.data, figure.layout, { displayModeBar: false, showSendToCloud: false, plotlyServerURL: "" });
  }
};
draw();
addEventListener("resize", draw);
addEventListener("beforeprint", () => draw(PAPER_PX));
addEventListener("afterprint", draw);
"""


def report(run: Reported, path: str | Path, *, pictures: bool = False) -> Path:
    """Write a run as one self-contained HTML page, and return where it is.

    The page holds what the run was made of, its numbers, all panels as interactive figures, its limits, their changes and what came of them, who
    was in it, what went wrong, and the last rows of the transcript. plotly.js stands in it (4.5 MB), so that it asks the network for nothing. It is
    written beside its place first and then moved there, so that a page is whole or absent.

    Args:
        run: a run or a recording, at any time of its life.
        path: where to write it; an older page there is replaced.
        pictures: whether readers without JavaScript see pictures, and not only the figures' numbers; that takes kaleido, a Chromium
            or Chrome, and some seconds.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    page = _page(run, pictures=pictures)
    handle, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return target


def _page(run: Reported, *, pictures: bool) -> str:
    panels = Panels(run)
    readings = Readings(run, panels)
    readings.take(panels.read())
    figures = [fit(panel) for panel in panels]
    drawings, why = draw(figures, "svg") if pictures else ([], "")
    stills = [drawing.decode() for drawing in drawings] or [_numbers(figure, why) for figure in figures]
    done = run.progress()
    name = for_page(run.name, 100)
    about = f"{len(run.agent_names)} agents · step {max(0, done.step + 1)} of {run.steps} · {for_page(run.state)}"
    library = plotly.offline.get_plotlyjs().replace("</script", "<\\/script")
    said = [(str(step), who(run.agent_names, agent), *rest) for step, agent, *rest in readings.actions]
    actions = run.recorder.read("actions").columns["action"]
    total, lost = int((actions != "DONE").sum()), run.recorder.lost("actions")
    gone = f" ({lost:,} older rows are no longer in memory)" if lost else ""
    heads = ("step", "agent", "action", "to", "content")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{name}: TroupeLab report</title>
<style>{STYLE}</style>
<noscript><style>.figure {{ display: none; }}</style></noscript>
<script>{library}</script>
</head>
<body>
<main>
<h1>{name}</h1>
<p class="about">{about}</p>
<h2>Panels</h2>
<div class="figures">
{"".join(map(_figure, panels, figures, stills))}
</div>
<div class="tables">
<section><h2>Numbers</h2>{pairs(numbers(run))}</section>
<section><h2>Made of</h2>{pairs(manifest(run))}</section>
</div>
<h2>Limits</h2>
{limits(run)}
<h2>Changes of limits</h2>
{changes(run)}
<h2>Agents</h2>
{people(run)}
<h2>Errors by kind</h2>
{errors(run)}
<h2>Alerts</h2>
{alerts(run)}
<h2>Transcript</h2>
<p>The last {len(said):,} of {total:,} actions{gone}.</p>
{rows_table("transcript", heads, said, 1) if said else ""}
</main>
<script>{DRAW}</script>
</body>
</html>
"""


def _figure(panel: Panel, figure: go.Figure, still: str) -> str:
    found = panel.filled().to_json().replace("<", "\\u003c")
    height, sentence = int(panel.figure.layout.height), html.escape(told(figure))
    place = f'<div class="figure" role="img" aria-label="{sentence}" style="height:{height}px"></div>'
    data = f'<script type="application/json">{found}</script>'
    return f'<div>{place}{data}<noscript><div class="still"><p>{sentence}</p>{still}</div></noscript></div>\n'


def _numbers(figure: go.Figure, why: str) -> str:
    """What stands for a figure where there is no JavaScript and no picture: its lines' numbers."""
    rows = lines(figure)
    shown = rows_table("numbers", ("line", "least", "greatest", "at the end"), rows) if rows else ""
    return f"{shown}<p>{for_page(why)}</p>" if why else shown
