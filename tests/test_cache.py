"""The exact cache: its keys, what it gives back, its caps, and what happens to it when things break."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import math
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import pytest
from helpers import eventually
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from troupelab.errors import (
    LimitError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreVersionError,
)
from troupelab.models.cache import ReplyCache, reply_key
from troupelab.models.model import ChatMessage, Reply, Request, Schema
from troupelab.store import replyfile

SCRIPT = Path(__file__).with_name("cache_writer.py")
_spec = importlib.util.spec_from_file_location("cache_writer", SCRIPT)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)
key, reply = script.key, script.reply


def noise(number: int, size: int = 3_000) -> Reply:
    """A reply that does not pack."""
    return Reply(random.Random(number).randbytes(size).decode("latin-1"), number, 2, 0.25, "m", 1)


def same(one: Reply | None, other: Reply) -> bool:
    """Whether two replies are alike but for the time to the first token, which a cache does not keep."""
    return one is not None and msgspec.structs.astuple(one)[:-1] == msgspec.structs.astuple(other)[:-1]


def disk_bytes(path: Path) -> int:
    """The file and its log."""
    return sum(file.stat().st_size for file in (path, path.with_name(path.name + "-wal")) if file.exists())


@pytest.fixture(scope="module", autouse=True)
def _without_waiting_for_the_disk():
    """Small caches checkpoint often; those in processes of their own (kills, full disks) wait for the disk."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(replyfile, "_SYNCHRONOUS", "OFF")
        yield


@pytest.fixture
def path(tmp_path):
    """Where a test's cache lies."""
    return tmp_path / "replies.sqlite"


# Keys

REQUEST = Request("act", 1, 2, 3, 0, 99, (ChatMessage("system", "Rules."), ChatMessage("user", "Hello.")), 0.7, 500)
SCHEMA = Schema("turn", {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}})


def made(request: Request = REQUEST, *, model: str = "m", seed: int = 7, share: bool = False) -> bytes:
    """A key with some defaults."""
    return reply_key(request, model=model, seed=seed, share_identical=share)


def test_each_field_that_changes_a_reply_changes_its_key():
    """Messages, roles, temperature, length, schema, model and seed: another value is another key."""
    change = msgspec.structs.replace
    first, second = REQUEST.messages
    others = [
        change(REQUEST, messages=(first,)),
        change(REQUEST, messages=(second, first)),
        change(REQUEST, messages=(first, ChatMessage("assistant", "Hello."))),
        change(REQUEST, messages=(first, ChatMessage("user", "Hello!"))),
        change(REQUEST, messages=(first, second, ChatMessage("user", ""))),
        change(REQUEST, temperature=0.71),
        change(REQUEST, temperature=0.0),
        change(REQUEST, max_tokens=501),
        change(REQUEST, seed=100),
        change(REQUEST, schema=SCHEMA),
        change(REQUEST, schema=Schema("other", SCHEMA.schema)),
        change(REQUEST, schema=Schema("turn", {"type": "object"})),
    ]
    keys = [made(), *map(made, others), made(model="n"), made(share=True), made(seed=8, share=True)]
    assert all(len(each) == 16 for each in keys)
    assert len(set(keys)) == len(keys)


def test_a_drawn_reply_belongs_to_its_call_and_another_to_its_run():
    """With temperature the call's seed counts, unless identical requests share; without it, the run's."""
    replicate = msgspec.structs.replace(REQUEST, agent=5, seed=100)
    assert made() != made(replicate)
    assert made(share=True) == made(replicate, share=True)
    assert made(share=True) != made(share=True, seed=8)
    cold, cold_replicate = (msgspec.structs.replace(each, temperature=0.0) for each in (REQUEST, replicate))
    assert made(cold) == made(cold_replicate)
    assert made(cold) != made(cold, seed=8)


def test_who_asks_and_why_does_not_change_a_key():
    """Purpose, agent, step, call and attempt are in the seed already."""
    other = msgspec.structs.replace(REQUEST, purpose="consolidate", agent=9, step=9, call=9, attempt=9)
    assert made(other) == made()


