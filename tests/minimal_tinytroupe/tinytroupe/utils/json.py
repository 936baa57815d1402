"""Objects as JSON and back, by their classes' names."""

import copy
import json
from pathlib import Path

_TYPE = "json_serializable_class_name"


class JsonSerializableRegistry:
    """What can be written as JSON and read back: every subclass is known by its name.

    A record that has a key like the one of the classes' names is read back as an object of this class.
    """

    class_mapping = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        JsonSerializableRegistry.class_mapping[cls.__name__] = cls

    @classmethod
    def _attributes(cls):
        return {name for one in cls.__mro__ for name in vars(one).get("serializable_attributes", ())}

    @classmethod
    def _in_json(cls, name):
        return getattr(cls, "serializable_attributes_renaming", {}).get(name, name)

    def to_json(self, include=None, suppress=None, file_path=None, serialization_type_field_name=_TYPE):
        def plain(value):
            if isinstance(value, JsonSerializableRegistry):
                return value.to_json(serialization_type_field_name=serialization_type_field_name)
            if isinstance(value, list):
                return [plain(each) for each in value]
            if isinstance(value, dict):
                return {key: plain(each) for key, each in value.items()}
            return copy.deepcopy(value)

        names = set(include or self._attributes() or vars(self)) - set(suppress or ())
        result = {serialization_type_field_name: type(self).__name__}
        result |= {self._in_json(name): plain(getattr(self, name, None)) for name in sorted(names)}
        if file_path:
            Path(file_path).parent.mkdir(parents=True, exist_ok=True)
            Path(file_path).write_text(json.dumps(result, indent=4), encoding="utf-8")
        return result

    @classmethod
    def from_json(cls, json_dict_or_path, suppress=None, serialization_type_field_name=_TYPE, post_init_params=None):
        def living(value):
            if isinstance(value, dict) and serialization_type_field_name in value:
                return JsonSerializableRegistry.from_json(
                    value, serialization_type_field_name=serialization_type_field_name
                )
            return [living(each) for each in value] if isinstance(value, list) else copy.deepcopy(value)

        content = json_dict_or_path
        if isinstance(content, str):
            content = json.loads(Path(content).read_text(encoding="utf-8"))
        target = cls.class_mapping.get(content.get(serialization_type_field_name), cls)
        made = target.__new__(target)
        for name in (target._attributes() or set(content) - {serialization_type_field_name}) - set(suppress or ()):
            if target._in_json(name) in content:
                setattr(made, name, living(content[target._in_json(name)]))
        if hasattr(made, "_post_init"):
            made._post_init(**(post_init_params or {}))
        return made


def post_init(cls):
    """`_post_init` is called after `__init__`, as it is after `from_json`."""
    original_init = cls.__init__

    def new_init(self, *args, **kwargs):
        original_init(self, *args, **kwargs)
        cls._post_init(self)

    cls.__init__ = new_init
    return cls
