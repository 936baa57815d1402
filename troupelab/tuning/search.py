"""A search for limits by Optuna: NSGA-II, since there are several objectives and their front is wanted, not one best point.

Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II (2002). Seeded, so that the same search gives the same points; kept in an SQLite file where
that is asked for, and gone on with there. Whoever calls it waits for it; any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from troupelab.errors import MissingPackageError
from troupelab.limits import FIELDS

if TYPE_CHECKING:
    from troupelab.limits import Number

__all__ = ["search"]

_TOGETHER = 8
"""So many points are asked for before any of them is told: they are measured at once."""


def search(
    space: Mapping[str, Any],
    points: int,
    objectives: Sequence[str],
    maximise: Sequence[bool],
    measure: Callable[[Sequence[Mapping[str, Number]]], Sequence[tuple[Sequence[float], list[dict[str, Any]]]]],
    earlier: Callable[[Mapping[str, Number], list[dict[str, Any]]], object],
    *,
    seed: int,
    storage: str | Path | None,
) -> None:
    """Ask for points until there are enough, and tell what came of them.

    Args:
        space: lists of values, or (lowest, highest).
        points: how many in all.
        objectives: their names.
        maximise: of each, whether more is better.
        measure: gives the objectives of some points, and what they were computed from, which is kept beside them.
        earlier: is told of each point that the storage has already.
        seed: of the sampler.
        storage: an SQLite file; None keeps nothing.

    Raises:
        MissingPackageError: optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingPackageError("a search needs optuna: pip install 'troupelab[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=f"troupelab sweep of {', '.join(space)} for {', '.join(objectives)}",
        directions=["maximize" if more else "minimize" for more in maximise],
        sampler=optuna.samplers.NSGAIISampler(seed=seed, population_size=max(_TOGETHER, min(50, points // 4))),
        storage=None if storage is None else f"sqlite:///{Path(storage).absolute()}",
        load_if_exists=True,
    )
    whole = [optuna.trial.TrialState.COMPLETE]  # not what an end in the midst of it left
    for done in study.get_trials(states=whole):
        earlier(done.user_attrs["limits"], done.user_attrs["rows"])
    while (left := points - len(study.get_trials(states=whole))) > 0:
        trials = [study.ask() for _ in range(min(_TOGETHER, left))]
        drawn = [{name: _suggest(trial, name, values) for name, values in space.items()} for trial in trials]
        for trial, limits, (told, rows) in zip(trials, drawn, measure(drawn), strict=True):
            trial.set_user_attr("limits", limits)
            trial.set_user_attr("rows", rows)
            study.tell(trial, list(told))


def _suggest(trial: Any, name: str, values: Any) -> Number:
    found: Number
    if not isinstance(values, tuple):
        found = trial.suggest_categorical(name, values)
    elif FIELDS[name].whole:
        low, high = values
        found = trial.suggest_int(name, int(low), int(high), log=FIELDS[name].log_scale and low >= 1)
    else:
        low, high = values
        found = trial.suggest_float(name, low, high, log=FIELDS[name].log_scale and low > 0)
    return found
