"""Runs with `nest=True`: what nest_asyncio makes possible, what it leaves alone, and where it is refused.

What applies it is played in processes of its own (this file, with a scene's name), so that all other tests run unpatched.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from helpers import eventually, quick_run, sha

import troupelab as tl
from troupelab.errors import RunError
from troupelab.text.embed import HashingEmbedder

TOOL_S = 0.02


async def tool(level: int = 0) -> int:
    """What a user's library does: waits, on the loop and on a thread; and calls itself by another `asyncio.run`."""
    await asyncio.sleep(TOOL_S)
    await asyncio.to_thread(lambda: None)
    return 1 + (asyncio.run(tool(level - 1)) if level else 0)


class Nesting:
    """A model around another, one call in so many of which runs the tool in a loop of its own."""

    def __init__(self, model: Any, *, every: int = 1, level: int = 0, tool: Any = tool) -> None:
        self.model, self.every, self.level, self.tool = model, every, level, tool
        self.name = model.name
        self.calls, self.gave = 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    async def complete(self, request: Any) -> Any:
        """Ask the other, and use the tool."""
        reply = await self.model.complete(request)
        self.calls += 1
        if self.calls % self.every == 0:
            using = self.tool(self.level)
            try:
                gave = asyncio.run(using)
            finally:
                using.close()  # where it was refused
            self.gave += gave  # not in one line with the run: others count meanwhile
        return reply


def scripted(**options: Any) -> Nesting:
    """A model in this process whose calls take no time but the tool's."""
    return Nesting(tl.ScriptedModel(7, latency_s=0.0), **options)


def state_of_the_process() -> dict[str, Any]:
    """Everything that stands in what might be patched."""
    import tornado.concurrent
    import tornado.ioloop

    loop = asyncio.new_event_loop()
    kinds = [kind for kind in type(loop).__mro__ if kind is not object]
    loop.close()
    parts = [
        asyncio, asyncio.base_events, asyncio.events, asyncio.futures, asyncio.runners, asyncio.tasks, asyncio.timeouts, tornado.concurrent,
        tornado.ioloop, type(asyncio.get_event_loop_policy()), asyncio.DefaultEventLoopPolicy.__base__, asyncio.Runner, *kinds,
    ]  # fmt: skip
    named = {f"{part.__module__}.{part.__name__}" if isinstance(part, type) else part.__name__: part for part in parts}
    return {f"{name}.{key}": value for name, part in named.items() for key, value in vars(part).items()}


# ---------------------------------------------------------------------- scenes, each in a process of its own


def scene_patched() -> Any:
    """What stands elsewhere than before, and what asyncio.run and other loops still do."""
    before = state_of_the_process()
    unapplied = "nest_asyncio" not in sys.modules
    model = scripted(level=1)
    quick_run(model=model, nest=True, steps=1).start().wait(60)
    after = state_of_the_process()
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) is not after.get(key))

    seen: list[Any] = []

    async def elsewhere() -> None:
        seen.append(asyncio.get_running_loop())
        for nested in (asyncio.run, asyncio.get_running_loop().run_until_complete):
            using = tool()
            try:
                nested(using)
            except RuntimeError as error:
                seen.append(str(error))
            finally:
                using.close()

    asyncio.run(elsewhere())
    thread = threading.Thread(target=lambda: asyncio.run(elsewhere(), debug=True))
    thread.start()
    thread.join()
    return {
        "unapplied": unapplied,
        "changed": changed,
        "gave": model.gave / model.calls,
        "closed": [loop.is_closed() for loop in seen if not isinstance(loop, str)],
        "refused": [said for said in seen if isinstance(said, str)],
    }


