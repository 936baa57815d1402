"""The store: what is put comes back, from any thread, after any reopening, and from nowhere else."""

from __future__ import annotations

import contextlib
import gc
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from helpers import eventually
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from troupelab.errors import (
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreVersionError,
    TroupeLabError,
)
from troupelab.store import MAX_META_BYTES, MAX_PAYLOAD_BYTES, Block, Store
from troupelab.store import file as store_file
from troupelab.store import writer as store_writer

WORDS = "the harbour master counted seven grey boats and wrote nothing down before the rain came in again".split()


def text(number: int, words: int = 60) -> bytes:
    """Words that repeat, in an order that does not."""
    return " ".join(random.Random(number).choices(WORDS, k=words)).encode()


@pytest.fixture
def path(tmp_path):
    """Where a store may be."""
    return tmp_path / "run.sqlite"


def test_what_was_put_comes_back_after_reopening(path):
    """Payloads, index entries, numbers and sizes are the same in the next store on the file."""
    with Store.open(path) as store:
        first = [store.put("records", 0, b"meta %d" % number, text(number)) for number in range(3)]
        store.put("notes", -1, b"", b"")
        store.flush()
        assert [number for number, _ in first] == [0, 1, 2]
        assert store.committed == 4
        assert (store.queue_bytes, store.problem) == (0, None)
        before = store.blocks("records")
    with Store.open(path, create=False) as store:
        assert store.blocks("records") == before
        assert before[1] == Block("records", 0, 1, b"meta 1", store.size_of("records", 0, 1))
        assert [store.read("records", 0, number) for number in range(3)] == [text(number) for number in range(3)]
        assert store.read("notes", -1, 0) == b""
        assert store.put("records", 0, b"", b"x")[0] == 3
    assert Store.verify(path) == []
    assert sorted(file.name for file in path.parent.iterdir()) == ["run.sqlite"]


def test_a_transaction_is_all_or_nothing(path):
    """An exception in the with-block leaves nothing behind but a gap in the numbers."""
    with Store.open(path) as store:
        with contextlib.suppress(KeyError), store.transaction() as abandoned:
            abandoned.put("records", 1, b"", b"lost")
            raise KeyError("stop")
        with store.transaction() as kept:
            numbers = [kept.put("records", 1, b"", b"a"), kept.put("records", 1, b"", b"b")]
            kept.drop("records", 1, [numbers[0]])
            assert kept.ticket == 0
        store.flush()
        assert (abandoned.ticket, kept.ticket) == (0, 1)
        assert numbers == [1, 2]
        assert [block.number for block in store.blocks("records")] == [2]
        with pytest.raises(StoreError, match="has ended"):
            kept.put("records", 1, b"", b"too late")


def test_dropped_blocks_are_gone_and_their_numbers_are_not_given_again(path):
    """Also when the highest number was dropped before the store was closed."""
    with Store.open(path) as store:
        for number in range(4):
            store.put("records", 2, b"", text(number))
        with store.transaction() as transaction:
            transaction.drop("records", 2, [0, 3])
            transaction.drop("records", 2, [3])
        store.flush()
        assert [block.number for block in store.blocks("records")] == [1, 2]
        assert store.size_of("records", 2, 3) == 0
        with pytest.raises(StoreError, match="no block records/2/3"):
            store.read("records", 2, 3)
    with Store.open(path) as store:
        assert store.put("records", 2, b"", b"next")[0] == 4
        with pytest.raises(StoreError, match="never was one"), store.transaction() as transaction:
            transaction.drop("records", 2, [5])


def test_a_payload_may_be_made_by_the_writer(path):
    """A callable runs once, on the writer's thread, and counts by its hint until then."""
    gate, made_on = threading.Event(), []

    def make() -> bytes:
        gate.wait(20)
        made_on.append(threading.current_thread())
        return text(7)

    with Store.open(path) as store:
        number, ticket = store.put("records", 0, b"", make, size_hint_bytes=1234)
        store.put("records", 0, b"", b"12345")
        assert store.queue_bytes == 1239
        assert store.committed < ticket
        assert store.size_of("records", 0, number) == 0
        gate.set()
        store.flush()
        assert store.read("records", 0, number) == text(7)
        assert len(made_on) == 1
        assert made_on[0] is not threading.current_thread()
        assert store.size_of("records", 0, number) > 0


