"""Putting the parts of a run together: pool, stage, pipeline and engine. Called once, in whichever thread makes the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from troupelab.engine.engine import Engine
from troupelab.engine.options import Options
from troupelab.events import Emit
from troupelab.livelimits import LiveLimits
from troupelab.memory.pool import Pool
from troupelab.models.model import Model
from troupelab.models.pipeline import Pipeline
from troupelab.models.semantic import SemanticCache
from troupelab.people.stage import Stage
from troupelab.people.world import World
from troupelab.text.embed import Embedder

if TYPE_CHECKING:
    from troupelab.store import Store

__all__ = ["assemble"]


def assemble(
    world: World,
    model: Model,
    limits: LiveLimits,
    options: Options,
    *,
    steps: int,
    seed: int,
    store: Callable[[], Store],
    embedder: Embedder | None,
    notes: bool,
    share_identical: bool,
    emit: Emit,
    clock: Callable[[], float],
    live_clock: Callable[[], float],
) -> Engine:
    """Make an engine that is ready to play.

    Args:
        world: what is played.
        model: what the agents think with.
        limits: the run's.
        options: how to play.
        steps: how many steps.
        seed: of every draw.
        store: opens the run's store when it is first needed.
        embedder: compares texts, in memories and for the semantic cache; None for none.
        notes: whether old records become notes.
        share_identical: whether agents that ask the very same thing share one drawn reply.
        emit: is told everything.
        clock: seconds since the run's start; stands still at its end.
        live_clock: the same, but goes on, for interviews after the end.
    """
    pool = Pool(
        store,
        scratch=lambda: store().path.parent / "scratch",
        embedder=embedder,
        notes=notes,
        emit=emit,
        clock=clock,
        hours_per_step=world.step_minutes / 60,
    )
    stage = Stage(world, limits, pool=pool, emit=emit, clock=clock)
    semantic = None if embedder is None else SemanticCache(embedder, seed=seed)
    pipeline = Pipeline(
        model, limits, emit=emit, clock=live_clock, seed=seed, semantic=semantic, share_identical=share_identical
    )
    return Engine(stage, pipeline, limits, steps=steps, options=options, seed=seed, emit=emit, clock=clock)
