"""The seams of TinyTroupe: each one where it is pinned, and an error that names it where it is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import troupes

from troupelab.bridges.tinytroupe import seams
from troupelab.bridges.tinytroupe.seams import SEAMS, Seam, TinyTroupe

TRY = """
import troupelab.errors
from troupelab.bridges.tinytroupe import seams
try:
    found = seams.find()
except troupelab.errors.TroupeLabError as error:
    print(f"{type(error).__name__}: {error}")
else:
    print(f"found {found.version}")
"""


def run(code: str, cwd: Path, **environment: str) -> str:
    """What a new process prints in which no TinyTroupe is in sight but the one that is named; its last line."""
    without = {"PYTHONPATH", seams.FOLDER_VARIABLE}
    clean = {name: value for name, value in os.environ.items() if name not in without}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def find_in(folder: Path) -> str:
    """What `find` says to the package in a folder."""
    return run(TRY, folder, **{seams.FOLDER_VARIABLE: str(folder)})


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of our minimal package, to break."""
    folder = tmp_path / "copied"
    shutil.copytree(troupes.MINIMAL, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def change(folder: Path, file: str, old: str, new: str) -> None:
    """Replace a piece of the package's text, which must be there once."""
    path = folder / "tinytroupe" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def made(tinytroupe: TinyTroupe) -> dict[str, Any]:
    """One object of each class whose objects' attributes are pinned."""
    person = tinytroupe.person.TinyPerson("Ann")
    return {
        "TinyPerson": person,
        "EpisodicMemory": person.episodic_memory,
        "SemanticMemory": person.semantic_memory,
        "ActionGenerator": person.action_generator,
        "TinyWorld": tinytroupe.world.TinyWorld("here", [person]),
        "TinySocialNetwork": tinytroupe.network.TinySocialNetwork("there"),
        "Simulation": tinytroupe.control.Simulation(),
        "TinyToolUse": sys.modules["tinytroupe.agent.mental_faculty"].TinyToolUse([]),
    }


@pytest.mark.parametrize("seam", SEAMS, ids=str)
def test_seam(seam: Seam, made: dict[str, Any]) -> None:
    """Each seam is where it is pinned, on the module, on the class or on an object of it."""
    wrong = seams._fault(sys.modules[seam.module], seam)
    assert not wrong, f"TinyTroupe {wrong} {seam} ({seam.purpose})"
    owner, _, name = seam.name.rpartition(".")
    if owner in made:
        assert hasattr(made[owner], name), f"an object of {owner} has no {name} ({seam.purpose})"


def test_no_seam_is_passed_over(tinytroupe: TinyTroupe) -> None:
    """Every seam would be missed if it were gone, and every signature if it had changed."""
    for seam in SEAMS:
        module = sys.modules[seam.module]
        assert seams._fault(module, replace(seam, name=f"{seam.name}_gone")) == "has no", seam
        if seam.parameters is not None:
            longer = replace(seam, parameters=(*seam.parameters, "more"))
            assert seams._fault(module, longer).startswith("takes ("), seam


def test_found(tinytroupe: TinyTroupe) -> None:
    """`find` hands out the modules themselves, the same ones each time."""
    assert tinytroupe is seams.find()
    assert tinytroupe.version == "unknown" or tinytroupe.version.startswith(seams.SUPPORTED)
    assert tinytroupe.config.get("api_type")
    assert (
        tinytroupe.registry.JsonSerializableRegistry.class_mapping["EpisodicMemory"] is tinytroupe.memory.EpisodicMemory
    )
    for field in ("clients", "control", "agent", "person", "memory", "world", "network", "factory", "parallel"):
        assert getattr(tinytroupe, field).__name__.startswith("tinytroupe."), field


def test_seams_are_listed_once() -> None:
    """No name is pinned twice, and each says what it is for."""
    names = [(seam.module, seam.name) for seam in SEAMS]
    assert len(set(names)) == len(names)
    assert all(seam.purpose and seam.module.split(".")[0] == "tinytroupe" for seam in SEAMS)


def test_a_step_goes_through_the_seams(tinytroupe: TinyTroupe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both packages behave alike where the bridge relies on it: acts, records, what is heard, consolidation, a lost memory."""
    asked: list[str] = []

    class Client:
        def send_message(self, current_messages: Any, **how: Any) -> dict[str, str]:
            asked.append(str(current_messages[-1]["content"]))
            if isinstance(how.get("response_format"), type):
                # No letter twice, as TinyTroupe takes what is alike for a repetition.
                actions = [{"type": "TALK", "content": chr(ord("a") + len(asked)) * 5, "target": "Bob"}]
                state = {"goals": "to talk", "context": ["here"], "attention": "Bob", "emotions": "calm"}
                reply: Any = {"actions": actions, "cognitive_state": state}
            else:
                note = {"content": "We talked.", "type": "consolidated", "simulation_timestamp": None}
                reply = {"consolidation": [note]}
            return {"role": "assistant", "content": json.dumps(reply)}

        def set_api_cache(self, cache_api_calls: bool, cache_file_name: str | None = None) -> None:
            """Keep nothing."""

    tinytroupe.clients.register_client("test", Client())
    tinytroupe.clients.force_api_type("test")
    monkeypatch.setattr(tinytroupe.person.TinyPerson, "MIN_EPISODE_LENGTH", 4)
    ann, bob = (tinytroupe.person.TinyPerson(name) for name in ("Ann", "Bob"))
    world = tinytroupe.world.TinyWorld("here", [ann, bob])
    world.make_everyone_accessible()
    actions = world.run(1, return_actions=True)

    assert [done["action"]["type"] for done in actions[0]["Ann"]] == ["TALK", "DONE"]
    assert [record["type"] for record in bob.episodic_memory.retrieve_all()] == [
        "action",
        "action",
        "stimulus",
        "stimulus",
    ]
    assert set(bob.episodic_memory.retrieve_last(1, include_omission_info=False)[0]) == {
        "role",
        "content",
        "type",
        "simulation_timestamp",
    }
    assert len(asked) == 2
    assert not any("stimuli" in last for last in asked)
    assert not bob.semantic_memory.memories

    world.run(1)
    assert len(asked) == 2 + 2 + 2, "the second step has two acts, and Bob's biography and consolidation"
    assert [("CONVERSATION" in last) for last in asked[2:4]].count(True) == 1, "Bob is told what he heard"
    assert bob.episodic_memory.memory
    assert [note["type"] for note in bob.semantic_memory.memories] == ["consolidated"]
    assert not [found for found in bob.semantic_memory.retrieve_relevant("talk") if "talked" in str(found)]

    again = tinytroupe.memory.EpisodicMemory.from_json(bob.episodic_memory.to_json())
    assert again.retrieve_all() == bob.episodic_memory.retrieve_all()
    state = json.loads(json.dumps(world.encode_complete_state(), default=str))
    assert [agent["name"] for agent in state["agents"]] == ["Ann", "Bob"]


def test_a_failed_act_is_swallowed(tinytroupe: TinyTroupe) -> None:
    """In a step of TinyTroupe, an agent whose act raises is missing from the actions, and nobody is told."""

    class Failing:
        def generate_next_actions(self, agent: Any, current_messages: Any) -> Any:
            raise ValueError("no turn")

    ann = tinytroupe.person.TinyPerson("Ann", action_generator=Failing())
    world = tinytroupe.world.TinyWorld("here", [ann])
    assert world.run(1, return_actions=True) == [{}]


def test_a_social_network_cannot_run(tinytroupe: TinyTroupe) -> None:
    """TinyTroupe's social network raises at its first step: `run` hands arguments to a `_step` that takes none."""
    network = tinytroupe.network.TinySocialNetwork("there")
    with pytest.raises(TypeError, match="_step"):
        network.run(1)


def test_the_minimal_package(tmp_path: Path) -> None:
    """Our minimal package passes `find`, and says that it is not the real one."""
    assert find_in(troupes.MINIMAL) == "found 0.6.0+minimal"


def test_never_imported_by_ours(tmp_path: Path) -> None:
    """Neither the package nor its bridges import TinyTroupe by themselves."""
    code = """
        import sys, troupelab, troupelab.bridges, troupelab.bridges.tinytroupe.seams
        print(sorted(name for name in sys.modules if name.split(".")[0] == "tinytroupe"))
    """
    assert run(textwrap.dedent(code), tmp_path, PYTHONPATH=str(troupes.MINIMAL)) == "[]"


def test_not_installed(tmp_path: Path) -> None:
    """Without TinyTroupe, the error says how to install it."""
    hide = "import sys; sys.modules['tinytroupe'] = None\n"
    said = run(hide + TRY, tmp_path)
    assert (
        said
        == f"MissingPackageError: TinyTroupe is not installed: install it from its repository by `{seams.INSTALL}`."
    )
    folder = tmp_path / "empty"
    folder.mkdir()
    assert find_in(folder).startswith(f"MissingPackageError: {seams.FOLDER_VARIABLE} names '{folder}'")


def test_placeholder(tmp_path: Path) -> None:
    """The registry's empty placeholder is not imported, and named as what it is."""
    package = tmp_path / "tinytroupe"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    said = find_in(tmp_path)
    assert said.startswith("MissingPackageError: ")
    assert "placeholder" in said
    assert seams.INSTALL in said


@pytest.mark.parametrize("version", ["0.5.2", "0.7.0", "1.0"])
def test_another_version(copied: Path, version: str) -> None:
    """A version that the bridge does not know is refused before it is imported, even with all seams there."""
    (copied / "pyproject.toml").write_text(f'[project]\nname = "tinytroupe"\nversion = "{version}"\n')
    (copied / "tinytroupe" / "agent" / "__init__.py").write_text("raise SystemExit('imported')\n")
    said = find_in(copied)
    assert said.startswith(f"BridgeError: TinyTroupe {version} is installed and this bridge works with 0.6")
    assert seams.INSTALL in said


def test_an_installed_version(copied: Path, tmp_path: Path) -> None:
    """What was installed in the package's own folder says the version, before a source tree does; another folder's does not."""
    for folder in (tmp_path, copied):
        (folder / "tinytroupe-9.9.dist-info").mkdir()
        (folder / "tinytroupe-9.9.dist-info" / "METADATA").write_text("Name: tinytroupe\nVersion: 9.9\n")
        said = run(TRY, tmp_path, **{seams.FOLDER_VARIABLE: str(copied), "PYTHONPATH": str(tmp_path)})
        if folder == tmp_path:
            assert said == "found 0.6.0+minimal"
    assert said.startswith("BridgeError: TinyTroupe 9.9 is installed")


def test_the_named_folder_comes_first(copied: Path, tmp_path: Path) -> None:
    """The folder that the variable names, also from the working directory on, comes before the rest of the import path."""
    placeholder = tmp_path / "site" / "tinytroupe"
    placeholder.mkdir(parents=True)
    (placeholder / "__init__.py").touch()
    there = {"PYTHONPATH": str(placeholder.parent)}
    assert "placeholder" in run(TRY, tmp_path, **there)
    assert run(TRY, tmp_path, **there, **{seams.FOLDER_VARIABLE: copied.name}) == "found 0.6.0+minimal"


@pytest.mark.parametrize(
    "project",
    [None, "", "not = [toml", '[project]\nname = "other"\nversion = "9.9"\n', "[project]\nname='tinytroupe'\n"],
)
def test_unknown_version(copied: Path, project: str | None) -> None:
    """Where no version is to be found, the seams decide."""
    (copied / "pyproject.toml").unlink()
    if project is not None:
        (copied / "pyproject.toml").write_text(project)
    assert find_in(copied) == "found unknown"


@pytest.mark.parametrize(
    ("file", "old", "new", "seam"),
    [
        (
            "agent/tiny_person.py",
            "def consolidate_episode_memories(self):",
            "def consolidate(self):",
            "has no `tinytroupe.agent.tiny_person.TinyPerson.consolidate_episode_memories()`",
        ),
        (
            "environment/tiny_world.py",
            "def _step(self, timedelta_per_step=None, randomize_agents_order=True, parallelize=True):",
            "def _step(self, timedelta_per_step=None, parallelize=True, *, order=None):",
            "takes (timedelta_per_step, parallelize, order) in"
            " `tinytroupe.environment.tiny_world.TinyWorld._step(timedelta_per_step, randomize_agents_order, parallelize)`",
        ),
        (
            "agent/memory.py",
            "self.episodic_buffer = []\n\n    def commit_episode",
            "self.buffer = []\n\n    def commit_episode",
            "has no `tinytroupe.agent.memory.EpisodicMemory.episodic_buffer`",
        ),
        (
            "control.py",
            "_current_simulation_id = None\n\n\ndef reset",
            "_current = None\n\n\ndef reset",
            "has no `tinytroupe.control._current_simulation_id`",
        ),
        (
            "clients/__init__.py",
            "def register_client(api_type, client):",
            "register_client = 1\n\n\ndef register(api_type, client):",
            "has something else than a function as `tinytroupe.clients.register_client(api_type, client)`",
        ),
    ],
)
def test_a_broken_seam(copied: Path, file: str, old: str, new: str, seam: str) -> None:
    """A seam that is gone or has changed is named, with the signature that was expected."""
    change(copied, file, old, new)
    if file == "clients/__init__.py":
        change(copied, file, 'register_client("openai", OpenAIClient())', "")
    said = find_in(copied)
    assert said.startswith(f"BridgeError: TinyTroupe 0.6.0+minimal {seam}, on which"), said
    assert seams.INSTALL in said


def test_a_missing_module(copied: Path) -> None:
    """A module that is gone is named."""
    (copied / "tinytroupe" / "utils" / "parallel.py").rename(copied / "tinytroupe" / "utils" / "side_by_side.py")
    change(copied, "utils/__init__.py", "from tinytroupe.utils.parallel", "from tinytroupe.utils.side_by_side")
    assert find_in(copied).startswith(
        "BridgeError: TinyTroupe 0.6.0+minimal has not all that this bridge builds on (No module named 'tinytroupe.utils.parallel')"
    )


def test_a_missing_dependency(copied: Path) -> None:
    """A package that TinyTroupe needs and that is not here is named."""
    change(copied, "agent/memory.py", "import copy\n", "import copy\n\nimport lama_index_core.schema\n")
    said = find_in(copied)
    assert said.startswith("MissingPackageError: TinyTroupe needs the package `lama_index_core`"), said
    assert seams.INSTALL in said


def test_an_import_that_fails(copied: Path) -> None:
    """Any other failure at import becomes a sentence, too."""
    change(copied, "agent/memory.py", "import copy\n", "import copy\n\nraise KeyError('OpenAI')\n")
    assert find_in(copied).startswith(
        "BridgeError: TinyTroupe 0.6.0+minimal fails while it is imported (KeyError: 'OpenAI')"
    )
