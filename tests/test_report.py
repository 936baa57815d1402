"""The report: one page that needs nothing else, holds what the run was, and cannot be harmed by what agents say."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from shutil import which

import plotly.offline
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser.stand_in import StandInRun
from playwright.sync_api import sync_playwright

from troupelab.dashboard.panels import Panels
from troupelab.dashboard.process_panel import ProcessPanel
from troupelab.dashboard.report import report
from troupelab.events import ActionTaken, Failed, ProcessSampled
from troupelab.limits import Limits
from troupelab.models.scripted import ScriptedModel
from troupelab.run import Run

EVIL = "</script><img src=x onerror=alert(1)>"


class _Tags(HTMLParser):
    """Collects a page's tags, and whatever would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "onerror"}]


@pytest.fixture
def run() -> StandInRun:
    """A run with consolidations, a changed limit, and agents who would like to be markup."""
    made = StandInRun([EVIL, "Bo", "Cy"], seed=11, limits=Limits(recent_max_records=30))
    for number in range(900):
        made.act(number / 100)
    made._begun = time.monotonic() - 9.0
    made.limits.update(recent_max_records=20, note=EVIL)
    made.recorder.emit(ActionTaken(9.0, 300, 0, 0, "TALK", "Bo", EVIL))
    return made


def _panels(run: StandInRun) -> int:
    return len(list(Panels(run)))


def _figures(page: str) -> list[dict[str, object]]:
    return [
        json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    ]


def test_a_report_is_one_page_that_loads_nothing(run: StandInRun, tmp_path: Path) -> None:
    """plotly.js stands in it once, and no tag refers to anything outside."""
    path = report(run, tmp_path / "run.html")
    page = path.read_text(encoding="utf-8")
    library = plotly.offline.get_plotlyjs()
    assert page.count(library[-2000:-200].replace("</script", "<\\/script")) == 1
    tags = _Tags()
    tags.feed(page)
    assert tags.loads == ["data:,"]  # an empty icon, so that no browser looks for one
    assert tags.tags.count("script") == _panels(run) + 2
    assert "img" not in tags.tags


def test_a_report_holds_what_the_run_was(run: StandInRun, tmp_path: Path) -> None:
    """World, seed, versions, limits, their changes, the numbers, all figures and the transcript are there."""
    page = report(run, tmp_path / "run.html").read_text(encoding="utf-8")
    figures = _figures(page)
    titles = " ".join(figure["layout"]["title"]["text"] for figure in figures)  # type: ignore[index]
    assert len(figures) == _panels(run)
    for name in ("memory per agent", "model latency", "consolidation events", "throughput", "process memory"):
        assert name in titles
    for fact in (
        '<th scope="row">seed</th><td>11</td>',
        '<th scope="row">plotly</th>',
        '<th scope="row">system</th>',
        "recent_max_records",
        "30 records → 20 records",
        '<th scope="row">acts</th><td>900</td>',
        "The last 200 of 1,801 actions",
    ):
        assert fact in page
    assert "In step 299 I would say" in page


def test_what_agents_say_is_escaped(run: StandInRun, tmp_path: Path) -> None:
    """Neither a name, a note nor a speech can close a script or open a tag."""
    page = report(run, tmp_path / "run.html").read_text(encoding="utf-8")
    assert "<img" not in page.replace(plotly.offline.get_plotlyjs(), "")
    assert "&lt;/script&gt;&lt;img" in page


def test_a_report_of_a_run_that_has_not_begun_is_whole(tmp_path: Path) -> None:
    """Before the first event the page says what would be there."""
    page = report(StandInRun(3), tmp_path / "empty.html").read_text(encoding="utf-8")
    assert "all limits stayed as they were" in page
    assert "will appear" in page


