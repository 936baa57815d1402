"""Faculties that run event loops of their own on the engine's loop: adopt(nest=True), in a process of its own, since it patches the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import troupes

from troupelab.bridges.tinytroupe import seams

SCRIPT = textwrap.dedent(
    """
    import asyncio, contextlib, io, json, sys, threading, warnings

    import troupelab as tl

    bridge = tl.bridges.tinytroupe
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tt = bridge.find()
    from tinytroupe.agent.mental_faculty import TinyMentalFaculty

    tt.person.TinyPerson.communication_display = tt.world.TinyWorld.communication_display = False

    async def looked_up():
        await asyncio.sleep(0.02)
        return 42

    class Reference(TinyMentalFaculty):
        def process_action(self, agent, action):
            if action["type"] == "TALK":
                agent.think(f"{asyncio.run(looked_up())} on {threading.current_thread().name.split('_')[0]}")
            return True

        def actions_definitions_prompt(self):
            return ""

        def actions_constraints_prompt(self):
            return ""

    persons = [bridge.to_person(tl.Persona.load(name)) for name in tl.Persona.names()[:6]]
    for person in persons:
        person.add_mental_faculties([Reference("Reference")])
    world = tt.world.TinyWorld("Library", persons)
    world.broadcast("What would you look up?")
    with bridge.adopt(world, tl.ScriptedModel(7, latency_s=0.01), steps=2, nest=sys.argv[1] == "nest") as run:
        run.start().wait(60)
        thoughts = [
            stimulus["content"]
            for person in persons
            for value in person.episodic_memory.retrieve_all() if value["type"] == "stimulus"
            for stimulus in value["content"]["stimuli"] if stimulus["type"] == "THOUGHT"
        ]
        talks = int((run.frames.actions.action == "TALK").sum())
        print(json.dumps([talks, thoughts, run.frames.alerts.kind.tolist(), run.frames.errors.message.tolist()]))
    """
)


@pytest.mark.parametrize(("way", "thread"), [("nest", "troupelab"), ("threads", "troupelab-tool")])
def test_a_faculty_may_run_an_event_loop_of_its_own(tmp_path: Path, way: str, thread: str) -> None:
    """With nest=True it does so on the engine's thread, and the run says what that patched; without, on a thread, unpatched."""
    environment = os.environ | {seams.FOLDER_VARIABLE: str(troupes._folder()), "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, way],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    talks, thoughts, alerts, errors = json.loads(done.stdout.splitlines()[-1])
    assert talks > 5
    assert thoughts == [f"42 on {thread}"] * talks
    assert alerts == (["nest"] if way == "nest" else [])
    assert errors == []