@pytest.mark.parametrize("make", [lambda: 1 / 0, lambda: "no bytes"], ids=["raises", "no bytes"])
def test_a_payload_that_cannot_be_made_is_told_and_harms_nothing_else(path, make):
    """Its ticket is never reached; flush, problem and close say why; what comes later is written."""
    store = Store.open(path)
    _, before = store.put("records", 0, b"", b"before")
    with store.transaction() as failing:
        failing.put("records", 0, b"", b"together with it")
        failing.put("records", 0, b"", make)
    after, _ = store.put("records", 0, b"", b"after")
    with pytest.raises(StoreError, match="records/0/2 can never be written"):
        store.flush()
    assert store.committed == before == failing.ticket - 1
    assert store.read("records", 0, after) == b"after"
    assert [block.number for block in store.blocks("records")] == [0, after]
    assert isinstance(store.problem, StoreError)
    with pytest.raises(StoreError, match="records/0/2"):
        store.close()
    store.close()
    assert Store.verify(path) == []


def test_wrong_arguments_are_refused_and_nothing_is_queued(path):
    """Kinds, agents, index entries and payloads have their limits."""
    with Store.open(path) as store:
        for kind, agent, meta, payload in [
            ("Records", 0, b"", b""),
            ("", 0, b"", b""),
            ("a" * 33, 0, b"", b""),
            ("records\n", 0, b"", b""),
            ("records", -2, b"", b""),
            ("records", 1 << 31, b"", b""),
            ("records", 0, bytes(MAX_META_BYTES + 1), b""),
            ("records", 0, "text", b""),
            ("records", 0, b"", "text"),
            ("records", 0, b"", bytes(MAX_PAYLOAD_BYTES + 1)),
        ]:
            with pytest.raises(StoreError):
                store.put(kind, agent, meta, payload)
        store.flush()
        assert (store.committed, store.blocks("records")) == (0, [])
        store.put("a" * 32, (1 << 31) - 1, bytes(MAX_META_BYTES), b"")
        store.flush()


def test_a_closed_store_says_so(path):
    """Putting and reading after close raise; closing again does not."""
    store = Store.open(path)
    store.put("records", 0, b"", b"a")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.put("records", 0, b"", b"b")
    with pytest.raises(StoreError, match="closed"):
        store.read("records", 0, 0)


class Model(RuleBasedStateMachine):
    """Random work on a store and the same on a dict."""

    kinds = st.sampled_from(["records", "notes"])
    agents = st.integers(-1, 2)
    payloads = st.one_of(st.binary(max_size=200), st.integers(0, 9).map(lambda seed: text(seed, 900)))

    @initialize()
    def begin(self) -> None:
        """Open an empty store."""
        self.folder = Path(tempfile.mkdtemp(prefix="store-model-"))
        self.store = Store.open(self.folder / "run.sqlite")
        self.model: dict[tuple[str, int, int], tuple[bytes, bytes]] = {}
        self.next: dict[tuple[str, int], int] = {}

    def numbered(self, kind: str, agent: int, number: int) -> None:
        """A number must be the next one."""
        assert number == self.next.get((kind, agent), 0)
        self.next[kind, agent] = number + 1

    @rule(kind=kinds, agent=agents, meta=st.binary(max_size=9), payload=payloads)
    def put(self, kind, agent, meta, payload) -> None:
        """Put one block."""
        number, _ = self.store.put(kind, agent, meta, payload)
        self.numbered(kind, agent, number)
        self.model[kind, agent, number] = (meta, payload)

    @rule(kind=kinds, agent=agents, items=st.lists(payloads, max_size=4), data=st.data())
    def together(self, kind, agent, items, data) -> None:
        """Put some and drop some in one transaction."""
        with self.store.transaction() as transaction:
            for payload in items:
                number = transaction.put(kind, agent, b"t", payload)
                self.numbered(kind, agent, number)
                self.model[kind, agent, number] = (b"t", payload)
            numbers = sorted(key[2] for key in self.model if key[:2] == (kind, agent))
            gone = data.draw(st.sets(st.sampled_from(numbers))) if numbers else set()
            transaction.drop(kind, agent, gone)
        for number in gone:
            del self.model[kind, agent, number]

    @rule()
    def flush(self) -> None:
        """Everything is there and nothing else."""
        self.store.flush()
        blocks = [block for kind in ("records", "notes") for block in self.store.blocks(kind)]
        found = {block[:3]: (block.meta, self.store.read(*block[:3])) for block in blocks}
        assert found == self.model

    @precondition(lambda self: self.next)
    @rule()
    def reopen(self) -> None:
        """Close and open again; the file is sound."""
        self.store.close()
        assert Store.verify(self.store.path) == []
        self.store = Store.open(self.store.path)

    @invariant()
    def well(self) -> None:
        """Nothing is ever wrong."""
        assert not hasattr(self, "store") or self.store.problem is None

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.flush()
            self.store.close()
            shutil.rmtree(self.folder)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestModel.__doc__ = "Whatever is put, dropped, flushed and reopened in whatever order, a store holds what a dict holds."


