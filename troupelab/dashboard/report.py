"""The report: a finished or running run as one page that needs nothing else, to be sent, kept or printed.

plotly.js stands in the page once; figures are JSON that a short script draws in the reader's light or dark colours. All texts
of users and models are escaped. Any thread may call `report`: it has figures of its own.
"""

from __future__ import annotations

import html
import os
import platform
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.offline

from troupelab.dashboard.look import for_page, value_text
from troupelab.dashboard.panel import Panel
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import SHOWN_ROWS, Readings, transcript_rows
from troupelab.limits import Limits

if TYPE_CHECKING:
    from troupelab.run import Run

__all__ = ["report"]

STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 1240px; padding: 18px 22px 48px; font: 15px/1.45 system-ui, sans-serif;
       color: light-dark(#1b1f24, #e6e8eb); background: light-dark(#ffffff, #15181c); }
h1 { font-size: 24px; margin: 0 0 2px; } h2 { font-size: 18px; margin: 28px 0 6px; } p.about { margin: 0 0 12px; opacity: .8; }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px 16px; }
.tables { display: flex; flex-wrap: wrap; gap: 0 40px; }
.tables section { max-width: 380px; }
.figure { min-width: 0; break-inside: avoid; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; vertical-align: top; padding: 2px 14px 2px 0; border-bottom: 1px solid rgba(128,128,128,.25);
         white-space: nowrap; }
td:last-child { overflow-wrap: anywhere; white-space: normal; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
@media (max-width: 900px) { .figures { grid-template-columns: minmax(0, 1fr); } }
@media print { :root { color-scheme: light; } body { max-width: none; padding: 0; } .modebar { display: none !important; }
               tr { break-inside: avoid; } }
"""

DRAW = """
const places = [...document.querySelectorAll(".figure")];
const draw = () => {
  const color = getComputedStyle(document.body).color;
  for (const place of places) {
    const figure = JSON.parse(place.nextElementSibling.textContent);
    figure.layout.font = { ...figure.layout.font, color };
    const { l, r } = figure.layout.margin;
    const end = Math.max(0.4, 1 - figure.layout.meta.labels_px / (place.clientWidth - l - r));
    figure.layout.width = place.clientWidth;
    figure.layout.xaxis.domain = [0, end];
    if (figure.layout.xaxis2) figure.layout.xaxis2.domain = [end + 0.005, 1];
    for (const trace of figure.data) if (trace.colorbar) trace.colorbar.x = end + 0.012;
    Plotly.react(place, figure.data, figure.layout, { displaylogo: false, showSendToCloud: false, plotlyServerURL: "" });
  }
};
draw();
addEventListener("resize", draw);
addEventListener("beforeprint", draw);
addEventListener("afterprint", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
"""


def report(run: Run, path: str | Path) -> Path:
    """Write a run as one self-contained HTML page, and return where it is.

    The page holds what the run was made of, its limits and their changes, the numbers, the dashboard's panels
    as interactive figures, and the last rows of the transcript. It is written beside its place first and then moved there, so that a page is whole
    or absent.

    Args:
        run: the run, at any time of its life.
        path: where to write it; an older page there is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    page = _page(run)
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


def _page(run: Run) -> str:
    panels = Panels(run)
    readings = Readings(run, panels)
    readings.take(panels.read())
    done = run.progress()
    name = for_page(run.name, 100)
    about = f"{len(run.agent_names)} agents · step {max(0, done.step + 1)} of {run.steps} · {for_page(run.state)}"
    library = plotly.offline.get_plotlyjs().replace("</script", "<\\/script")
    transcript = transcript_rows(run.agent_names, readings.actions, newest_first=False)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: TroupeLab report</title>
<style>{STYLE}</style>
<script>{library}</script>
</head>
<body>
<h1>{name}</h1>
<p class="about">{about}</p>
<div class="figures">
{"".join(_figure(panel) for panel in panels)}
</div>
<div class="tables">
<section><h2>Numbers</h2>{_pairs((key, _shown(value)) for key, value in run.summary().items())}</section>
<section><h2>Made of</h2>{_pairs(_manifest(run))}</section>
<section><h2>Limits at the end</h2>{_pairs(_limits(run))}</section>
</div>
<h2>Changes of limits</h2>
{_changes(run)}
<h2>Transcript, the last {SHOWN_ROWS} actions</h2>
{transcript}
<script>{DRAW}</script>
</body>
</html>
"""


def _figure(panel: Panel) -> str:
    found = panel.filled().to_json().replace("<", "\\u003c")
    height = int(panel.figure.layout.height)
    place = f'<div class="figure" role="img" aria-label="{html.escape(panel.name)}" style="height:{height}px"></div>'
    return f'<div>{place}<script type="application/json">{found}</script></div>\n'


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    cells = (f"<tr><th>{for_page(name)}</th><td>{for_page(value)}</td></tr>" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _shown(value: object) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value)
    )


def _manifest(run: Run) -> Sequence[tuple[str, str]]:
    versions = [(f"{package} version", metadata.version(package)) for package in ("plotly", "numpy", "pandas")]
    from troupelab import __version__

    return [
        ("world", run.world.name),
        ("steps", str(run.steps)),
        ("seed", str(run.seed)),
        ("troupelab version", __version__),
        ("Python version", platform.python_version()),
        *versions,
    ]


def _limits(run: Run) -> Iterable[tuple[str, str]]:
    fields = Limits.fields()
    for name, value in run.limits.current.as_dict().items():
        default = (
            ""
            if value == fields[name].default
            else f" (default: {value_text(fields[name].default, fields[name].unit)})"
        )
        yield name, value_text(value, fields[name].unit) + default


def _changes(run: Run) -> str:
    rows = run.recorder.read("limits").columns
    if not len(rows["at_s"]):
        return "<p>None: all limits stayed as they were.</p>"
    fields = Limits.fields()
    body = []
    for place in range(len(rows["at_s"])):
        row = {name: column[place] for name, column in rows.items()}
        unit = fields[row["field"]].unit if row["field"] in fields else ""
        cells = [
            f"{row['at_s']:.2f} s",
            row["field"],
            row["agents"],
            f"{value_text(float(row['old']), unit)} → {value_text(float(row['new']), unit)}",
            row["note"],
            row["by"],
            f"{row['accepted_ms']:.2g} ms",
            f"step {row['effective_step']}",
        ]
        body.append("<tr>" + "".join(f"<td>{for_page(cell)}</td>" for cell in cells) + "</tr>")
    names = ("at", "limit", "agents", "change", "note", "by", "accepted in", "effective from")
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{''.join(body)}</table>"
