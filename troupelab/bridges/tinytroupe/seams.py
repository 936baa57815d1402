"""Finding TinyTroupe, and checking every seam of `seam_list` when it is first used.

The only module that imports TinyTroupe, and only inside `find`. Nothing is created for the check: functions are compared by their
parameters' names, what an object gets in its constructor by the constructor's code.

Owns the record of what was found, once a process. Any thread may call `find`.
"""

from __future__ import annotations

import dis
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from troupelab.bridges.tinytroupe.seam_list import SEAMS, Seam, brackets
from troupelab.errors import BridgeError, MissingPackageError

__all__ = ["FOLDER_VARIABLE", "INSTALL", "SEAMS", "SUPPORTED", "Seam", "TinyTroupe", "find"]

SUPPORTED = "0.6"
FOLDER_VARIABLE = "TROUPELAB_TINYTROUPE"
INSTALL = "pip install git+https://github.com/microsoft/TinyTroupe.git@v0.6.0"
_PLACEHOLDER = "0.0.1"
_UNKNOWN = "unknown"
_MAX_PROJECT_BYTES = 1 << 20
_VARIADIC, _KEYWORDS = 0x04, 0x08  # co_flags: has *args, has **kwargs


@dataclass(frozen=True, slots=True)
class TinyTroupe:
    """TinyTroupe as it was found: its version, its configuration and the modules that have seams.

    Attributes:
        version: Its version, or "unknown".
        config: `tinytroupe.config_manager`.
        clients: `tinytroupe.clients`.
        control: `tinytroupe.control`.
        agent: `tinytroupe.agent`.
        person: `tinytroupe.agent.tiny_person`.
        memory: `tinytroupe.agent.memory`.
        world: `tinytroupe.environment.tiny_world`.
        network: `tinytroupe.environment.tiny_social_network`.
        factory: `tinytroupe.factory.tiny_person_factory`.
        parallel: `tinytroupe.utils.parallel`.
        registry: `tinytroupe.utils.json`.
    """

    version: str
    config: Any
    clients: ModuleType
    control: ModuleType
    agent: ModuleType
    person: ModuleType
    memory: ModuleType
    world: ModuleType
    network: ModuleType
    factory: ModuleType
    parallel: ModuleType
    registry: ModuleType


@functools.cache
def find() -> TinyTroupe:
    """Import TinyTroupe and make sure that it has every seam of this bridge; what was found is kept.

    The folder that TROUPELAB_TINYTROUPE names, if any, comes first on the import path. TinyTroupe itself prints a disclaimer and
    its configuration when it is first imported, and begins a log file in the working directory.

    Returns:
        TinyTroupe's modules.

    Raises:
        MissingPackageError: It is not installed, or only its placeholder, or a package that it needs is missing.
        BridgeError: It is another version, it fails while it is imported, or a seam is gone or has changed.
    """
    version = _version(_folder())
    if version != _UNKNOWN and version.split(".")[:2] != SUPPORTED.split("."):
        raise BridgeError(
            f"TinyTroupe {version} is installed and this bridge works with {SUPPORTED}: install it by `{INSTALL}`."
        )
    modules = {name: _imported(name, version) for name in dict.fromkeys(seam.module for seam in SEAMS)}
    for seam in SEAMS:
        fault = _fault(modules[seam.module], seam)
        if fault:
            raise BridgeError(
                f"TinyTroupe {version} {fault} `{seam}`, on which this bridge builds: install the version that it knows by "
                f"`{INSTALL}`."
            )
    return TinyTroupe(
        version=version,
        config=modules["tinytroupe"].config_manager,
        clients=modules["tinytroupe.clients"],
        control=modules["tinytroupe.control"],
        agent=importlib.import_module("tinytroupe.agent"),
        person=modules["tinytroupe.agent.tiny_person"],
        memory=modules["tinytroupe.agent.memory"],
        world=modules["tinytroupe.environment.tiny_world"],
        network=modules["tinytroupe.environment.tiny_social_network"],
        factory=modules["tinytroupe.factory.tiny_person_factory"],
        parallel=modules["tinytroupe.utils.parallel"],
        registry=modules["tinytroupe.utils.json"],
    )