def test_equal_schemas_have_one_key_in_any_order():
    """A schema counts by what it says, also when many others were seen meanwhile."""
    one = made(msgspec.structs.replace(REQUEST, schema=SCHEMA))
    for number in range(200):
        made(msgspec.structs.replace(REQUEST, schema=Schema("turn", {"title": number})))
    turned = Schema("turn", dict(reversed(SCHEMA.schema.items())))
    assert one == made(msgspec.structs.replace(REQUEST, schema=turned))


texts = st.text(st.characters(exclude_categories=()), max_size=8)
requests = st.builds(
    Request, st.just("act"), st.just(0), st.just(0), st.just(0), st.just(0), st.integers(0, 3),
    st.lists(st.builds(ChatMessage, texts, texts), max_size=3).map(tuple), st.sampled_from([0.0, 1.0]), st.integers(1, 3),
    st.none() | st.builds(Schema, texts, st.dictionaries(texts, texts, max_size=1)),
)  # fmt: skip
asked = st.tuples(requests, texts, st.integers(0, 3), st.booleans())


def meaning(request: Request, model: str, seed: int, share: bool) -> tuple[object, ...]:
    """What must be the same for two keys to be."""
    drawn = request.temperature > 0 and not share
    return (
        request.messages,
        request.temperature,
        request.max_tokens,
        request.schema,
        model,
        drawn,
        request.seed if drawn else seed,
    )


@given(asked, asked)
@settings(max_examples=300, deadline=None)
def test_two_keys_are_the_same_only_for_the_same_question(one, other):
    """No two lists of fields run together into one key, whatever stands in them, half surrogate pairs too."""
    keys = [made(request, model=model, seed=seed, share=share) for request, model, seed, share in (one, other)]
    assert (keys[0] == keys[1]) == (meaning(*one) == meaning(*other))


def test_fields_that_run_together_have_other_keys():
    """What one field ends with is not what the next begins with."""
    pairs = [(("a", "bc"),), (("ab", "c"),), (("", "abc"),), (("a", "b"), ("", "c")), (("a", "b"), ("c", ""))]
    keys = {made(Request("", 0, 0, 0, 0, 0, tuple(ChatMessage(*each) for each in pair))) for pair in pairs}
    assert len(keys) == len(pairs)


# What it gives back


@given(
    st.builds(
        Reply, texts, st.integers(0, 2**40), st.integers(0, 9), st.floats(allow_nan=True), texts, st.integers(0, 9)
    )
)
@settings(max_examples=60, deadline=None)
def test_a_reply_comes_back_from_the_file_as_it_was(given_reply):
    """Any text (half surrogate pairs, too), any number, also a price that is not known."""
    with tempfile.TemporaryDirectory() as folder:
        with ReplyCache.open(Path(folder, "a")) as cache:
            cache.put(key(1), given_reply, latency_s=0.5)
        with ReplyCache.open(Path(folder, "a")) as cache:
            found = cache.find(key(1))
            assert found.latency_s == 0.5
            assert found.created_at == pytest.approx(time.time(), abs=60)
            one, other = (msgspec.structs.asdict(each) for each in (found.reply, given_reply))
            for name in one:
                assert one[name] == other[name] or math.isnan(one[name])
            assert cache.stats().hits_disk == 1
            assert cache.get(key(1)) is found.reply
            assert cache.stats().hits_ram == 1
            assert cache.stats().seconds_saved == 1.0
            assert cache.get(key(2)) is None
            assert (cache.stats().misses, cache.stats().hits, len(cache)) == (1, 2, 1)


def test_a_second_reply_takes_the_place_of_the_first(path):
    """There is one reply to a key, the newest."""
    with ReplyCache.open(path, ram_bytes=0) as cache:
        for number in range(5):
            cache.put(key(1), noise(number))
        cache.flush()
        assert same(cache.get(key(1)), noise(4))
        assert len(cache) == 1


