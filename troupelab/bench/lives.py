"""A life: a process that begins a run in a folder or goes on with the one that is there, until its end or until it is killed.

25 agents play 20 steps with small memories, so that much is condensed, archived and merged. A life notes in a file beside the folder,
which no kill touches, whose request goes out under which key of the cache of replies, and which reply has come.

For `troupelab.bench.kill` and the tests of it; `python -m troupelab.bench.lives --begin …` or `--resume …` is one life. Any thread may
have lives, each its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from troupelab.bench.order import worlds
from troupelab.engine.options import OrderName
from troupelab.errors import CheckpointError
from troupelab.folder import RUN_FILE
from troupelab.limits import Limits
from troupelab.memory.memory import Memory
from troupelab.memory.pool import Pool
from troupelab.models.cache import reply_key
from troupelab.models.chat import ChatModel
from troupelab.models.model import Model, Reply, Request
from troupelab.models.scripted import ScriptedModel
from troupelab.run import Run
from troupelab.store import Store

__all__ = ["AGENTS", "LIMITS", "NO_RUN", "SEED", "STEPS", "Life", "Note", "begin_life", "memories_digest"]

AGENTS, STEPS, SEED = 25, 20, 7
LIMITS = Limits(recent_max_records=20)
NO_RUN = 3
"""What a life that is to go on ends with where there is no run to go on with."""

_NOTE = "{mark} {agent:04} {step:04} {key}\n"
_NOTE_BYTES = len(_NOTE.format(mark="?", agent=0, step=0, key="0" * 32))
_LIFE_S = 120.0


class _Noting:
    """A model that notes in a file which request goes out and which reply has come; `os.write` outlives a kill."""

    def __init__(self, model: ChatModel | ScriptedModel, notes: Path) -> None:
        self.name = model.name
        self.identity = model.identity
        self._model = model
        self._notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def complete(self, request: Request) -> Reply:
        """Ask the model."""
        key = reply_key(request, model=self.identity, seed=SEED, share_identical=False).hex()
        self._note("?", request, key)
        reply = await self._model.complete(request)
        self._note("!", request, key)
        return reply

    async def release(self) -> None:
        """Let the model free what belongs to the running loop."""
        if isinstance(self._model, ChatModel):
            await self._model.release()

    def _note(self, mark: str, request: Request, key: str) -> None:
        os.write(self._notes, _NOTE.format(mark=mark, agent=request.agent, step=request.step, key=key).encode())


def memories_digest(played: Run) -> str:
    """A digest of all that the agents of a run remember: records, archived ones too, notes, and states of mind.

    Args:
        played: a run that has ended; where it has a folder, what stands there is read.
    """
    digest = hashlib.sha256()
    stage = played._stage
    with contextlib.ExitStack() as stack:
        memories = [agent.memory for agent in stage.agents]
        if played.folder is not None:
            store = stack.enter_context(Store.open(played.folder / RUN_FILE, create=False))
            pool = Pool(store, embedder=stage.pool.embedder)
            limits = played.limits
            memories = [Memory(agent.index, limits.at_step(played.steps, agent.name), pool) for agent in stage.agents]
        for agent, memory in zip(stage.agents, memories, strict=True):
            digest.update(msgspec.json.encode((memory.between(0, 10**6), list(memory.notes), agent.state)))
    return digest.hexdigest()


def _live(folder: Path, graph: str, order: OrderName, base_url: str, notes: Path, *, resume: bool) -> int:
    """Play a run to its end, from its beginning or from where the folder has it, and print what came of it."""
    print("ready", flush=True)
    inner = ChatModel("rehearsed", base_url=base_url) if base_url else ScriptedModel(SEED, latency_s=0.01)
    model: Model = _Noting(inner, notes)
    world = worlds(AGENTS)[graph]
    if resume:
        try:
            played = Run.resume(folder, model, world=world)
        except CheckpointError as error:
            print(json.dumps({"no_run": str(error)}), flush=True)
            return NO_RUN
    else:
        played = Run(world, model, limits=LIMITS, steps=STEPS, seed=SEED, folder=folder, order=order)
    played.start()
    print("started", flush=True)
    played.wait(_LIFE_S)
    acts = played.recorder.read("acts").columns
    each = sorted(zip(acts["step"].tolist(), acts["agent"].tolist(), strict=True))
    print(
        json.dumps(
            {
                "transcript": played.recorder.transcript_sha256(),
                "memories": memories_digest(played),
                "whole": each == [(step, agent) for step in range(STEPS) for agent in range(AGENTS)],
                "strays": played._engine._actor.strays,
                "errors": played.recorder.count("errors"),
            }
        ),
        flush=True,
    )
    return 0


class Note(NamedTuple):
    """What a life noted: that a request went out, or that its reply came."""

    asked: bool
    agent: int
    step: int
    key: str


@dataclasses.dataclass
class Life:
    """A process that plays a folder's run, from where it stands."""

    process: subprocess.Popen[str]
    notes_file: Path
    started: bool = False
    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    problem: str = ""

    def kill_after(self, notes: int | None, more_s: float) -> None:
        """Kill it when it has noted so much (None: at once), and a moment later."""
        until = time.monotonic() + _LIFE_S
        while notes is not None and self.process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                if self.notes_file.stat().st_size >= notes * _NOTE_BYTES:
                    break
            time.sleep(0.001)
        time.sleep(more_s)
        self.process.kill()

    def end(self) -> None:
        """Wait for its end, and take in what it said."""
        try:
            said, wrong = self.process.communicate(timeout=_LIFE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            said, wrong = self.process.communicate()
            self.problem = "it did not end"
        lines = said.split("\n")
        self.started = "started" in lines
        for line in lines:
            if line.startswith("{") and line.endswith("}"):
                self.result = json.loads(line)
        if self.process.returncode > 0 and self.process.returncode != NO_RUN:
            self.problem = wrong[-2_000:] or f"it ended with {self.process.returncode}"

    def notes(self) -> list[Note]:
        """All that it noted."""
        if not self.notes_file.is_file():
            return []
        words = [line.split() for line in self.notes_file.read_text().splitlines()]
        return [Note(mark == "?", int(agent), int(step), key) for mark, agent, step, key in words]


@contextlib.contextmanager
def begin_life(
    folder: Path, graph: str, order: OrderName, base_url: str, notes: Path, *, resume: bool = False
) -> Iterator[Life]:
    """Start a process that begins a run, or goes on with the one in the folder; it has made nothing yet when this returns.

    Args:
        folder: of the run.
        graph: a world's name in `troupelab.bench.order`.
        order: of the run, where it begins.
        base_url: of a rehearsal server; empty for the scripted model in the process itself.
        notes: the file in which it notes its requests.
        resume: whether it goes on.
    """
    home = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}
    child = [sys.executable, "-m", "troupelab.bench.lives", "--resume" if resume else "--begin"]
    child += [str(folder), graph, order, base_url, str(notes)]
    process = subprocess.Popen(  # noqa: S603 - our own module, and no shell
        child, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    with process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield Life(process, notes)
        finally:
            process.kill()


def _main(arguments: Sequence[str]) -> int:
    if len(arguments) != 6 or arguments[0] not in ("--begin", "--resume"):
        print("use: troupelab bench kill [--quick] [--json]", file=sys.stderr)
        return 2
    folder, graph, order, base_url, notes = arguments[1:]
    order_name: OrderName = "free" if order == "free" else "lockstep"
    return _live(Path(folder), graph, order_name, base_url, Path(notes), resume=arguments[0] == "--resume")


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