def noisy(number: int) -> bytes:
    """Up to forty kilobytes that do not pack."""
    return random.Random(number).randbytes(number % 5 * 10_000)


def test_threads_may_put_while_others_read(path, monkeypatch):
    """Four threads put and drop, the file grows and shrinks; two read all the while and never see anything wrong."""
    # Often, so that readers meet checkpoints and a file that is cut under their maps.
    monkeypatch.setattr(store_writer, "_CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr(store_writer, "_SPARE_PAGES", 0)
    errors: list[BaseException] = []
    reads: list[Block] = []

    def write(agent: int) -> None:
        try:
            for number in range(60):
                got, _ = store.put("records", agent, b"%d" % number, noisy(agent * 1000 + number))
                assert got == number
                if number % 7 == 6:
                    with store.transaction() as transaction:
                        transaction.drop("records", agent, range(number - 6, number - 1))
                    store.flush()
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        try:
            while any(thread.is_alive() for thread in writers):
                for block in store.blocks("records"):
                    try:
                        payload = store.read(*block[:3])
                    except StoreCorruptError:
                        raise
                    except StoreError:
                        continue  # dropped meanwhile
                    assert payload == noisy(block.agent * 1000 + block.number)
                    reads.append(block)
        except BaseException as error:
            errors.append(error)

    with Store.open(path) as store:
        writers = [threading.Thread(target=write, args=(agent,)) for agent in range(4)]
        readers = [threading.Thread(target=read) for _ in range(2)]
        for thread in (*writers, *readers):
            thread.start()
        for thread in (*writers, *readers):
            thread.join()
        store.flush()
        assert errors == []
        assert reads
        assert len(store.blocks("records")) == 4 * (60 - 8 * 5)
    assert Store.verify(path) == []


def test_a_file_is_open_in_one_store_at_a_time(path):
    """A second store is refused in the same process and in another, and told which process has it."""
    with Store.open(path) as store:
        store.put("records", 0, b"", b"a")
        with pytest.raises(StoreLockedError, match="in this process: close"):
            Store.open(path)
        code = f"from troupelab.store import Store\ntry: Store.open({str(path)!r})\nexcept Exception as e: print(type(e).__name__, e)"
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert said.startswith("StoreLockedError")
        assert "in process" in said
        store.flush()
        assert store.read("records", 0, 0) == b"a"
        assert Store.verify(path) == []
    Store.open(path).close()


def test_what_is_no_store_is_refused_and_left_as_it_is(tmp_path):
    """A folder, a text, an empty file, a database of something else."""
    (tmp_path / "notes.txt").write_text("dear diary " * 99)
    (tmp_path / "empty").touch()
    with contextlib.closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE t (a)")
    (tmp_path / "folder").mkdir()
    before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    for name in ("notes.txt", "empty", "other.sqlite", "folder"):
        with pytest.raises(StoreError, match=name):
            Store.open(tmp_path / name)
    with pytest.raises(StoreError, match="does not exist"):
        Store.open(tmp_path / "missing", create=False)
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before
    with Store.open(tmp_path / "new" / "deep er#1?" / "run.sqlite") as store:
        assert store.path.is_file()
    assert issubclass(StoreError, TroupeLabError)


def test_a_leftover_log_does_not_get_into_a_new_file(path):
    """The write-ahead log of a file that was deleted is not played into the next one of its name."""
    with Store.open(path) as store:
        store.put("records", 0, b"", b"old")
        store.flush()
        log = path.with_name(path.name + "-wal").read_bytes()
    path.unlink()
    path.with_name(path.name + "-wal").write_bytes(log)
    with Store.open(path) as store:
        assert store.blocks("records") == []


def test_a_newer_version_is_refused(path):
    """The message says to update, and the file is not touched."""
    Store.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match="update troupelab"):
        Store.open(path)
    assert path.read_bytes() == before
    assert "99" in Store.verify(path)[0]


