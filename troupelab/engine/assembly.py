"""Putting the parts of a run together: pool, stage, pipeline and engine. Called once, in whichever thread makes the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from troupelab.engine.clock import Clock
from troupelab.engine.engine import Engine, MakeActor
from troupelab.engine.interventions import Intervention
from troupelab.engine.options import Options
from troupelab.engine.parts import Parts, Teller
from troupelab.engine.past import Past
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
    interventions: Sequence[Intervention],
    past: Past | None,
    emit: Emit,
    clock: Clock,
    make_actor: MakeActor | None = None,
) -> Engine:
    """Make an engine that is ready to play.

    Args:
        world: what is played.
        model: what the agents think with.
        limits: the run's.
        options: how to play.
        steps: how many steps.
        seed: of every draw.
        store: opens the run's store.
        embedder: compares texts, in memories and for the semantic cache; None for none.
        interventions: what is called between steps.
        past: an earlier life to go on from.
        emit: records events.
        clock: the run's.
        make_actor: makes what plays the acts; None for an `Actor`.
    """
    teller = Teller(emit)
    pool = Pool(
        store,
        scratch=lambda: store().path.parent / "scratch",
        embedder=embedder,
        notes=options.notes != "off",
        emit=emit,
        clock=clock.now,
        hours_per_step=world.step_minutes / 60,
    )
    stage = Stage(world, limits, pool=pool, emit=emit, clock=clock.now)
    semantic = None if embedder is None else SemanticCache(embedder, seed=seed)
    pipeline = Pipeline(
        model, limits, emit=teller.tell, clock=clock.live, seed=seed, semantic=semantic,
        share_identical=options.share_identical,
    )  # fmt: skip
    parts = Parts(stage, pipeline, limits, options, seed, clock, teller)
    return Engine(parts, steps=steps, store=store, interventions=interventions, past=past, make_actor=make_actor)