def test_a_report_that_fails_leaves_the_old_page(
    run: StandInRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is whole or absent: when the last step fails, the old one stays and nothing is left beside it."""
    path = tmp_path / "run.html"
    path.write_text("old", encoding="utf-8")

    def full(self: Path, target: Path) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        report(run, path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.html"]
    assert path.read_text(encoding="utf-8") == "old"
    with pytest.raises(FileNotFoundError):
        report(run, tmp_path / "nowhere" / "run.html")


def _process(run: StandInRun) -> ProcessPanel:
    """The panel with all that the run's recorder holds, on the time axis of the others."""
    panels = Panels(run)
    panel = ProcessPanel(run, panels.clock)
    panel.take(panels.read())
    return panel


def _labels(panel: ProcessPanel) -> list[str]:
    return [note["text"] for note in panel.settings()["annotations"]]


def test_the_process_panel_draws_what_the_frames_hold(run: StandInRun) -> None:
    """Both lines are the frames' numbers in megabytes, every sample of them."""
    for number in range(19):
        run.recorder.emit(_sample(number / 2, 200 + 3 * number, 40 + number))
    panel = _process(run)
    resident, memories, _, mark = panel.filled().data
    samples = run.frames.process
    assert resident.x.tolist() == memories.x.tolist() == samples["at_s"].tolist()
    assert resident.y.tolist() == [size / 1e6 for size in samples["rss_bytes"]]
    assert memories.y.tolist() == [size / 1e6 for size in samples["memory_bytes"]]
    assert set(mark.x.tolist()) == {run.recorder.read("limits").columns["at_s"][0]}
    assert panel.filled().layout.yaxis.range[0] == 0

    process, all_memories = _labels(panel)
    assert "process<br>254 MB<br>growth after<br>the first tenth:<br>+48 MB" in process  # from 206 MB at 1 s on
    assert "all memories<br>58 MB" in all_memories


def _sample(at_s: float, rss_mb: float, memory_mb: float = 50.0) -> ProcessSampled:
    return ProcessSampled(at_s, int(rss_mb * 1e6), 1.0, 0, 0, int(memory_mb * 1e6))


def test_the_process_panel_stays_small_and_keeps_its_peak() -> None:
    """However many samples there are, a line has a thousand points at most, and the highest sample is one of them."""
    run = StandInRun(3)
    for number in range(5000):
        run.recorder.emit(_sample(number / 2, 900 if number == 1234 else 200))
        run.act(number / 2)
    panel = _process(run)
    assert all(len(shape.y) <= 1000 for shape in panel.filled().data)
    assert panel.filled().data[0].y.max() == 900
    assert "+0 MB" in _labels(panel)[0]


def test_the_process_panel_says_no_more_than_it_knows() -> None:
    """Without events it is a sentence; one sample is a dot and no growth; a process that shrank says so."""
    run = StandInRun(3)
    panel = _process(run)
    assert panel.empty
    assert panel.waiting in panel.filled().layout.annotations[0].text
    run.recorder.emit(_sample(1.0, 300))
    panel = _process(run)
    assert panel.growth() is None
    assert panel.filled().data[0].mode == "lines+markers"
    assert "process<br>300 MB" in _labels(panel)[0]
    assert "growth" not in _labels(panel)[0]
    run.recorder.emit(_sample(2.0, 287.5))
    assert _labels(_process(run))[0].endswith("−12.5 MB")


def test_the_labels_of_the_process_panel_stand_apart() -> None:
    """Where the memories are nearly all of the process, the five lines of its label neither cover theirs nor leave the plot."""
    run = StandInRun(1)
    for number in range(4):
        run.recorder.emit(_sample(number / 2, 50.1, 50))
    shown = _process(run).settings()
    process, memories = (note["y"] for note in shown["annotations"])
    top = shown["yaxis.range"][1]
    assert process - memories >= 0.26 * top
    assert process <= 0.83 * top + 1e-4


def test_the_report_of_a_real_run_has_every_section(tmp_path: Path) -> None:
    """Headings in order; the limits at both ends, what came of the change, who was in it, and where a fork comes from."""
    model = ScriptedModel(seed=7, latency_s=0.0)
    run = Run("product_launch", model, limits=Limits(recent_max_records=40), steps=8, seed=7)
    run.start(paused=True)
    run.step(4)
    run.wait(60, until="paused")
    run.limits.update(recent_max_records=10, note="smaller")
    run.resume()
    run.wait(60)
    page = report(run, tmp_path / "run.html").read_text(encoding="utf-8").rpartition("<main>")[2]
    headings = re.findall(r"<h(\d)>([^<]*)</h", page)
    assert [level for level, _ in headings] == ["1"] + 9 * ["2"]
    names = "Panels, Numbers, Made of, Limits, Changes of limits, Agents, Errors by kind, Alerts, Transcript"
    assert [name for _, name in headings[1:]] == names.split(", ")
    assert "<td>recent_max_records</td><td>40 records</td><td>10 records</td>" in page
    assert re.search(r"memory, all agents [\d.]+ .B → [\d.]+ .B; recent records [\d.,]+ → [\d.,]+; .*latency p50", page)
    assert all(name in page for name in run.agent_names)
    for fact in ("embedder", "scripted", "interventions", "lockstep", "smaller"):
        assert fact in page

    fork = run.fork({"recent_max_records": 5}, at_step=4)
    page = report(fork, tmp_path / "fork.html").read_text(encoding="utf-8")
    assert "of product_launch, from step 4 on" in page
    fork.close()


def test_numbers_that_are_none_are_said_to_be_unknown(tmp_path: Path) -> None:
    """NaN and infinite values stand in the page as words, and 100,000 characters are cut."""
    run = StandInRun(2)
    run.act(0.1)
    run.summary = lambda: {"cost_usd": float("nan"), "wall_s": float("inf"), "note": "x" * 100_000}  # type: ignore[method-assign]
    run.recorder.emit(Failed(0.2, 0, 0, EVIL, "y" * 100_000, 1))
    page = report(run, tmp_path / "run.html").read_text(encoding="utf-8").rpartition("<main>")[2]
    assert page.count("<td>not known</td>") == 2
    assert "x" * 500 not in page
    assert "y" * 2001 not in page
    assert "<img" not in page


def test_without_javascript_a_report_has_its_numbers_or_its_pictures(run: StandInRun, tmp_path: Path) -> None:
    """Each figure has a sentence and a table or a drawing in its place, for readers who run no scripts."""
    page = report(run, tmp_path / "run.html").read_text(encoding="utf-8").rpartition("<main>")[2]
    assert page.count("<noscript>") == _panels(run)
    assert '<th scope="col">least</th>' in page
    page = report(run, tmp_path / "drawn.html", pictures=True).read_text(encoding="utf-8").rpartition("<main>")[2]
    assert page.count('<noscript><div class="still"><p>') == page.count('<svg class="main-svg"') == _panels(run)
    assert set(re.findall(r"https?://[^\s\"]*", page)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_a_browser_draws_a_report_without_the_network(run: StandInRun, tmp_path: Path) -> None:
    """From its file, in the dark: one request, no complaint, all figures, light text, nothing that keeps people out; and on paper, light."""
    path = report(run, tmp_path / "run.html")
    asked: list[str] = []
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=which("chromium"))
        page = browser.new_page(viewport={"width": 1300, "height": 900}, color_scheme="dark")
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_function(
            "count => document.querySelectorAll('.figure .gtitle').length === count", arg=_panels(run)
        )
        assert asked == [path.as_uri()]
        assert said == []
        color = "getComputedStyle(document.querySelector('.figure .gtitle')).fill"
        assert page.evaluate(color) == "rgb(230, 232, 235)"
        found = Axe().run(page).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate(color) == "rgb(27, 31, 36)"
        paper = page.pdf(format="A4")
        assert 3 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 20
        browser.close()
