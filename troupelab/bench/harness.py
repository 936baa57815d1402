"""What every benchmark shares: repetitions, medians and spreads, the memory of a process, and what machine it ran on.

A benchmark's `measure` makes all of its figures once; repetitions interleave whatever it compares. Main thread only.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["anonymous_mb", "report", "spread_of"]

_PACKAGES = (
    "numpy",
    "pandas",
    "plotly",
    "msgspec",
    "orjson",
    "ipywidgets",
    "anywidget",
    "jupyterlab",
    "ipykernel",
    "aiohttp",
    "json-repair",
)


def report(name: str, measure: Callable[[], Mapping[str, float]], repetitions: int) -> dict[str, object]:
    """Measure some times, and tell medians, spreads and circumstances in one object."""
    load_before = _load()
    samples = [measure() for _ in range(repetitions)]
    figures = {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
    return {
        "name": name,
        "figures": {key: round(value, 4) for key, value in figures.items()},
        "spread": {key: spread_of(sample[key] for sample in samples) for key in samples[0]},
        "repetitions": repetitions,
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": dict(_versions()),
        "load": {"before": load_before, "after": _load()},
        "commit": _commit(),
    }


def spread_of(values: Iterable[float]) -> list[float]:
    """The least and the greatest of some values.

    >>> spread_of([2.0, 1.0, 3.0])
    [1.0, 3.0]
    """
    ordered = sorted(values)
    return [round(ordered[0], 4), round(ordered[-1], 4)]


def anonymous_mb() -> float:
    """Anonymous memory of this process in MB, or all that is resident where the system does not tell them apart."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) * 1024 / 1e6
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6


def _load() -> float:
    import psutil

    return round(psutil.getloadavg()[0], 2)


def _versions() -> Iterable[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _commit() -> str:
    """The commit of the checkout that this code lies in; empty for an installed wheel."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return ""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S607
    return found.stdout.strip()
