"""Fixtures for tests in a browser: a JupyterLab server, Chromium, and a notebook in a page."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from troupelab.errors import MissingPackageError

if TYPE_CHECKING:
    from pathlib import Path

    from browser.jupyter import JupyterServer, Notebook
    from playwright.sync_api import Browser


# A module, not a session: while playwright is open, an event loop runs in the test's thread, and asyncio.run refuses there.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Chromium, driven by playwright; tests are skipped where it is missing, unless it was asked for."""
    from browser.jupyter import open_browser

    with contextlib.ExitStack() as open_ones:
        try:
            browser = open_ones.enter_context(open_browser())
        except MissingPackageError as error:
            if os.environ.get("TROUPELAB_REQUIRE_BROWSER") == "1" or os.environ.get("CI"):
                raise
            pytest.skip(str(error))
        yield browser


@pytest.fixture(scope="module")
def server(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """A JupyterLab server for the tests of a module."""
    from browser.jupyter import JupyterServer

    running = JupyterServer(tmp_path_factory.mktemp("jupyter"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def voila(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """A Voila server for the tests of a module."""
    from browser.jupyter import JupyterServer

    running = JupyterServer(tmp_path_factory.mktemp("voila"), voila=True)
    yield running
    running.close()


@pytest.fixture
def notebook(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """Makes a notebook out of cells and opens it in a page of its own: in JupyterLab, Notebook 7 or Voila."""
    from browser.jupyter import Notebook

    open_ones: list[Notebook] = []

    def make(
        name: str,
        cells: Sequence[str] | Path,
        *,
        width: int = 1600,
        height: int = 1900,
        dark: bool = False,
        app: str = "lab",
        zoom: float = 1,
    ) -> Notebook:
        context = chromium.new_context(
            viewport={"width": int(width / zoom), "height": int(height / zoom)},
            device_scale_factor=zoom,
            color_scheme="dark" if dark else "light",
        )
        server: JupyterServer = request.getfixturevalue("voila" if app == "voila" else "server")
        open_ones.append(Notebook(server, context.new_page(), name, cells, app=app))
        return open_ones[-1]

    yield make
    for one in open_ones:
        one.close()
        one.page.context.close()
