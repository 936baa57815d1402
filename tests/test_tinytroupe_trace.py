"""The cache of a simulation under the bridge: it replays, stays small, and says so where it cannot."""

from __future__ import annotations

import concurrent.futures
import contextvars
import hashlib
import itertools
import json
import logging
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import troupes
from hypothesis import given
from hypothesis import strategies as st

from troupelab.bridges.tinytroupe.seams import TinyTroupe
from troupelab.bridges.tinytroupe.trace import SUFFIX, Tracing
from troupelab.bridges.tinytroupe.trace_calls import text_of
from troupelab.bridges.tinytroupe.trace_file import Entry, TraceFile, digest
from troupelab.bridges.tinytroupe.trace_pieces import fold, parts_of, unfold
from troupelab.errors import BridgeError, LimitError, StoreCorruptError, StoreError, StoreLockedError, StoreVersionError

CACHE = "town.cache.json"
WORDS = (
    "market garden people think about weather music food travel winter friends matter more than product town".split()
)


class Shelf:
    """Pieces in memory, each text once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        """All pieces in their order."""
        return list(self.numbers)

    def put(self, text: str, made_of: bool) -> int:
        """As `TraceFile` does it."""
        assert made_of or not parts_of(text)
        return self.numbers.setdefault(text, len(self.numbers) + 1)

    def text(self, number: int) -> str:
        """A piece's text."""
        return next(text for text, own in self.numbers.items() if own == number)


keys = st.sampled_from(["~", "t", "l", "name"]) | st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=12,
)


@given(values, st.text(max_size=20), st.integers(0, 200), keys)
def test_what_is_cut_in_pieces_is_the_same_when_put_together(inner: object, line: str, times: int, key: str) -> None:
    """Every value of JSON's, with the marks' own names as keys, long texts and long lists, comes back as it was."""
    shelf = Shelf()
    value = {
        key: inner,
        "same": [inner] * times,
        "all": [[each, inner, line] for each in range(times)],
        "text": line * times,
    }
    number = fold(value, shelf.put)
    assert unfold(number, shelf.text) == value
    for place, text in enumerate(shelf.texts, 1):
        assert all(0 < part < place for part in parts_of(text)), "a piece is made of earlier ones"


def test_what_grows_at_its_end_shares_what_it_had() -> None:
    """One more record, and one more line in the middle of a prompt, add a few pieces and no copy of the rest."""
    shelf = Shelf()
    records = [{"role": "user", "content": f"{place} " + "something happened " * 20} for place in range(3000)]
    lines = [f"line {place} of what is always there\n" for place in range(400)]
    fold({"memory": records[:2999], "prompt": "".join(lines)}, shelf.put)
    before = len(shelf.texts)
    fold({"memory": records, "prompt": "".join([*lines[:200], "something new\n", *lines[200:]])}, shelf.put)
    assert len(shelf.texts) - before < 12
    assert sum(len(text) for text in shelf.texts[before:]) < 12_000


def test_no_object_stands_at_two_places() -> None:
    """Equal records are stored once and are two objects again when read: what changes one leaves the other."""
    shelf = Shelf()
    record = {"content": "the same " * 100}
    first, second = unfold(fold([record, record], shelf.put), shelf.text)
    assert first == second == record
    assert first is not second


@pytest.mark.parametrize(
    "text", ['{"~": 1}', '{"~": 2}', '{"~": "x"}', '{"~": {"l": [-1]}}', "[1", '{"~": {"t": ["a"]}}']
)
def test_pieces_that_do_not_fit_are_refused(text: str) -> None:
    """A piece made of itself, of none, or of nonsense is an error and never an endless loop."""
    with pytest.raises((ValueError, TypeError)):
        unfold(1, lambda _: text)


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[TraceFile]:
    """An empty file."""
    file = TraceFile(tmp_path / "a.troupelab")
    yield file
    file.close()


def add(file: TraceFile, parent: int, call: str, state: object = None) -> int:
    """Append a call; there is room."""
    number = file.append(parent, digest(call), call, {"state of": call} if state is None else state)
    assert number is not None
    return number


