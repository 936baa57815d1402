"""Presets: each can be set at any time and shows in a run what it says; the dashboard sets one as one change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from browser.stand_in import StandInRun
from helpers import eventually, quick_run

import troupelab as tl
from troupelab.dashboard.dashboard import Dashboard
from troupelab.dashboard.preset_choice import HINT, NONE, PresetChoice
from troupelab.errors import LimitError


@pytest.fixture
def shown() -> Iterator[tuple[Any, Dashboard]]:
    """A ready run in a dashboard."""
    run = quick_run()
    dashboard = Dashboard(run)
    yield run, dashboard
    dashboard.close()


@pytest.mark.parametrize("before", tl.PRESETS)
@pytest.mark.parametrize("name", tl.PRESETS)
def test_every_preset_can_follow_every_other(before: str, name: str) -> None:
    """A preset is valid on the defaults and on top of any other, and says in a sentence what it is for."""
    limits = tl.LiveLimits(tl.Limits())
    limits.update(**tl.PRESETS[before].changes)
    limits.update(**tl.PRESETS[name].changes)
    assert tl.PRESETS[name].differs(limits.current) == {}
    assert tl.PRESETS[name].name == name
    assert tl.PRESETS[name].about.endswith(".")


def test_defaults_undo_all_others() -> None:
    """After "defaults" nothing is left of what was set before."""
    limits = tl.LiveLimits(tl.Limits(recent_max_records=5, max_concurrency=3))
    limits.update(**tl.PRESETS["defaults"].changes)
    assert limits.current == tl.Limits()


def test_presets_show_in_a_run_what_they_say() -> None:
    """Tight memories condense where long ones do not, and forgetful agents drop notes; the usual limits lie between."""
    found = {}
    for name in ("defaults", "tight memory", "forgetful", "long memory"):
        run = quick_run(steps=16, limits=tl.Limits().replace(**tl.PRESETS[name].changes)).start().wait(60)
        dropped = run.recorder.read("evictions").columns["dropped"]
        records = run.recorder.read("memory").columns["recent_records"]
        found[name] = run.recorder.count("consolidations"), int(dropped.sum()), int(records.max())
    assert found["tight memory"][0] > 3 * found["defaults"][0] > 0
    assert found["tight memory"][2] <= 20
    assert found["long memory"][0] == 0
    assert found["forgetful"][1] > 0
    assert found["defaults"][1] == found["tight memory"][1] == 0


def test_choosing_one_is_one_change_with_its_name(shown: tuple[Any, Dashboard]) -> None:
    """The dropdown changes all that differs at once, says what for, and lets go of it when one of its limits is moved."""
    run, dashboard = shown
    presets = dashboard._presets
    assert HINT in presets.about.value
    presets.choice.value = "tight memory"
    (change,) = run.limits.log
    assert (change.note, change.by) == ("preset: tight memory", "dashboard")
    assert change.new == tl.PRESETS["tight memory"].differs(tl.Limits())
    assert "consolidation after consolidation" in presets.about.value
    slider = dashboard._controls.by_name["recent_max_records"].slider
    eventually("the slider follows", lambda: slider.value == 20)
    slider.value = 50
    eventually("it is no preset any more", lambda: presets.choice.value == NONE)
    presets.choice.value = "defaults"
    assert run.limits.current == tl.Limits()


def test_a_refused_preset_is_told() -> None:
    """What is shown may refuse it; then a sentence says so, as text."""

    def refuse(changes: Mapping[str, Any], note: str) -> None:
        raise LimitError("<b>no</b>")

    presets = PresetChoice(tl.Limits, refuse)
    presets.choice.value = "forgetful"
    assert "&lt;b&gt;no&lt;/b&gt;" in presets.about.value
    assert 'role="alert"' in presets.about.value


def test_presets_work_on_whatever_has_limits_and_code_only_on_runs() -> None:
    """A thing without `as_code` has presets, and no button for code."""
    run = StandInRun(3)
    dashboard = Dashboard(run)
    try:
        eventually("the button is hidden", lambda: dashboard._code.box.layout.display == "none")
        dashboard._presets.choice.value = "reading along"
        assert run.limits.step_delay_ms == 2_000
    finally:
        dashboard.close()


def test_the_button_shows_the_code_and_follows_changes(shown: tuple[Any, Dashboard]) -> None:
    """Pressed, the button shows the run as code; a change of limits is in it soon after."""
    run, dashboard = shown
    code = dashboard._code
    assert code.block.code == ""
    code.button.value = True
    eventually("the code is there", lambda: "tl.Run(" in code.block.code)
    run.limits.update(recent_max_records=17)
    eventually("the change is there", lambda: "recent_max_records=17" in code.block.code)
    assert code.block.code == run.as_code()
