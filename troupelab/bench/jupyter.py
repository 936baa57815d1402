"""A real Jupyter to measure and test in: a server of its own, notebooks opened in Chromium, and questions to their kernels.

One server serves JupyterLab and Notebook 7; Voila has one of its own, as a user starts it. It needs playwright and a Chromium on this machine
(`pip install "troupelab[test]"`); no browser is downloaded. Main thread only.
"""

from __future__ import annotations

import ast
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from troupelab.errors import MissingPackageError

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient
    from playwright.sync_api import Browser, Locator, Page

__all__ = ["DRAWN", "JupyterServer", "Notebook", "drawn", "eventually", "open_browser", "points"]

ROOT = Path(__file__).resolve().parents[2]

QUIET_CHROMIUM = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


APPS = {
    "lab": "lab/tree/{path}?reset",
    "notebook": "notebooks/{path}?",
    "voila": "voila/render/{path}?theme={theme}",
}
"""Where each application shows a notebook."""


def eventually(what: str, check: Callable[[], object], *, timeout_s: float = 30.0, every_s: float = 0.02) -> Any:
    """Ask again and again until the answer is truthy.

    Raises:
        AssertionError: it never is, and what was waited for.
    """
    until = time.monotonic() + timeout_s
    while not (answer := check()):
        if time.monotonic() > until:
            raise AssertionError(f"within {timeout_s:g} s this never came true: {what}")
        time.sleep(every_s)
    return answer


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A Chromium of this machine, driven by playwright.

    Raises:
        MissingPackageError: playwright or a Chromium is not here.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingPackageError('playwright drives the browser: pip install "troupelab[test]"') from error
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        raise MissingPackageError("a Chromium is needed on this machine: install your system's package of it")
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=path, args=[*QUIET_CHROMIUM, *(["--no-sandbox"] if _is_root() else [])]
        )
        yield browser
        browser.close()


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


