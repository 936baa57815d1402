"""A run as code: the Python that makes the same run again, with all that was changed in it while it was played.

What took effect from a step on is written as an `Intervention` before that step, so that the code gives the same transcript. Names, notes
and paths are written as Python writes them, never put into code as they are. Reads what is immutable or only grows; any thread.
"""

from __future__ import annotations

import pprint
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from troupelab.engine.engine import Engine, Made
from troupelab.engine.options import Options
from troupelab.errors import TroupeLabError
from troupelab.folder import RunFile
from troupelab.limits import FIELDS, Limits
from troupelab.livelimits import LimitChange, LiveLimits
from troupelab.models.cache import ReplyCache
from troupelab.models.chat import OPENAI_URL, ChatModel
from troupelab.models.model import Model
from troupelab.models.scripted import ScriptedModel
from troupelab.people.world import World
from troupelab.telemetry.journal import LimitRow, ToldRow
from troupelab.text.embed import Embedder
from troupelab.text.wordllama import default_embedder

__all__ = ["Parent", "as_code", "parent"]

_WIDTH = 120
_SCRIPTED = {"latency_s": 0.3, "latency_sigma": 0.5, "repeat_rate": 0.15}


class Parent(NamedTuple):
    """What a fork keeps of the run that it left: its code, its name and model there, and what was to hold from the fork's first step on."""

    code: str
    name: str
    model: str
    left: tuple[Made, ...]


class Written(Protocol):
    """A run, as far as it is needed to write it down."""

    world: World
    model: Model
    limits: LiveLimits
    steps: int
    seed: int
    folder: Path | None
    _engine: Engine
    _options: Options
    _nest: bool
    _file: RunFile
    _cache: Any
    _embedder: Embedder | None
    _parent: Parent | None

    @property
    def forked_at(self) -> int:
        """The step at which it left another's past; -1 where it did not."""
        ...

    @property
    def agent_names(self) -> tuple[str, ...]:
        """The agents' names, by index."""
        ...


def as_code(run: Written) -> str:
    """Write the Python that makes a run again; what `run.as_code()` does."""
    if run._parent is not None:
        return _fork(run, run._parent)
    if run.forked_at >= 0:
        return _resumed(run)
    made = _made(run)
    lines = ["import troupelab as tl", "", f"world = {_world(run)}", f"model = {_model(run.model)}"]
    lines += _changes(run, made)
    given = _arguments(run)
    if limits := _limits(run):
        lines.append(f"limits = {limits}")
        given = {"limits": "limits", **given}
    if made:
        given["interventions"] = "changes"
    lines.append(_call("run = tl.Run", ["world", "model"], given))
    for agent, own in run._file.header.overrides.items():
        lines.append(_call("run.limits.update", [], {**_values(own), "agents": repr([agent])}))
    return "\n".join([*lines, "run.start().wait()", ""])


def parent(run: Written, at_step: int, *, latest: bool) -> Parent:
    """What a fork of this run, made now, has to keep to be written down later."""
    left: list[Made] = []
    for step, what in _made(run):
        if step > at_step and latest and not isinstance(what, ToldRow):
            left.append((at_step, what))
        elif step >= at_step and (step == at_step or isinstance(what, ToldRow)):
            left.append((step, what))
    return Parent(as_code(run), _name(run), _model(run.model), tuple(left))


def _name(run: Written) -> str:
    """What a run is called in its code: run, fork, fork_2 and so on."""
    if run._parent is None:
        return "run"
    before = run._parent.name
    return "fork" if before == "run" else f"fork_{2 if before == 'fork' else int(before.removeprefix('fork_')) + 1}"


def _fork(run: Written, before: Parent) -> str:
    made = _made(run)
    first = [what for _, what in made if isinstance(what, LimitChange) and what.note == "fork" and what.agents is None]
    rest = [*before.left, *((step, what) for step, what in made if what not in first)]
    given = {"at_step": repr(run.forked_at), "steps": repr(run.steps)}
    if run.folder is not None:
        given["folder"] = repr(str(run.folder))
    name = _name(run)
    lines = [before.code]
    if _model(run.model) != before.model:
        lines.append(f"model_of_{name} = {_model(run.model)}")
        given["model"] = f"model_of_{name}"
    lines += _changes(run, rest)
    given["interventions"] = "changes" if rest else "[]"
    new = {name: value for what in first for name, value in what.new.items()}
    lines.append(_call(f"{name} = {before.name}.fork", [_literal(new)] if new else [], given))
    return "\n".join([*lines, f"{name}.start().wait()", ""])


def _resumed(run: Written) -> str:
    """A fork whose parent is not at hand can only be gone on with."""
    source = repr(str(run.folder))
    lines = ["import troupelab as tl", "", f"model = {_model(run.model)}"]
    lines.append("# a fork, gone on with in its folder: the run that it left is not at hand")
    lines.append(_call("run = tl.Run.resume", [source, "model"], {"steps": repr(run.steps)}))
    return "\n".join([*lines, "run.start().wait()", ""])


# ---------------------------------------------------------------------- what was changed


