"""TinyTroupe's own tests under our bridge: those of its unit tests that pass without a network pass under `accelerate` as well.

They come with TinyTroupe's repository, so they are run where TROUPELAB_TINYTROUPE names a checkout of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from troupelab.bridges.tinytroupe import seams

_OTHERWISE = {
    "test_begin_checkpoint_end_with_world": "looks for TinyTroupe's own cache file, and ours is another one beside it",
    "test_run": "has a model judge what was said; without a network nothing is said, and it passes",
    "test_broadcast": "has a model judge what was said; without a network nothing is said, and it passes",
}
"""What passes without a network and cannot pass under the bridge, and why."""

_LEFT_OUT = ["test_profiling.py", "test_factory.py"]
"""The first cannot be imported at this version; the second asks the model in all that takes time."""


def outcomes(checkout: Path, side: str, folder: Path) -> dict[str, str]:
    """Run TinyTroupe's unit tests, and say of each whether it passed."""
    report = folder / f"{side}.xml"
    paths = [str(checkout), str(Path(__file__).parent)]
    left_out = [word for name in _LEFT_OUT for word in ("--ignore", name)]
    command = [
        sys.executable, "-m", "pytest", "-p", "tinytroupe_plugin", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--tb=no", "--show-capture=no",
        f"--junit-xml={report}", *left_out, ".",
    ]  # fmt: skip
    environment = {**os.environ, "TROUPE_SIDE": side, "OPENAI_API_KEY": "none", "PYTHONPATH": os.pathsep.join(paths)}
    unit = checkout / "tests" / "unit"
    subprocess.run(command, cwd=unit, env=environment, capture_output=True, timeout=900, check=False)
    return {
        f"{case.get('classname')}::{case.get('name')}": "failed"
        if case.find("failure") is not None or case.find("error") is not None
        else "passed"
        for case in ET.parse(report).getroot().iter("testcase")
    }


@pytest.mark.slow
def test_what_passes_without_a_network_passes_under_the_bridge(tmp_path: Path) -> None:
    """Of TinyTroupe's own tests, all that need no network pass under accelerate, but for those that are named here."""
    checkout = Path(os.environ.get(seams.FOLDER_VARIABLE, ""))
    if not (checkout / "tests" / "unit").is_dir():
        pytest.skip(f"{seams.FOLDER_VARIABLE} names no checkout of TinyTroupe with its tests")
    stock, ours = (outcomes(checkout, side, tmp_path) for side in ("stock", "ours"))
    lost = {name for name, outcome in stock.items() if outcome == "passed" and ours.get(name) != "passed"}
    passed = [sum(outcome == "passed" for outcome in side.values()) for side in (stock, ours)]
    print(
        f"{len(stock)} tests; {passed[0]} pass without a network, {passed[1]} under the bridge with the scripted model"
    )
    assert passed[0] > 200
    assert {name.rpartition("::")[2] for name in lost} <= set(_OTHERWISE)
