"""What is changed in TinyTroupe while a bridge is open, and undone when the last one closes.

Each change is one function that looks whether the person or world is of a troupe of ours, and otherwise does what TinyTroupe does. So bridges
may be open side by side, and what they do not know is as it was. Any thread may open and close one.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from troupelab.bridges.tinytroupe.client import Client
from troupelab.bridges.tinytroupe.hub import GreenletExecutor, Turns
from troupelab.bridges.tinytroupe.member import CALLER, Caller
from troupelab.bridges.tinytroupe.seams import TinyTroupe
from troupelab.bridges.tinytroupe.trace import Tracing
from troupelab.bridges.tinytroupe.troupe import ROSTER, Troupe

__all__ = ["Patches", "WORLDS", "installed"]

API_TYPE = "troupelab"
_MISSING = object()

WORLDS: weakref.WeakKeyDictionary[Any, Troupe] = weakref.WeakKeyDictionary()
"""The worlds that a troupe of their own plays."""

_open: list[Troupe] = []
_everybodys: list[Troupe] = []
_lock = threading.RLock()
_patches: Patches | None = None


class Patches:
    """Changes of attributes, to be undone in reverse order.

    >>> class Town:
    ...     mayor = "Elif"
    >>> patches = Patches()
    >>> patches.set(Town, "mayor", "Omar")
    >>> patches.undo()
    >>> Town.mayor
    'Elif'
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute; what the owner itself had under the name comes back at `undo`."""
        before = vars(owner).get(name, _MISSING)
        setattr(owner, name, value)

        def undo() -> None:
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._undo.append(undo)

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Set a function that is made from the one there is."""
        original = getattr(owner, name)
        self.set(owner, name, functools.wraps(original)(make(original)))

    def put(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        """Set an entry; what was there comes back at `undo`."""
        before = mapping.get(key, _MISSING)
        mapping[key] = value

        def undo() -> None:
            if before is _MISSING:
                mapping.pop(key, None)
            else:
                mapping[key] = before

        self._undo.append(undo)

    def then(self, action: Callable[[], None]) -> None:
        """Have something done first at `undo`."""
        self._undo.append(action)

    def undo(self) -> None:
        """Undo every change."""
        while self._undo:
            self._undo.pop()()


@contextlib.contextmanager
def installed(troupe: Troupe, *, for_everybody: bool) -> Iterator[None]:
    """Have TinyTroupe know of a troupe while the with-block lasts.

    Args:
        troupe: which; its hub is open.
        for_everybody: whether every person and world that has no troupe of its own is this one's.
    """
    global _patches
    with _lock:
        if _patches is None:
            _patches = Patches()
            try:
                _install(troupe.tt, _patches)
            except BaseException:
                _patches.undo()
                _patches = None
                raise
        _open.append(troupe)
        if for_everybody:
            _everybodys.append(troupe)
    try:
        yield
    finally:
        with _lock:
            _open.remove(troupe)
            if for_everybody:
                _everybodys.remove(troupe)
            if not _open:
                _patches.undo()
                _patches = None


def _everybodys_troupe() -> Troupe | None:
    return _everybodys[-1] if _everybodys else None


def _install(tt: TinyTroupe, patches: Patches) -> None:
    clients = tt.clients
    patches.put(clients._api_type_to_client, API_TYPE, Client(tt, clients.client(), _everybodys_troupe))
    patches.set(clients, "_api_type_override", API_TYPE)
    person, world, network = tt.person.TinyPerson, tt.world.TinyWorld, tt.network.TinySocialNetwork
    patches.wrap(person, "_post_init", _post_init)
    patches.wrap(person, "act", _act)
    patches.wrap(person, "consolidate_episode_memories", _consolidate)
    patches.wrap(person, "minibio", _minibio)
    patches.wrap(person, "last_remembered_action", _last_action)
    patches.wrap(person, "decode_complete_state", _decode)
    patches.wrap(person, "_display_communication", _display)
    patches.wrap(world, "_step_in_parallel", _step_in_parallel)
    patches.wrap(network, "_step", _network_step)
    _install_executors(tt, patches)
    _install_tokens(tt, patches)
    tracing = Tracing(tt)
    for owner, name, value in tracing.replacing():
        patches.set(owner, name, value)
    patches.then(tracing.close_all)


def _install_executors(tt: TinyTroupe, patches: Patches) -> None:
    """Factories and parallel maps work in greenlets of everybody's troupe, where there is one, and else on threads as before."""
    futures = tt.factory.concurrent.futures

    def pool(max_workers: int | None = None, *args: Any, **kwargs: Any) -> Any:
        troupe = _everybodys_troupe()
        if troupe is None or troupe.hub.is_here:  # on the loop itself, waiting for futures would stop it
            return futures.ThreadPoolExecutor(max_workers, *args, **kwargs)
        return GreenletExecutor(troupe.hub)

    instead = types.SimpleNamespace(**{**vars(futures), "ThreadPoolExecutor": pool})
    patches.set(tt.factory, "concurrent", types.SimpleNamespace(futures=instead))
    patches.set(
        tt.factory, "concurrent_agent_generataion_lock", _GenerationLock(tt.factory.concurrent_agent_generataion_lock)
    )
    patches.set(tt.parallel, "ThreadPoolExecutor", pool)


def _install_tokens(tt: TinyTroupe, patches: Patches) -> None:
    """Have the persons' template taken apart once: TinyTroupe's renderer does it again for each of the three or four prompts of an act."""
    folder = Path(str(tt.person.__file__)).parent
    try:
        from chevron import renderer, tokenizer

        template = (folder / "prompts" / "tiny_person.v2.mustache").read_text(encoding="utf-8", errors="replace")
        patches.put(renderer.g_token_cache, template, list(tokenizer.tokenize(template, "{{", "}}")))
    except (ImportError, AttributeError, OSError):
        return  # a renderer of another kind: it is only slower


class _GenerationLock:
    """The factory's lock: in greenlets, a lock of threads would stop them all."""

    def __init__(self, before: Any) -> None:
        self._before = before
        self._turns: weakref.WeakKeyDictionary[Troupe, Turns] = weakref.WeakKeyDictionary()
        self._held: list[Any] = []

    @property
    def turns(self) -> Any:
        """Turns of everybody's troupe, or the lock there was."""
        troupe = _everybodys_troupe()
        if troupe is None:
            return self._before
        return self._turns.setdefault(troupe, Turns(troupe.hub))

    def __enter__(self) -> None:
        lock = self.turns
        lock.__enter__()
        self._held.append(lock)

    def __exit__(self, *error: Any) -> None:
        self._held.pop().__exit__(*error)


# ---------------------------------------------------------------------- persons


def _post_init(original: Any) -> Any:
    def post_init(person: Any, *args: Any, **kwargs: Any) -> None:
        original(person, *args, **kwargs)
        troupe = _everybodys_troupe()
        if troupe is not None and person not in ROSTER:
            troupe.enlist(person)

    return post_init


def _act(original: Any) -> Any:
    def act(person: Any, *args: Any, **kwargs: Any) -> Any:
        member, troupe = ROSTER.get(person), _everybodys_troupe()
        if member is None and troupe is not None:  # one that TinyTroupe's registry had forgotten
            member = troupe.enlist(person)
        if member is None:
            return original(person, *args, **kwargs)
        return member.act(person, lambda: original(person, *args, **kwargs))

    return act


def _consolidate(original: Any) -> Any:
    def consolidate_episode_memories(person: Any) -> Any:
        member = ROSTER.get(person)
        return original(person) if member is None else member.end_episode(person)

    return consolidate_episode_memories


def _minibio(original: Any) -> Any:
    def minibio(person: Any, *args: Any, **kwargs: Any) -> Any:
        member = ROSTER.get(person)
        if member is None:
            return original(person, *args, **kwargs)
        caller = CALLER.get()
        token = CALLER.set(Caller(member.troupe, member, "minibio", member.troupe.step)) if caller is None else None
        lock = member.troupe.tt.factory.concurrent_agent_generataion_lock
        turns = lock.turns if isinstance(lock, _GenerationLock) else None
        try:
            # A factory asks for it while it holds its lock, which nobody needs for that.
            with turns.paused() if isinstance(turns, Turns) else contextlib.nullcontext():
                return original(person, *args, **kwargs)
        finally:
            if token is not None:
                CALLER.reset(token)

    return minibio


def _last_action(original: Any) -> Any:
    def last_remembered_action(person: Any, ignore_done: bool = True) -> Any:
        member = ROSTER.get(person)
        if member is None or getattr(person.episodic_memory, "diary", None) is not member.diary:
            return original(person, ignore_done)
        for value in member.diary.newest_first():  # TinyTroupe takes all actions there are, to look at the last
            if isinstance(value, dict) and value.get("type") == "action":
                action = (value.get("content") or {}).get("action", {})
                if not ignore_done or action.get("type", "") != "DONE":
                    return action
        return None

    return last_remembered_action


def _decode(original: Any) -> Any:
    def decode_complete_state(person: Any, state: Any) -> Any:
        member = ROSTER.get(person)
        if member is not None:
            # Ours needs no documents, of which TinyTroupe would make an index anew by asking for vectors.
            semantic = {**state["semantic_memory"], "semantic_grounding_connector": None}
            state = {**state, "semantic_memory": semantic}
        decoded = original(person, state)
        if member is not None and not member.troupe.restoring:
            member.settle()
            member.troupe.attach(person, member)  # with what TinyTroupe has just read
        return decoded

    return decode_complete_state


def _display(original: Any) -> Any:
    def _display_communication(person: Any, role: Any, content: Any, *args: Any, **kwargs: Any) -> Any:
        return original(person, role, _escaped(content), *args, **kwargs)

    return _display_communication


def _escaped(content: Any) -> Any:
    """What is shown, with what a model wrote as text and no markup: a stray [/b] in it must not end the run."""
    try:
        from rich.markup import escape
    except ImportError:
        return content
    if isinstance(content, str):
        return escape(content)
    if isinstance(content, list):
        return [_escaped(each) for each in content]
    if isinstance(content, dict):
        return {key: value if key == "type" else _escaped(value) for key, value in content.items()}
    return content


# ---------------------------------------------------------------------- worlds


def _step_in_parallel(original: Any) -> Any:
    def _step_in_parallel(world: Any, timedelta_per_step: Any = None) -> Any:
        troupe = WORLDS.get(world) or _everybodys_troupe()
        if troupe is None:
            return original(world, timedelta_per_step=timedelta_per_step)
        return troupe.hub.wait(lambda: troupe.play(world))

    return _step_in_parallel


def _network_step(original: Any) -> Any:
    def _step(network: Any, *args: Any, **kwargs: Any) -> Any:
        """A step of a network takes what a step of any world does."""
        if not args and not kwargs:
            return original(network)
        network._update_agents_contexts()
        above: Any = next(each for each in type(network).__mro__ if each.__name__ == "TinyWorld")
        return above._step(network, *args, **kwargs)

    return _step