class JupyterServer:
    """A server on a free port, with folders of its own.

    Args:
        home: where its folders are made.
        voila: whether it is Voila's, which serves notebooks as apps; else JupyterLab's, which serves Notebook 7 as well.
        paths: where kernels look for modules, beside this package.
    """

    def __init__(self, home: Path, *, voila: bool = False, paths: Sequence[str] = ()) -> None:
        self.home = home
        self.voila = voila
        self.runtime = home / "runtime"
        self.notebooks = home / "notebooks"
        settings = home / "settings" / "@jupyterlab" / "apputils-extension"
        for folder in (self.runtime, self.notebooks, settings):
            folder.mkdir(parents=True)
        quiet = {"fetchNews": "false", "checkForUpdates": False}
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
        (settings / "themes.jupyterlab-settings").write_text(json.dumps({"adaptive-theme": True}))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{self.port}"
        env = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *paths]),
        }
        command = [sys.executable, "-m", "voila" if voila else "jupyterlab", "--no-browser", f"--port={self.port}"]
        if voila:
            command += [
                "--Voila.ip=127.0.0.1",
                "--Voila.port_retries=0",
                f"--Voila.connection_dir_root={self.runtime}",
                f"--token={self.token}",
                str(self.notebooks),
            ]
        else:
            command += ["--allow-root"] if _is_root() else []
            command += ["--ip=127.0.0.1", "--ServerApp.port_retries=0", f"--ServerApp.token={self.token}"]
            command += [f"--ServerApp.root_dir={self.notebooks}"]
        self._log = (home / "server.log").open("wb")
        self._process = subprocess.Popen(command, env=env, cwd=home, stdout=self._log, stderr=subprocess.STDOUT)  # noqa: S603
        eventually("the server answers", self._answers, timeout_s=60)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError("the server ended at once:\n" + (self.home / "server.log").read_text()[-2000:])
        try:
            self.get("api/status")
        except json.JSONDecodeError:
            return self.voila  # which has no such page
        except OSError:
            return False
        return True

    def get(self, path: str) -> Any:
        """Ask the server's API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", f"/{path}", headers={"Authorization": f"token {self.token}"})
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def close(self) -> None:
        """End the server and its kernels."""
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Notebook:
    """A notebook, open in a page.

    Args:
        server: who serves it.
        page: where it is opened.
        name: what it is called.
        cells: their code; or the path of a notebook that exists, to open a copy of it.
        app: `lab`, `notebook` or `voila`.
    """

    def __init__(
        self, server: JupyterServer, page: Page, name: str, cells: Sequence[str] | Path, *, app: str = "lab"
    ) -> None:
        self.server = server
        self.page = page
        self.app = app
        self.path = f"{name}.ipynb"
        (server.notebooks / self.path).write_text(_content(cells))
        self._before = set(server.runtime.rglob("kernel-*.json"))
        self.open()
        self._client = self._connect()

    def open(self) -> None:
        """Open it, or open it again as a reload does; Voila shows it to everybody anew, with a kernel of its own."""
        theme = "dark" if self.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"
        where = APPS[self.app].format(path=self.path, theme=theme)
        self.page.goto(f"{self.server.url}/{where}&token={self.server.token}", timeout=60_000)
        if self.app == "voila":
            self.page.wait_for_selector(".jp-OutputArea-output", timeout=60_000)
            return
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        idle = {"lab": '.jp-Notebook-ExecutionIndicator[data-status="idle"]', "notebook": ".jp-NotebookKernelStatus"}
        self.page.wait_for_selector(idle[self.app], timeout=60_000, state="attached")

    def _connect(self) -> BlockingKernelClient:
        def sessions() -> Path | None:
            ids = [row["kernel"]["id"] for row in self.server.get("api/sessions") if row["path"] == self.path]
            return self.server.runtime / f"kernel-{ids[0]}.json" if ids else None

        def newest() -> Path | None:
            return next(iter(set(self.server.runtime.rglob("kernel-*.json")) - self._before), None)

        from jupyter_client.blocking.client import BlockingKernelClient

        client = BlockingKernelClient()
        client.load_connection_file(str(eventually("it has a kernel", newest if self.app == "voila" else sessions)))
        client.start_channels(stdin=False, hb=False)
        client.wait_for_ready(timeout=60)
        return client

    def ask(self, expression: str) -> Any:
        """What an expression is in the kernel, read back from its repr."""
        reply = self._client.execute("", user_expressions={"it": expression}, silent=True, reply=True, timeout=30)
        it = reply["content"]["user_expressions"]["it"]
        if it["status"] != "ok":
            raise AssertionError(f"{expression}: {it['ename']}: {it['evalue']}")
        return ast.literal_eval(it["data"]["text/plain"])

    def tell(self, code: str) -> None:
        """Run some code in the kernel, past the page."""
        reply = self._client.execute(code, silent=True, reply=True, timeout=60)
        if reply["content"]["status"] != "ok":
            raise AssertionError(f"{code}: {reply['content']['ename']}: {reply['content']['evalue']}")

    def run_cell(self, number: int) -> Locator:
        """Run a cell in the page; returns the cell."""
        cell = self.page.locator(".jp-Notebook .jp-Cell").nth(number)
        cell.locator(".jp-InputArea-editor").first.click()
        self.page.keyboard.press("Control+Enter")
        return cell

    def save(self) -> None:
        """Save the notebook with its outputs."""
        file = self.server.notebooks / self.path
        self.page.locator(".jp-Toolbar [data-command='docmanager:save']").first.click()
        eventually("the notebook is saved", lambda: "widget-view" in file.read_text())

    def close(self) -> None:
        """Let go of the kernel."""
        self._client.stop_channels()


def _content(cells: Sequence[str] | Path) -> str:
    if isinstance(cells, Path):
        return cells.read_text(encoding="utf-8")
    code: dict[str, Any] = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    content = {
        "cells": [{**code, "id": f"cell-{number}", "source": source} for number, source in enumerate(cells)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content)


DRAWN = """
(panel) => {
  const count = (values) => (values ? Array.from(values).filter((v) => typeof v !== "number" || Number.isFinite(v)).length : 0);
  const plot = document.querySelector(`[data-panel="${panel}"]`);
  if (!plot || !plot._fullData || !plot.querySelector(".main-svg")) return null;
  return {
    title: plot._fullLayout.title.text,
    notes: plot._fullLayout.annotations.map((note) => note.text),
    traces: plot._fullData.map((trace) => ({
      name: trace.name, type: trace.type,
      points: trace.type === "heatmap" ? count((trace.z ?? []).flatMap((row) => Array.from(row))) : count(trace.y),
      text: Array.isArray(trace.text) ? trace.text : [],
      last: trace.y?.length ? trace.y[trace.y.length - 1] : null,
    })),
    marks: plot.querySelectorAll(".scatterlayer path, .barlayer path, .heatmaplayer image").length,
  };
}
"""


def drawn(page: Page, panel: str) -> dict[str, Any] | None:
    """What Plotly has drawn in a panel: its title, and for each trace its name and how many points it has."""
    found: dict[str, Any] | None = page.evaluate(DRAWN, panel)
    return found


def points(page: Page, panel: str, *names: str) -> int:
    """How many points a panel's traces show, limit changes left out; of some traces only, where they are named."""
    found = drawn(page, panel)
    if found is None:
        return 0
    return sum(
        trace["points"]
        for trace in found["traces"]
        if trace["name"] != "limit change" and (not names or trace["name"] in names)
    )