def found(file: TraceFile, parent: int, call: str) -> Entry:
    """What is known of a call that is known."""
    entry = file.find(parent, digest(call))
    assert entry is not None
    return entry


def test_a_trace_is_a_tree_that_survives_its_process(trace: TraceFile) -> None:
    """Two ways through a program are both there when the file is opened again; a call made anew replaces what followed."""
    one = add(trace, 0, "one")
    two, other = add(trace, one, "two"), add(trace, one, "other")
    assert trace.load(found(trace, one, "two").state) == {"state of": "two"}
    trace.close()
    with_again = TraceFile(trace.path)
    try:
        assert (found(with_again, one, "two").id, found(with_again, one, "other").id) == (two, other)
        assert with_again.load(found(with_again, 0, "one").output) == "one"
        with_again.amend(one, ["changed"])
        assert with_again.load(found(with_again, 0, "one").output) == ["changed"]
        anew = add(with_again, 0, "one")
        assert with_again.entries() == 1
        assert with_again.find(anew, digest("two")) is None
    finally:
        with_again.close()


def test_what_was_appended_survives_a_kill(tmp_path: Path) -> None:
    """A process that is killed in the middle of its work leaves every call that it had recorded."""
    code = (
        "import sys; from troupelab.bridges.tinytroupe.trace_file import TraceFile, digest\n"
        "file, parent = TraceFile(sys.argv[1]), 0\n"
        "for number in range(10**6):\n"
        "    parent = file.append(parent, digest(str(number)), number, {'memory': list(range(number * 10))})\n"
        "    print(number, flush=True)\n"
    )
    path = tmp_path / "killed.troupelab"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        told += [int(line) for line in process.stdout.read().splitlines()]
    file, parent = TraceFile(path), 0
    try:
        for number in told:
            entry = found(file, parent, str(number))
            assert file.load(entry.state) == {"memory": list(range(number * 10))}
            parent = entry.id
    finally:
        file.close()


def test_a_file_that_is_in_use_or_no_trace_says_what_to_do(trace: TraceFile, tmp_path: Path) -> None:
    """The second user of a file, a file of something else and one of another version are told apart."""
    with pytest.raises(StoreLockedError, match="end that simulation first"):
        TraceFile(trace.path)
    other = tmp_path / "notes.troupelab"
    other.write_text("my notes " * 1000, encoding="utf-8")
    with pytest.raises(StoreError, match="move it away"):
        TraceFile(other)
    assert other.read_text(encoding="utf-8").startswith("my notes")
    trace.close()
    connection = sqlite3.connect(trace.path)
    connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(StoreVersionError, match="update troupelab"):
        TraceFile(trace.path)
    with pytest.raises(LimitError, match="max_bytes"):
        TraceFile(tmp_path / "small.troupelab", max_bytes=10)


def test_what_is_not_what_was_written_is_never_given_back(trace: TraceFile) -> None:
    """A changed piece is an error, a changed entry is no entry."""
    number = add(trace, 0, "one")
    trace.close()
    connection = sqlite3.connect(trace.path)
    connection.execute("UPDATE piece SET packed = (SELECT packed FROM piece ORDER BY id LIMIT 1)")
    connection.commit()
    again = TraceFile(trace.path)
    with pytest.raises(StoreCorruptError, match="not what was written"):
        again.load(found(again, 0, "one").state)
    again.close()
    connection.execute("UPDATE entry SET state = output WHERE id = ?", (number,))
    connection.commit()
    connection.close()
    again = TraceFile(trace.path)
    assert again.find(0, digest("one")) is None
    again.close()


