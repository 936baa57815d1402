"""One side of the comparison with TinyTroupe: a process in which it runs unmodified, or on this engine, told what to do line by line.

Each line of its input is a task as JSON, and is answered with a line of JSON. Whatever TinyTroupe prints goes to the standard error. The parent
is `troupelab.bench.tinytroupe`, with a `Side` for each process. One thread has a Side at a time.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from troupelab.bench.harness import anonymous_mb
from troupelab.bench.material import talk
from troupelab.errors import BridgeError, MissingPackageError, RunError

if TYPE_CHECKING:
    from troupelab.telemetry.recorder import Recorder

__all__ = ["Side", "Task", "Way", "begin_side"]

Way = Literal["stock", "accelerate", "adopt"]

_SEED = 7
_START = datetime.datetime(2026, 3, 2, 9)
_WAIT_S = 600.0
_TASK_S = 900.0
_TAIL_CHARS = 2_000
_SPEECH_CHARS = 120
_JOBS = ("clerk", "baker", "nurse", "teacher", "plumber", "engineer", "gardener", "librarian")
_QUIET = {"loglevel": "ERROR", "loglevel_console": "ERROR", "loglevel_file": "ERROR"}
# Its tokens are counted for the log at every call, with an encoding that must be downloaded for newer models; this one's comes with llama-index.
_MODEL = "gpt-4"
_STOCK = {"model": _MODEL, "waiting_time": 0, "max_concurrent_model_calls": None, "parallel_agent_actions": True}
_NAMED = (
    *_STOCK, "timeout", "max_attempts", "cache_api_calls", "enable_memory_consolidation", "loglevel",
    "action_generator_enable_quality_checks", "enable_continuous_contextual_semantic_memory_retrieval",
)  # fmt: skip


class Task(NamedTuple):
    """What a side is to do.

    Attributes:
        way: TinyTroupe as it is, under `accelerate()`, or adopted.
        agents: how many persons.
        steps: how many steps are timed.
        spoken_to: whether everybody is told something new before each step, so that episodes get long enough to be consolidated.
        heard: so many short stimuli for each person in place of any step, without consolidation: what they take of RAM.
    """

    way: Way
    agents: int
    steps: int = 1
    spoken_to: bool = False
    heard: int = 0


# ---------------------------------------------------------------------- the parent's end


class Side:
    """A process with TinyTroupe in it; `begin_side` makes one.

    Attributes:
        about: TinyTroupe's version, and its configuration as it is run.
    """

    def __init__(self, process: subprocess.Popen[str], said: IO[bytes]) -> None:
        self.about: Mapping[str, Any] = {}
        self._process = process
        self._said = said

    def do(self, task: Task) -> dict[str, Any]:
        """Have it do a task, and return what it found.

        Raises:
            MissingPackageError: TinyTroupe, or something that it needs, is not installed.
            BridgeError: it is a version that the bridge does not know.
            RunError: the process failed, or did not answer in time; the message ends with what it said.
        """
        return self._ask(task._asdict())

    def _ask(self, task: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(_TASK_S, process.kill)
        late.start()
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it has ended already
            line = ""
        finally:
            late.cancel()
        if not line:
            self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _TAIL_CHARS))
            tail = self._said.read().decode(errors="replace").strip()
            raise RunError(f"a side of the benchmark ended, or took over {_TASK_S:g} s; it said: {tail or 'nothing'}")
        found: dict[str, Any] = json.loads(line)
        if "missing" in found:
            raise MissingPackageError(found["missing"])
        if "unfit" in found:
            raise BridgeError(found["unfit"])
        return found


@contextlib.contextmanager
def begin_side(folder: Path, base_url: str) -> Iterator[Side]:
    """Start a process with TinyTroupe in it; it ends with the with-block.

    Args:
        folder: an empty one, where its log files do no harm.
        base_url: of the rehearsal server.

    Raises:
        MissingPackageError: TinyTroupe, or something that it needs, is not installed.
        BridgeError: it is a version that the bridge does not know.
        RunError: the process failed.
    """
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none"}
    if (encodings := _encodings()) is not None:
        environment.setdefault("TIKTOKEN_CACHE_DIR", str(encodings))
    with (folder / "said.txt").open("w+b") as said:
        command = [sys.executable, "-m", "troupelab.bench.tinytroupe_side"]
        process = subprocess.Popen(  # noqa: S603 - our own module, and no shell
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, cwd=folder, env=environment
        )
        with process:
            try:
                side = Side(process, said)
                side.about = side._ask({})
                yield side
            finally:
                process.kill()


def _encodings() -> Path | None:
    """Where llama-index has the encodings that tiktoken would download: a failed download at every call is no comparison."""
    try:
        found = importlib.util.find_spec("llama_index.core")
    except ImportError:
        return None
    folder = (
        None if found is None or found.origin is None else Path(found.origin).with_name("_static") / "tiktoken_cache"
    )
    return folder if folder is not None and folder.is_dir() else None


# ---------------------------------------------------------------------- the process itself


class _Stage:
    """TinyTroupe in this process, and what tasks do with it."""

    def __init__(self) -> None:
        from troupelab.bridges.tinytroupe.model import model_of
        from troupelab.bridges.tinytroupe.seams import find

        self._tt = tt = find()
        for name, value in (_QUIET | _STOCK).items():
            tt.config.update(name, value)
        # The client that is there has taken its call limit from the configuration as it was before.
        tt.clients.register_client("openai", type(tt.clients.client())())
        tt.person.TinyPerson.communication_display = tt.world.TinyWorld.communication_display = False
        # What accelerate() would make by itself; it is kept, so that what the endpoint does not take is learned once.
        self._model = model_of(tt)

    def about(self) -> dict[str, Any]:
        """The version and the configuration."""
        configured = {name: self._tt.config.get(name) for name in _NAMED}
        count = getattr(self._tt.clients.client(), "_count_tokens", None)
        counted = count is not None and count([{"role": "user", "content": "Good morning."}], _MODEL) is not None
        return {
            "version": self._tt.version,
            "configuration": {**configured, "communication_display": False, "tokens_counted_for_the_log": counted},
        }

    def do(self, task: Task) -> dict[str, Any]:
        """Do a task."""
        person, world = self._tt.person.TinyPerson, self._tt.world.TinyWorld
        self._tt.config.update("enable_memory_consolidation", not task.heard)
        try:
            return self._heard(task) if task.heard else self._played(task)
        finally:
            person.clear_agents()
            world.clear_environments()
            gc.collect()

    def _made(self, agents: int) -> tuple[list[Any], Any]:
        persons = []
        for number in range(agents):
            person = self._tt.person.TinyPerson(f"Person {number}")
            person.define("age", 20 + number % 60)
            person.define("nationality", "Turkish")
            person.define("occupation", _JOBS[number % len(_JOBS)])
            persons.append(person)
        # What nobody in particular is told, nobody hears: it would be 10,000 stimuli of 100 agents.
        world = self._tt.world.TinyWorld("Town", persons, initial_datetime=_START, broadcast_if_no_target=False)
        return persons, world

    def _played(self, task: Task) -> dict[str, Any]:
        """Wall time and CPU of some steps, and what everybody remembers after them."""
        from troupelab.bridges.tinytroupe.accelerate import accelerate
        from troupelab.bridges.tinytroupe.adopt import adopt

        persons, world = self._made(task.agents)
        speeches = talk(_SEED, _SPEECH_CHARS)
        if task.way == "adopt":
            world.broadcast(next(speeches))
            with adopt(world, self._model, steps=task.steps) as run:
                with _Watch() as watch:
                    run.start().wait(_WAIT_S)
                return watch.found | _told(run.recorder) | _remembered(persons)
        fast = accelerate(model=self._model) if task.way == "accelerate" else contextlib.nullcontext()
        with fast as acceleration:
            if not task.spoken_to:
                world.broadcast(next(speeches))
            with _Watch() as watch:
                if task.spoken_to:
                    for speech in islice(speeches, task.steps):
                        world.broadcast(speech)
                        world.run(1)
                    for person in persons:  # not before all notes are written
                        person.semantic_memory.retrieve_all()
                else:
                    world.run(task.steps)
            told = {} if acceleration is None else _told(acceleration.recorder)
        return watch.found | told | _remembered(persons)

    def _heard(self, task: Task) -> dict[str, Any]:
        """The growth of RAM while everybody hears a lot."""
        from troupelab.bridges.tinytroupe.accelerate import accelerate

        persons, _ = self._made(task.agents)
        fast = accelerate(model=self._model) if task.way == "accelerate" else contextlib.nullcontext()
        with fast:
            for person in persons:  # imports and the words' caches are there before
                person.listen("Good morning.")
            speeches = talk(_SEED, _SPEECH_CHARS)
            gc.collect()
            before, began = anonymous_mb(), time.perf_counter()
            for _ in range(task.heard):
                speech = next(speeches)
                for number, person in enumerate(persons):
                    person.listen(f"{number}: {speech}")
            wall_s = time.perf_counter() - began
            gc.collect()
            grown = anonymous_mb() - before
            held = sum(person.episodic_memory.count() for person in persons)
        return {"rss_mb": grown, "wall_s": wall_s, "held": held}


class _Watch:
    """Wall time and this process's CPU from the beginning to the end of a with-block."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def __enter__(self) -> _Watch:
        self._began, self._cpu_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.found = {"wall_s": time.perf_counter() - self._began, "cpu_s": time.process_time() - self._cpu_s}


