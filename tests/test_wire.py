"""What goes over the wire: bodies, replies, streams and errors of OpenAI-compatible endpoints."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import troupelab as tl
from troupelab.models.model import ChatMessage, Request, Schema
from troupelab.models.wire import Dialect, error_of, parse_error, read_answer, read_event, request_body, retry_after_s

SCHEMA = Schema("turn", {"type": "object"})


def request(text="Hello.", **facts):
    """A request with this text."""
    return Request("act", 0, 0, 0, 0, 2**63 + 5, (ChatMessage("user", text),), **facts)


def body(dialect, *, stream=False, **facts):
    """The body of a request in a dialect, as an object."""
    return json.loads(request_body(request(**facts), "m", dialect, stream=stream))


def test_a_body_asks_for_what_the_request_wants():
    """Messages, length, temperature, a seed that fits, the schema, and the usage of a stream are all in it."""
    found = body(Dialect("json_schema"), stream=True, schema=SCHEMA, temperature=0.5, max_tokens=77)
    assert found["messages"] == [{"role": "user", "content": "Hello."}]
    assert (found["model"], found["max_tokens"], found["temperature"], found["seed"]) == ("m", 77, 0.5, 5)
    assert found["response_format"]["json_schema"] == {"name": "turn", "schema": {"type": "object"}, "strict": True}
    assert found["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        ({"param": "max_tokens", "message": "Unsupported parameter: use 'max_completion_tokens'"}, "max_tokens"),
        ({"param": "temperature", "message": "does not support 0.2"}, "temperature"),
        ({"message": "seed: Extra inputs are not permitted"}, "seed"),
        ({"message": "stream_options is unknown"}, "stream_options"),
    ],
)
def test_what_an_endpoint_refuses_by_name_is_left_out_from_then_on(error, gone):
    """A 400 that names a parameter takes it out, once; the same complaint again is a refusal."""
    dialect = Dialect("json_schema")
    assert dialect.learn(400, error)
    assert gone not in body(dialect, stream=True, schema=SCHEMA)
    if gone == "max_tokens":
        assert body(dialect)["max_completion_tokens"] == 1_000
        assert dialect.learn(400, {"param": "max_completion_tokens", "message": "unknown"})
        assert "max_completion_tokens" not in body(dialect)
    assert not dialect.learn(400, {"message": "your prompt is too long"})
    assert not dialect.learn(500, error)


def test_structured_output_falls_back_step_by_step():
    """From a schema to plain JSON to nothing."""
    dialect, kinds = Dialect("json_schema"), []
    for _ in range(3):
        kinds.append(body(dialect, schema=SCHEMA).get("response_format", {}).get("type"))
        dialect.learn(400, {"message": "response_format is not supported by this model"})
    assert kinds == ["json_schema", "json_object", None]
    assert not dialect.learn(400, {"message": "response_format is not supported"})


def test_lone_surrogates_do_not_stop_a_request():
    """What JSON cannot carry becomes a question mark."""
    assert body(Dialect(""), text="a\ud800b")["messages"][0]["content"] == "a?b"


def completion(**message):
    """A chat completion with this message."""
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
    return json.dumps(
        {"model": "m-1", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    ).encode()


def test_an_answer_is_read_with_its_usage():
    """Text, tokens, cached tokens and the model's full name come out; content in parts is put together."""
    assert read_answer(completion(content="Hi.")) == ("Hi.", 10, 4, 8, "m-1")
    assert (
        read_answer(completion(content=[{"type": "text", "text": "Hi"}, {"type": "text", "text": "."}])).text == "Hi."
    )
    assert read_answer(b'{"choices": [{"message": {"content": null}}]}') == ("", None, None, 0, "")


def test_a_refusal_is_no_reply():
    """An endpoint that refuses for what was asked raises with its words."""
    with pytest.raises(tl.ModelRequestError, match="I cannot help with that"):
        read_answer(completion(content=None, refusal="I cannot help with that"))


@given(st.one_of(st.binary(max_size=200), st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage", "delta", "error", "model"]), inner)).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_no_body_breaks_the_reader(data):
    """Whatever comes back is an answer, or an error of ours; the same holds for a stream's lines and for error bodies."""
    for read in (read_answer, lambda found: read_event(b"data: " + found)):
        with contextlib.suppress(tl.ModelError):
            read(data)
    error = error_of(418, parse_error(data), model="m", url="u", retry_after=None)
    assert isinstance(error, tl.ModelRequestError)
    assert len(str(error)) < 500


def test_a_stream_is_read_line_by_line():
    """Deltas add text, the last events bring the usage, comments and [DONE] say nothing."""
    assert read_event(b": ping\n") is None
    assert read_event(b"data: [DONE]\n") is None
    assert read_event(b'data: {"choices": [{"delta": {"content": "a"}}], "usage": null}') == ("a", None)
    told = read_event(b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, "model": "m"}')
    assert told == ("", ("", 3, 2, 0, "m"))
    with pytest.raises(tl.ModelServerError, match="overloaded"):
        read_event(b'data: {"error": {"message": "overloaded"}}')


@pytest.mark.parametrize(
    ("status", "error", "kind", "says"),
    [
        (401, {"message": "Incorrect API key"}, tl.ModelSetupError, "OPENAI_API_KEY"),
        (403, {}, tl.ModelSetupError, "refused the key"),
        (404, {"code": "model_not_found", "message": "x"}, tl.ModelSetupError, "no model 'm'"),
        (404, {}, tl.ModelSetupError, "usually ends in /v1"),
        (302, {}, tl.ModelSetupError, "base_url"),
        (429, {"code": "insufficient_quota"}, tl.ModelSetupError, "no credit"),
        (429, {"code": "rate_limit_exceeded"}, tl.ModelBusyError, "busy"),
        (408, {}, tl.ModelBusyError, "busy"),
        (409, {}, tl.ModelBusyError, "busy"),
        (503, {"message": "overloaded"}, tl.ModelServerError, "overloaded"),
        (400, {"message": "too long"}, tl.ModelRequestError, "too long"),
        (413, {}, tl.ModelRequestError, "413"),
    ],
)
def test_each_status_is_the_error_that_says_what_to_do(status, error, kind, says):
    """Keys, addresses, models and credit are setup; busy and failing endpoints may pass; the rest is this request's fault."""
    made = error_of(status, error, model="m", url="http://x/v1", retry_after=2.0)
    assert type(made) is kind
    assert says in str(made)
    if isinstance(made, tl.ModelUnavailableError):
        assert made.retry_after_s == 2.0


@pytest.mark.parametrize(
    ("header", "seconds"), [("2", 2.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("inf", None), (None, None), ("1e9", 3600.0)]
)  # fmt: skip
def test_retry_after_is_read_and_bounded(header, seconds):
    """Seconds are taken up to an hour; dates and nonsense are not."""
    assert retry_after_s(header) == seconds
