"""What an answer should be: TinyTroupe's `response_format`, as a schema for the endpoint and a way to read what came. Pure; any thread."""

from __future__ import annotations

import re
import unicodedata
import weakref
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import orjson

from troupelab.errors import InputError, ReplyError
from troupelab.models.model import Schema
from troupelab.models.parse import parse_object

__all__ = ["Form", "form_of"]

_MOST_SHOWN = 200


class Form(NamedTuple):
    """What an answer should be.

    `expected` are keys of which its object must have one, or None for any text; `read` takes what was parsed and returns the text that TinyTroupe
    gets, and the object that it stands for where there is one.
    """

    schema: Schema | None
    expected: Collection[str] | None
    read: Callable[[dict[str, Any]], tuple[str, Any]]


def form_of(response_format: Any) -> Form:
    """The form that TinyTroupe asks for: None (a text), {"type": "json_object"}, a JSON schema, or a pydantic model.

    Raises:
        InputError: it is something else.

    >>> form_of(None).read({"text": "Good evening."})
    ('Good evening.', None)
    """
    if response_format is None or response_format == {"type": "text"}:
        return _TEXT
    if response_format == {"type": "json_object"}:
        return _OBJECT
    if isinstance(response_format, dict) and isinstance(held := response_format.get("json_schema"), dict):
        schema = Schema(_name(str(held.get("name", "reply"))), held.get("schema") or {})
        return Form(schema, list(schema.schema.get("properties", {})) or None, _as_json if schema.schema else _as_text)
    if isinstance(response_format, type) and hasattr(response_format, "model_json_schema"):
        return _of_model(response_format)
    raise InputError(
        "send_message",
        "response_format",
        "None, an object or a pydantic model",
        found=repr(response_format)[:_MOST_SHOWN],
    )


_models: weakref.WeakKeyDictionary[type, Form] = weakref.WeakKeyDictionary()


def _of_model(model: Any) -> Form:
    found = _models.get(model)
    if found is None:
        whole = _closed(model.model_json_schema())
        name, fields, reference = _name(model.__name__), list(whole.get("properties", {})), weakref.ref(model)

        def read(parsed: dict[str, Any]) -> tuple[str, Any]:
            validate = getattr(reference(), "model_validate", None)
            try:
                value = parsed if validate is None else validate(parsed)
            except ValueError as error:  # pydantic's ValidationError is one
                first = str(error).splitlines()
                raise ReplyError(f"the reply is no {name}: {' '.join(first[:3])}"[:_MOST_SHOWN]) from None
            return _as_json(parsed)[0], value

        found = _models[model] = Form(Schema(name, whole), fields, read)
    return found


def _closed(schema: Any) -> Any:
    """A schema in which every object is closed and all of its fields are required, as endpoints that hold to it ask for."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        made |= {"additionalProperties": False, "required": list(schema["properties"])}
    return made


def _name(text: str) -> str:
    return re.sub(r"\W", "_", text)[:60] or "reply"


def _as_json(parsed: dict[str, Any]) -> tuple[str, Any]:
    text = orjson.dumps(parsed, option=orjson.OPT_NON_STR_KEYS).decode()
    return unicodedata.normalize("NFC", text), parsed


def _as_text(parsed: dict[str, Any]) -> tuple[str, Any]:
    return unicodedata.normalize("NFC", str(parsed["text"]).encode("utf-8", "ignore").decode()), None


def _as_object(parsed: dict[str, Any]) -> tuple[str, Any]:
    """JSON as it came, or the object that a model wrapped in prose, by the first key that it seems to have."""
    text, _ = _as_text(parsed)
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        key = _KEY.search(text)
        if key is None:
            raise ReplyError("the reply is not JSON", text) from None
        return _as_json(parse_object(text, [key[1]], max_bytes=_MAX_BYTES, max_depth=_MAX_DEPTH))
    return text, None


_KEY = re.compile(r"""["']?(\w{1,60})["']?\s{0,9}:""")
_MAX_BYTES, _MAX_DEPTH = 10_000_000, 100
_TEXT = Form(None, None, _as_text)
_OBJECT = Form(Schema("object", {}), None, _as_object)
