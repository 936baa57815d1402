"""What test_memory_faults.py kills: a memory that lives, and prints up to which step it is kept."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from troupelab.ids import make_id
from troupelab.limits import Limits
from troupelab.memory.memory import Memory
from troupelab.memory.pool import Pool
from troupelab.memory.record import Record
from troupelab.store import Store

AGENTS = 3
LIMITS = Limits(recent_max_records=20, total_max_bytes=150_000, semantic_max_notes=40)


def text_of(agent: int, step: int, place: int) -> str:
    """What an agent heard: the same for the same place, and unlike any other."""
    rng = random.Random(f"{agent} {step} {place}")
    return f"{agent}-{step}-{place} " + " ".join(rng.choices("ferry bread lamp town bees market sea".split(), k=25))


def live(memories: list[Memory], step: int) -> None:
    """One step of all who have not lived it yet: some records each, and what is due is condensed."""
    for memory in [each for each in memories if each.step < step]:
        memory.begin(step, LIMITS)
        memory.store(
            Record(
                make_id(memory.agent, step, place), "CONVERSATION", "Elif", text_of(memory.agent, step, place), place
            )
            for place in range(step % 4 + 1)
        )
        memory.settle()


def main(file: str) -> None:
    """Live on from where the store is, and say after each keeping which step it was."""
    store = Store.open(Path(file))
    pool = Pool(store, scratch=lambda: Path(file).parent / "scratch")
    memories = [Memory(agent, LIMITS, pool) for agent in range(AGENTS)]
    step = min(memory.step for memory in memories)  # each goes on after its own last kept step
    while True:
        step += 1
        live(memories, step)
        if step % 5 == 0:
            for memory in memories:
                memory.save()
            store.flush()
            print(step, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
