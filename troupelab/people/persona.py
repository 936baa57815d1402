"""Personas: who an agent is, in TinyTroupe's own files.

A file is kept as it was read, unknown keys and key order included, and written back the same. Personas are immutable in use:
nobody changes the dictionary they hold. Any thread may read them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import orjson

from troupelab._share import shared_folder
from troupelab.errors import PersonaError
from troupelab.ids import draw
from troupelab.people.files import check_json, read_object, resolve, typed

__all__ = ["Fragment", "Persona"]

_SUFFIX = ".agent.json"
_FRAGMENT_SUFFIX = ".fragment.json"
_MAX_NAME = 120

P = TypeVar("P", bound="_Specification")


class _Specification:
    """A TinyTroupe file with a `type` and a `persona`."""

    kind: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, spec: Mapping[str, Any], *, source: str = "persona") -> None:
        self._spec = dict(spec)
        check_json(self._spec, source, PersonaError)
        typed(self._spec, "type", str, source, PersonaError, among=[self.kind])
        self._persona: dict[str, Any] = typed(self._spec, "persona", dict, source, PersonaError)

    @classmethod
    def load(cls: type[P], name: str | Path) -> P:
        """Read a file, by its path or by the name of one that ships with the package.

        Raises:
            PersonaError: there is no such file, or it is not a TinyTroupe file of this type.
        """
        path = resolve(name, shared_folder("data") / "personas", cls.suffix, PersonaError)
        return cls(read_object(path, PersonaError), source=str(path))

    def save(self, path: str | Path) -> None:
        """Write the file that TinyTroupe reads; loading it again gives the same."""
        Path(path).write_bytes(orjson.dumps(self._spec, option=orjson.OPT_INDENT_2) + b"\n")

    def to_dict(self) -> dict[str, Any]:
        """A copy of the whole file's content."""
        return copy.deepcopy(self._spec)

    def get(self, key: str, default: Any = None) -> Any:
        """An entry of the persona, such as `occupation`; not to be changed."""
        return self._persona.get(key, default)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._spec == other._spec

    def __hash__(self) -> int:
        return hash(orjson.dumps(self._spec))


class Fragment(_Specification):
    """A part of a persona (hobbies, views, …) that can be added to any: TinyTroupe's `Fragment` files."""

    kind = "Fragment"
    suffix = _FRAGMENT_SUFFIX


class Persona(_Specification):
    """Who an agent is: TinyTroupe's `TinyPerson` files.

    Args:
        spec: the file's content, `{"type": "TinyPerson", "persona": {"name": …}}`.
        source: what to call it in errors.

    Raises:
        PersonaError: a field is missing or of another type.

    >>> Persona.load("yusuf_karimov").name
    'Yusuf Karimov'
    """

    kind = "TinyPerson"
    suffix = _SUFFIX

    def __init__(self, spec: Mapping[str, Any], *, source: str = "persona") -> None:
        super().__init__(spec, source=source)
        name = typed(self._persona, "persona.name", str, source, PersonaError).strip()
        if not 0 < len(name) <= _MAX_NAME:
            raise PersonaError(source, "persona.name", f"a text of 1 to {_MAX_NAME} characters", found=f"{len(name)}")
        self.name: str = name
        self._json: str | None = None

    def __repr__(self) -> str:
        return f"<Persona {self.name}>"

    def to_json(self) -> str:
        """The persona as JSON on one line, as it stands in prompts; made once."""
        if self._json is None:
            self._json = orjson.dumps(self._persona).decode()
        return self._json

    def with_fragment(self, fragment: Fragment) -> Persona:
        """Add a fragment: lists are joined, objects merged, and what the persona already says stays."""
        spec = self.to_dict()
        spec["persona"] = _merge(spec["persona"], fragment.to_dict()["persona"])
        return Persona(spec)

    @staticmethod
    def names() -> list[str]:
        """The personas that ship with the package, by the names that `load` takes."""
        return sorted(
            file.name.removesuffix(_SUFFIX) for file in (shared_folder("data") / "personas").glob(f"*{_SUFFIX}")
        )

    @staticmethod
    def sample(n: int, seed: int = 0) -> list[Persona]:
        """Draw `n` personas with different names.

        The shipped ones come first, in an order drawn by the seed; further ones are put together from them: one's work and life,
        another's temper, a third's tastes, two others' beliefs, under a name of their own.

        >>> len({persona.name for persona in Persona.sample(200, seed=7)})
        200
        """
        shipped = [Persona.load(name) for name in Persona.names()]
        order = sorted(range(len(shipped)), key=lambda place: draw(seed, "sample", place))
        chosen = [shipped[place] for place in order[:n]]
        names = {persona.name for persona in chosen}
        for index in range(len(chosen), n):
            chosen.append(_combine(shipped, names, seed, index))
        return chosen


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merge(old[key], value) if key in old else value for key, value in new.items()}}
    if isinstance(old, list) and isinstance(new, list):
        return old + [item for item in new if item not in old]
    return new if old is None else old


def _combine(shipped: list[Persona], names: set[str], seed: int, index: int) -> Persona:
    def pick(purpose: str) -> Persona:
        return shipped[draw(seed, purpose, index) % len(shipped)]

    life = pick("life")
    temper, tastes, one, other = pick("temper"), pick("tastes"), pick("belief"), pick("belief2")
    spec = life.to_dict()
    persona = spec["persona"]
    persona["name"] = _new_name(
        [each for each in shipped if each.get("gender") == life.get("gender")], shipped, names, seed, index
    )
    persona["age"] = max(18, min(85, persona["age"] + draw(seed, "age", index) % 15 - 7))
    for key in ("style", "personality"):
        persona[key] = copy.deepcopy(temper.get(key))
    persona["preferences"] = copy.deepcopy(tastes.get("preferences"))
    persona["beliefs"] = list(dict.fromkeys([*one.get("beliefs", [])[::2], *other.get("beliefs", [])[1::2]]))
    persona["relationships"] = []
    return Persona(spec, source=f"sampled persona {index}")


def _new_name(firsts: list[Persona], lasts: list[Persona], names: set[str], seed: int, index: int) -> str:
    for attempt in range(10_000):
        number = draw(seed, "name", index, 0, attempt)
        first = firsts[number % len(firsts)].name.split()[0]
        last = lasts[(number >> 16) % len(lasts)].name.split()[-1]
        # A middle initial once the plain pairs run short.
        middle = f" {chr(65 + (number >> 32) % 26)}." if attempt > 2 else ""
        name = f"{first}{middle} {last}"
        if name not in names:
            names.add(name)
            return name
    raise PersonaError("sample", "name", "fewer personas: no name is left", found=str(index))
