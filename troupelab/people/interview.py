"""Interviews: how a question's answer is asked for and read. Pure; any thread may call it."""

from __future__ import annotations

from typing import Any

from troupelab.errors import ReplyError
from troupelab.models.model import Schema

__all__ = ["ANSWER", "EXPECTED_ANSWER", "INTERVIEWER", "read_answer"]

INTERVIEWER = "an interviewer"
"""Who asked, where an agent remembers that it was asked."""

EXPECTED_ANSWER = ("answer",)

ANSWER = Schema(
    "answer",
    {
        "type": "object",
        "properties": {"answer": {"type": "string"}},
        "required": ["answer"],
        "additionalProperties": False,
    },
)
"""What the reply to a question should be."""


def read_answer(found: dict[str, Any]) -> str:
    """Read the answer in a reply's object.

    Raises:
        ReplyError: it is no text, or empty.

    >>> read_answer({"answer": "I would buy it."})
    'I would buy it.'
    """
    answer = found.get("answer")
    if not isinstance(answer, str) or not answer.strip():
        raise ReplyError("'answer' must be a text", str(answer))
    return answer.strip()
