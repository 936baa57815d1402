"""Estimates against what runs then took: calls exactly, tokens within a quarter, memories within a factor of two."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import eventually, quick_run

import troupelab as tl
from troupelab.cli import main
from troupelab.dashboard.lab import Lab
from troupelab.estimate import Estimate

WORLDS = [("product_launch", None), ("classroom_debate", None), ("town", None), ("market_panel", 20)]


def prepared(world: str, agents: int | None, **limits: Any) -> tl.Run:
    """A run of a shipped world at its own length, without latency."""
    loaded = tl.World.load(world, agents=agents, seed=7)
    return tl.Run(loaded, tl.ScriptedModel(7, latency_s=0.0), seed=7, limits=tl.Limits(**limits))


@pytest.mark.parametrize("limits", [{}, {"recent_max_records": 12, "retain_fraction": 0.4}])
@pytest.mark.parametrize(("world", "agents"), WORLDS)
def test_a_run_takes_what_was_estimated(world: str, agents: int | None, limits: dict[str, Any]) -> None:
    """Calls are exact; tokens lie in the range and within a quarter of what is likely; RAM within a factor of two."""
    run = prepared(world, agents, **limits)
    found = run.estimate()
    took = run.start().wait(120).summary()
    assert found.calls.low == found.calls.high == took["calls"]
    for name, range_ in (("tokens_in", found.tokens_in), ("tokens_out", found.tokens_out)):
        assert range_.likely == pytest.approx(took[name], rel=0.25)
        assert range_.low <= took[name] <= range_.high  # type: ignore[operator]
    peak = int(run.recorder.read("process").columns["memory_bytes"].max())
    assert found.ram_bytes.likely / 2 <= peak <= 2 * found.ram_bytes.likely
    assert run.estimate().calls.likely == run.estimate().tokens_in.likely == 0


def test_what_is_left_is_estimated_from_what_was_recorded() -> None:
    """Half-way, the rest is estimated from the prompts of the steps before, more narrowly, and the latency of the calls."""
    run = quick_run("town", steps=16)
    run.step(8)
    run.wait(60, until="paused")
    before, found = run.summary()["tokens_in"], run.estimate()
    run.resume()
    run.wait(60)
    assert found.calls.likely == 200
    assert found.tokens_in.likely == pytest.approx(run.summary()["tokens_in"] - before, rel=0.15)  # type: ignore[operator]
    assert any("steps 3 to 7" in each for each in found.assumptions)
    assert any("as the last ones did" in each for each in found.assumptions)


def test_time_is_bound_by_the_slots_the_slowest_and_the_pace() -> None:
    """Few slots, a limit on requests a minute, and a pause between steps each lengthen a run as they must."""

    def wall(**limits: Any) -> float:
        world, model = tl.World.load("town"), tl.ScriptedModel(7, latency_s=1.0, latency_sigma=0.0)
        return tl.Run(world, model, steps=10, seed=7, limits=tl.Limits(**limits)).estimate().wall_s.likely

    assert wall(max_concurrency=25) == pytest.approx(10, rel=0.1)
    assert wall(max_concurrency=5) == pytest.approx(50, rel=0.1)
    assert wall(max_concurrency=25, step_delay_ms=1_000) == pytest.approx(20, rel=0.1)
    assert wall(max_concurrency=25, requests_per_minute=60) == pytest.approx(250, rel=0.1)


def test_the_guardrail_that_is_met_first_is_named() -> None:
    """Of the limits on tokens, dollars and time, the one that pauses the run first is said; the run agrees."""
    plain = prepared("product_launch", None).estimate()
    assert plain.first_limit == ""
    run = prepared("product_launch", None, max_tokens=100_000, max_wall_s=100_000.0)
    assert run.estimate().first_limit.startswith("max_tokens (100 k) would pause it first")
    run.start()
    eventually("the run is paused", lambda: run.state == "paused")
    assert "max_tokens" in run.paused_for
    run.stop()


def test_prices_are_looked_up_and_never_guessed() -> None:
    """A known model costs what the list says, an unknown one is told as unknown, the scripted one is free."""
    known = tl.ChatModel("gpt-4o-mini", base_url="http://example.org/v1", key="k")
    found = tl.Run("town", known, steps=4).estimate()
    assert found.cost_usd is not None
    assert found.cost_usd.likely == pytest.approx(
        found.tokens_in.likely * 0.15e-6 + found.tokens_out.likely * 0.6e-6, rel=0.01
    )
    strange = tl.ChatModel("<b>nobody's</b>", base_url="http://example.org/v1", key="k")
    found = tl.Run("town", strange, steps=4).estimate()
    assert found.cost_usd is None
    assert any("price" in each and "not known" in each for each in found.assumptions)
    assert any("is not known yet" in each for each in found.assumptions)
    assert "<b>nobody" not in found._repr_html_()
    assert prepared("town", None).estimate().cost_usd == (0.0, 0.0, 0.0)


def test_an_estimate_touches_nothing() -> None:
    """A run that was estimated plays as one that was not."""
    one, other = quick_run(), quick_run()
    one.estimate()
    assert one.start().wait(60).recorder.transcript_sha256() == other.start().wait(60).recorder.transcript_sha256()


def test_long_runs_are_estimated_at_once_and_notes_by_the_model_are_counted() -> None:
    """A million steps are not played through one by one, and calls that write notes come on top."""
    found = quick_run(steps=1_000_000).estimate()
    assert found.calls.likely == 8_000_000
    assert found.tokens_in.likely > 8_000_000 * 2_000
    written = quick_run(steps=20, consolidate="model", limits=tl.Limits(recent_max_records=20))
    found = written.estimate()
    took = int(written.start().wait(60).summary()["calls"])  # type: ignore[call-overload]
    assert took > 160
    assert found.calls.low <= took <= found.calls.high


def test_it_is_shown_as_a_table_a_line_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    """A table with units in a notebook, a line of text, plain values for JSON, and both on the command line, which plays nothing."""
    found = quick_run("town", steps=4).estimate()
    assert isinstance(found, Estimate)
    assert "<th>model calls</th><td>100</td>" in found._repr_html_()
    assert str(found).startswith("about 100 calls, ")
    assert json.loads(json.dumps(found.as_dict()))["calls"] == {"low": 100, "likely": 100, "high": 100}
    assert main(["run", "town", "--steps", "4", "--estimate"]) == 0
    assert "model calls  100" in capsys.readouterr().out
    assert main(["run", "town", "--steps", "4", "--estimate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"]["likely"] == 100


def test_the_lab_says_it_and_follows_choices_and_limits() -> None:
    """Below the form stands the estimate of the choices as they are."""
    lab = Lab("town", steps=4, latency_s=0.0)
    try:
        line = lab._form.children[-1]
        eventually("the estimate is there", lambda: "about 100 calls" in line.value)
        lab._steps.value = 6
        eventually("it follows the choices", lambda: "about 150 calls" in line.value)
        lab.run.limits.update(max_tokens=10_000)
        eventually("it follows the limits", lambda: "max_tokens (10 k) would pause it first" in line.value)
    finally:
        lab.dashboard.close()
        lab.close()
