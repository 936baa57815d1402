"""A run as code: what is written, executed in a fresh namespace, plays the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import eventually, quick_run, sha

import troupelab as tl

EVIL = '"); import os; os.abort() #\n\u202e{x}'


def executed(code: str) -> dict[str, Any]:
    """The names that a piece of code leaves behind."""
    names: dict[str, Any] = {}
    exec(compile(code, "as_code", "exec"), names)
    return names


def change_at(run: tl.Run, step: int, **changes: Any) -> None:
    """Play up to a step, change limits there while the run is paused, and leave it paused."""
    run.step(step - run._engine.player.steps_done)
    run.wait(60, until="paused")
    run.limits.update(**changes)
    eventually(
        "the change is accepted", lambda: run._engine.made[-1:] and run._engine.made[-1][1] is run.limits.log[-1]
    )


def test_a_run_that_was_changed_by_hand_is_played_again_by_its_code() -> None:
    """Limits that were changed for all or one, and what was told, hold from the same steps on: the transcript is the same."""
    run = quick_run("product_launch", steps=8, limits=tl.Limits(recent_max_records=30), order="free")
    change_at(run, 2, recent_max_records=8, retain_fraction=0.3, note=EVIL)
    change_at(run, 4, recent_max_records=12, agents=[run.agent_names[0]])
    run.tell(f"The price is 99 euros. {EVIL}", to=[run.agent_names[1]], source=EVIL)
    run.resume()
    run.wait(60)
    plain = quick_run("product_launch", steps=8, limits=tl.Limits(recent_max_records=30)).start().wait(60)
    assert sha(plain) != sha(run)
    assert sha(executed(run.as_code())["run"]) == sha(run)
    assert run.limits.log[0].note not in run.as_code()  # it is written as Python writes it


def test_a_fork_is_written_with_the_run_that_it_left(tmp_path: Path) -> None:
    """A fork's code makes parent and fork again, with what was changed in either, and a fork of the fork as well."""
    run = quick_run(steps=8)
    change_at(run, 3, recent_max_records=10)
    fork = run.fork({"retain_fraction": 0.2}, at_step=3)
    change_at(fork, 5, recent_max_records=6, note="smaller")
    second = fork.fork({"dedup_similarity": None}, folder=tmp_path / "second").start().wait(60)
    fork.stop()
    run.stop()
    code = second.as_code().replace(repr(str(tmp_path / "second")), repr(str(tmp_path / "again")))
    names = executed(code)
    assert (names["fork"].forked_at, names["fork_2"].forked_at) == (3, 5)
    assert sha(names["fork_2"]) == sha(second)


def test_a_fork_of_the_last_step_takes_along_what_was_to_hold_next() -> None:
    """A limit that was changed within a step holds from the first step of a fork made then, and in its code too."""
    run = quick_run(steps=8)
    run.step(3)
    run.wait(60, until="paused")
    run.limits.update(recent_max_records=6, note="next")
    eventually("the change is accepted", lambda: len(run._engine.made) == 1)
    fork = run.fork().start().wait(60)
    run.stop()
    assert sha(executed(fork.as_code())["fork"]) == sha(fork)


def test_worlds_models_and_choices_are_written_as_they_were_given(tmp_path: Path) -> None:
    """A sampled world by its numbers, a world of one's own in full, a model by its settings, and only what is not usual."""
    sampled = tl.Run(
        tl.World.sample(10, seed=3), tl.ScriptedModel(3, repeat_rate=0.5), seed=3, steps=1, consolidate="off"
    )
    assert "tl.World.load('market_panel', agents=10, seed=3)" in sampled.as_code()
    assert "tl.ScriptedModel(3, repeat_rate=0.5)" in sampled.as_code()
    assert "consolidate='off'" in sampled.as_code()
    assert "limits=" not in sampled.as_code()

    raw = tl.World.load("classroom_debate").to_dict() | {"name": EVIL, "description": EVIL}
    own = tl.Run(tl.World.from_dict(raw), tl.ScriptedModel(1, latency_s=0.0), steps=1, folder=tmp_path / EVIL[:12])
    own.limits.update(recent_max_records=9, agents=[own.agent_names[0]])
    own.start().wait(60)
    names = executed(own.as_code().replace(repr(str(tmp_path / EVIL[:12])), "None"))
    assert names["run"].world == own.world
    assert names["run"].limits.overrides == own.limits.overrides
    assert sha(names["run"]) == sha(own)


def test_a_key_is_never_written() -> None:
    """An endpoint's model is written by name and address, without its key."""
    model = tl.ChatModel("llama3.2", base_url="http://localhost:11434/v1", key="sk-very-secret")
    code = tl.Run("town", model, steps=1).as_code()
    assert "tl.ChatModel('llama3.2', base_url='http://localhost:11434/v1')" in code
    assert "secret" not in code


def test_a_model_of_ones_own_has_to_be_filled_in() -> None:
    """Code that lacks the model cannot be run by mistake with another."""

    class Parrot:
        name = EVIL

        async def complete(self, request: tl.Request) -> tl.Reply:
            return tl.Reply('{"actions": []}', 1, 1, 0.0, "parrot")

    with pytest.raises(AttributeError):
        executed(tl.Run("town", Parrot(), steps=1).as_code())


def test_a_run_that_was_gone_on_with_is_written_from_its_beginning(tmp_path: Path) -> None:
    """What was changed in the earlier life is in the code of the later one."""
    first = quick_run(steps=6, folder=tmp_path / "a")
    change_at(first, 2, recent_max_records=7)
    first.stop()
    first.wait(60)
    later = tl.Run.resume(tmp_path / "a").start().wait(60)
    names = executed(later.as_code().replace(repr(str(tmp_path / "a")), repr(str(tmp_path / "b"))))
    assert sha(names["run"]) == sha(later)