def scene_over_http(base_url: str) -> Any:
    """Fifty agents at once over HTTP: unpatched, nested, and plain again in the patched process."""
    world = tl.World.sample(agents=50, seed=7)
    limits = tl.Limits(max_concurrency=50, adaptive_concurrency=False)

    def play(model: Any, **options: Any) -> str:
        return sha(tl.Run(world, model, steps=2, seed=7, limits=limits, **options).start().wait(120))

    def chat() -> Any:
        return tl.ChatModel("rehearsal", base_url=base_url)

    plain, nesting = play(chat()), Nesting(chat(), level=1)
    nested = play(nesting, nest=True)
    return {
        "shas": [plain, nested, play(chat(), order="free"), play(Nesting(chat(), every=7), nest=True, order="free")],
        "calls": nesting.calls,
        "gave": nesting.gave,
    }


def scene_controls() -> Any:
    """Pause, resume, a limit and stop(now=True), each while nested runs are under way."""
    model = scripted()
    run = quick_run(model=model, nest=True, steps=10_000).start()
    eventually("it plays", lambda: model.gave > 20)
    run.pause()
    states = [run.state]
    eventually("nobody acts", lambda: run.in_flight == 0)
    gave = model.gave
    run.limits.update(recent_max_records=20)
    run.step(2)
    run.wait(30, until="paused")
    stepped = model.gave - gave
    run.resume()
    eventually("it goes on", lambda: model.gave > gave + stepped + 20)
    run.stop(now=True)
    run.wait(30)
    acts, done = run.frames.acts, run.transcript()
    return {
        "states": [*states, run.state],
        "stepped": stepped,
        "agents": len(run.agent_names),
        "whole": set(zip(done["step"], done["agent"], strict=True))
        <= set(zip(acts["step"], acts["agent"], strict=True)),
        "alerts": run.frames.alerts["kind"].tolist(),
        "changed": run.frames.limits["field"].tolist(),
    }


def scene_late() -> Any:
    """A time-out that falls into a nested run."""

    async def slow(level: int) -> int:
        await asyncio.sleep(0.3)
        return 1

    limits = tl.Limits(timeout_s=0.1, max_attempts=1)
    run = quick_run(model=scripted(tool=slow, every=4), nest=True, steps=2, limits=limits, consolidate="off")
    run.start().wait(60)
    return {"state": run.state, "kinds": sorted(set(run.frames.errors["kind"])), "acts": len(run.frames.acts)}


def scene_crowd() -> Any:
    """More nested runs at once than the stack has room for."""
    limits = tl.Limits(max_concurrency=150, adaptive_concurrency=False, max_attempts=20)
    model = Nesting(tl.ScriptedModel(7, latency_s=0.02, latency_sigma=0.0), level=1)
    world = tl.World.sample(agents=150, seed=7)
    run = tl.Run(world, model, steps=1, seed=7, nest=True, limits=limits, embedder=None, on_error="retry")
    run.start().wait(120)
    return {
        "state": run.state,
        "calls": model.calls,
        "lost": run.summary()["acts_lost"],
        "told": sorted({str(said).split(";")[0] for said in run.frames.errors["message"]}),
    }


def scene_folder(folder: str) -> Any:
    """A run that goes on, and its fork, nest too."""
    quick_run(steps=1, folder=folder).start().wait(60)
    model = scripted()
    run = tl.Run.resume(folder, model, steps=2, nest=True).start().wait(60)
    gave = [model.gave]
    run.fork(steps=3).start().wait(60)
    return {"gave": [*gave, model.gave], "alerts": run.frames.alerts["kind"].tolist(), "agents": len(run.agent_names)}


def scene_applied() -> Any:
    """A process that somebody else has patched before, and whose embedder nests."""
    import nest_asyncio

    nest_asyncio.apply(asyncio.new_event_loop())
    before = asyncio.run

    class Texts(HashingEmbedder):
        gave = 0

        async def prepare(self, texts: Any) -> None:
            gave = asyncio.run(tool(1))
            self.gave += gave

    model, texts = scripted(level=1), Texts()
    runs = [quick_run(model=model, nest=True, embedder=texts, steps=1).start() for _ in range(2)]
    states = [run.wait(60).state for run in runs]
    return {
        "states": states,
        "gave": model.gave / model.calls,
        "embedder": texts.gave > 0,
        "kept": asyncio.run is before,
    }


