"""The collector's threshold while runs play."""

from __future__ import annotations

import gc

import pytest
from helpers import eventually, quick_run

import troupelab as tl
from troupelab._collector import collecting_less


@pytest.fixture(autouse=True)
def _threshold():
    """Put back what was set before."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_the_threshold_is_raised_while_runs_play_and_put_back_at_the_end():
    """Two runs at once raise it once; it is put back when the second one ends."""
    gc.set_threshold(700, 10, 10)
    runs = [quick_run(model=tl.ScriptedModel(7, latency_s=0.02), steps=steps).start() for steps in (2, 8)]
    eventually("both play", lambda: gc.get_threshold() == (20_000, 10, 10))
    runs[0].wait(30)
    assert gc.get_threshold() == (20_000, 10, 10)
    runs[1].wait(30)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("own", [(0, 10, 10), (50_000, 5, 5)])
def test_a_collector_that_is_off_or_rarer_is_left_alone(own):
    """Who has switched it off, or set a higher threshold, keeps that."""
    gc.set_threshold(*own)
    with collecting_less():
        assert gc.get_threshold() == own
    assert gc.get_threshold() == own


def test_who_sets_it_meanwhile_keeps_what_they_set():
    """A threshold that was set inside the block stays after it."""
    gc.set_threshold(700, 10, 10)
    with collecting_less():
        gc.set_threshold(1_000, 10, 10)
    assert gc.get_threshold() == (1_000, 10, 10)
