"""What several tests share: where the real recordings lie, and dashboards that are closed in the end."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import troupes
from troupes import _imported, quitter, tinytroupe

__all__ = ["_imported", "quitter", "tinytroupe"]

collect_ignore = ["minimal_tinytroupe"]

# What a shell begins in the background ignores Ctrl-C, and so would every program that is begun here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def _real(name: str) -> list[dict[str, Any]]:
    file = REAL_DATA / name
    if not file.is_file():
        pytest.skip(f"the real recordings ({name}) are not beside this checkout")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def real_events() -> list[dict[str, Any]]:
    """What GPT-driven TinyTroupe agents said, thought and heard."""
    return _real("real_events.jsonl.gz")


@pytest.fixture(scope="session")
def real_personas() -> list[dict[str, Any]]:
    """Persona files that are published with TinyTroupe."""
    return _real("real_personas.jsonl.gz")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the browser's tests last: playwright keeps an event loop in the main thread, where others call asyncio.run."""
    items.sort(key=lambda item: "browser" in item.path.parts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which TinyTroupe the bridge's tests used."""
    terminalreporter.write_line(troupes.summary())


@pytest.fixture
def dashboard() -> Iterator[Callable[[Any], Any]]:
    """Makes dashboards; closes them, and stops the runs that they show."""
    from troupelab import Dashboard, Run

    made: list[Dashboard] = []

    def make(run: Any) -> Dashboard:
        made.append(Dashboard(run))
        return made[-1]

    yield make
    for one in made:
        runs = [run for run in (one.run, one.fork) if isinstance(run, Run)]
        one.close()
        for run in runs:
            if run.state in {"running", "paused"}:
                run.stop(now=True)
                run.wait(20)
