"""Sweeps: points over several replicates, the Pareto front, what is recommended and why, a search, workers."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import troupelab as tl
from troupelab._platform import lock_file, unlock_file
from troupelab.tuning.pareto import front
from troupelab.tuning.space import grid

SPACE = {"recent_max_records": [6, 14, 60], "semantic_max_notes": [2, None]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 24 steps, in a folder."""
    where = tmp_path_factory.mktemp("run")
    run = tl.Run("product_launch", tl.ScriptedModel(7, latency_s=0.0), steps=24, seed=7, folder=where)
    run.start().wait(120)
    run.close()
    return where


@pytest.fixture(scope="module")
def swept(folder):
    """A sweep of that run over six points, with three replicates."""
    return tl.sweep(folder, SPACE, seeds=3, workers=1, progress=False)


_values = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.integers(0, 4).map(float))


@given(_values, arrays(np.bool_, 3))
def test_the_front_is_what_nothing_dominates(values, maximise):
    """A point is off the front exactly where another is as good in everything and better in something."""
    on = front(values, maximise)
    costs = np.where(maximise, -values, values)
    for place, mine in enumerate(costs):
        dominated = any((other <= mine).all() and (other < mine).any() for other in costs)
        assert on[place] != dominated
    assert on.any()


@given(_values, arrays(np.bool_, 3), st.randoms())
def test_the_order_of_points_does_not_matter(values, maximise, random):
    """The same points in another order have the same front."""
    order = list(range(len(values)))
    random.shuffle(order)
    assert front(values[order], maximise).tolist() == front(values, maximise)[order].tolist()


def test_a_point_that_is_not_known_is_on_no_front():
    """NaN neither wins nor keeps others away."""
    values = np.array([[1.0, np.nan], [2.0, 0.5]])
    assert front(values, np.array([False, True])).tolist() == [False, True]


def test_a_row_for_each_point_and_limits_as_they_were_given(swept):
    """All combinations are there once, with whole numbers and None as such, and three replicates of each."""
    frame = swept.frame
    points = [dict(zip(SPACE, each, strict=True)) for each in frame[list(SPACE)].itertuples(index=False, name=None)]
    assert points == grid(SPACE)
    assert all(value is None or isinstance(value, int) for value in frame["semantic_max_notes"].tolist())
    assert swept.replicates.groupby(["recent_max_records"]).size().tolist() == [6, 6, 6]
    assert swept.replicates["replicate"].nunique() == 3


def test_figures_are_means_of_replicates_with_intervals_around_them(swept):
    """A frame's recall is the mean of its replicates', and lies within its interval; shares are shares."""
    frame, rows = swept.frame, swept.replicates
    first = rows[(rows["recent_max_records"] == 6) & rows["semantic_max_notes"].notna()]
    assert frame["recall"][0] == pytest.approx(first["recall"].mean())
    assert (frame["recall_low"] <= frame["recall"]).all()
    assert (frame["recall"] <= frame["recall_high"]).all()
    assert (frame["recall_low"] < frame["recall_high"]).any()
    assert frame["recall"].between(0, 1).all()
    assert frame["held"].between(0, 1).all()


def test_more_memory_takes_more_bytes_and_two_notes_forget(swept):
    """What a limit is for shows: bytes rise with records, and of two notes little is found."""
    by = swept.by("recent_max_records")
    assert by["recent_max_records"].tolist() == [6, 14, 60]
    assert by["bytes"][0] < by["bytes"][2]
    notes = swept.by("semantic_max_notes")
    assert notes["semantic_max_notes"].tolist() == [2, None]
    assert notes["relative_recall"][0] < notes["relative_recall"][1]


def test_what_is_recommended_keeps_what_was_asked_for(swept):
    """It is the smallest point whose interval's lower end is high enough; the words name limits, bytes and embedder."""
    found = swept.recommend(0.5)
    frame = swept.frame
    enough = frame[frame["relative_recall_low"] >= 0.5]
    assert found.enough
    mine = frame[
        [
            dict(zip(SPACE, each, strict=True)) == found.limits
            for each in frame[list(SPACE)].itertuples(index=False, name=None)
        ]
    ]
    assert mine["bytes"].item() == enough["bytes"].min()
    assert mine["relative_recall_low"].item() >= 0.5
    assert f"recent_max_records={found.limits['recent_max_records']}" in str(found)
    assert swept.embedder in str(found)


@given(least=st.floats(0, 1))
def test_a_recommendation_never_promises_too_much(swept, least):
    """Whatever is asked for: either the point's lower end reaches it, or the words say that none does."""
    found = swept.recommend(least)
    frame = swept.frame
    assert found.enough == bool((frame["relative_recall_low"] >= least).any())
    assert found.enough or "No point keeps" in str(found)