def noise(number: int, characters: int = 30_000) -> str:
    """A text that cannot be compressed much."""
    rounds = range(characters // 64 + 1)
    return "\n".join(hashlib.sha256(f"{number} {each}".encode()).hexdigest() for each in rounds)


def test_a_full_file_drops_other_branches_and_keeps_its_beginning(tmp_path: Path) -> None:
    """Beyond `max_bytes` the branch goes that was used the longest ago, then the current one ends; never its beginning."""
    cap = 600_000
    file = TraceFile(tmp_path / "full.troupelab", max_bytes=cap)
    try:
        kept = add(file, 0, "kept", noise(1))
        old = add(file, 0, "old", noise(2))
        add(file, old, "older still", noise(3))
        file.flush(kept)
        parent, calls, number = add(file, 0, "current", noise(4)), 1, None
        for calls in range(100):
            number = file.append(parent, digest(str(calls)), None, noise(10 + calls))
            assert file.size_bytes() <= cap
            if number is None:
                break
            if calls == 0:
                first = number
            parent = number
        assert number is None
        assert calls > 5
        assert file.find(0, digest("old")) is None
        assert file.find(0, digest("kept")) is None
        assert file.load(found(file, first, "1").state) == noise(11)
        assert file.entries() == calls + 1
    finally:
        file.close()


class Talker:
    """A model that says something else to each prompt, and the same to the same prompt."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails = False
        self._lock = threading.Lock()

    def send_message(self, current_messages: list[dict[str, Any]], **_: Any) -> dict[str, str]:
        """A reply with two actions."""
        with self._lock:
            self.calls += 1
        if self.fails:
            raise ValueError("no model today")
        seed = hashlib.sha256(repr(current_messages).encode()).digest()
        said = " ".join(WORDS[byte % len(WORDS)] for byte in seed)
        mind = {"goals": said[:30], "context": ["in town"], "attention": said[30:60], "emotions": said[60:90]}
        actions = [{"type": "TALK", "content": said, "target": ""}, {"type": "DONE", "content": "", "target": ""}]
        return {"role": "assistant", "content": json.dumps({"actions": actions, "cognitive_state": mind})}


class CopyingExecutor(concurrent.futures.ThreadPoolExecutor):
    """Runs everything in a copy of the context that it was given in, as the bridge does."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> concurrent.futures.Future[Any]:
        """As its base class, in the context."""
        return super().submit(contextvars.copy_context().run, function, *args, **options)


class Stage:
    """TinyTroupe with a model of ours and, once `bridge` was called, our cache."""

    def __init__(self, troupe: TinyTroupe, patch: pytest.MonkeyPatch) -> None:
        self.troupe, self.control, self.patch = troupe, troupe.control, patch
        self.model = Talker()
        self.tracing = Tracing(troupe)
        self.people: list[Any] = []
        self.world: Any = None
        troupe.clients.register_client("talker", self.model)
        troupe.clients.force_api_type("talker")
        patch.setattr(troupe.person.TinyPerson, "MIN_EPISODE_LENGTH", 10**6)
        patch.setattr(troupe.person.TinyPerson, "MAX_EPISODE_LENGTH", 10**6)

    def bridge(self, **options: Any) -> Stage:
        """Set what is to be replaced."""
        self.tracing = Tracing(self.troupe, **options)
        for owner, name, value in self.tracing.replacing():
            self.patch.setattr(owner, name, value)
        return self

    def begin(self, names: tuple[str, ...] = ("Lisa", "Oscar", "Lila"), cache: str = CACHE, **options: Any) -> Any:
        """What a program begins with: a simulation, people and a world; gives the world."""
        self.control.reset()
        self.control.begin(cache, **options)
        self.people = [self.troupe.person.TinyPerson(name) for name in names]
        for person in self.people:
            person.define("age", 40)
        self.world = self.troupe.world.TinyWorld("Town", self.people)
        self.world.broadcast("Welcome to the market.")
        return self.world

    def end(self) -> tuple[int, int, int, Any]:
        """Calls of the model since the last time, hits, misses, and the state of everybody."""
        state = json.loads(json.dumps([one.encode_complete_state() for one in [*self.people, self.world]]))
        self.control.end()
        calls, self.model.calls = self.model.calls, 0
        return calls, self.control.cache_hits(), self.control.cache_misses(), state

    def session(self, *steps: int, parallel: bool = False, **options: Any) -> tuple[int, int, int, Any]:
        """A whole program."""
        world = self.begin(**options)
        for number in steps:
            world.run(number, parallelize=parallel)
        return self.end()


@pytest.fixture
def stage(tinytroupe: TinyTroupe, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage in a folder of its own; what is open in the end is closed."""
    stage = Stage(tinytroupe, monkeypatch)
    yield stage
    stage.tracing.close_all()


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("steps", [(1, 1, 1), (3,)])
def test_a_program_replays_without_a_call(stage: Stage, steps: tuple[int, ...], parallel: bool) -> None:
    """The same calls again, step by step or in one, side by side or one after another: no model call, the same state."""
    stage.patch.setattr(concurrent.futures, "ThreadPoolExecutor", CopyingExecutor)
    calls, hits, misses, state = stage.bridge().session(*steps, parallel=parallel)
    top_level = 3 + 1 + len(steps)  # each one's age, the welcome, and the steps
    assert (calls, hits, misses) == (9, 0, top_level)
    assert stage.session(*steps, parallel=parallel) == (0, top_level, 0, state)
    assert not Path(CACHE).exists()
    file = TraceFile(CACHE + SUFFIX)
    assert file.entries() == top_level
    file.close()


def test_a_program_that_goes_on_or_elsewhere_keeps_both_ways(stage: Stage) -> None:
    """What is new is run on the restored state; the way that was taken first replays afterwards as well."""
    calls, _, _, first = stage.bridge().session(1, 1)
    assert calls == 6
    calls, hits, misses, other = stage.session(1, 2)
    assert (calls, hits, misses) == (6, 5, 1)
    assert stage.session(1, 1) == (0, 6, 0, first)
    assert stage.session(1, 2) == (0, 6, 0, other)
    calls, hits, _, _ = stage.session(1, 1, 1)
    assert (calls, hits) == (3, 6)


def test_with_somebody_new_nothing_is_replayed(stage: Stage) -> None:
    """A state restored where somebody is missing or new would be another simulation's."""
    stage.bridge().session(1)
    calls, hits, _, _ = stage.session(1, names=("Lisa", "Oscar", "Lila", "Marcos"))
    assert (calls, hits) == (4, 0)
    assert stage.session(1)[:2] == (0, 5)


def test_calls_at_the_same_time_end_the_recording_and_nothing_else(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Threads that know nothing of the call that they belong to cannot be told from others: a warning, and no wrong state."""
    with caplog.at_level(logging.WARNING, logger="troupelab.bridges"):
        calls, _, _, _ = stage.bridge().session(1, 1, parallel=True)
    assert calls == 6
    assert caplog.text.count("two top-level calls ran at the same time") == 1
    calls, hits, _, _ = stage.session(1, 1, parallel=True)
    assert (calls, hits) == (6, 4)


def test_a_call_that_fails_ends_the_recording(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """What came before it replays; what came behind it was built on a state that no replay comes by."""
    world = stage.bridge().begin()
    with stage.patch.context() as patch:
        patch.setattr(stage.troupe.world.TinyWorld, "_handle_actions", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), caplog.at_level(logging.WARNING, logger="troupelab.bridges"):
            world.run(1, parallelize=False)
    assert "a call failed (ZeroDivisionError" in caplog.text
    stage.people[0].define("age", 41)
    stage.end()
    assert stage.session(1)[:3] == (3, 4, 1)


def test_what_json_has_not_ends_the_recording(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A state with an object of the user's own: the simulation goes on as if without a cache, and says why."""
    world = stage.bridge().begin()
    stage.people[0].tool = object()
    with caplog.at_level(logging.WARNING, logger="troupelab.bridges"):
        world.run(2, parallelize=False)
    assert "not JSON serializable" in caplog.text
    assert stage.model.calls == 6
    stage.control.end()


def test_a_full_file_ends_the_recording(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """With no room the beginning stays and replays; the rest is run, and not recorded."""
    stage.bridge(max_bytes=100_000).begin()
    with caplog.at_level(logging.WARNING, logger="troupelab.bridges"):
        for number in range(20):
            stage.people[0].define("diary", noise(number, 10_000))
    assert "the file is full" in caplog.text
    stage.end()
    stage.begin()
    for number in range(20):
        stage.people[0].define("diary", noise(number, 10_000))
    _, hits, _, state = stage.end()
    assert 2 < hits < 20
    assert state[0]["_persona"]["diary"] == noise(19, 10_000)


def test_what_tinytroupe_kept_is_taken_over_once(stage: Stage) -> None:
    """A file of TinyTroupe's own replays under the bridge, stays as it is, and is not read again."""
    if troupes.which() == "minimal":
        pytest.skip("the minimal package words the calls in its file in a way of its own")
    stage.session(1, 1)
    stage.control.reset()
    before = Path(CACHE).read_bytes()
    state = stage.session(1, 1)[3]
    calls, hits, _, ours = stage.bridge().session(1, 1)
    assert (calls, hits, ours) == (0, 6, state)
    assert Path(CACHE).read_bytes() == before
    Path(CACHE).write_text("no longer needed", encoding="utf-8")
    assert stage.session(1, 1)[:2] == (0, 6)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '[[null, "event", null]]', '[[null, "e", null, {"agents": 1}]]', "[[1, 2"]
)
def test_a_broken_file_of_tinytroupe_is_named(stage: Stage, text: str) -> None:
    """It is left alone, nothing has begun, and with another path it goes on."""
    Path(CACHE).write_text(text, encoding="utf-8")
    stage.bridge()
    with pytest.raises(BridgeError, match="move it away"):
        stage.control.begin(CACHE)
    assert not Path(CACHE + SUFFIX).exists()
    stage.control.begin("other.cache.json")
    stage.control.end()


def test_a_simulation_that_had_begun_stays_tinytroupes(stage: Stage) -> None:
    """Its cache is in TinyTroupe's own file, and ours is not made."""
    world = stage.begin()
    stage.bridge()
    world.run(1, parallelize=False)
    stage.control.end()
    assert len(json.loads(Path(CACHE).read_text(encoding="utf-8"))) > 1
    assert not Path(CACHE + SUFFIX).exists()


def test_one_that_is_open_when_the_bridge_goes_is_kept_and_ended(stage: Stage) -> None:
    """`close_all` ends it; what it had recorded replays, and a simulation of TinyTroupe's own can begin."""
    world = stage.bridge().begin()
    world.run(1, parallelize=False)
    stage.tracing.close_all()
    assert stage.control.current_simulation() is None
    stage.tracing.close_all()
    stage.model.calls = 0
    assert stage.session(1)[:2] == (0, 5)
    stage.patch.undo()
    stage.control.begin(CACHE)
    stage.control.end()


def test_one_that_cannot_be_written_ends_all_the_same(stage: Stage) -> None:
    """`end` says what is wrong, and the next simulation can begin."""
    stage.bridge().begin()
    next(iter(stage.tracing._open.values())).file.close()
    with pytest.raises(StoreError, match="cannot be used"):
        stage.control.end()
    assert stage.control.current_simulation() is None
    assert stage.session(1)[:2] == (3, 4)


def test_the_same_simulation_begins_again(stage: Stage) -> None:
    """Without a reset in between: the same people come to the same simulation anew, and it replays from its beginning."""
    stage.bridge().session(1)
    stage.patch.setattr(stage.control, "reset", lambda: None)
    assert stage.session(1)[:2] == (0, 5)


def test_checkpoints_are_taken(stage: Stage) -> None:
    """`checkpoint` and `auto_checkpoint` bring everything to the disk."""
    world = stage.bridge().begin()
    simulation = stage.control.current_simulation()
    assert simulation.has_unsaved_cache_changes
    stage.control.checkpoint()
    assert not simulation.has_unsaved_cache_changes
    world.run(1, parallelize=False)
    assert simulation.has_unsaved_cache_changes
    stage.end()
    stage.begin(cache="other.cache.json", auto_checkpoint=True).run(1, parallelize=False)
    assert not stage.control.current_simulation().has_unsaved_cache_changes
    stage.end()


def workshop_of(stage: Stage, executor: type[concurrent.futures.ThreadPoolExecutor]) -> Any:
    """A world that has a parallel segment, made of the package at hand."""
    transactional, fresh = stage.control.transactional, itertools.count()
    base: Any = stage.troupe.world.TinyWorld

    class Workshop(base):  # type: ignore[misc]
        """Asks the model in threads."""

        @transactional(parallel=True)  # type: ignore[untyped-decorator]
        def make(self, *numbers: int) -> list[str]:
            """Ask for each number; the answers come in the order in which they are done."""
            with executor() as pool:
                asked = [pool.submit(self.ask, number) for number in numbers]
                self.made = [each.result() for each in concurrent.futures.as_completed(asked)]
            return self.made

        @transactional()  # type: ignore[untyped-decorator]
        def ask(self, number: int) -> str:
            """Ask the model, with a call inside the call; what it says to 0 is something else each time."""
            self.broadcast("somebody asks")
            message = [{"role": "user", "content": f"{number} {0 if number else next(fresh)}"}]
            return str(stage.model.send_message(message)["content"])

    return Workshop


@pytest.mark.parametrize("executor", [concurrent.futures.ThreadPoolExecutor, CopyingExecutor])
def test_people_made_in_parallel_replay_each_call(
    stage: Stage, executor: type[concurrent.futures.ThreadPoolExecutor]
) -> None:
    """A parallel segment runs again with what its calls gave back, in any order, and with the state behind it."""
    workshop_class = workshop_of(stage.bridge(), executor)

    def session(*segments: tuple[int, ...]) -> tuple[int, list[list[str]], list[str]]:
        stage.control.reset()
        stage.model.calls = 0
        stage.control.begin(CACHE)
        workshop = workshop_class("Workshop", [])
        made = [list(workshop.make(*numbers)) for numbers in segments]
        workshop.made = ["changed"]
        workshop.broadcast("that is all")
        state = list(workshop.made)
        stage.control.end()
        return stage.model.calls, made, state

    calls, made, state = session((0, 1, 0), (0, 1, 2, 3))
    assert (calls, state) == (7, ["changed"])
    assert len(set(made[0])) == 3
    assert session((0, 1, 0), (0, 1, 2, 3)) == (0, made, state)
    assert session((1, 0, 0), (3, 2, 1, 0)) == (0, made, state)
    calls, other, _ = session((0, 1, 0), (0, 1, 2, 4))
    assert (calls, other[0]) == (1, made[0])
    assert session((0, 1, 0), (0, 1, 2, 4)) == (0, other, state)
    assert session((0, 1, 0), (0, 1, 2, 3)) == (0, made, state)


def test_a_parallel_segment_of_tinytroupe_is_taken_over(stage: Stage) -> None:
    """As it lies in a file of its own: what each call gave back, and the state behind them as an entry of its own."""
    workshop_class = workshop_of(stage, CopyingExecutor)
    stage.control.begin("ignored.cache.json")
    workshop = workshop_class("Workshop", [])
    stage.control.current_simulation().add_environment(workshop)
    workshop.made = ["as it was kept"]
    state = stage.control.current_simulation()._encode_simulation_state()
    call = "('ask', [\"TinyWorld(name='Workshop')\", '7'], {})"
    segment = {call: {"prev_node_hash": None, "encoded_output": {"type": "JSON", "value": "kept"}}}
    after = [None, "('<lambda>', [], {})", {"type": "JSON", "value": True}, state]
    Path(CACHE).write_text(json.dumps([segment, after], indent=4), encoding="utf-8")
    stage.bridge().control.reset()
    stage.control.begin(CACHE)
    workshop = workshop_class("Workshop", [])
    assert workshop.make(7) == ["kept"]
    assert workshop.made == ["as it was kept"]
    assert stage.model.calls == 0
    stage.control.end()


def test_an_address_in_memory_does_not_make_another_call(tinytroupe: TinyTroupe) -> None:
    """Functions count by their names, objects without a text of their own by their class; all else by its text."""

    def shown(*args: object) -> str:
        def perceive() -> None:
            """What is called."""

        return text_of(tinytroupe.control.Transaction(None, None, perceive, *args, key=args))

    assert shown(object(), 1) == shown(object(), 1)
    assert shown(object(), 1) != shown(object(), 2)
    assert shown(len) != shown(max)
    assert "at 0x" not in shown([object(), lambda: None])
    assert shown("see you at 0x10") != shown("see you at 0x20")