def scene_foreign_loop() -> Any:
    """A process whose policy makes loops that are not asyncio's own."""

    class Foreign(asyncio.AbstractEventLoop):
        def close(self) -> None:
            pass

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> Any:
            return Foreign()

    before = asyncio.run
    asyncio.set_event_loop_policy(Policy())
    run = quick_run(nest=True)
    try:
        run.start()
    except RunError as error:
        return {"said": str(error), "state": run.state, "unpatched": asyncio.run is before and not tl.runs()}
    return {}


def scene_no_subshells() -> Any:
    """A real kernel that has no subshells: the one that lives in its front end's process."""
    from ipykernel.inprocess.manager import InProcessKernelManager

    manager = InProcessKernelManager()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.execute("""
import troupelab as tl
from troupelab.errors import RunError
plain = tl.Run("product_launch").state
try:
    tl.Run("product_launch", nest=True)
except RunError as error:
    said = str(error)
""")
    found = manager.kernel.shell.user_ns
    return {"said": found["said"], "plain": found["plain"]}


# ---------------------------------------------------------------------- the tests


def played(scene: str, *arguments: str, warnings: str = "error") -> Any:
    """What a scene found, played in a process of its own in which nothing else is."""
    command = [sys.executable, "-W", warnings, __file__, scene, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parent)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Warning" not in ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_it_patches_what_it_says_and_nothing_else():
    """The process differs in the named places alone; no other loop nests, and asyncio.run closes its loop as ever."""
    found = played("patched")
    assert found["unapplied"]
    assert found["gave"] == 2
    policies = [place for place in found["changed"] if place.endswith("EventLoopPolicy.get_event_loop")]
    assert len(policies) == 1
    assert [place for place in found["changed"] if place not in policies] == [
        "asyncio.Future", "asyncio.Task", "asyncio._nest_patched", "asyncio.events._get_event_loop", "asyncio.events.get_event_loop",
        "asyncio.futures.Future", "asyncio.futures._CFuture", "asyncio.get_event_loop", "asyncio.run", "asyncio.tasks.Task",
        "asyncio.tasks._CTask", "tornado.concurrent.FUTURES", "tornado.concurrent.Future",
    ]  # fmt: skip
    assert found["closed"] == [True, True]
    assert [said.split(" event loop")[0] for said in found["refused"]] == [
        "asyncio.run() cannot be called from a running", "This",
    ] * 2  # fmt: skip


def test_fifty_agents_over_http_nest_and_do_the_same_as_ever():
    """Transcripts are alike: unpatched, with nested runs in nested runs, and in the patched process, in both orders."""
    with tl.Rehearsal(latency="lognorm:0.02:0.8", seed=5) as server:
        found = played("over_http", server.base_url)
    assert len(set(found["shas"])) == 1
    assert found["gave"] >= 2 * 100


def test_the_controls_work_while_runs_are_nested():
    """Pause, a limit, step, resume and stop(now=True) do what they do without nest, and leave no half act; an alert tells of the patch."""
    found = played("controls")
    assert found["states"] == ["paused", "stopped"]
    assert found["stepped"] >= 2 * found["agents"] - 1
    assert found["whole"]
    assert found["alerts"] == ["nest"]
    assert found["changed"] == ["recent_max_records"]


def test_a_time_out_in_a_nested_run_ends_its_call_alone():
    """A call that was late in its nested run is a time-out like any other, and its agent goes on."""
    assert played("late") == {"state": "done", "kinds": ["ModelTimeoutError"], "acts": 16}


def test_a_crowd_that_has_no_room_is_told_so_and_loses_nothing():
    """Of 150 that nest twice at once some are refused, with a sentence that says what to do, and come later; no other call is harmed."""
    found = played("crowd")
    assert found["told"] == [
        "the model raised RunError: too many nested runs stand on one another: lower max_concurrency"
    ]
    assert (found["state"], found["lost"]) == ("done", 0)