def test_more_asked_for_never_takes_fewer_bytes(swept):
    """The bytes of what is recommended rise with what is to be kept."""
    frame = swept.frame

    def taken(least):
        limits = swept.recommend(least).limits
        return next(row["bytes"] for _, row in frame.iterrows() if {name: row[name] for name in SPACE} == limits)

    reachable = [least for least in (0.1, 0.3, 0.5, 0.7, 0.9) if swept.recommend(least).enough]
    assert [taken(least) for least in reachable] == sorted(taken(least) for least in reachable)
    assert len(reachable) > 1


def test_it_can_be_given_to_a_run_that_goes_on(swept):
    """The limits change in the run, and the change says where it comes from."""
    run = tl.Run("product_launch", tl.ScriptedModel(7, latency_s=0.0), steps=8, seed=7).start(paused=True)
    found = swept.apply(run, 0.5)
    run.resume()
    run.wait(60)
    assert run.limits.current.recent_max_records == found.limits["recent_max_records"]
    assert "recommended by a sweep" in run.frames.limits["note"].tolist()


def test_workers_give_the_same_figures_in_the_same_order(folder, swept):
    """Two processes measure what one does."""
    again = tl.sweep(folder, SPACE, seeds=3, workers=2, progress=False)
    columns = [name for name in again.frame.columns if name != "seconds"]
    assert again.frame[columns].equals(swept.frame[columns])
    assert again.replicates["replicate"].tolist() == swept.replicates["replicate"].tolist()


def test_several_readers_of_one_recording_do_not_shut_each_other_out(folder):
    """Who only reads shares the lock: two hold it at once, and whoever would write is kept out until both are done."""
    lock = folder / "shared.lock"
    one, two = lock_file(lock, shared=True), lock_file(lock, shared=True)
    with pytest.raises(BlockingIOError):
        lock_file(lock)
    unlock_file(one, lock)
    with pytest.raises(BlockingIOError):
        lock_file(lock)
    unlock_file(two, lock)
    assert not lock.exists()
    faults, streams = [], []

    def read():
        try:
            streams.append(tl.Stream.of(folder))
        except Exception as error:
            faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert (len(streams), faults) == (6, [])


def test_a_lock_is_never_taken_through_a_link(tmp_path):
    """What a symbolic link in somebody's folder names is not emptied."""
    precious = tmp_path / "precious.txt"
    precious.write_text("keep me")
    (tmp_path / "run.sqlite.lock").symlink_to(precious)
    for shared in (False, True):
        with pytest.raises(OSError, match=r"run\.sqlite\.lock"):
            lock_file(tmp_path / "run.sqlite.lock", shared=shared)
    assert precious.read_text() == "keep me"


def test_a_search_is_the_same_again_and_goes_on_in_its_file(folder, tmp_path):
    """The same seed asks for the same points; a second search in the same file measures what is left alone, and has all."""
    space = {"recent_max_records": (5, 60), "dedup_similarity": (0.85, 1.0), "semantic_max_notes": [4, None]}
    given = {"method": "optuna", "seeds": 1, "workers": 1, "seed": 3, "progress": False}
    first = tl.sweep(folder, space, points=6, storage=tmp_path / "search.sqlite", **given)
    again = tl.sweep(folder, space, points=6, **given)
    assert first.points == again.points
    assert len(first.points) == 6
    assert all(
        5 <= point["recent_max_records"] <= 60 and type(point["recent_max_records"]) is int for point in first.points
    )
    replays = []
    given["progress"] = lambda done, all_: replays.append(done)
    more = tl.sweep(folder, space, points=9, storage=tmp_path / "search.sqlite", **given)
    assert len(replays) == 3
    assert len(more.points) == 9
    assert more.points[:6] == first.points
    assert more.frame["recall"][:6].tolist() == first.frame["recall"].tolist()


def test_figures_show_every_point(swept):
    """The front's figure has all points and the front, the others a line a point, and a value a limit."""
    figure = swept.figure()
    assert len(figure.data[0].x) == 6
    assert len(figure.data[1].x) == len(swept.pareto())
    assert [each.label for each in swept.parallel_coordinates().data[0].dimensions][:2] == list(SPACE)
    assert swept.one_factor("recent_max_records").data[0].x == ("6", "14", "60")
    assert swept.one_factor("semantic_max_notes").data[0].x == ("2", "none")
    assert "Pareto" in swept._repr_html_()


