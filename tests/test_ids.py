"""Ids and draws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupelab.ids import IdParts, draw, make_id, split_id, step_of, uniform

parts = st.tuples(st.integers(-1, 2**20 - 3), st.integers(0, 2**22 - 1), st.integers(0, 2**14 - 1), st.integers(0, 63))


@given(parts)
def test_an_id_gives_back_what_it_was_made_of(given_parts):
    """Every id unpacks to its parts and fits a signed 64-bit integer."""
    packed = make_id(*given_parts)
    assert split_id(packed) == IdParts(*given_parts)
    assert step_of(packed) == given_parts[1]
    assert 0 <= packed < 2**63


@given(parts, parts)
def test_ids_sort_by_agent_then_time(one, other):
    """The order of ids is that of agent, step, sequence and attempt, so the world's come before any agent's."""
    assert (make_id(*one) < make_id(*other)) == (one < other)


@pytest.mark.parametrize(
    "bad", [(2**20, 0, 0, 0), (0, 2**22, 0, 0), (0, 0, 2**14, 0), (0, 0, 0, 64), (-2, 0, 0, 0), (0, -1, 0, 0)]
)
def test_an_id_refuses_what_does_not_fit(bad):
    """A part beyond its room raises instead of running into its neighbour."""
    with pytest.raises(OverflowError, match="no id for agent"):
        make_id(*bad)


def test_a_draw_depends_on_each_of_its_arguments():
    """Changing any one argument changes the draw, and the same arguments repeat it."""
    base = {"seed": 7, "purpose": "act", "agent": 1, "step": 2, "call": 3, "attempt": 4}
    draws = {draw(**base)} | {draw(**{**base, key: "other" if key == "purpose" else 99}) for key in base}
    assert len(draws) == 7
    assert draw(**base) == draw(**base)


def test_uniform_draws_fill_the_unit_interval_evenly():
    """Ten thousand draws lie in [0, 1), a tenth of them in each tenth, within what chance allows."""
    draws = [uniform(7, "even", step=step) for step in range(10_000)]
    assert all(0 <= value < 1 for value in draws)
    counts = [sum(int(value * 10) == tenth for value in draws) for tenth in range(10)]
    assert all(850 < count < 1_150 for count in counts)
