"""The command line and the doctor, run as a user runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from troupelab import cli, doctor
from troupelab.cli import main


def troupelab(*arguments, **options):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "troupelab", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_a_run_prints_its_numbers_as_json_and_repeats_itself():
    """The promised keys are there, and one or fifty calls in flight give the same transcript hash."""
    base = ["run", "product_launch", "--steps", "6", "--seed", "7", "--latency-s", "0.002", "--json"]
    summaries = []
    for more in ([], ["--max-concurrency", "1"], ["--max-concurrency", "50"]):
        ended = troupelab(*base, *more)
        assert ended.returncode == 0, ended.stderr
        summaries.append(json.loads(ended.stdout))
    keys = {"acts", "calls", "records", "consolidations", "wall_s", "efficiency", "peak_rss_mb", "transcript_sha256"}
    assert keys <= summaries[0].keys()
    assert summaries[0]["acts"] == summaries[0]["calls"] == 48
    assert len({summary["transcript_sha256"] for summary in summaries}) == 1


def test_a_run_prints_a_table(capsys):
    """Without --json, a table with one line a number."""
    assert main(["run", "market_panel", "--agents", "3", "--steps", "2", "--latency-s", "0"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["agents"], lines["acts"], lines["state"]) == ("3", "6", "done")


def test_limits_come_from_a_file_and_from_the_line(tmp_path, capsys):
    """--limits reads TOML, --limit sets one more, and what they ask for is what happens."""
    file = tmp_path / "limits.toml"
    file.write_text("recent_max_records = 20\n")
    arguments = [
        "run",
        "product_launch",
        "--steps",
        "8",
        "--latency-s",
        "0",
        "--limits",
        str(file),
        "--limit",
        "consolidate_to=0.1",
        "--json",
    ]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["consolidations"] > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "atlantis"], "atlantis: expected a file, or one of"),
        (["run", "product_launch", "--limit", "retain_fraction=9"], "retain_fraction must be from 0.05 to 1"),
        (["run", "product_launch", "--limit", "nothing=9"], "there is no limit 'nothing'"),
        (["run", "product_launch", "--limit", "retain_fraction=much"], "--limit takes NAME=VALUE"),
        (["run", "product_launch", "--agents", "5"], "8 agents, since this world names its cast"),
        (["run", "product_launch", "--steps", "0"], "steps must be a whole number from 1"),
        (["run", "product_launch", "--latency-s", "-1"], "must not be negative"),
        (["run", "product_launch", "--limits", "no_such.toml"], "no_such.toml: expected a TOML file of limits"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_done_is_one_sentence(arguments, message, capsys):
    """Each misuse ends with code 2 and one line that names it, without a traceback."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("troupelab: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_breaking_off_prints_what_was_done():
    """Ctrl-C stops the run, prints the numbers so far and exits with 130."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "troupelab",
        "run",
        "town",
        "--steps",
        "500",
        "--latency-s",
        "0.05",
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert json.loads(out)["state"] == "stopped"


def fetched(address, timeout_s):
    """What a server answers, once it listens."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return answer.read()
        except urllib.error.URLError:
            assert time.monotonic() < until, "the server never answered"
            time.sleep(0.1)


