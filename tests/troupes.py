"""Which TinyTroupe the bridge's tests run on: the real one wherever it can be imported, else our minimal package with its seams.

The real one is found as an installed package, on the import path, or in the folder that TROUPELAB_TINYTROUPE names.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from troupelab.bridges.tinytroupe import seams

MINIMAL = Path(__file__).resolve().parent / "minimal_tinytroupe"


def which() -> Literal["real", "minimal"]:
    """The package that the tests use, found without importing it."""
    return "minimal" if _folder() == MINIMAL else "real"


def _folder() -> Path:
    """The folder in which the package lies."""
    if named := os.environ.get(seams.FOLDER_VARIABLE):
        return Path(named).resolve()
    spec = importlib.util.find_spec("tinytroupe")
    if spec is None or spec.origin is None or not Path(spec.origin).with_name("agent").is_dir():
        return MINIMAL
    return Path(spec.origin).resolve().parents[1]


def summary() -> str:
    """One line for the end of a test session."""
    if which() == "real":
        return f"tinytroupe: the bridge's tests use the real package, in {_folder()}"
    return (
        f"tinytroupe: the bridge's tests use our minimal package; {seams.FOLDER_VARIABLE} names the real one's folder"
    )


@pytest.fixture(scope="session")
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import it once, where its log file does no harm; what others warn of at import is not our code's."""
    before = logging.getLogger().handlers[:]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(tmp_path_factory.mktemp("tinytroupe"))
        patch.setenv(seams.FOLDER_VARIABLE, str(_folder()))
        seams.find()
    for logger in (logging.getLogger("tinytroupe"), logging.getLogger()):
        for handler in logger.handlers[:]:
            # They write to the stream that pytest captured at the time, which is closed by now.
            if type(handler) is logging.StreamHandler and handler not in before:
                logger.removeHandler(handler)


def _forget(found: seams.TinyTroupe) -> None:
    """Empty the registries, which hold every agent, world and factory that was made."""
    found.person.TinyPerson.clear_agents()
    found.world.TinyWorld.clear_environments()
    for factory in found.factory.TinyPersonFactory.__mro__[:-1]:
        factory.clear_factories()
    found.control.reset()
    found.config.reset()


@pytest.fixture
def tinytroupe(_imported: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[seams.TinyTroupe]:
    """TinyTroupe with empty registries, its feed off, its clients as they were, in a folder of the test's own."""
    found = seams.find()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(found.person.TinyPerson, "communication_display", False)
    monkeypatch.setattr(found.world.TinyWorld, "communication_display", False)
    monkeypatch.setattr(found.clients, "_api_type_to_client", dict(found.clients._api_type_to_client))
    monkeypatch.setattr(found.clients, "_api_type_override", None)
    # TinyTroupe's own code drops open files and calls what is deprecated, and its client's replies are of another type than
    # pydantic expects; the rule stays for ours.
    warnings.filterwarnings("ignore", module=r"tinytroupe(\.|$)")
    warnings.filterwarnings("ignore", message="Pydantic serializer warnings", category=UserWarning)
    _forget(found)
    yield found
    _forget(found)


@pytest.fixture
def quitter(tinytroupe: seams.TinyTroupe) -> Iterator[Any]:
    """A faculty that ends the process, as a command line's parser does; TinyTroupe forgets its class afterwards."""

    class Quits(sys.modules["tinytroupe.agent.mental_faculty"].TinyMentalFaculty):  # type: ignore[misc, name-defined]
        """Ends the process, as a command line's parser does."""

        def process_action(self, agent: Any, action: Any) -> bool:
            """End it."""
            raise SystemExit(2)

        def actions_definitions_prompt(self) -> str:
            """Nothing is said of it."""
            return ""

        def actions_constraints_prompt(self) -> str:
            """Nothing is said of it."""
            return ""

    yield Quits("Quits")
    tinytroupe.registry.JsonSerializableRegistry.class_mapping.pop("Quits", None)
