"""A real JupyterLab to measure and test in: a server of its own, notebooks opened in Chromium, and questions to their kernels.

It needs JupyterLab, playwright and a Chromium on this machine (`pip install "troupelab[test]"`); no browser is downloaded. Main thread only.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient
    from playwright.sync_api import Locator, Page

__all__ = ["DRAWN", "QUIET_CHROMIUM", "JupyterServer", "Notebook", "chromium", "drawn", "eventually", "points"]

ROOT = Path(__file__).resolve().parents[2]

QUIET_CHROMIUM = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def eventually(what: str, check: Callable[[], object], *, timeout_s: float = 30.0) -> Any:
    """Ask again and again until the answer is truthy.

    Raises:
        AssertionError: it never is, and what was waited for.
    """
    until = time.monotonic() + timeout_s
    while not (answer := check()):
        if time.monotonic() > until:
            raise AssertionError(f"within {timeout_s:g} s this never came true: {what}")
        time.sleep(0.02)
    return answer


def chromium() -> str | None:
    """Where a Chromium is on this machine; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class JupyterServer:
    """A JupyterLab server on a free port, with folders of its own."""

    def __init__(self, home: Path, *, paths: Sequence[str] = ()) -> None:
        self.home = home
        self.runtime = home / "runtime"
        self.notebooks = home / "notebooks"
        settings = home / "settings" / "@jupyterlab" / "apputils-extension"
        for folder in (self.runtime, self.notebooks, settings):
            folder.mkdir(parents=True)
        quiet = {"fetchNews": "false", "checkForUpdates": False}
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
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
        root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={self.port}", *root]
        command += [
            f"--ServerApp.token={self.token}",
            f"--ServerApp.root_dir={self.notebooks}",
            "--ServerApp.port_retries=0",
        ]
        self._log = (home / "server.log").open("wb")
        self._process = subprocess.Popen(command, env=env, cwd=home, stdout=self._log, stderr=subprocess.STDOUT)  # noqa: S603
        eventually("the server answers", self._answers, timeout_s=60)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError("JupyterLab ended at once:\n" + (self.home / "server.log").read_text()[-2000:])
        try:
            self.get("api/status")
        except (OSError, ValueError):
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
    """A notebook, open in a page."""

    def __init__(self, server: JupyterServer, page: Page, name: str, cells: Sequence[str]) -> None:
        self.server = server
        self.page = page
        self.path = f"{name}.ipynb"
        code: dict[str, Any] = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
        content = {
            "cells": [{**code, "id": f"cell-{number}", "source": source} for number, source in enumerate(cells)],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (server.notebooks / self.path).write_text(json.dumps(content))
        self.open()
        self._client = self._connect()

    def open(self) -> None:
        """Open it, or open it again as a reload does."""
        self.page.goto(f"{self.server.url}/lab/tree/{self.path}?token={self.server.token}&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        self.page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=60_000)

    def _connect(self) -> BlockingKernelClient:
        from jupyter_client.blocking.client import BlockingKernelClient

        def kernel() -> str:
            ids = [row["kernel"]["id"] for row in self.server.get("api/sessions") if row["path"] == self.path]
            return str(ids[0]) if ids else ""

        file = self.server.runtime / f"kernel-{eventually('the notebook has a kernel', kernel)}.json"
        client = BlockingKernelClient()
        client.load_connection_file(str(file))
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
