"""Persons, what they remember, and how they act."""

import logging

logger = logging.getLogger("tinytroupe")


class CognitiveActionsModel:
    """The shape of a turn, with the one method of a pydantic model that clients call."""

    @classmethod
    def model_json_schema(cls):
        def of(kind, **properties):
            if kind == "object":
                return {"type": kind, "properties": properties, "required": list(properties)}
            return {"type": kind} | properties

        text = of("string")
        action = of("object", type=text, content=text, target=text)
        state = of("object", goals=text, context=of("array", items=text), attention=text, emotions=text)
        return of("object", actions=of("array", items=action), cognitive_state=state) | {"title": cls.__name__}


from tinytroupe.agent.memory import EpisodicConsolidator, EpisodicMemory, SemanticMemory  # noqa: E402
from tinytroupe.agent.mental_faculty import RecallFaculty, TinyMentalFaculty, TinyToolUse  # noqa: E402
from tinytroupe.agent.tiny_person import TinyPerson  # noqa: E402

__all__ = [
    "CognitiveActionsModel",
    "EpisodicConsolidator",
    "EpisodicMemory",
    "RecallFaculty",
    "SemanticMemory",
    "TinyMentalFaculty",
    "TinyPerson",
    "TinyToolUse",
]
