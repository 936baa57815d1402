"""A rehearsal server in a process of its own, as a context manager: `Rehearsal`.

It owns the child process. The child ends when its standard input closes, so that nothing is left over however this process ends.
One thread at a time may start and close one; the others' methods may be called from any.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import weakref
from pathlib import Path
from typing import IO, Any

from troupelab.errors import RunError
from troupelab.models.rehearsal.settings import KEY_VARIABLE, Settings

__all__ = ["Rehearsal"]

_START_S = 30.0
_ANSWER_S = 10.0
_END_S = 5.0
_TAIL_CHARS = 2_000
_MAX_ANSWER_BYTES = 1_000_000


class Rehearsal:
    """A model endpoint on this machine that answers, waits and fails as told: OpenAI's API without a key and without a bill.

    Args:
        settings: what `troupelab rehearse` takes, with underscores: latency, seed, p429, p500, pmalformed, pdrop, phang,
            malformed, hang_s, retry_after_s, capacity, requests_per_s, key, models, reply, repeat_rate, prefix_cache,
            refuse_parameters.

    Raises:
        InputError: a setting is unknown or out of its range.

    >>> with Rehearsal(latency="const:0.01", p429=1.0) as server:
    ...     server.configure(p429=0.0)
    ...     server.stats()["requests"]
    0

    In a notebook, `server = Rehearsal().start()` in one cell and `server.close()` in a later one do the same.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings().changed(settings)
        self._base_url = ""
        self._end: weakref.finalize[..., Rehearsal] | None = None

    def __repr__(self) -> str:
        return f"<Rehearsal at {self._base_url}>" if self.running else "<Rehearsal, not running>"

    def __enter__(self) -> Rehearsal:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether it was started and not closed."""
        return self._end is not None and self._end.alive

    @property
    def base_url(self) -> str:
        """The address that a client wants, such as `http://127.0.0.1:40123/v1`.

        Raises:
            RunError: it is not running.
        """
        if not self.running:
            raise RunError("the rehearsal server is not running: start() it, or use it in a with statement")
        return self._base_url

    def start(self) -> Rehearsal:
        """Start the server and wait until it takes requests; one that runs is left alone.

        Returns:
            Itself.

        Raises:
            RunError: it did not start; the message ends with what it said.
        """
        if self.running:
            return self
        said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        try:
            child = subprocess.Popen(  # noqa: S603 - our own module, and no shell
                self._command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=self._environment(),
                start_new_session=True,  # an interrupt of the notebook's kernel is not for it
            )
        except OSError as error:
            said.close()
            raise RunError(f"the rehearsal server did not start: {error}") from error
        self._end = weakref.finalize(self, _end, child, said)
        line = _first_line(child)
        if not line.startswith("rehearsal: "):
            self._end.detach()
            _stop(child)
            tail = _tail(said)
            said.close()
            self._end = None
            raise RunError(f"the rehearsal server did not start within {_START_S:g} s; it said: {tail or 'nothing'}")
        self._base_url = line.split()[1]
        return self

    def close(self) -> None:
        """End the server; what has ended is left alone."""
        if self._end is not None:
            self._end()

    def stats(self) -> dict[str, Any]:
        """What it has counted since it started or was reset: requests by path and status, connections, bytes, times, tokens.

        Raises:
            RunError: it does not answer.
        """
        return self._ask("/stats")

    def reset(self) -> None:
        """Let it count from zero and forget which requests it has seen.

        Raises:
            RunError: it does not answer.
        """
        self._ask("/reset", {})

    def configure(self, **settings: Any) -> None:
        """Change settings while it runs; they hold from the next request on.

        Raises:
            InputError: a setting is unknown or out of its range; nothing is changed.
            RunError: it does not answer.
        """
        changed = self.settings.changed(settings)
        self._ask("/config", settings)
        self.settings = changed

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "troupelab.models.rehearsal.command", "--port", "0", "--until-stdin-closes"]
        for each in dataclasses.fields(self.settings):
            value, flag = getattr(self.settings, each.name), each.name.replace("_", "-")
            if isinstance(value, bool):
                command.append(f"--{flag}" if value else f"--no-{flag}")
            elif isinstance(value, tuple):
                command.append(f"--{flag}={','.join(value)}")
            elif value is not None and each.name != "key":
                command.append(f"--{flag}={value}")
        return command

    def _environment(self) -> dict[str, str]:
        """This process's environment, with the key, and with the folder that this package was imported from."""
        found = dict(os.environ)
        found.pop(KEY_VARIABLE, None)
        if self.settings.key is not None:
            found[KEY_VARIABLE] = self.settings.key
        home = str(Path(__file__).resolve().parents[3])
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (home, found.get("PYTHONPATH"))))
        return found

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        address = self.base_url.removesuffix("/v1") + path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})  # noqa: S310 - http, our own
        # A proxy that the environment names is not for this machine's own address.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_ANSWER_S) as answer:
                found: dict[str, Any] = json.loads(answer.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(_TAIL_CHARS).decode(errors="replace")
            raise RunError(f"the rehearsal server refused {path}: {said}") from None
        except (OSError, ValueError) as error:
            raise RunError(f"the rehearsal server at {self._base_url} does not answer: {error}") from error
        return found


def _first_line(child: subprocess.Popen[bytes]) -> str:
    """The first line that the child writes, or nothing where none comes in time."""
    stdout = child.stdout
    assert stdout is not None
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.append(stdout.readline(1_000)), daemon=True)
    reader.start()
    reader.join(_START_S)
    return lines[0].decode(errors="replace") if lines else ""


def _end(child: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    _stop(child)
    said.close()


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Close the child's input, which ends it, and help where it does not."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    for help_out in (child.terminate, child.kill, None):
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            if help_out is not None:
                help_out()
        else:
            break
    child.stdout.close()


def _tail(said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - _TAIL_CHARS))
    return said.read().decode(errors="replace").strip()
