"""The replay benchmark, on a small past."""

from __future__ import annotations

import json

import pytest

from troupelab.cli import main


def test_it_measures_a_replay_and_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    """The replay is exact, its questions are asked, and every point of the sweep is measured."""
    assert main(["bench", "replay", "--quick", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["figures"]
    assert measured["exact"] == 1.0
    assert measured["questions"] > 0
    assert measured["sweep_points"] == 4
    assert measured["seconds_without_probes"] > 0.0
