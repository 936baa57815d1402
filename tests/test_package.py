"""The package as a whole: what importing it loads, what it exports, what travels in the wheel, and the notebooks."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from troupes import MINIMAL, which

import troupelab as tl
from troupelab._share import shared_folder
from troupelab.bridges.tinytroupe.seams import FOLDER_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "pandas",
    "numpy",
    "plotly",
    "ipywidgets",
    "anywidget",
    "tinytroupe",
    "nest_asyncio",
    "memory_profiler",
    "psutil",
    "IPython",
)


def fresh(code):
    """Run code in a new interpreter and give what it printed."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_importing_loads_nothing_heavy():
    """`import troupelab` brings in none of the big packages."""
    code = f"import troupelab, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert fresh(code) == "[]"


def test_a_run_without_a_notebook_loads_no_widgets():
    """Playing a run and reading its summary needs neither widgets nor plots nor pandas."""
    play = "tl.Run('product_launch', tl.ScriptedModel(7, latency_s=0.0), steps=2).start().wait(60).summary()"
    code = f"import sys, troupelab as tl; {play}; print([n for n in ('pandas', 'plotly', 'ipywidgets', 'anywidget') if n in sys.modules])"
    assert fresh(code) == "[]"


@pytest.mark.parametrize("name", tl.__all__)
def test_every_public_name_is_there_and_documented(name):
    """Each name of __all__ can be loaded and says what it is."""
    value = getattr(tl, name)
    assert name == "__version__" or value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    """A name that is not public raises as usual."""
    with pytest.raises(AttributeError, match="no attribute 'Runn'"):
        tl.Runn  # noqa: B018


@pytest.mark.parametrize(
    "file", sorted((ROOT / "troupelab").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT))
)
def test_every_module_says_what_it_is_for_and_stays_small(file):
    """Each module has a docstring, and none has grown past 400 lines."""
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 400


def test_posix_only_calls_stand_in_one_module():
    """Modules that other systems lack are imported by _platform alone."""
    only_posix = {"resource", "fcntl", "pwd", "grp", "termios", "pty"}
    users = set()
    for file in (ROOT / "troupelab").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if only_posix.intersection(names):
                users.add(file.name)
    assert users == {"_platform.py"}


def test_the_wheel_carries_data_and_notebooks(tmp_path):
    """A built wheel has worlds, personas and notebooks, and works from there without the checkout."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
        names = packed.namelist()
    assert "troupelab/py.typed" in names
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import troupelab as tl; from troupelab._share import shared_folder;"
        "print(tl.__file__, len(tl.World.names()), len(tl.Persona.names()), (shared_folder('notebooks') / '01_quickstart.ipynb').is_file(),"
        "tl.ChatModel('gpt-4o-mini', base_url='http://x/v1', key='').price.input_usd)"
    )
    where, worlds, personas, notebook, price = fresh(code).split()
    assert where.startswith(str(site))
    assert (int(worlds), int(personas), notebook) == (len(tl.World.names()), len(tl.Persona.names()), "True")
    assert float(price) > 0


NOTEBOOKS = sorted(shared_folder("notebooks").glob("*.ipynb"))


@pytest.mark.parametrize(
    "file",
    [NOTEBOOKS[0], *(pytest.param(file, marks=pytest.mark.slow) for file in NOTEBOOKS[1:])],
    ids=lambda file: file.name,
)
def test_a_notebook_runs_from_top_to_bottom(file, tmp_path, monkeypatch):
    """Every cell of every notebook runs in a real kernel without an error, TinyTroupe's on our minimal package where the real one is not there."""
    import nbformat
    from nbclient import NotebookClient

    if which() == "minimal":
        monkeypatch.setenv(FOLDER_VARIABLE, str(MINIMAL))
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