def _made(run: Written) -> list[Made]:
    """What users changed or told, each with the step from which it holds, oldest first."""
    past = run._file.past
    earlier: list[Made] = []
    if past is not None and run.forked_at < 0:
        earlier = [(row.from_step, row) for row in past.limits] + [(row.step, row) for row in past.tellings]
    begun = [*earlier, *run._engine.made]
    if past is not None and not run._engine.made:  # what was changed before the start is told the engine with it
        begun += [(past.next_step, change) for change in run.limits.log[past.changes :]]
    return begun


def _changes(run: Written, made: Sequence[Made]) -> list[str]:
    lines = []
    if own := [each.name for each in run._engine.player.interventions if each.name != "<lambda>"]:
        lines.append(f"# functions cannot be written down: add your interventions {own!r} to the changes")
    asides = run._engine.keeper.by_hand - sum(isinstance(what, ToldRow) for _, what in run._engine.made)
    if run._file.past is None and asides > 0:
        lines.append("# agents were asked what they remember since; that is not made again")
    if not made:
        return lines
    lines.append("changes = [  # from each step on")
    for step, what in made:
        lines.append(f"    tl.Intervention(lambda run: {_deed(run, what)}, at={step!r}),")
    return [*lines, "]"]


def _deed(run: Written, what: LimitChange | LimitRow | ToldRow) -> str:
    if isinstance(what, ToldRow):
        names = [run.agent_names[agent] for agent in what.to]
        told = {"to": repr(names), "source": repr(what.source), "kind": repr(what.kind)}
        return _call("run.tell", [repr(what.text)], told, width=0)
    given = _values(what.new)
    if what.agents is not None:
        given["agents"] = repr(list(what.agents))
    if what.note:
        given["note"] = repr(what.note)
    return _call("run.limits.update", [], given, width=0)


# ---------------------------------------------------------------------- what it was made of


def _world(run: Written) -> str:
    world, count = run.world, len(run.world.personas)
    ways: list[tuple[str, dict[str, Any]]] = [("", {}), *((f", agents={count}, seed={seed}", {"agents": count, "seed": seed})
                                                         for seed in dict.fromkeys((run.seed, 0)))]  # fmt: skip
    for written, options in ways if world.name in World.names() else ():
        try:
            if World.load(world.name, **options) == world:
                return f"tl.World.load({world.name!r}{written})"
        except TroupeLabError:  # it does not sample its agents
            continue
    return f"tl.World.from_dict({pprint.pformat(world.to_dict(), width=_WIDTH, sort_dicts=False)})"


def _model(model: Model) -> str:
    if type(model) is ScriptedModel:
        given = {name: repr(value) for name, usual in _SCRIPTED.items() if (value := getattr(model, name)) != usual}
        return _call("tl.ScriptedModel", [repr(model.seed)], given)
    if type(model) is ChatModel:
        given = {} if model.base_url == OPENAI_URL else {"base_url": repr(model.base_url)}
        if model.stream:
            given["stream"] = "True"
        return f"{_call('tl.ChatModel', [repr(model.name)], given)}  # the key: OPENAI_API_KEY, or key=…"
    return f"...  # {model.name!r}: a model of your own, to be made here"


def _limits(run: Written) -> str:
    begun = run._file.header.limits
    given = {name: value for name, value in begun.items() if name in FIELDS and value != FIELDS[name].default}
    return _call("tl.Limits", [], _values(Limits().replace(**given).changed())) if given else ""


def _arguments(run: Written) -> dict[str, str]:
    options, usual = run._options, Options()
    given = {"steps": repr(run.steps), "seed": repr(run.seed)}
    for argument, name in {
        "consolidate": "notes",
        **{each: each for each in Options._fields if each != "notes"},
    }.items():
        if (value := getattr(options, name)) != getattr(usual, name):
            given[argument] = repr(value)
    if run._nest:
        given["nest"] = "True"
    if run._embedder is None and default_embedder() is not None:
        given["embedder"] = "None"
    cache = run._cache
    if cache is False:
        given["cache"] = "False"
    elif isinstance(cache, ReplyCache) or (cache is not None and run.folder is None):
        given["cache"] = repr(str(cache.path if isinstance(cache, ReplyCache) else cache))
    if run.folder is not None:
        given["folder"] = repr(str(run.folder))  # holds this run: another has to be named to play it again
    return given


# ---------------------------------------------------------------------- Python's own words


def _literal(value: Any) -> str:
    return (
        repr(dict(value))
        if isinstance(value, Mapping)
        else repr(float(value))
        if isinstance(value, float)
        else repr(value)
    )


def _values(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: _literal(value) for name, value in values.items()}


def _call(what: str, plain: Sequence[str], named: Mapping[str, str], *, width: int = _WIDTH) -> str:
    """A call in one line, or with an argument a line where that would be too long and `width` says so."""
    given = [*plain, *(f"{name}={value}" for name, value in named.items() if value)]
    line = f"{what}({', '.join(given)})"
    if not width or len(line) <= width:
        return line
    return f"{what}(\n" + "".join(f"    {each},\n" for each in given) + ")"
