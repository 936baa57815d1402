"""A real Jupyter for tests: the benchmark's own driver, whose kernels find the tests' modules, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from troupelab.bench import jupyter
from troupelab.bench.jupyter import ROOT, Notebook, drawn, open_browser, points

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["ROOT", "JupyterServer", "Notebook", "drawn", "open_browser", "points", "press"]


class JupyterServer(jupyter.JupyterServer):
    """A server on a free port, with folders of its own."""

    def __init__(self, home: Path, *, voila: bool = False) -> None:
        super().__init__(home, voila=voila, paths=[str(Path(__file__).resolve().parents[1])])


def press(page: Page, name: str) -> None:
    """Press a button of ours by its words."""
    page.locator("button.widget-button:visible", has_text=re.compile(rf"^\s*{name}\s*$")).first.click()