def test_the_lab_serves_the_quickstart(tmp_path):
    """`troupelab lab` prints an address under which JupyterLab answers with the quickstart, and ends on Ctrl-C."""
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(tmp_path / "c"),
        "JUPYTER_DATA_DIR": str(tmp_path / "d"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "r"),
    }
    command = [sys.executable, "-m", "troupelab", "lab", "--no-browser"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        address = re.search(
            r"http://127\.0\.0\.1:\d+/lab/tree/01_quickstart\.ipynb\?token=\w+", process.stdout.readline()
        )[0]
        contents = address.replace("/lab/tree/", "/api/contents/")
        assert json.loads(fetched(contents, timeout_s=60))["name"] == "01_quickstart.ipynb"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


def test_a_report_is_written_of_a_folder(tmp_path, capsys):
    """A run that was kept becomes a page; a folder without one is told in a sentence."""
    assert main(["run", "product_launch", "--steps", "2", "--latency-s", "0", "--folder", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path / "run"), str(tmp_path / "run.html")]) == 0
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "product_launch" in page
    assert "embedder" in page
    assert main(["report", str(tmp_path), str(tmp_path / "none.html")]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert not (tmp_path / "none.html").exists()


def test_an_estimate_does_not_run(tmp_path, capsys):
    """It tells calls, tokens, cost, time and room, and leaves no folder."""
    assert main(["run", "town", "--steps", "4", "--estimate", "--folder", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["calls"]["likely"] == 100
    assert not (tmp_path / "run").exists()


def test_the_doctor_names_versions_and_remedies(capsys):
    """On this installation nothing needed is missing, and every line that is not ok has its remedy."""
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "All that is needed is there." in out
    assert "plotly" in out
    assert all("->" in line for line in out.splitlines() if line.startswith(("-  ", "NO ")))


def test_the_doctor_tells_what_is_missing(monkeypatch, capsys):
    """A package that is not there is marked NO with the command that installs it, and the exit code is 1."""
    monkeypatch.setattr(doctor, "_NEEDED", ("no_such_package",))
    assert main(["doctor"]) == 1
    assert re.search(r"NO +no_such_package +not installed +-> +pip install no_such_package", capsys.readouterr().out)


def test_the_doctor_knows_the_empty_placeholder(tmp_path, monkeypatch):
    """A tinytroupe without agents is called what it is; one with agents is accepted; neither is imported."""
    package = tmp_path / "tinytroupe"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tinytroupe", raising=False)  # another test may have imported one
    finding = doctor.tinytroupe_finding()
    assert "placeholder" in finding.state
    assert "pip uninstall tinytroupe" in finding.remedy
    (package / "agent").mkdir()
    assert doctor.tinytroupe_finding().ok


def test_from_a_wheel_the_notebooks_are_copied_to_the_working_folder(tmp_path, monkeypatch):
    """Notebooks inside the package are copied where the user works; one that is there already is left alone."""
    inside = tmp_path / "_share" / "notebooks"
    inside.mkdir(parents=True)
    for name in ("01_quickstart.ipynb", "02_other.ipynb"):
        (inside / name).write_text("shipped")
    work = tmp_path / "work" / "notebooks"
    work.mkdir(parents=True)
    (work / "02_other.ipynb").write_text("mine")
    monkeypatch.chdir(work.parent)
    monkeypatch.setattr(cli, "shared_folder", lambda name: inside)
    assert cli._notebook() == work / "01_quickstart.ipynb"
    assert (work / "01_quickstart.ipynb").read_text() == "shipped"
    assert (work / "02_other.ipynb").read_text() == "mine"


def test_without_jupyterlab_the_lab_says_how_to_install_it(monkeypatch, capsys):
    """The lab's one missing package is named with its command."""
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert main(["lab"]) == 2
    assert 'pip install "troupelab[lab]"' in capsys.readouterr().err


def test_a_benchmark_speaks_the_common_language(monkeypatch, capsys):
    """A benchmark's JSON has medians, spreads and circumstances, with the keys that stay."""
    from troupelab.bench import engine

    monkeypatch.setattr(engine, "_efficiency", lambda agents, slots, steps, latency_s: 0.9)
    monkeypatch.setattr(engine, "_CPU_STEPS", 10)
    assert main(["bench", "engine", "--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name", "figures", "spread", "machine", "versions", "load", "commit"} <= found.keys()
    assert {"efficiency_100x100", "efficiency_1000x100", "cpu_ms_per_act"} <= found["figures"].keys()
    assert found["figures"]["cpu_ms_per_act"] > 0