class CacheMachine(RuleBasedStateMachine):
    """A cache against a dict of all that was ever put."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "replies.sqlite")
        self.put: dict[int, list[Reply]] = {}
        self.cap = 150_000
        self.largest_cap = self.cap
        self.cache = ReplyCache.open(self.path, max_bytes=self.cap, ram_bytes=20_000)

    @rule(number=st.integers(0, 60), size=st.sampled_from([0, 10, 1_500, 3_000, 40_000]), times=st.integers(1, 20))
    def put_some(self, number, size, times):
        """Put a few replies, some too large."""
        for each in range(number, number + times):
            self.put.setdefault(each, []).append(noise(random.randrange(10**6), size))
            self.cache.put(key(each), self.put[each][-1])

    @rule(numbers=st.lists(st.integers(0, 90), max_size=20))
    def get_some(self, numbers):
        """What is found was put under that key, or it is nothing; a newer reply that was refused leaves an older one."""
        for each in numbers:
            found = self.cache.get(key(each))
            assert found is None or any(same(found, one) for one in self.put[each])

    @rule()
    def flush(self):
        """Wait for the writer; then the cap holds."""
        self.cache.flush()
        assert disk_bytes(self.path) <= self.cap
        self.largest_cap = self.cap

    @rule(cap=st.sampled_from([100_000, 150_000, 400_000]))
    def resize(self, cap):
        """Another cap."""
        self.cap, self.largest_cap = cap, max(cap, self.largest_cap)
        self.cache.resize(max_bytes=cap, max_age_s=None)

    @rule()
    def mark(self):
        """Hold what comes."""
        self.cache.mark()

    @rule()
    def release(self):
        """Hold nothing."""
        self.cache.release()

    @rule()
    def reopen(self):
        """Close and open again: nothing of the wrong kind is there."""
        self.cache.close()
        self.largest_cap = self.cap
        self.cache = ReplyCache.open(self.path, max_bytes=self.cap, ram_bytes=20_000)
        for each in range(90):
            found = self.cache.get(key(each))
            # What was refused (too large, no room) may have an older one in its place.
            assert found is None or each in self.put

    @invariant()
    def holds(self):
        """The caps, at any moment."""
        assert disk_bytes(self.path) <= 1.01 * self.largest_cap
        assert self.cache.stats().ram_bytes <= 20_000
        assert self.cache.problem is None

    def teardown(self):
        """Clean up."""
        self.cache.close()
        self.folder.cleanup()


CacheMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestCacheMachine = CacheMachine.TestCase


# Caps


@pytest.mark.parametrize(("cap", "size"), [(100_000, 500), (300_000, 2_000), (1_200_000, 900), (3_000_000, 5_000)])
def test_the_file_never_passes_its_cap(path, cap, size):
    """Looked at after every put while three times the cap is put, log and all."""
    with ReplyCache.open(path, max_bytes=cap, ram_bytes=0) as cache:
        most = 0
        for number in range(3 * cap // size):
            cache.put(key(number), noise(number % 50, size))
            most = max(most, disk_bytes(path))
            if number % 20 == 19:
                cache.flush()
        cache.flush()
        stats = cache.stats()
        assert most <= cap
        assert stats.evicted > 0
        assert stats.refused == 0
        assert stats.entries + stats.evicted == stats.puts
        assert stats.bytes > cap / 5
        last = 3 * cap // size - 1
        assert same(cache.get(key(last)), noise(last % 50, size))
        assert cache.get(key(0)) is None


def test_what_is_used_outlasts_what_is_not(path):
    """A reply that is asked for now and then stays while three times the cap goes through."""
    with ReplyCache.open(path, max_bytes=1_000_000, ram_bytes=0) as cache:
        for number in range(1_000):
            cache.put(key(number), noise(number))
            if number % 20 == 0:
                cache.flush()
                assert same(cache.get(key(0)), noise(0)), number
        cache.flush()
        assert cache.get(key(1)) is None
        assert cache.stats().evicted > 600


def test_a_reply_that_is_hot_in_memory_stays_in_the_file(path):
    """Hits that the file does not see count as uses there as well."""
    with ReplyCache.open(path, max_bytes=1_000_000) as cache:
        for number in range(1_000):
            cache.put(key(number), noise(number))
            assert cache.get(key(0)) is not None
            if number % 20 == 0:
                cache.flush()
        assert cache.stats().hits_disk == 0
    with ReplyCache.open(path, max_bytes=1_000_000) as cache:
        assert same(cache.get(key(0)), noise(0))


def test_a_reply_larger_than_fits_is_refused_quietly(path):
    """It serves from memory as long as it is there, and is never written."""
    with ReplyCache.open(path, max_bytes=100_000) as cache:
        cache.put(key(1), noise(1, 1_000_000))
        cache.put(key(2), noise(2))
        cache.flush()
        assert (len(cache), cache.stats().refused, cache.problem) == (1, 1, None)
        assert same(cache.get(key(1)), noise(1, 1_000_000))
        assert same(cache.get(key(2)), noise(2))


def test_the_cap_follows_while_it_runs(path):
    """Smaller: the file shrinks to it in small steps. Larger: more fits."""
    with ReplyCache.open(path, max_bytes=4_000_000, ram_bytes=0) as cache:
        for number in range(800):
            cache.put(key(number), noise(number))
        cache.flush()
        assert disk_bytes(path) > 2_400_000
        cache.resize(max_bytes=500_000, max_age_s=None)
        cache.flush()
        assert disk_bytes(path) <= 500_000
        assert 10 < len(cache) < 200
        assert same(cache.get(key(799)), noise(799))
        cache.resize(max_bytes=4_000_000, max_age_s=None)
        for number in range(800):
            cache.put(key(number), noise(number))
        cache.flush()
        assert len(cache) == 800
        with pytest.raises(LimitError, match="at least 100000"):
            cache.resize(max_bytes=99_999, max_age_s=None)
        with pytest.raises(LimitError, match="above 0"):
            cache.resize(max_bytes=1_000_000, max_age_s=0)


def test_what_came_since_the_mark_is_kept(path):
    """It goes last whatever comes; where it fills the cap, more is refused, and after the next mark it may go."""
    with ReplyCache.open(path, max_bytes=600_000, ram_bytes=0) as cache:
        for number in range(100):
            cache.put(key(number), noise(number))
        cache.flush()
        cache.mark()
        kept = range(100, 140)
        for number in kept:
            cache.put(key(number), noise(number))
        for number in range(200, 600):
            cache.put(key(number), noise(number))
            if number % 50 == 0:
                cache.flush()
        cache.flush()
        assert cache.stats().refused > 100
        assert disk_bytes(path) <= 600_000
        assert all(same(cache.get(key(number)), noise(number)) for number in kept)
        cache.mark()
        for number in range(600, 900):
            cache.put(key(number), noise(number))
            if number % 50 == 0:
                cache.flush()
                cache.mark()
        cache.flush()
        assert cache.get(key(100)) is None
        assert same(cache.get(key(899)), noise(899))


def test_replies_that_are_too_old_are_not_served_and_go(path):
    """By age, in memory and in the file; without a limit of age they are as good as they were."""
    with ReplyCache.open(path, max_age_s=1_000) as cache:
        for number in range(50):
            cache.put(key(number), noise(number))
        cache.flush()
        assert len(cache) == 50
        cache.resize(max_bytes=500_000_000, max_age_s=0.001)
        time.sleep(0.01)
        assert cache.get(key(1)) is None
        cache.flush()
        assert (len(cache), cache.stats().expired) == (0, 50)
        cache.resize(max_bytes=500_000_000, max_age_s=None)
        cache.put(key(1), noise(1))
        time.sleep(0.01)
        assert cache.get(key(1)) is not None


# A parent


def test_a_fork_reads_its_parents_cache_and_writes_its_own(path, tmp_path):
    """Also while the parent is written; the parent's file gets nothing from the fork."""
    with ReplyCache.open(path) as parent:
        parent.put(key(1), noise(1))
        parent.flush()
        with ReplyCache.open(tmp_path / "fork.sqlite", parent=path, ram_bytes=0) as fork:
            assert same(fork.get(key(1)), noise(1))
            fork.put(key(2), noise(2))
            fork.put(key(1), noise(11))
            fork.flush()
            assert same(fork.get(key(1)), noise(11))
            assert same(fork.get(key(2)), noise(2))
            parent.put(key(3), noise(3))
            parent.flush()
            assert same(fork.get(key(3)), noise(3))
            assert (fork.stats().hits_parent, fork.stats().hits_disk, fork.get(key(4))) == (2, 2, None)
        assert parent.get(key(2)) is None
        assert same(parent.get(key(1)), noise(1))
    with ReplyCache.open(tmp_path / "fork.sqlite", parent=path) as fork:
        assert same(fork.get(key(3)), noise(3))
    with pytest.raises(StoreError, match="is not a file"):
        ReplyCache.open(tmp_path / "other.sqlite", parent=tmp_path / "none.sqlite")
    assert not (tmp_path / "other.sqlite").exists()


