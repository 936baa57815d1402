"""The bodies of the rehearsal server's answers, as OpenAI's API has them: chat, streamed chat, and embeddings.

Pure; any thread may call it.
"""

from __future__ import annotations

import base64
from typing import Any

import orjson

from troupelab.models.rehearsal.reading import ChatAsk, EmbeddingAsk
from troupelab.text.embed import HashingEmbedder

__all__ = ["ChatAnswer", "embeddings"]

_CHARACTERS_A_TOKEN = 4
_PIECE_CHARS = 16
_MOST_PIECES = 200


class ChatAnswer:
    """One reply and its account, to be sent whole or in pieces; it ends early where the request's `max_tokens` says so.

    Args:
        name: the answer's id.
        ask: what was asked.
        text: the reply.
        cached: how many of the prompt's tokens came from the cache.
    """

    __slots__ = ("_ask", "_cached", "_finish", "_name", "_text", "tokens_in", "tokens_out")

    def __init__(self, name: str, ask: ChatAsk, text: str, cached: int) -> None:
        self._name = name
        self._ask = ask
        self._cached = cached
        self._finish = "stop"
        self._text = text
        if ask.max_tokens is not None and len(text) > ask.max_tokens * _CHARACTERS_A_TOKEN:
            self._text = text[: ask.max_tokens * _CHARACTERS_A_TOKEN]
            self._finish = "length"
        self.tokens_in = len(ask.prompt) // _CHARACTERS_A_TOKEN
        self.tokens_out = len(self._text) // _CHARACTERS_A_TOKEN

    def body(self) -> bytes:
        """The whole answer."""
        message = {"role": "assistant", "content": self._text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self._finish, "logprobs": None}
        return orjson.dumps(self._frame("chat.completion", [choice]) | {"usage": self._usage()})

    def pieces(self) -> list[bytes]:
        """The answer as server-sent events, the closing one included."""
        size = max(_PIECE_CHARS, -(-len(self._text) // _MOST_PIECES))
        texts = [self._text[start : start + size] for start in range(0, len(self._text), size)]
        deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": text}, None) for text in texts]
        deltas.append(({}, self._finish))
        usage = {"usage": None} if self._ask.with_usage else {}
        frames = [
            self._frame("chat.completion.chunk", [{"index": 0, "delta": delta, "finish_reason": finish}]) | usage
            for delta, finish in deltas
        ]
        if self._ask.with_usage:
            frames.append(self._frame("chat.completion.chunk", []) | {"usage": self._usage()})
        return [*(b"data: %b\n\n" % orjson.dumps(frame) for frame in frames), b"data: [DONE]\n\n"]

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        # No time of day: the same request has the same answer, byte for byte.
        return {"id": self._name, "object": kind, "created": 0, "model": self._ask.model, "choices": choices}

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.tokens_in,
            "completion_tokens": self.tokens_out,
            "total_tokens": self.tokens_in + self.tokens_out,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }


def embeddings(ask: EmbeddingAsk) -> tuple[bytes, int]:
    """The answer to an embedding request, and the tokens that it took."""
    vectors = HashingEmbedder(ask.dims).embed(ask.texts)
    listed = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode() if ask.base64 else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    tokens = sum(map(len, ask.texts)) // _CHARACTERS_A_TOKEN
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    found = {"object": "list", "data": listed, "model": ask.model, "usage": usage}
    return orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY), tokens
