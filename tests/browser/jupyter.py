"""A real Jupyter for tests: the benchmark's own driver, whose kernels find the tests' modules, too."""

from __future__ import annotations

from pathlib import Path

from troupelab.bench import jupyter
from troupelab.bench.jupyter import ROOT, Notebook, drawn, open_browser, points

__all__ = ["ROOT", "JupyterServer", "Notebook", "drawn", "open_browser", "points"]


class JupyterServer(jupyter.JupyterServer):
    """A server on a free port, with folders of its own."""

    def __init__(self, home: Path, *, voila: bool = False) -> None:
        super().__init__(home, voila=voila, paths=[str(Path(__file__).resolve().parents[1])])
