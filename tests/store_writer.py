"""What test_store_faults.py runs in other processes: a writer that is killed, and one whose files may not grow."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from pathlib import Path

from troupelab.errors import StoreError
from troupelab.store import Store, writer

PAIR = ("left", "right")


def payload(kind: str, number: int) -> bytes:
    """What a block must hold: half of it packs well, half not at all."""
    source = random.Random(f"{kind} {number}")
    size = source.choice([0, 50, 2_000, 30_000, 90_000])
    return source.randbytes(size // 2) + f"{kind} {number} ".encode() * (size // 16)


def write_pairs(path: str) -> None:
    """Put pairs and drop older ones for ever; tell what is durable, a line for each flush."""
    writer._CHECKPOINT_BYTES = 150_000  # so that kills hit checkpoints as well
    with Store.open(path) as store:
        print("open", flush=True)
        number = max((block.number for block in store.blocks(PAIR[0])), default=-1)
        for turn in range(1_000_000):
            for _ in range(1 + turn % 4):
                number += 1
                with store.transaction() as transaction:
                    for kind in PAIR:
                        assert transaction.put(kind, 0, b"m", payload(kind, number)) == number
                        if number >= 30:
                            transaction.drop(kind, 0, [number - 30])
            store.flush()
            print(number, flush=True)


def write_small_files(folder: str, limits: str) -> None:
    """For each limit: open and write while no file may pass that many bytes, then lift it; print what happened."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    for size in json.loads(limits):
        path = Path(folder) / f"{size}.sqlite"
        limit(size)
        try:
            store = Store.open(path)
        except StoreError as error:
            limit(hard)
            left = [file.suffix for file in path.parent.glob(f"{size}.sqlite*")]
            with Store.open(path) as store:
                left += [str(block) for block in store.blocks("left")]
            print(json.dumps({"size": size, "opened": False, "error": type(error).__name__, "left": left}), flush=True)
            continue
        acknowledged, problem, readable = 0, "", True
        try:
            for number in range(12):
                store.put("left", 0, b"m", payload("left", number))
                store.flush()
                acknowledged += 1
        except StoreError as error:
            problem = f"{type(error).__name__}: {error}"
        told = store.problem is not None
        for number in range(acknowledged):
            with contextlib.suppress(StoreError):
                readable = readable and store.read("left", 0, number) == payload("left", number)
        before = [block.number for block in store.blocks("left")]
        for number in range(acknowledged + (1 if problem else 0), 14):
            store.put("left", 0, b"m", payload("left", number))
        if size % 3 == 0:
            # Not lifted: closing says what is lost, and what was acknowledged is there.
            try:
                store.close()
                closed = ""
            except StoreError as error:
                closed = str(error)
            limit(hard)
        else:
            limit(hard)
            store.retry()
            store.flush()
            closed = "" if store.problem is None else "still stuck"
            store.close()
        with Store.open(path) as again:
            after = [block.number for block in again.blocks("left")]
            sound = all(again.read("left", 0, number) == payload("left", number) for number in after)
        report = {
            "size": size,
            "opened": True,
            "acknowledged": acknowledged,
            "problem": problem,
            "told": told,
            "readable": readable,
            "before": before,
            "after": after,
            "sound": sound and Store.verify(path) == [],
            "lifted": size % 3 != 0,
            "closed": closed,
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    {"pairs": write_pairs, "small": write_small_files}[sys.argv[1]](*sys.argv[2:])