def test_an_older_version_is_migrated_in_one_transaction(path, monkeypatch):
    """Two steps run in order; a step that fails leaves the file as it was; a gap in the steps is refused."""
    with Store.open(path) as store:
        store.put("records", 0, b"", b"kept")
    before = path.read_bytes()
    monkeypatch.setattr(store_file, "SCHEMA_VERSION", 3)
    with pytest.raises(StoreVersionError, match="cannot read"):
        Store.open(path)

    def second(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE extra (a)")

    def failing(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO extra VALUES (1)")
        raise ValueError("half way")

    monkeypatch.setattr(store_file, "MIGRATIONS", {1: second, 2: failing})
    with pytest.raises(StoreError, match="stays at version 1"):
        Store.open(path)
    assert path.read_bytes() == before
    monkeypatch.setitem(store_file.MIGRATIONS, 2, lambda connection: connection.execute("INSERT INTO extra VALUES (2)"))
    with Store.open(path) as store:
        assert store.read("records", 0, 0) == b"kept"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT a FROM extra").fetchall() == [(2,)]
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_trained_dictionary_makes_small_blocks_smaller(path):
    """Once enough was seen, the same text takes less room; older blocks stay readable, also after reopening."""
    with Store.open(path) as store:
        store.put("texts", 0, b"", text(1))
        for number in range(1, 1100):
            store.put("texts", 0, b"", text(number + 1))
        again, _ = store.put("texts", 0, b"", text(1))
        noise = [store.put("noise", 0, b"", random.Random(seed).randbytes(32_000))[0] for seed in range(10)]
        store.flush()
        assert store.size_of("texts", 0, again) < 0.9 * store.size_of("texts", 0, 0)
    with Store.open(path) as store:
        assert store.read("texts", 0, 0) == store.read("texts", 0, again) == text(1)
        assert store.read("noise", 0, noise[-1]) == random.Random(9).randbytes(32_000)
        after, _ = store.put("texts", 0, b"", text(1))
        store.flush()
        assert store.size_of("texts", 0, after) == store.size_of("texts", 0, again)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM dictionary WHERE kind = 'texts'").fetchone() == (1,)


def test_the_file_shrinks_after_drops(path):
    """What was dropped is given back to the disk while the store is open, and the log is bounded."""
    with Store.open(path) as store:
        for seed in range(60):
            store.put("records", 0, b"", random.Random(seed).randbytes(200_000))
        store.flush()
        full = store.file_bytes()
        assert full > 60 * 200_000
        with store.transaction() as transaction:
            transaction.drop("records", 0, range(5, 60))
        store.flush()
        eventually("the free pages are few", lambda: pages(path)[1] <= 64)
        assert store.read("records", 0, 4) == random.Random(4).randbytes(200_000)
    assert path.stat().st_size < full / 8
    assert pages(path)[1] == 0
    assert Store.verify(path) == []


def pages(path: Path) -> tuple[int, int]:
    """How many pages a file has, and how many of them are free."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))


def test_the_log_is_checkpointed_while_the_store_is_open(path):
    """However much is written, the write-ahead log stays within one group and one checkpoint."""
    with Store.open(path) as store:
        for seed in range(80):
            store.put("records", 0, b"", random.Random(seed).randbytes(500_000))
            store.flush()
        assert path.with_name(path.name + "-wal").stat().st_size < 6 << 20
        assert path.stat().st_size > 30 << 20


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_reads_go_through_a_bounded_map_of_the_file(path):
    """After reads from several threads the file is mapped, with 32 MB at most in all."""
    with Store.open(path) as store:
        for seed in range(150):
            store.put("records", 0, b"", random.Random(seed).randbytes(500_000))
        store.flush()
    with Store.open(path) as store:
        mapped = []
        barrier = threading.Barrier(4)

        def read() -> None:
            for number in range(0, 150, 10):
                store.read("records", 0, number)
            barrier.wait(30)
            lines = [
                line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))
            ]
            mapped.append(sum(int(end, 16) - int(start, 16) for start, end in (line[0].split("-") for line in lines)))
            barrier.wait(30)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(mapped) == 4
    assert all(8 << 20 < total <= 32 << 20 for total in mapped)


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_a_temporary_store_vanishes(how):
    """Its folder goes when it is closed, and when nobody holds it any more."""
    store = Store.temporary()
    folder, thread = store.path.parent, store._writer.thread
    store.put("records", 0, b"", b"a")
    store.flush()
    assert store.read("records", 0, 0) == b"a"
    if how == "closed":
        store.close()
    del store
    gc.collect()
    thread.join(20)
    assert not folder.exists()
    assert not thread.is_alive()


def test_a_forgotten_store_writes_what_was_queued(path):
    """Dropping the last reference ends the thread, after everything has been written, and frees the file."""
    store = Store.open(path)
    thread = store._writer.thread
    for number in range(20):
        store.put("records", 0, b"", text(number))
    del store
    gc.collect()
    thread.join(20)
    with Store.open(path) as again:
        assert len(again.blocks("records")) == 20


def test_the_interpreter_ends_with_everything_written(path):
    """A script that ends without close loses nothing, warns of nothing, and leaves no temporary folder."""
    code = f"""
from troupelab.store import Store
store, other = Store.open({str(path)!r}), Store.temporary()
for number in range(50): store.put("records", 0, b"", bytes(100_000))
other.put("records", 0, b"", b"a"); other.flush(); other.read("records", 0, 0)
print(other.path.parent)
"""
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr == ""
    assert not Path(ended.stdout.strip()).exists()
    with Store.open(path) as store:
        assert len(store.blocks("records")) == 50


def test_a_row_that_vanishes_under_an_open_store_is_corruption(path):
    """What the index knows and the file does not have is an error, never an empty answer."""
    with Store.open(path) as store:
        for number in range(3):
            store.put("records", 0, b"", text(number))
        store.flush()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("DELETE FROM block WHERE number = 1")
            other.execute("UPDATE block SET payload = zeroblob(length(payload)) WHERE number = 2")
        assert store.read("records", 0, 0) == text(0)
        for number in (1, 2):
            with pytest.raises(StoreCorruptError, match=f"records/0/{number}"):
                store.read("records", 0, number)
        with pytest.raises(StoreCorruptError, match="records/0/1 is missing"):
            store.blocks("records")
    with pytest.raises(StoreCorruptError, match=r"Store\.salvage"):
        Store.open(path)
    saved = Store.salvage(path)
    assert [(block.number, payload) for block, payload in saved.blocks] == [(0, text(0))]
    assert any("1 of 3 blocks" in problem for problem in saved.problems)
    assert any("records/0/2" in problem for problem in saved.problems)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("DELETE FROM block WHERE agent = 1", "records/1: 2 of 2 blocks are missing"),
        ("DELETE FROM manifest WHERE agent = 1", "more blocks"),
        ("DELETE FROM manifest WHERE agent = 1; DELETE FROM block WHERE agent = 1", "a manifest or a dictionary"),
        ("UPDATE manifest SET blocks = 1 WHERE agent = 1", "manifest of records/1"),
        ("UPDATE block SET meta = x'00' WHERE agent = 1 AND number = 0", "records/1/0"),
        ("UPDATE block SET number = 7 WHERE agent = 1 AND number = 0", "records/1/7"),
        ("INSERT INTO block SELECT NULL, kind, agent, number, meta, raw_bytes, dictionary, checksum, key_checksum, payload "
         "FROM block WHERE agent = 1 AND number = 0", "there twice"),
        ("DELETE FROM whole", "a manifest or a dictionary"),
        ("DROP TABLE dictionary", "dictionary cannot be read"),
    ],
)  # fmt: skip
def test_open_names_what_is_missing_surplus_or_changed(path, damage, says):
    """Each row counts: of blocks, of manifests, of dictionaries, and the one above them."""
    with Store.open(path) as store:
        for agent in (0, 1):
            for number in range(2):
                store.put("records", agent, b"m", text(number))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(damage)
    with pytest.raises(StoreCorruptError, match=says):
        Store.open(path)
    assert any(says in problem for problem in Store.verify(path))
    saved = Store.salvage(path)
    assert {(block[:3], payload) for block, payload in saved.blocks} >= {
        (("records", 0, number), text(number)) for number in range(2)
    }
