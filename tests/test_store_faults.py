"""The store under faults: a full disk at every point, kills, and files that were cut or changed anywhere.

Each test prints what it tried and what came of it (`pytest -s`).
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import json
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import eventually

from troupelab.errors import StoreCorruptError, StoreError, StoreFullError
from troupelab.store import Store
from troupelab.store import file as store_file
from troupelab.store import writer as store_writer

SCRIPT = Path(__file__).with_name("store_writer.py")
_spec = importlib.util.spec_from_file_location("store_writer", SCRIPT)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


def started(*arguments: object) -> subprocess.Popen[str]:
    """The script in a process of its own."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def block(number: int) -> bytes:
    """Three kilobytes that do not pack, told from others by their number."""
    return random.Random(number).randbytes(3000)


def test_a_disk_that_is_full_at_every_page_loses_nothing_that_was_acknowledged(tmp_path):
    """For every size at which the file may stop growing: what is committed stays, what waits is written in order later."""
    puts, counts = 12, collections.Counter()
    with Store.open(tmp_path / "whole.sqlite") as store:
        empty = store._writer._connection.execute("PRAGMA page_count").fetchone()[0]
        for number in range(puts):
            store.put("records", number % 2, b"m", block(number))
        store.flush()
        needed = store._writer._connection.execute("PRAGMA page_count").fetchone()[0]
    assert needed > empty + puts // 2
    for limit in range(empty, needed + 1):
        connections = []

        def stop_at(connection, limit=limit, connections=connections):
            connections.append(connection)
            connection.execute(f"PRAGMA max_page_count={limit}")

        path = tmp_path / f"{limit}.sqlite"
        store = Store.open(path, _after_connect=stop_at)
        acknowledged = 0
        try:
            for number in range(puts):
                store.put("records", number % 2, b"m", block(number))
                store.flush()
                acknowledged += 1
        except StoreFullError:
            counts["full"] += 1
        counts["tried"] += 1
        counts["acknowledged"] += acknowledged
        held = [(entry.agent, entry.number) for entry in store.blocks("records")]
        assert held == sorted((number % 2, number // 2) for number in range(acknowledged))
        for agent, number in held:
            assert store.read("records", agent, number) == block(2 * number + agent)
        if acknowledged == puts:
            assert limit == needed
            counts["not full"] += 1
            store.close()
            continue
        assert store.committed == acknowledged
        assert isinstance(store.problem, StoreFullError)
        for number in range(acknowledged + 1, puts):
            store.put("records", number % 2, b"m", block(number))
        if limit % 2:
            with pytest.raises(StoreFullError, match=f"{puts - acknowledged} blocks not written"):
                store.close()
            counts["closed while full"] += 1
            expected = acknowledged
        else:
            connections[0].execute("PRAGMA max_page_count=100000")
            store.retry()
            eventually("everything is written", lambda store=store: store.committed == puts)
            assert store.problem is None
            assert store.queue_bytes == 0
            order = connections[0].execute("SELECT 2 * number + agent FROM block ORDER BY id").fetchall()
            assert [number for (number,) in order] == list(range(puts))
            store.close()
            counts["lifted"] += 1
            expected = puts
        with Store.open(path) as again:
            assert len(again.blocks("records")) == expected
            for number in range(expected):
                assert again.read("records", number % 2, number // 2) == block(number)
        assert Store.verify(path) == []
    print("\nfull at every page:", dict(counts), "lost: 0")
    assert counts["not full"] == 1
    assert min(counts["closed while full"], counts["lifted"]) >= 5


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
def test_files_that_may_not_grow_lose_nothing_that_was_acknowledged(tmp_path):
    """The same with a limit of the operating system, which hits the log, the file and the creation of both."""
    limits = [*range(0, 40_000, 1_531), *range(40_000, 420_000, 9_973), 1_000_000]
    process = started("small", tmp_path, json.dumps(limits))
    reports = [json.loads(line) for line in process.communicate(timeout=120)[0].splitlines()]
    assert process.returncode == 0
    assert [report["size"] for report in reports] == limits
    counts = collections.Counter()
    for report in reports:
        counts["tried"] += 1
        if not report["opened"]:
            counts["not opened"] += 1
            # Made and still empty, with SQLite's own files beside it, or not made at all.
            assert {".sqlite", ".sqlite-wal", ".sqlite-shm"}.issuperset(report["left"])
            continue
        assert report["sound"], report
        assert report["readable"], report
        acknowledged = report["acknowledged"]
        counts["acknowledged"] += acknowledged
        assert report["before"] == list(range(acknowledged)), report
        assert report["told"] == bool(report["problem"]), report
        if not report["problem"]:
            counts["never full"] += 1
        if report["lifted"]:
            counts["lifted"] += 1
            assert report["closed"] == "", report
            assert report["after"] == list(range(14)), report
        else:
            counts["closed while limited"] += 1
            # What a closing store could still write may be more than was acknowledged, never less, never out of order.
            assert report["after"] == list(range(len(report["after"]))), report
            assert len(report["after"]) >= acknowledged, report
            assert bool(report["closed"]) == (len(report["after"]) < 14), report
    print("\nlimited file size:", dict(counts), "lost: 0")
    assert counts["not opened"] >= 3
    assert counts["never full"] >= 1
    assert counts["lifted"] >= 20
    assert counts["closed while limited"] >= 10


def killed_rounds(path: Path, rounds: int, seed: int) -> collections.Counter[str]:
    """Kill a writer again and again on one file, and look each time at what is left."""
    chance, counts, durable = random.Random(seed), collections.Counter(), -1
    for _ in range(rounds):
        process = started("pairs", path)
        assert process.stdout.readline() == "open\n"
        wait_s = chance.choice([0.0, 0.01, 0.05, 0.1, 0.2]) * chance.random()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
        process.kill()
        lines = process.communicate()[0].splitlines()
        numbers = [int(line) for line in lines if line.isdigit()]
        # The last line may have been cut off by the kill, and is then smaller than the one before it.
        durable = max([durable, *numbers])
        counts["killed"] += 1
        counts["acknowledged"] = 2 * (durable + 1)
        assert Store.verify(path) == []
        with Store.open(path) as store:
            found = [[entry.number for entry in store.blocks(kind)] for kind in script.PAIR]
            assert found[0] == found[1], "half a transaction"
            last = found[0][-1] if found[0] else -1
            assert last >= durable
            assert found[0] == list(range(max(0, last - 29), last + 1)), "something acknowledged is missing"
            for kind in script.PAIR:
                for number in found[0]:
                    assert store.read(kind, 0, number) == script.payload(kind, number)
                    counts["read"] += 1
            counts["written but not yet told"] += 2 * (last - durable)
            durable = last
    return counts


def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path):
    """Twenty kills at random moments: every acknowledged pair is whole, and no transaction is half there."""
    counts = killed_rounds(tmp_path / "run.sqlite", 20, 1)
    print("\nkill -9:", dict(counts), "lost: 0")
    assert counts["acknowledged"] > 20


@pytest.mark.slow
def test_a_writer_that_is_killed_five_hundred_times(tmp_path):
    """The same, five hundred times."""
    counts = collections.Counter()
    for part in range(10):
        counts += killed_rounds(tmp_path / f"{part}.sqlite", 50, 100 + part)
    print("\nkill -9:", dict(counts), "lost: 0")
    assert counts["killed"] == 500


class Small:
    """A small sound store as bytes, what it holds, and the trial of a damaged copy."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "small.sqlite"
        with Store.open(self.path) as store:
            for number in range(12):
                for kind, agent in (("records", 0), ("records", 1), ("notes", -1)):
                    store.put(kind, agent, b"%s %d" % (kind.encode(), number), self.payload(kind, agent, number))
                    store.flush()
            with store.transaction() as transaction:
                transaction.drop("records", 0, [3, 4])
        self.sound = self.path.read_bytes()
        with Store.open(self.path) as store:
            blocks = [entry for kind in ("records", "notes") for entry in store.blocks(kind)]
            assert len(store._writer.dictionaries) == 2
        self.blocks = {entry[:3]: entry for entry in blocks}
        self.payloads = {key: self.payload(*key) for key in self.blocks}
        assert len(self.blocks) == 34
        self.counts: collections.Counter[str] = collections.Counter()

    @staticmethod
    def payload(kind: str, agent: int, number: int) -> bytes:
        """Some fit on a page with others, some take several."""
        source = random.Random(f"{kind} {agent} {number}")
        words = [f"{kind}{source.randrange(60)}" for _ in range(source.choice([20, 60, 150]))]
        return " ".join(words).encode() + source.randbytes(5000 if number == 11 and agent == 1 else 0)

    def try_damaged(self, damaged: bytes, where: str) -> None:
        """Open and read a damaged copy: refused, intact, or detected; anything else fails here."""
        self.path.write_bytes(damaged)
        self.counts["tried"] += 1
        with contextlib.suppress(StoreError):  # it raises nothing else, and gives nothing that was not written
            for entry, payload in Store.salvage(self.path).blocks:
                assert self.payloads.get(entry[:3]) == payload, where
                assert self.blocks[entry[:3]].meta == entry.meta, where
                self.counts["salvaged"] += 1
        assert self.path.read_bytes() == damaged, where
        try:
            store = Store.open(self.path, create=False)
        except StoreError:
            self.counts["refused"] += 1
        else:
            outcome = "intact"
            try:
                for kind in ("records", "notes"):
                    wanted = {key: entry for key, entry in self.blocks.items() if key[0] == kind}
                    assert {entry[:3]: entry for entry in store.blocks(kind)} == wanted, where
            except StoreCorruptError:
                outcome = "detected"
            for key, payload in self.payloads.items():
                try:
                    assert store.read(*key) == payload, where
                except StoreCorruptError:
                    outcome = "detected"
            self.counts[outcome] += 1
            store.close()
            if outcome == "detected" and self.counts["detected"] % 5 == 0:
                self.path.write_bytes(damaged)
                assert Store.verify(self.path), where
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small store with dictionaries, which a small sample must do for here."""
    monkeypatch.setattr(store_file, "_SAMPLE_BYTES", 3_000)
    monkeypatch.setattr(store_file, "_SAMPLE_PIECE_BYTES", 100)
    monkeypatch.setattr(store_file, "_DICTIONARY_BYTES", 1_000)
    return Small(tmp_path)


def test_a_file_that_was_cut_is_refused_or_complete(small):
    """At every page's border, a byte before and after it, and in between."""
    size = len(small.sound)
    cuts = {border + shift for border in range(0, size + 1, 4096) for shift in (-1, 0, 1)}
    cuts.update(range(0, size, 777))
    for cut in sorted(cut for cut in cuts if 0 <= cut < size):
        small.try_damaged(small.sound[:cut], f"cut at {cut}")
    small.try_damaged(small.sound, "not cut")
    print(f"\ncut, of {size} bytes:", dict(small.counts))
    assert small.counts["refused"] + small.counts["detected"] + small.counts["intact"] == small.counts["tried"]
    assert small.counts["refused"] > 50
    assert small.counts["intact"] >= 1
    assert small.counts["salvaged"] > 34


def flip(small: Small, offsets: list[int], seed: int) -> None:
    """Turn one bit at each offset, one at a time."""
    chance = random.Random(seed)
    for offset in offsets:
        damaged = bytearray(small.sound)
        bit = chance.randrange(8)
        damaged[offset] ^= 1 << bit
        small.try_damaged(bytes(damaged), f"bit {bit} at {offset}")
    print(f"\none bit of {len(small.sound)} bytes:", dict(small.counts))
    assert small.counts["refused"] + small.counts["detected"] + small.counts["intact"] == small.counts["tried"]
    assert min(small.counts[outcome] for outcome in ("refused", "detected", "intact")) >= 10


def test_a_changed_bit_is_noticed_or_harmless(small):
    """At some 1,500 places all over the file, and at each byte of the header and of the pages' headers."""
    size, chance = len(small.sound), random.Random(5)
    offsets = {*range(100), *(page + at for page in range(0, size, 4096) for at in range(12))}
    step = max(1, size // 1200)
    offsets.update(start + chance.randrange(step) for start in range(0, size - step, step))
    flip(small, sorted(offsets), 6)


@pytest.mark.slow
def test_a_changed_bit_at_every_byte_is_noticed_or_harmless(small):
    """The same at every byte of the file."""
    flip(small, list(range(len(small.sound))), 7)


def test_a_log_that_was_changed_gives_a_state_that_once_was_committed(small, tmp_path):
    """After a crash a broken write-ahead log costs its end, as SQLite reads it, but never gives a mixture."""
    live, counts = tmp_path / "live.sqlite", collections.Counter()
    with Store.open(live) as store:
        for number in range(10):
            with store.transaction() as transaction:
                for kind in ("records", "notes"):
                    transaction.put(kind, 0, b"", small.payload(kind, 0, number))
            store.flush()
        file, log = live.read_bytes(), live.with_name("live.sqlite-wal").read_bytes()
    chance, copy = random.Random(8), tmp_path / "copy.sqlite"
    for offset in range(0, len(log), max(1, len(log) // 150)):
        damaged = bytearray(log)
        damaged[offset] ^= 1 << chance.randrange(8)
        copy.write_bytes(file)
        copy.with_name("copy.sqlite-wal").write_bytes(damaged)
        try:
            with Store.open(copy) as store:
                found = [[entry.number for entry in store.blocks(kind)] for kind in ("records", "notes")]
                assert found[0] == found[1] == list(range(len(found[0])))
                for kind in ("records", "notes"):
                    for number in found[0]:
                        assert store.read(kind, 0, number) == small.payload(kind, 0, number)
                counts["whole" if len(found[0]) == 10 else "shorter"] += 1
        except StoreError:
            counts["refused"] += 1
    print("\nbroken log:", dict(counts))
    assert counts["shorter"] > 50


def test_an_unforeseen_failure_of_the_writer_is_told_and_the_queue_kept(tmp_path, monkeypatch):
    """A fault in the writer's own code is a problem that flush raises; when it is gone everything is written."""

    def broken(*_: object) -> None:
        raise RuntimeError("a mistake in the code")

    with Store.open(tmp_path / "run.sqlite") as store:
        with monkeypatch.context() as patched:
            patched.setattr(store_writer, "write_whole", broken)
            store.put("records", 0, b"", b"a")
            with pytest.raises(StoreError, match="unforeseen RuntimeError: a mistake in the code"):
                store.flush()
            store.put("records", 0, b"", b"b")
            assert isinstance(store.problem, StoreError)
            assert store.committed == 0
        store.flush()
        assert store.problem is None
        assert [store.read("records", 0, number) for number in (0, 1)] == [b"a", b"b"]


def test_a_writer_that_ends_against_all_plans_is_told(tmp_path, monkeypatch):
    """Flush, put and close raise instead of waiting for a thread that is gone, and the file is free."""

    def broken(*_: object) -> None:
        raise RuntimeError("a mistake in the code")

    gate = threading.Event()
    store = Store.open(tmp_path / "run.sqlite")
    monkeypatch.setattr(store._writer, "_checkpoint", broken)
    monkeypatch.setattr(store_writer, "_GROUP_BYTES", 1)
    store.put("records", 0, b"", lambda: b"a" if gate.wait(30) else b"", size_hint_bytes=1)
    store.put("records", 0, b"", b"b")
    gate.set()
    with pytest.raises(StoreError, match="a mistake in the code"):
        store.flush()
    assert isinstance(store.problem, StoreError)
    assert store.committed == 1
    eventually("the thread has ended", lambda: store._writer.ended)
    with pytest.raises(StoreError, match=r"closed.*a mistake in the code"):
        store.put("records", 0, b"", b"c")
    with pytest.raises(StoreError, match="1 blocks not written"):
        store.close()
    with Store.open(tmp_path / "run.sqlite") as again:
        assert [entry.number for entry in again.blocks("records")] == [0]


def test_flush_gives_up_after_its_time(tmp_path):
    """A payload that takes long to make is a TimeoutError of flush, and no fault."""
    gate = threading.Event()
    with Store.open(tmp_path / "run.sqlite") as store:
        store.put("records", 0, b"", lambda: b"late" if gate.wait(30) else b"")
        with pytest.raises(TimeoutError, match="not written within"):
            store.flush(0.05)
        gate.set()
        store.flush()
        assert store.read("records", 0, 0) == b"late"


def test_no_room_for_a_new_file_is_told(tmp_path, monkeypatch):
    """Where a store cannot be made, nothing of it stays behind."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_file, "sync_folder", full)
    with pytest.raises(StoreFullError, match="no room"):
        Store.open(tmp_path / "sub" / "run.sqlite")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "sub")
    with Store.open(tmp_path / "sub" / "run.sqlite") as store:
        assert store.blocks("records") == []