def test_progress_is_told_and_can_end_it(folder):
    """A function is told of each replay; what it raises ends the sweep."""
    told = []
    tl.sweep(
        folder,
        {"recent_max_records": [6, 14]},
        seeds=2,
        workers=1,
        progress=lambda done, all_: told.append((done, all_)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def enough(done, all_):
        raise KeyboardInterrupt

    for workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            tl.sweep(folder, {"recent_max_records": [6, 14]}, seeds=2, workers=workers, progress=enough)


def test_nothing_drawn_asks_for_the_runs_own_facts(folder):
    """Without seeds there is one replicate, and no interval."""
    found = tl.sweep(folder, {"recent_max_records": [6]}, seeds=0, workers=1, progress=False)
    assert found.replicates["replicate"].tolist() == ["0/None"]
    assert found.frame["recall_low"].isna().all()
    assert "[" not in str(found.recommend(0.0))


@pytest.mark.parametrize(
    ("space", "error", "says"),
    [
        ({}, tl.InputError, "limits with their values"),
        ({"recent_max_records": []}, tl.InputError, "a list of values that is not empty"),
        ({"recent_max_rekords": [3]}, tl.LimitError, "recent_max_rekords"),
        ({"max_concurrency": [3]}, tl.LimitError, "no limit of memory"),
        ({"recent_max_records": [-1]}, tl.LimitError, "recent_max_records"),
        ({"recent_max_records": "many"}, tl.InputError, "recent_max_records"),
        ({"recent_max_records": list(range(4, 400)), "max_age_steps": list(range(1, 400))}, tl.InputError, "at most"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_used_is_refused_by_name(folder, space, error, says):
    """An empty space, an unknown limit or a value out of range is named before anything is replayed."""
    with pytest.raises(error, match=says):
        tl.sweep(folder, space, workers=1, progress=False)


def test_other_arguments_that_cannot_be_used_are_refused(folder, swept):
    """An unknown objective or method, no source, a limit that was not swept."""
    space = {"recent_max_records": [6]}
    for arguments, says in (
        ({"objectives": ["beauty"]}, "objectives"),
        ({"objectives": []}, "objectives"),
        ({"method": "luck"}, "method"),
        ({"points": 0, "method": "optuna"}, "points"),
    ):
        with pytest.raises(tl.InputError, match=says):
            tl.sweep(folder, space, workers=1, progress=False, **arguments)
    with pytest.raises(tl.InputError, match="source"):
        tl.sweep([], space)
    with pytest.raises(tl.InputError, match="field"):
        swept.one_factor("max_age_steps")
    with pytest.raises(tl.InputError, match="min_relative_recall"):
        swept.recommend(1.5)


def test_figures_do_not_depend_on_the_order_of_values(folder, swept):
    """The same values in another order give the same points."""
    turned = tl.sweep(
        folder, {name: values[::-1] for name, values in SPACE.items()}, seeds=3, workers=1, progress=False
    )
    columns = [name for name in swept.frame.columns if name != "seconds"]
    assert turned.frame[columns][::-1].reset_index(drop=True).equals(swept.frame[columns])


def test_what_would_go_is_what_one_keeps_better_than_the_other(folder):
    """Against the replays' own lists: exactly the records whose tier is worse, none where limits are the same, each the other way round never twice."""
    tight = {"recent_max_records": 5, "max_age_steps": 3}
    gone = tl.would_go(folder, None, tight)
    tiers = ["recent", "archive", "notes only", "dropped"]
    ours, theirs = tl.replay(folder).records(), tl.replay(folder, tight).records()
    worse = [
        (one.agent, one.text, one.tier, other.tier)
        for one, other in zip(ours.itertuples(), theirs.itertuples(), strict=True)
        if tiers.index(one.tier) < tiers.index(other.tier)
    ]
    assert worse
    assert [*gone[["agent", "text", "under_a", "under_b"]].itertuples(index=False, name=None)] == worse
    assert (gone["under_b"] == "dropped").any()
    assert tl.would_go(folder, tight, tight).empty
    assert tl.would_go(folder, tight, None).empty
    with pytest.raises(tl.LimitError, match="recent_max_rekords"):
        tl.would_go(folder, None, {"recent_max_rekords": 5})


def test_a_recording_ships_with_the_package() -> None:
    """By its name it is opened, replayed exactly and swept; it is no larger than it may be."""
    with tl.Recording.open("product_launch") as recording:
        assert (recording.state, recording.steps) == ("done", 60)
        assert (recording.folder / "run.sqlite").stat().st_size < 5_000_000
    assert tl.replay("product_launch").exact