def test_a_run_from_a_folder_and_a_fork_nest_too(tmp_path):
    """`Run.resume(folder, nest=True)` nests from where it goes on, and a fork of it as it does."""
    found = played("folder", str(tmp_path))
    assert found == {"gave": [found["agents"], 2 * found["agents"]], "alerts": ["nest"]} | {"agents": found["agents"]}


def test_a_process_that_was_patched_before_is_no_obstacle():
    """Two runs at once nest where a user has patched all loops; the patched asyncio.run stays, and an embedder nests too."""
    found = played("applied", warnings="ignore")
    assert found == {"states": ["done", "done"], "gave": 2, "embedder": True, "kept": True}


def test_a_loop_that_is_not_asyncios_own_is_refused():
    """Where the process makes other loops, start() says so and what to do, and nothing is patched."""
    found = played("foreign_loop")
    assert "Foreign: undo what set its policy" in found["said"]
    assert found["state"] == "failed"
    assert found["unpatched"]


def test_a_kernel_without_subshells_is_refused():
    """There nest=True could leave the sliders dead; a plain run is fine."""
    found = played("no_subshells", warnings="ignore")
    assert "install ipykernel 7 or newer" in found["said"]
    assert found["plain"] == "ready"


def test_without_nest_a_call_that_nests_fails_and_is_told():
    """It does not hang: each such call is an event with Python's own reason, and its act is skipped."""
    limits = tl.Limits(max_attempts=1)
    run = quick_run(model=scripted(), steps=1, limits=limits).start().wait(30)
    assert run.state == "done"
    assert run.frames.alerts["kind"].tolist() == []
    assert run.summary()["acts_lost"] == len(run.agent_names)
    assert all(
        "asyncio.run() cannot be called from a running event loop" in said for said in run.frames.errors["message"]
    )


def test_without_nest_a_plain_function_may_call_asyncio_run():
    """It is called on a thread, where no loop runs."""

    class Plain:
        name = "plain"
        gave = 0

        def complete(self, request: Any) -> Any:
            self.gave += asyncio.run(tool())
            return asyncio.run(tl.ScriptedModel(7, latency_s=0.0).complete(request))

    model = Plain()
    run = quick_run(model=model, steps=1).start().wait(30)
    assert sha(run) == sha(quick_run(steps=1).start().wait(30))
    assert model.gave > 0


def test_a_kernel_with_subshells_is_left_as_it_was():
    """In a real kernel its own loop, what waits on it, widgets and top-level await go on as before, during a nested run and after it."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    cells = [
        f"""
import asyncio, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
import ipywidgets as widgets
import test_nest as scenes
waiting = asyncio.ensure_future(asyncio.sleep(1, "waited"))
model = scenes.scripted(level=1)
run = scenes.quick_run(model=model, nest=True, steps=10_000).start()
""",
        """
slider, seen = widgets.IntSlider(), []
slider.observe(lambda change: seen.append(change["new"]), "value")
scenes.eventually("it nests", lambda: model.gave)
before = model.gave
slider.value = 7
both = await asyncio.wait_for(asyncio.gather(asyncio.sleep(0.3, "slept"), asyncio.to_thread(threading.get_ident)), 30)
assert both[0] == "slept" and both[1] != threading.get_ident() and seen == [7]
assert run.state == "running" and model.gave > before
loop = asyncio.get_running_loop()
assert not hasattr(loop, "_nest_patched") and loop.get_exception_handler() is None
""",
        """
run.stop()
run.wait(30)
assert await waiting == "waited"
async with asyncio.timeout(30):
    await asyncio.sleep(0.01)
unused = asyncio.sleep(0)
try:
    asyncio.run(unused)
    refused = False
except RuntimeError:
    refused = True
unused.close()
print(run.state, refused)
""",
    ]
    book = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(
        book, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(Path(__file__).parent)}}
    ).execute()
    assert book.cells[-1].outputs[-1]["text"] == "stopped True\n"


if __name__ == "__main__":
    print(json.dumps(globals()[f"scene_{sys.argv[1]}"](*sys.argv[2:])))