# Faults


def test_a_cache_has_one_writer(path):
    """A second opening, here or in another process, is told so; afterwards the file is free."""
    with ReplyCache.open(path) as cache:
        with pytest.raises(StoreLockedError, match="is in use as a cache"):
            ReplyCache.open(path)
        cache.put(key(1), noise(1))
        code = f"from troupelab.models.cache import ReplyCache; ReplyCache.open({str(path)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "StoreLockedError" in done.stderr
    with ReplyCache.open(path) as cache:
        assert len(cache) == 1
    assert os.listdir(path.parent) == [path.name]


def test_versions_that_are_not_known_are_refused(path):
    """A newer one asks for an update; a file of something else is left alone."""
    ReplyCache.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=2")
    with pytest.raises(StoreVersionError, match="update troupelab"):
        ReplyCache.open(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id=1")
    with pytest.raises(StoreError, match="not a cache of replies"):
        ReplyCache.open(path)
    path.write_bytes(b"some notes of a user, not a database at all " * 100)
    with pytest.raises(StoreError, match="damaged"):
        ReplyCache.open(path)
    assert path.read_bytes().startswith(b"some notes")


def test_a_damaged_row_is_a_miss_and_goes(path):
    """Any byte of any column: never another's reply, never an exception; it is counted and dropped."""
    with ReplyCache.open(path) as cache:
        for number in range(12):
            cache.put(key(number), noise(number))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "UPDATE reply SET payload = substr(payload, 1, 99) || x'00' || substr(payload, 101) WHERE id = 1"
        )
        connection.execute("UPDATE reply SET payload = 'text' WHERE id = 2")
        connection.execute("UPDATE reply SET created = created + 1 WHERE id = 3")
        connection.execute("UPDATE reply SET created = 'soon' WHERE id = 4")
        connection.execute("UPDATE reply SET dictionary = 7 WHERE id = 5")
        connection.execute("UPDATE reply SET checksum = x'' WHERE id = 6")
        connection.execute(
            "UPDATE reply SET (created, dictionary, checksum, payload) = "
            "(SELECT created, dictionary, checksum, payload FROM reply WHERE id = 8) WHERE id = 7"
        )
        connection.commit()
    with ReplyCache.open(path) as cache:
        assert [cache.get(key(number)) for number in range(7)] == [None] * 7
        assert all(same(cache.get(key(number)), noise(number)) for number in range(7, 12))
        cache.flush()
        assert (cache.stats().damaged, len(cache), cache.problem) == (7, 5, None)
        cache.put(key(0), noise(0))
        cache.flush()
        assert len(cache) == 6


