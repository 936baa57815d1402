"""The snapshot: pictures of all panels in a cell's output that ask nobody for anything, and words where there are no pictures."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import psutil
import pytest
from browser.stand_in import StandInRun
from IPython.core.formatters import DisplayFormatter

from troupelab.dashboard.dashboard import Dashboard
from troupelab.dashboard.pictures import WIDTH, plain
from troupelab.dashboard.snapshot import Snapshot, snapshot
from troupelab.limits import Limits

EVIL = "</script><img src=x onerror=alert(1)>"
PNG = "image/png"
LIVE = "application/vnd.plotly.v1+json"


@pytest.fixture
def run() -> StandInRun:
    """A run of three, one of whom would like to be markup."""
    made = StandInRun([EVIL, "Bo", "Cy"], seed=11, limits=Limits(recent_max_records=30))
    for number in range(300):
        made.act(number / 30)
    return made


def _bundles(taken: Snapshot) -> dict[str, dict[str, object]]:
    return {still.name: still._repr_mimebundle_()[0] for still in taken}


def test_a_snapshot_is_pictures_figures_and_numbers(run: StandInRun, tmp_path: Path) -> None:
    """Every panel is a PNG of a stated size, a figure and a sentence; saved, an SVG that holds its title and its labels; and no browser is left."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    taken = snapshot(run)
    assert {"memory", "latency", "consolidations", "throughput", "process"} <= {still.name for still in taken}
    for still in taken:
        bundle, metadata = still._repr_mimebundle_()
        assert set(bundle) == {"text/plain", PNG, LIVE}  # no HTML: it would be taken first, and stripped
        picture = base64.b64decode(bundle[PNG])
        assert picture.startswith(b"\x89PNG")
        assert struct.unpack(">II", picture[16:24]) == (1.5 * WIDTH, 1.5 * still.figure.layout.height)
        assert metadata[PNG] == {"width": WIDTH, "height": still.figure.layout.height}
        json.dumps(bundle, allow_nan=False)
    assert sum(len(json.dumps(bundle)) for bundle in _bundles(taken).values()) < 1_000_000
    assert "throughput (acts per second): " in repr(taken)
    assert "At the end: acts/s " in repr(taken)

    files = taken.save(tmp_path / "pictures")
    assert {file.suffix for file in files} == {".json", ".png", ".svg"}
    for still in taken:
        drawing = (tmp_path / "pictures" / f"{still.name}.svg").read_text(encoding="utf-8")
        texts = ["".join(each.itertext()) for each in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")]  # fmt: skip
        shown = " ".join(" ".join(texts).split()).replace("\u00a0", " ")
        layout = still.figure.layout
        for told in (layout.title, *layout.annotations):
            for word in plain(told.text).split():
                assert word in shown
        assert drawing.count("http") == drawing.count("http://www.w3.org/")
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_without_kaleido_there_are_numbers_and_a_way_out(run: StandInRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures stay, a table holds their numbers, and a sentence says what to install; names stay text."""
    monkeypatch.setitem(sys.modules, "kaleido", None)
    taken = snapshot(run)
    for bundle in _bundles(taken).values():
        assert set(bundle) == {"text/plain", "text/html", LIVE}
        page = str(bundle["text/html"])
        assert "pip install kaleido" in page
        assert "<img" not in page
        assert "http" not in page
    assert "<th>greatest</th>" in str(_bundles(taken)["throughput"]["text/html"])
    assert "&lt;/script&gt;&lt;img" in str(_bundles(taken)["memory"]["text/html"])


def test_without_a_browser_a_snapshot_says_so(run: StandInRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A browser that is not there is named as what is missing, and only JSON is saved."""
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    taken = snapshot(run)
    assert "no Chromium or Chrome was found" in taken["memory"].why
    assert {file.suffix for file in taken.save(tmp_path / "files")} == {".json"}


def test_a_dashboard_takes_a_snapshot_where_an_event_loop_runs(run: StandInRun) -> None:
    """In a kernel a loop runs already; the picture is of what the dashboard was told to show, an output a panel."""
    dashboard = Dashboard(run)
    dashboard._view.axis.value = "steps"

    async def cell() -> Snapshot:
        return dashboard.snapshot()

    taken = asyncio.run(cell())
    dashboard.close()
    assert taken["memory"].png.startswith(b"\x89PNG")
    assert "step" in taken["memory"].figure.layout.xaxis.title.text
    shown, _ = DisplayFormatter().format(taken["memory"])
    assert {PNG, LIVE} <= set(shown)


def test_a_snapshot_before_the_first_event_says_what_will_appear() -> None:
    """Nothing to draw is no error."""
    assert "will appear" in repr(snapshot(StandInRun(3)))
