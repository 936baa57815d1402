"""The command line: `troupelab lab | run | resume | fork | report | bench | rehearse | doctor`.

Main thread only. Errors of ours end it with one sentence and exit code 2; a failed run or check with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from troupelab import __version__, _platform
from troupelab._share import shared_folder
from troupelab.errors import LimitError, MissingPackageError, TroupeLabError

if TYPE_CHECKING:
    from troupelab.limits import Limits, Number
    from troupelab.models.model import Model
    from troupelab.run import Run

__all__ = ["main"]

_QUICKSTART = "01_quickstart.ipynb"
_FIRST_PORT = 8888
_REHEARSE = "rehearse"
_BENCHMARKS = (
    "engine", "memory", "retrieval", "client", "cache", "parse", "semantic", "stages", "follow", "faults", "order", "kill", "tinytroupe", "dashboard",
    "replay",
)  # fmt: skip
_TABLE = (
    "state", "order", "agents", "steps", "acts", "acts_lost", "calls", "requests", "cached", "tokens_in", "tokens_out", "cost_usd", "records", "merged", "archived", "consolidations", "notes", "errors", "latency_p50_s",
    "latency_p95_s", "wall_s", "efficiency", "peak_rss_mb", "transcript_sha256",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: what follows `troupelab`; None for the process's own.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == [_REHEARSE]:
        # Its many options are its own, and reading them takes a web server's modules, which nothing else here needs.
        from troupelab.models.rehearsal.command import run

        return run(given[1:], prog=f"troupelab {_REHEARSE}")
    parsed = _parser().parse_args(given)
    try:
        code: int = parsed.command(parsed)
    except TroupeLabError as error:
        print(f"troupelab: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="troupelab", description="LLM-persona simulations that can be watched and tuned while they run"
    )
    parser.add_argument("--version", action="version", version=f"troupelab {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    lab = commands.add_parser("lab", help="open JupyterLab on the quickstart notebook")
    lab.add_argument("--port", type=int, help=f"port to listen on (default: the first free one from {_FIRST_PORT})")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.set_defaults(command=_lab)

    run = commands.add_parser(
        "run", help="play a world without a notebook", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    run.add_argument("world", help="a world's name or file")
    run.add_argument("--agents", type=int, help="how many agents, where the world draws them")
    run.add_argument("--steps", type=int, help="how many steps (default: what the world suggests)")
    run.add_argument("--seed", type=int, default=0, help="of every draw")
    run.add_argument(
        "--order", choices=("lockstep", "free"), default="lockstep",
        help="a barrier after each step, or everyone as soon as all whom they may hear are done",
    )  # fmt: skip
    run.add_argument(
        "--on-error",
        choices=("retry", "skip", "pause", "raise"),
        default="skip",
        help="what is done about an act that failed",
    )
    _add_model(run, "scripted")
    run.add_argument("--latency-s", type=float, default=0.3, help="the scripted model's median time of a call")
    run.add_argument("--latency-sigma", type=float, default=0.5, help="spread of that time")
    run.add_argument("--cache", type=Path, help="keep replies in this file, and use those that are in it")
    run.add_argument("--limits", type=Path, help="a TOML file of limits")
    run.add_argument("--max-concurrency", type=int, help="calls in flight")
    run.add_argument("--folder", type=Path, help="keep the run there, so that it can be resumed and forked")
    run.add_argument("--estimate", action="store_true", help="say what it would take, and do not run it")
    _add_common(run)
    run.set_defaults(command=_run)

    resume = commands.add_parser("resume", help="go on with a run that was broken off, or for more steps")
    resume.add_argument("run", type=Path, metavar="FOLDER", help="the run's folder")
    resume.add_argument("--steps", type=int, help="how many steps in all (default: as many as before)")
    _add_model(resume, None)
    _add_common(resume)
    resume.set_defaults(command=_resume)

    fork = commands.add_parser("fork", help="play a run of a folder again from a step on, under other limits")
    fork.add_argument("run", type=Path, metavar="FOLDER", help="the folder of a run that is not going on now")
    fork.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="where the fork is kept")
    fork.add_argument("--at-step", type=int, help="the first step of its own (default: where the run was broken off)")
    fork.add_argument("--steps", type=int, help="how many steps in all (default: as many as the run)")
    _add_model(fork, None)
    _add_common(fork)
    fork.set_defaults(command=_fork)

    page = commands.add_parser("report", help="write one self-contained page about a run that was kept in a folder")
    page.add_argument("run", type=Path, metavar="FOLDER", help="the run's folder")
    page.add_argument("file", type=Path, metavar="FILE", help="the page to write")
    page.add_argument("--pictures", action="store_true", help="with pictures for readers without JavaScript")
    page.set_defaults(command=_report)

    commands.add_parser(
        _REHEARSE, help="serve the scripted model over HTTP, with the latency and the faults of real endpoints"
    )

    bench = commands.add_parser("bench", help="measure what it costs")
    bench.add_argument("name", choices=_BENCHMARKS)
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    bench.add_argument("--quick", action="store_true", help="a short try-out, not to be quoted")
    bench.set_defaults(command=_bench)

    doctor = commands.add_parser("doctor", help="say what is installed, what is missing, and what mends it")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_model(parser: argparse.ArgumentParser, default: str | None) -> None:
    kinds = (
        "scripted (no key, no network), local (SmolLM2, or the GGUF file in --gguf), or an endpoint's name for a model"
    )
    parser.add_argument(
        "--model", default=default, help=kinds if default else f"{kinds} (default: the run's own, if scripted)"
    )
    parser.add_argument("--base-url", help="the endpoint (default: OPENAI_BASE_URL, or OpenAI's own)")
    parser.add_argument("--gguf", type=Path, help="a model file for --model local")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NAME=VALUE", help="set any limit; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report page")


# ---------------------------------------------------------------------- run


def _run(parsed: argparse.Namespace) -> int:
    from troupelab.people.world import World
    from troupelab.run import Run

    if parsed.latency_s < 0 or parsed.latency_sigma < 0:
        raise LimitError("--latency-s and --latency-sigma must not be negative")
    world = World.load(parsed.world, agents=parsed.agents, seed=parsed.seed)
    run = Run(
        world,
        _model(parsed),
        limits=_limits(parsed),
        steps=parsed.steps,
        seed=parsed.seed,
        folder=None if parsed.estimate else parsed.folder,
        cache=parsed.cache,
        order=parsed.order,
        on_error=parsed.on_error,
    )
    if parsed.estimate:
        found = run.estimate()
        told = [f"{name:>26}  {value}" for name, value in found.rows()] + [found.first_limit, *found.assumptions]
        print(json.dumps(found.as_dict(), indent=2) if parsed.json else "\n".join(filter(None, told)))
        return 0
    return _play_and_tell(run, parsed)


def _resume(parsed: argparse.Namespace) -> int:
    from troupelab.run import Run

    run = Run.resume(parsed.run, None if parsed.model is None else _model(parsed), steps=parsed.steps)
    if changes := dict(map(_assignment, parsed.limit)):
        run.limits.update(note="resumed", by="command line", **dict[str, Any](changes))
    return _play_and_tell(run, parsed)


def _fork(parsed: argparse.Namespace) -> int:
    from troupelab.run import Run

    model = None if parsed.model is None else _model(parsed)
    parent = Run.resume(parsed.run, model)
    try:
        changes = dict(map(_assignment, parsed.limit))
        run = parent.fork(changes, at_step=parsed.at_step, steps=parsed.steps, folder=parsed.into)
    finally:
        parent.close()
    return _play_and_tell(run, parsed)


def _play_and_tell(run: Run, parsed: argparse.Namespace) -> int:
    """Play a run to its end, and say what came of it as asked."""
    interrupted = _play(run)
    summary = run.summary()
    if parsed.json:
        print(json.dumps(summary, indent=2))
    else:
        print("\n".join(f"{name:>18}  {summary[name]}" for name in _TABLE))
    if parsed.html is not None:
        from troupelab.dashboard import report

        print(f"report: {report(run, parsed.html)}", file=sys.stderr)
    return 130 if interrupted else 0


def _report(parsed: argparse.Namespace) -> int:
    from troupelab.dashboard import report
    from troupelab.recording import Recording

    with Recording.open(parsed.run) as recording:
        print(report(recording, parsed.file, pictures=parsed.pictures))
    return 0


def _model(parsed: argparse.Namespace) -> Model:
    if parsed.model == "scripted":
        from troupelab.models.scripted import ScriptedModel

        if not hasattr(parsed, "latency_s"):
            return ScriptedModel()
        return ScriptedModel(parsed.seed, latency_s=parsed.latency_s, latency_sigma=parsed.latency_sigma)
    if parsed.model == "local":
        from troupelab.models.local import LocalModel

        return LocalModel(parsed.gguf)
    from troupelab.models.chat import ChatModel

    return ChatModel(parsed.model, base_url=parsed.base_url)


def _play(run: Run) -> bool:
    """Play to the end with a progress bar on standard error; tell whether the user broke it off."""
    from tqdm import tqdm

    run.start()
    total = run.progress().acts_total
    with tqdm(total=total, unit="act", desc=run.name, disable=not sys.stderr.isatty()) as bar:
        interrupted = False
        while True:
            try:
                run.wait(timeout=0.1)
            except TimeoutError:
                bar.update(run.progress().acts_done - bar.n)
                if run.state == "paused" and not interrupted:
                    # Nobody is here to mend it; what was done so far is reported. The reason is in the log.
                    interrupted = True
                    run.stop()
                continue
            except KeyboardInterrupt:
                interrupted = True
                run.stop(now=True)
                continue
            bar.update(run.progress().acts_done - bar.n)
            return interrupted


def _limits(parsed: argparse.Namespace) -> Limits:
    from troupelab.limits import Limits

    limits = Limits() if parsed.limits is None else Limits.from_toml(parsed.limits)
    changes = dict(map(_assignment, parsed.limit))
    if parsed.max_concurrency is not None:
        changes["max_concurrency"] = parsed.max_concurrency
    return limits.replace(**changes)


def _assignment(text: str) -> tuple[str, Number]:
    name, _, value = text.partition("=")
    if value.lower() == "none":
        return name, None
    try:
        return name, int(value)
    except ValueError:
        try:
            return name, float(value)
        except ValueError as error:
            raise LimitError(f"--limit takes NAME=VALUE with a number or none, not {text!r}") from error


# ---------------------------------------------------------------------- lab


def _lab(parsed: argparse.Namespace) -> int:
    if find_spec("jupyterlab") is None:
        raise MissingPackageError('the lab needs JupyterLab: pip install "troupelab[lab]"')
    notebook = _notebook()
    port = parsed.port or _free_port()
    token = secrets.token_hex(16)
    open_browser = not parsed.no_browser and _has_browser()
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        notebook.name,
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
    ]
    command += ["--allow-root"] if _platform.is_root() else []
    command += [] if open_browser else ["--no-browser"]
    print(f"TroupeLab: http://127.0.0.1:{port}/lab/tree/{notebook.name}?token={token}", flush=True)
    print("Stop it with Ctrl-C.", flush=True)
    # The token goes by the environment: a command line can be read by other users of the machine.
    environment = {**os.environ, "JUPYTER_TOKEN": token}
    try:
        return subprocess.run(command, cwd=notebook.parent, env=environment, check=False).returncode  # noqa: S603
    except KeyboardInterrupt:
        return 0


def _notebook() -> Path:
    """The quickstart: in a checkout where it lies, from a wheel a copy in the working folder (an older copy is kept)."""
    source = shared_folder("notebooks")
    if source.parent.name != "_share":
        return source / _QUICKSTART
    target = Path.cwd() / "notebooks"
    target.mkdir(exist_ok=True)
    for file in sorted(source.glob("*.ipynb")):
        if not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)
    return target / _QUICKSTART


def _free_port() -> int:
    for port in range(_FIRST_PORT, _FIRST_PORT + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    return 0


def _has_browser() -> bool:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


# ---------------------------------------------------------------------- bench and doctor


def _bench(parsed: argparse.Namespace) -> int:
    from importlib import import_module

    result = import_module(f"troupelab.bench.{parsed.name}").run(quick=parsed.quick)
    if parsed.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(f"{key:>28}  {value}  {result['spread'][key]}" for key, value in result["figures"].items()))
    return 0


def _doctor(parsed: argparse.Namespace) -> int:
    from troupelab.doctor import examine

    healthy = True
    for finding in examine():
        mark = "ok " if finding.ok else ("NO " if finding.needed else "-  ")
        print(f"{mark} {finding.name:<16} {finding.state}" + (f"   ->  {finding.remedy}" if finding.remedy else ""))
        healthy &= finding.ok or not finding.needed
    print("All that is needed is there." if healthy else "Something needed is missing: see the lines marked NO.")
    return 0 if healthy else 1