def test_a_file_with_changed_bits_or_a_lost_end_never_gives_anything_wrong(path):
    """Refused with a sentence that says to delete it, or a miss, or right."""
    with ReplyCache.open(path) as cache:
        for number in range(30):
            cache.put(key(number), noise(number, 1_000))
    sound, chance = path.read_bytes(), random.Random(3)
    outcomes = {"refused": 0, "miss": 0, "right": 0}
    for trial in range(150):
        damaged = bytearray(sound)
        if trial % 5 == 0:
            del damaged[chance.randrange(len(sound)) :]
        else:
            damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            cache = ReplyCache.open(path)
        except StoreError as error:
            outcomes["refused"] += 1
            assert not isinstance(error, StoreCorruptError) or "delete it" in str(error)  # noqa: PT017
            continue
        for number in range(30):
            found = cache.get(key(number))
            assert found is None or same(found, noise(number, 1_000))
            outcomes["miss" if found is None else "right"] += 1
        cache.put(key(99), noise(99))  # may meet the damage as well, and must not raise
        cache.close()
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    print("\ndamaged:", outcomes)
    assert min(outcomes.values()) > 5


def killed_rounds(path: Path, rounds: int, seed: int) -> int:
    """Kill a writer again and again on one file; everything acknowledged and not evicted is there, and nothing else."""
    chance, first, acknowledged = random.Random(seed), 0, 0
    for turn in range(rounds):
        command = [sys.executable, str(SCRIPT), "write", str(path), str(first)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "open\n"
        heard = [process.stdout.readline()] if turn % 2 else []
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.choice([0.0, 0.01, 0.05, 0.1]) * chance.random())
        process.kill()
        heard += process.communicate()[0].splitlines(keepends=True)
        lines = [line for line in heard if line.endswith("\n")]
        acknowledged += int(lines[-1]) - first if lines else 0
        told = int(lines[-1]) if lines else first
        assert disk_bytes(path) <= 1.01 * script.CAP
        with ReplyCache.open(path, max_bytes=10 * script.CAP) as cache:  # so large that asking moves nothing
            there = []
            for number in range(max(0, told - 400), told + 400):
                found = cache.get(key(number))
                assert found is None or same(found, reply(number))
                there += [number] if found is not None else []
            assert cache.stats().damaged == 0
            assert len(cache) == len(there)
            # A reply of the newest is never evicted for what comes after it, so there is no gap.
            assert there == list(range(there[0], there[-1] + 1)) if there else told == 0
            assert not there or there[-1] >= told - 1
            first = there[-1] + 1 if there else 0
    return acknowledged