def _folder() -> Path:
    """The package's folder, found without importing it."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named and "tinytroupe" not in sys.modules:
        if not Path(named, "tinytroupe", "__init__.py").is_file():
            raise MissingPackageError(
                f"{FOLDER_VARIABLE} names {named!r}, where there is no package `tinytroupe`: name the folder that contains it."
            )
        sys.path.insert(0, str(Path(named).resolve()))
    spec = importlib.util.find_spec("tinytroupe")
    if spec is None or spec.origin is None:
        raise MissingPackageError(f"TinyTroupe is not installed: install it from its repository by `{INSTALL}`.")
    folder = Path(spec.origin).parent
    if not (folder / "agent").is_dir():
        raise MissingPackageError(
            f"What is installed as `tinytroupe` is only a placeholder with nothing in it, as on PyPI (version {_PLACEHOLDER}): "
            f"install the real one from its repository by `{INSTALL}`."
        )
    return folder


def _version(folder: Path) -> str:
    """The version of the package in this very folder: as it was installed, or as its source tree says."""
    try:
        distribution = importlib.metadata.distribution("tinytroupe")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        if Path(str(distribution.locate_file("tinytroupe"))).resolve() == folder.resolve():
            return distribution.version or _UNKNOWN
    project = folder.parent / "pyproject.toml"
    try:
        with project.open("rb") as file:
            about = tomllib.loads(file.read(_MAX_PROJECT_BYTES).decode()).get("project")
    except (OSError, ValueError):
        return _UNKNOWN
    if not isinstance(about, dict) or about.get("name") != "tinytroupe":
        return _UNKNOWN
    version = about.get("version")
    return version if isinstance(version, str) else _UNKNOWN


def _imported(name: str, version: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "tinytroupe":
            raise BridgeError(
                f"TinyTroupe {version} has not all that this bridge builds on ({error}): install the version that it knows by "
                f"`{INSTALL}`."
            ) from error
        raise MissingPackageError(
            f"TinyTroupe needs {f'the package `{missing}`' if missing else 'a package'}, which cannot be imported ({error}): "
            f"install TinyTroupe with all that it needs by `{INSTALL}`."
        ) from error
    except Exception as error:
        raise BridgeError(
            f"TinyTroupe {version} fails while it is imported ({type(error).__name__}: {error}): see whether `import tinytroupe` "
            "works, and whether a config.ini in the working directory is at fault."
        ) from error


def _fault(module: ModuleType, seam: Seam) -> str:
    """What is wrong with a seam, as a verb; empty when it is as pinned."""
    owner: Any = module
    *classes, name = seam.name.split(".")
    for one in classes:
        owner = getattr(owner, one, None)
    if not hasattr(owner, name):
        made = seam.parameters is None and isinstance(owner, type) and name in _set_by_constructor(owner)
        return "" if made else "has no"
    if seam.parameters is None:
        return ""
    function = _innermost(getattr(owner, name))
    if not isinstance(function, FunctionType):
        return "has something else than a function as"
    found = _names(function.__code__)
    return "" if found == seam.parameters else f"takes {brackets(found)} in"


def _names(code: CodeType) -> tuple[str, ...]:
    """A function's parameters in their order, without `self` and `cls`."""
    count = code.co_argcount + code.co_kwonlyargcount
    names = list(code.co_varnames[:count])
    for flag, stars in ((_VARIADIC, "*"), (_KEYWORDS, "**")):
        if code.co_flags & flag:
            names.append(stars + code.co_varnames[count])
            count += 1
    return tuple(names[1:] if names[:1] in (["self"], ["cls"]) else names)


def _innermost(function: Any) -> Any:
    """The function under its decorators: what it wraps, or the one function that a pass-through has in its closure."""
    while True:
        function = getattr(function, "__func__", function)
        if hasattr(function, "__wrapped__"):
            function = function.__wrapped__
            continue
        if not isinstance(function, FunctionType) or _names(function.__code__) != ("*args", "**kwargs"):
            return function
        held = [cell.cell_contents for cell in function.__closure__ or ()]
        inner = [one for one in held if isinstance(one, FunctionType)]
        if len(inner) != 1:
            return function
        function = inner[0]


@functools.cache
def _set_by_constructor(owner: type) -> frozenset[str]:
    """The attributes that a class's constructors set, its own and inherited ones."""
    makers = (_innermost(vars(one).get(name)) for one in owner.__mro__ for name in ("__init__", "_post_init"))
    codes = (maker.__code__ for maker in makers if isinstance(maker, FunctionType))
    return frozenset(
        step.argval for code in codes for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"
    )
