"""Nested event loops: lets user code that runs on the engine's loop call `asyncio.run` itself, by nest_asyncio. For `Run(nest=True)` alone.

A model, a tool that it calls or an embedder may use a library that calls `asyncio.run` or `loop.run_until_complete`. On the engine's loop Python refuses
that; on an executor, where plain functions are called, it works without any of this. Here nest_asyncio is applied, in the engine's thread, to a loop of
a class of its own, before anything is played on it; so neither the notebook's loop nor any other becomes re-entrant.

It cannot be taken back: until the process ends, these stay as nest_asyncio 1.6 leaves them.

- `asyncio.Task` and `asyncio.Future` (also as `asyncio.tasks.Task` and `_CTask`, `asyncio.futures.Future` and `_CFuture`) are the ones written in Python;
  what is waited for already stays of the faster kind in C, and is no instance of `asyncio.Task` any more.
- `asyncio.get_event_loop`, and the same method of the event loop policy's class, make a loop in any thread that has none, and make that loop's class
  re-entrant, instead of raising.
- `tornado.concurrent.Future` is the one of Python, where tornado was imported.
- `asyncio.run` nests on a loop of ours; anywhere else it does what it did before. `asyncio.Runner` is untouched, and refuses on a loop that is running.

Nested runs stand on one another's stack: the last that began ends first, so that a call may wait for the nested runs of others, and a time-out or
`stop(now=True)` takes effect when the nested run is over. About ninety have room at once; see `_STACK_LEFT`. Any thread may call these functions.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from troupelab.errors import RunError
from troupelab.models.model import Model, Reply, Request

__all__ = ["PATCHED", "in_own_task", "new_loop", "refuse_without_subshells"]

T = TypeVar("T")

PATCHED = (
    "nest_asyncio has been applied for nest=True: until this process ends, asyncio's Task, Future, get_event_loop and run, its event loop policy "
    "and tornado's Future stay changed, for all threads"
)
"""What a run says at its start when it has been patched for."""

_STACK_LEFT = 150
"""So many frames must be left for a nested run to begin: it runs everybody's callbacks, and one that found no room would be lost."""

_patching = threading.Lock()


def refuse_without_subshells() -> None:
    """Refuse in a notebook's kernel that has no subshells: widgets are answered on the kernel's own loop there.

    Raises:
        RunError: it has none; the message says what to do instead.

    >>> refuse_without_subshells()  # no kernel: a script, or a test
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    kernel = getattr(shell, "kernel", None)
    if kernel is not None and "kernel subshells" not in kernel.kernel_info.get("supported_features", ()):
        raise RunError(
            "nest=True could leave the sliders dead in this kernel, which has no subshells: install ipykernel 7 or newer and restart it, or do "
            "without nest and make what calls asyncio.run a plain function, which is called on a thread"
        )


def new_loop() -> asyncio.AbstractEventLoop:
    """Make a loop on which `asyncio.run` may be called while it runs; patches the process as the module says.

    Raises:
        RunError: the process's loops are not asyncio's own, or nest_asyncio does not fit this Python.
    """
    loop = asyncio.new_event_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        loop.close()
        found = f"{type(loop).__module__}.{type(loop).__qualname__}"
        raise RunError(
            f"nest=True needs an event loop of asyncio's own, and this process makes {found}: undo what set its policy (uvloop.install), or do without nest"
        )
    with _patching:
        _patch(loop)
    try:
        loop.run_until_complete(_nested_works())
    except RuntimeError as error:
        loop.close()
        version = ".".join(map(str, sys.version_info[:2]))
        raise RunError(
            f"nest_asyncio does not work on Python {version}, so that nest=True cannot be had here: {error}"
        ) from error
    return loop


def _patch(loop: asyncio.BaseEventLoop) -> None:
    import nest_asyncio

    # nest_asyncio patches a loop's class: with one of its own, no other loop of the process is touched.
    kind: Any = type(f"Nested{type(loop).__name__}", (type(loop),), {})
    loop.__class__ = kind
    before, again = asyncio.run, hasattr(asyncio, "_nest_patched")
    nest_asyncio.apply(loop)
    kind.run_unchecked = kind.run_until_complete
    kind.run_until_complete = _checked(kind.run_until_complete)
    if not again:  # nest_asyncio's own would make loops in other threads, and leave them open
        asyncio.run = _only_where_patched(before)


async def _nested_works() -> None:
    asyncio.run(asyncio.sleep(0))
    await asyncio.sleep(0)


def _only_where_patched(before: Callable[..., T]) -> Callable[..., T]:
    """An `asyncio.run` that nests on a patched loop, and is as before elsewhere."""

    @functools.wraps(before)
    def run(main: Coroutine[Any, Any, T], **options: Any) -> T:
        loop: Any = asyncio._get_running_loop()
        if not hasattr(loop, "_nest_patched"):
            return before(main, **options)
        _check_room(main)
        nested: Callable[..., T] = getattr(loop, "run_unchecked", loop.run_until_complete)
        return nested(main)

    return run


def _checked(run_until_complete: Callable[..., T]) -> Callable[..., T]:
    """A `run_until_complete` that refuses to nest where the stack has no room for it."""

    def run(self: asyncio.AbstractEventLoop, future: Any) -> T:
        if self.is_running():
            _check_room(future)
        return run_until_complete(self, future)

    return run


def _check_room(future: Any) -> None:
    """Refuse what would nest where the stack has no room; the interpreter does not tell how much is left, so it is tried."""
    try:
        _go_down(_STACK_LEFT)
    except RecursionError:
        if inspect.iscoroutine(future):
            future.close()
        raise RunError("too many nested runs stand on one another: lower max_concurrency") from None


def _go_down(frames: int) -> None:
    if frames:
        _go_down(frames - 1)


def in_own_task(model: Model) -> Model:
    """Have each call of a model made in a task of its own; a model whose `complete` is a plain function stays as it is.

    A time-out that falls into a nested run is to end the call, and not what its task does after it (until Python 3.13 it would); nor are the engine's
    frames to stand on the stack below each nested run.
    """
    return _InOwnTask(model) if inspect.iscoroutinefunction(model.complete) else model


class _InOwnTask:
    """A model, in all but that."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    async def complete(self, request: Request) -> Reply:
        """Answer one request."""
        return await asyncio.create_task(self.model.complete(request))