def test_a_killed_writer_loses_nothing_that_was_acknowledged(path):
    """Twenty kills at random moments."""
    acknowledged = killed_rounds(path, 20, 1)
    print("\nkill -9: acknowledged", acknowledged, "lost 0")
    assert acknowledged >= 10


@pytest.mark.slow
def test_a_writer_that_is_killed_three_hundred_times(path):
    """The same, three hundred times."""
    assert killed_rounds(path, 300, 2) >= 150


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
@pytest.mark.parametrize("size", [60_000, 150_000])
def test_files_that_may_not_grow_make_it_read_only_until_it_is_resized(path, size):
    """What is there is served, what is put is refused, `problem` says why; nothing raises but flush."""
    command = [sys.executable, str(SCRIPT), "small", str(path), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kind, counted, after = done.stdout.splitlines()
    acknowledged, readable, problem, refused = counted.split()
    assert kind == problem
    assert kind in ("StoreError", "StoreFullError")
    assert int(acknowledged) == int(readable) > 2
    assert int(refused) >= 2
    assert after == "None True"


def test_a_full_disk_does_not_stop_a_run(path):
    """Puts and gets go on, the newest from memory; what is in the file stays, and resizing tries again."""
    with ReplyCache.open(path, ram_bytes=30_000) as cache:
        cache.put(key(0), noise(0))
        cache.flush()
        cache._file._connection.execute("PRAGMA max_page_count=12")
        for number in range(1, 20):
            cache.put(key(number), noise(number))
        with pytest.raises(StoreFullError, match="no room"):
            cache.flush()
        cache.put(key(20), noise(20))
        assert isinstance(cache.problem, StoreFullError)
        assert same(cache.get(key(0)), noise(0))
        assert same(cache.get(key(20)), noise(20))
        assert len(cache) + cache.stats().refused == 21
        cache._file._connection.execute("PRAGMA max_page_count=100000")
        cache.resize(max_bytes=500_000_000, max_age_s=None)
        cache.put(key(21), noise(21))
        cache.flush()
        assert cache.problem is None
    with ReplyCache.open(path) as cache:
        assert same(cache.get(key(21)), noise(21))


def test_a_closed_cache_says_so(path):
    """Nothing can be put or asked any more; a second close does nothing."""
    cache = ReplyCache.open(path, ram_bytes=0)
    cache.close()
    cache.close()
    with pytest.raises(StoreError, match="closed"):
        cache.put(key(1), noise(1))
    with pytest.raises(StoreError, match="closed"):
        cache.get(key(1))


def test_a_forgotten_cache_is_written_and_ends(path):
    """Its thread does not outlive it, and what was put is there."""
    ReplyCache.open(path).put(key(1), noise(1))
    gc.collect()
    eventually("the lock is gone", lambda: not path.with_name(path.name + ".lock").exists())
    with ReplyCache.open(path) as cache:
        assert same(cache.get(key(1)), noise(1))


def test_at_exit_what_was_put_is_written(path):
    """A program that ends without closing loses nothing."""
    code = (
        "from troupelab.models.cache import ReplyCache; from troupelab.models.model import Reply\n"
        f"cache = ReplyCache.open({str(path)!r}); cache.put(bytes(16), Reply('kept', 1, 1, 0.0, 'm'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with ReplyCache.open(path) as cache:
        assert cache.get(bytes(16)).text == "kept"


def test_many_threads_at_once(path):
    """Puts, gets, marks and resizes from six threads: each finds what was put or nothing."""
    problems = []

    def work(own: int) -> None:
        chance = random.Random(own)
        try:
            for turn in range(300):
                number = chance.randrange(200)
                cache.put(key(number), noise(number, 1_500))
                asked_number = chance.randrange(200)
                found = cache.get(key(asked_number))
                assert found is None or same(found, noise(asked_number, 1_500))
                if turn % 50 == own:
                    cache.mark()
                    cache.resize(max_bytes=chance.choice([150_000, 250_000]), max_age_s=None)
                    cache.release()
        except BaseException as error:
            problems.append(error)

    with ReplyCache.open(path, max_bytes=250_000, ram_bytes=50_000) as cache:
        threads = [threading.Thread(target=work, args=(own,)) for own in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cache.resize(max_bytes=150_000, max_age_s=None)
        cache.flush()
        assert not problems
        assert disk_bytes(path) <= 150_000
        stats = cache.stats()
        assert stats.hits + stats.misses == 1_800
        assert stats.puts == 1_800


def test_small_replies_share_a_dictionary_that_survives(path):
    """Once enough was seen, replies are compressed with what they have in common, and read back after opening again."""

    def talk(number: int) -> Reply:
        text = f'{{"actions": [{{"type": "TALK", "content": "I said {number * 7919} times that {number % 97} is enough.", "target": ""}}]}}'
        return Reply(text, 1, 1, 0.0, "m")

    with ReplyCache.open(path, ram_bytes=0) as cache:
        for number in range(5_000):
            cache.put(key(number), talk(number))
        cache.flush()
    with ReplyCache.open(path, ram_bytes=0) as cache:
        assert all(same(cache.get(key(number)), talk(number)) for number in range(0, 5_000, 7))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM dictionary").fetchone() == (1,)
        connection.execute("UPDATE dictionary SET data = x'00'")
        connection.commit()
    with ReplyCache.open(path, ram_bytes=0) as cache:
        assert cache.get(key(4_999)) is None
        assert same(cache.get(key(0)), talk(0))
        cache.put(key(4_999), talk(4_999))
        cache.flush()
        assert same(cache.get(key(4_999)), talk(4_999))
