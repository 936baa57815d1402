"""The rehearsal server's command: the scripted model behind an OpenAI-compatible address, with latencies and faults.

`troupelab rehearse --latency lognorm:0.8:0.5 --p429 0.05`, or `python -m troupelab.models.rehearsal.command`. It listens on this machine only,
unless told otherwise. `POST /v1/chat/completions` and `/v1/embeddings` (also without `/v1`, and as Azure names them) and
`GET /v1/models` are answered as OpenAI does; `GET /stats` counts, `POST /reset` counts from zero, `GET` and `POST /config` show and
change the settings while it runs.

`serve` belongs to the loop that awaits it; `main` to the main thread.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from troupelab.errors import InputError
from troupelab.models.rehearsal.http import Handlers
from troupelab.models.rehearsal.server import RehearsalServer
from troupelab.models.rehearsal.settings import KEY_VARIABLE, Settings

__all__ = ["Settings", "add_arguments", "main", "run", "serve"]

_BACKLOG = 4_096


async def serve(
    settings: Settings, host: str = "127.0.0.1", port: int = 0, ready: Callable[[str], None] | None = None
) -> None:
    """Serve until cancelled.

    Args:
        settings: what to begin with; `POST /config` changes it.
        host: the address to listen on.
        port: 0 for any that is free.
        ready: is told the base address, `http://127.0.0.1:PORT/v1`, as soon as requests are taken.

    Raises:
        OSError: the address cannot be listened on.
    """
    rehearsal = RehearsalServer(settings)
    handlers = Handlers(rehearsal.handle, rehearsal.lost)
    server = await asyncio.get_running_loop().create_server(handlers, host, port, backlog=_BACKLOG)
    try:
        if ready is not None:
            bound = server.sockets[0].getsockname()[1]
            ready(f"http://{f'[{host}]' if ':' in host else host}:{bound}/v1")
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()
        await handlers.end()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options: the address, and each setting."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument(
        "--port", type=int, default=8_765, help="port to listen on; 0: any that is free (default: 8765)"
    )
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when the standard input does")
    defaults = Settings()
    for each in dataclasses.fields(Settings):
        flag, default = f"--{each.name.replace('_', '-')}", getattr(defaults, each.name)
        shown = "" if default is None or default == () else f" (default: {default})"
        text = f"{each.metadata['help']}{shown}"
        if isinstance(default, bool):
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=default, help=each.metadata["help"]
            )
        elif each.name in ("models", "refuse_parameters"):
            parser.add_argument(flag, type=_names, default=default, metavar="NAME,…", help=text)
        elif "low" in each.metadata:
            kind = int if each.metadata["whole"] else float
            parser.add_argument(flag, type=kind, default=default, metavar="N", help=text)
        elif each.name == "key":
            parser.add_argument(flag, help=f"{text} (default: what {KEY_VARIABLE} says)")
        else:
            parser.add_argument(flag, choices=each.metadata.get("choices"), default=default, help=text)


def main(parsed: argparse.Namespace) -> int:
    """Serve as the options say, until Ctrl-C, SIGTERM, or the end of the standard input where that was asked for.

    Args:
        parsed: what a parser with `add_arguments` has read.

    Returns:
        The exit code: 0, or 2 where an option or the address cannot be used.
    """
    try:
        values = {each.name: getattr(parsed, each.name) for each in dataclasses.fields(Settings)}
        if values["key"] is None:
            values["key"] = os.environ.get(KEY_VARIABLE) or None
        settings = Settings(**values)
        if not 0 <= parsed.port <= 65_535:
            raise InputError("rehearsal", "port", "a whole number from 0 to 65535", found=str(parsed.port))  # noqa: TRY301
        asyncio.run(_serve_until_told(settings, parsed.host, parsed.port, until_stdin_closes=parsed.until_stdin_closes))
    except KeyboardInterrupt:
        return 0
    except InputError as error:
        print(f"troupelab: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        why = error.strerror or error
        print(
            f"troupelab: cannot listen on {parsed.host}, port {parsed.port}: {why}; --port 0 takes a free one",
            file=sys.stderr,
        )
        return 2
    return 0


async def _serve_until_told(settings: Settings, host: str, port: int, *, until_stdin_closes: bool) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(serve(settings, host, port, _announce))
    with contextlib.suppress(
        NotImplementedError
    ):  # Windows: Ctrl-C comes as KeyboardInterrupt, SIGTERM ends the process
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, serving.cancel)
    if until_stdin_closes:
        threading.Thread(target=_cancel_at_end_of_input, args=(loop, serving), daemon=True).start()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _announce(address: str) -> None:
    print(f"rehearsal: {address}  (stop it with Ctrl-C)", flush=True)


def _cancel_at_end_of_input(loop: asyncio.AbstractEventLoop, serving: asyncio.Task[None]) -> None:
    # Below Python's own files, whose locks a thread must not hold when the interpreter ends.
    with contextlib.suppress(OSError):
        while os.read(0, 4_096):
            pass
    with contextlib.suppress(RuntimeError):  # it has ended already
        loop.call_soon_threadsafe(serving.cancel)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def run(arguments: Sequence[str] | None = None, *, prog: str = "python -m troupelab.models.rehearsal.command") -> int:
    """Read the options and serve.

    Args:
        arguments: what follows the command; None for the process's own.
        prog: what the command is called.

    Returns:
        The exit code.
    """
    description = "Serves the scripted model over HTTP, with the latency and the faults of real endpoints."
    parser = argparse.ArgumentParser(prog=prog, description=description)
    add_arguments(parser)
    return main(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(run())
