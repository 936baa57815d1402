"""Limits: checks, changes, overrides and when they take effect."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import troupelab as tl
from troupelab.limits import FIELDS


@pytest.mark.parametrize("known", FIELDS.values(), ids=lambda known: known.name)
def test_every_limit_states_its_facts_and_refuses_what_is_outside_its_range(known):
    """Each limit has a label, a unit, a reason and a default in range; below, above, NaN, text and True are refused by name."""
    assert known.label
    assert known.unit
    assert len(known.why) > 10
    assert known.default is None or known.low <= known.default <= known.high
    bad_kind = 1 if known.switch else True
    for bad in (known.low - 1, known.high + 1, math.nan, "3", bad_kind, *(() if known.optional else (None,))):
        with pytest.raises(tl.LimitError, match=known.name):
            tl.Limits(**{known.name: bad})


def test_a_whole_number_is_wanted_where_things_are_counted():
    """A count refuses a fraction."""
    with pytest.raises(tl.LimitError, match="whole number"):
        tl.Limits(recent_max_records=10.5)


def test_low_water_must_lie_below_high_water():
    """Water marks that would never let consolidation end are refused."""
    with pytest.raises(tl.LimitError, match="consolidate_to must be below consolidate_at"):
        tl.Limits(consolidate_at=0.5, consolidate_to=0.5)


def test_an_unknown_limit_is_named():
    """A misspelt limit raises with its name and the known ones."""
    with pytest.raises(tl.LimitError, match=r"no limit 'recent_max_record'.*recent_max_records"):
        tl.Limits().replace(recent_max_record=5)


def test_limits_survive_toml(tmp_path):
    """Writing and reading TOML gives the same limits, None included."""
    limits = tl.Limits(recent_max_records=None, retain_fraction=0.4, max_concurrency=3)
    limits.to_toml(tmp_path / "limits.toml")
    assert tl.Limits.from_toml(tmp_path / "limits.toml") == limits


@pytest.mark.parametrize(
    ("text", "error"),
    [("retain_fraction = ", tl.InputError), ("retain = 1", tl.LimitError), ('max_attempts = "x"', tl.LimitError)],
)
def test_a_bad_file_of_limits_raises_ours(tmp_path, text, error):
    """TOML that is broken, names an unknown limit or a wrong value ends in one of our errors."""
    file = tmp_path / "limits.toml"
    file.write_text(text)
    with pytest.raises(error):
        tl.Limits.from_toml(file)


def test_a_refused_change_changes_nothing():
    """Where one of several values is out of range, none is taken and nothing is logged."""
    live = tl.LiveLimits(tl.Limits())
    before = live.current
    with pytest.raises(tl.LimitError, match="retain_fraction"):
        live.update(recent_max_records=10, retain_fraction=7)
    with pytest.raises(tl.LimitError, match="no limit was named"):
        live.update(note="nothing")
    assert live.current is before
    assert live.log == ()


def test_each_change_is_logged_with_who_from_to_and_why():
    """The log keeps the old and new values, the note and who it was."""
    live = tl.LiveLimits(tl.Limits(recent_max_records=100))
    live.update(recent_max_records=50, note="try", by="teacher")
    live.update(recent_max_records=None)
    first, second = live.log
    assert (first.old, first.new, first.note, first.by) == (
        {"recent_max_records": 100},
        {"recent_max_records": 50},
        "try",
        "teacher",
    )
    assert second.old == {"recent_max_records": 50}
    assert live.recent_max_records is None


def test_some_agents_can_have_limits_of_their_own():
    """An override holds for its agent alone, and a later change for all replaces it."""
    live = tl.LiveLimits(tl.Limits(), agents=["Lisa", "Omar"])
    live.update(recent_max_records=10, retain_fraction=0.5, agents=["Lisa"])
    assert (live.for_agent("Lisa").recent_max_records, live.for_agent("Omar").recent_max_records) == (10, 100)
    live.update(recent_max_records=70)
    assert (live.for_agent("Lisa").recent_max_records, live.for_agent("Lisa").retain_fraction) == (70, 0.5)


def test_an_override_names_who_or_what_it_cannot_be_for():
    """An agent who is not there, and a limit that is for all together, are refused."""
    live = tl.LiveLimits(tl.Limits(), agents=["Lisa"])
    with pytest.raises(tl.LimitError, match="no agent 'Lise'"):
        live.update(recent_max_records=10, agents=["Lise"])
    with pytest.raises(tl.LimitError, match="max_concurrency is for all agents"):
        live.update(max_concurrency=10, agents=["Lisa"])


def test_a_change_for_all_must_fit_beside_every_override():
    """A change that would contradict one agent's override is refused as a whole."""
    live = tl.LiveLimits(tl.Limits(), agents=["Lisa"])
    live.update(consolidate_at=0.6, agents=["Lisa"])
    with pytest.raises(tl.LimitError, match="consolidate_to"):
        live.update(consolidate_to=0.8)
    assert live.consolidate_to == 0.5


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(4, 500)), max_size=12))
def test_limits_hold_from_the_step_they_were_settled_for(changes):
    """At any step, the value in force is that of the last change settled for this or an earlier step."""
    live = tl.LiveLimits(tl.Limits())
    live.bind(lambda change: None)
    expected = {0: live.recent_max_records}
    for step, value in sorted(changes, key=lambda change: change[0]):
        live.update(recent_max_records=value)
        live.settle(step)
        expected[step] = value
    for step in range(22):
        latest = max(known for known in expected if known <= step)
        assert live.at_step(step, "anyone").recent_max_records == expected[latest]