def _told(recorder: Recorder) -> dict[str, Any]:
    """What a recorder tells: how many errors there were, and how many calls were under way at most."""
    calls = recorder.read("calls").columns
    ends = np.sort(calls["at_s"])
    begins = np.sort(calls["at_s"] - calls["latency_s"])
    under_way = np.arange(1, len(begins) + 1) - np.searchsorted(ends, begins, "left")
    return {"errors": recorder.count("errors"), "under_way": int(under_way.max(initial=0))}


def _remembered(persons: list[Any]) -> dict[str, Any]:
    """How many actions and stimuli each person remembers, and a digest of what they are."""
    counts, digest = [], hashlib.sha256()
    for person in persons:
        values = [each for each in person.episodic_memory.retrieve_all() if isinstance(each, dict)]
        kinds = [each.get("type") for each in values]
        counts.append([kinds.count("action"), kinds.count("stimulus")])
        content = [each.get("content") for each in values]
        digest.update(json.dumps(content, sort_keys=True, default=str).encode("utf-8", "replace"))
    return {"counts": counts, "digest": digest.hexdigest()}


def _main() -> int:
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    stage: _Stage | None = None
    with answers:
        for line in sys.stdin:
            try:
                stage = stage or _Stage()
                task = json.loads(line)
                found = stage.do(Task(**task)) if task else stage.about()
            except MissingPackageError as error:
                found = {"missing": str(error)}
            except BridgeError as error:
                found = {"unfit": str(error)}
            print(json.dumps(found), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
