"""What a model on this machine is asked, and the grammar that its answer must follow.

A small model (SmolLM2 has 135 million parameters) neither needs nor bears a prompt of 8 kB: on one core, each token costs it 7 ms to
read and 18 ms to write. `short_task` puts the request's sections into a few lines – who one is, what one believes, what was said – after examples that
are the same for every agent, so that the library reads them once; the model answers with a line as in a play, and the JSON around it is
written here, where it costs nothing. `whole_task` is for bigger models: the messages as they are, and JSON under a grammar.

Every text in these grammars has a greatest length, so that an answer always ends. Pure; any thread may call it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from troupelab.models.model import CONDENSE, NOW, PEOPLE, PERSONA, QUESTION, WORLD, Request, sections

__all__ = ["SHORT_KINDS", "Task", "cut_messages", "kind", "short_task", "whole_task"]

SHORT_KINDS = ("turn", "notes", "answer")
"""What can be asked for in the short form."""

MOODS = ("calm", "curious", "pleased", "amused", "hopeful", "doubtful", "worried", "bored", "annoyed")
_MAX_WORLD = 160
_MAX_BELIEF = 80
_MAX_QUESTION = 140
_MAX_VOICE = 80
_MAX_OLD = 700
_MAX_NAMES = 24
_SENTENCE_WORDS = 18
_MAX_SHORT_TOKENS = 80
_MAX_TEXT_CHARS = 400
_JSON_TOKENS = 150
_MAX_NOTES = 4
_ASKED = "The question: "
_TALK_TO = "You can talk to: "
_REACH = "Within reach: "
_LINE = re.compile(r"\((\w+)\) (THINK|TALK|REACH_OUT)(?: to ([^:]*))?: (.*)", re.DOTALL)

_SCENE = """\
You write a play, one line at a time. The line begins with how the person feels, then THINK or TALK and to whom. \
The person answers what was asked, in one short sentence, as themselves."""
_EXAMPLES = (
    "Rosa Lind, baker. Believes: Bread needs time, and so do people.\n"
    "Mayor: We will move the market to Sunday. What do you say?\n"
    "Tom Berg: More people are free on Sunday.\nRosa:",
    "(doubtful) TALK to Tom: I bake all night, so Sunday is my only day to sleep.",
    "Ivo Kant, bus driver. Believes: A promise is a timetable.\nMayor: The bridge will be closed for 12 days.\nIvo:",
    "(annoyed) THINK: Twelve days, and nobody asked the drivers.",
)
_SECRETARY = "You take notes for somebody: a fact a line, who said it, with every number and name."
_NOTES_EXAMPLE = (
    "Rosa Lind: I can bake 40 loaves by Friday. It is hot in here.\nMayor: The market moves to Sunday.\nNotes:",
    "- Rosa Lind can bake 40 loaves by Friday.\n- The Mayor moves the market to Sunday.",
)
_ANSWERS = "You answer a question as the person that you are, in one short sentence."


class Task(NamedTuple):
    """What is put to the library, and `read`: what makes the reply's JSON of the text that comes back."""

    messages: list[dict[str, str]]
    grammar: str
    schema: dict[str, Any] | None
    max_tokens: int
    read: Callable[[str], str]


def kind(request: Request) -> str:
    """What is asked for: the schema's name where there is one, otherwise notes, an answer or a turn, as the prompt wants it.

    >>> from troupelab.models.model import ChatMessage
    >>> kind(Request("act", 0, 0, 0, 0, 1, (ChatMessage("user", "Hello."),)))
    'turn'
    """
    if request.schema is not None:
        return request.schema.name
    last = request.messages[-1].content if request.messages else ""
    return "notes" if CONDENSE in last else "answer" if QUESTION in last else "turn"


def short_task(request: Request) -> Task:
    """What a small model is asked in place of the request's messages.

    Args:
        request: of a kind that has a short form: a turn, notes or an answer.

    >>> from troupelab.models.model import ChatMessage
    >>> task = short_task(Request("act", 0, 0, 0, 0, 1, (ChatMessage("user", NOW + "Good evening."),)))
    >>> print(task.messages[-1]["content"])
    You
    Good evening.
    You:
    >>> task.read("(calm) TALK: Hello.")[:50]
    '{"actions":[{"type":"TALK","content":"Hello.","tar'
    """
    wanted = kind(request)
    if wanted == "notes":
        return _short_notes(request)
    found = sections("".join(message.content for message in request.messages))
    who, about = _person(found.get(PERSONA, ""), request.seed)
    listeners, reach = _people(found.get(PEOPLE, ""))
    sentence = _sentence_grammar(request.max_tokens)
    if wanted == "answer":
        question = _squeeze(request.messages[-1].content.rpartition(_ASKED)[2], _MAX_QUESTION, end=True)
        ask = f"{about}\nQuestion: {question}\n{who}:"
        messages = _chat(_ANSWERS, (), ask)
        return Task(messages, f"root ::= sentence\n{sentence}", None, _short_tokens(request), _answer)
    heard = _heard(found, who, request.seed, {*listeners, *reach})
    messages = _chat(f"{_SCENE}\n{_squeeze(found.get(WORLD, ''), _MAX_WORLD)}", _EXAMPLES, f"{about}\n{heard}\n{who}:")
    called, far = _called(listeners), _called(reach)
    grammar = _turn_grammar(called, far) + sentence
    return Task(messages, grammar, None, _short_tokens(request), partial(_turn, called | far))


def whole_task(request: Request, room_tokens: int) -> Task:
    """The request's messages as they are, held to the JSON that they ask for.

    Args:
        request: any; a schema of another name than turn, notes and answer is left to the library.
        room_tokens: the reply has at most so many, whatever the request says.
    """
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    wanted = kind(request)
    max_tokens = min(request.max_tokens, room_tokens)
    # At worst a character takes a token, and a turn has three texts and three short ones.
    most = max(8, min(_MAX_TEXT_CHARS, (max_tokens - _JSON_TOKENS) // 4))
    common = f"text ::= char{{0,{most}}}\nbrief ::= char{{0,{most // 3}}}\n{_CHAR}"
    if wanted == "turn":
        listeners, reach = _people(sections("".join(message.content for message in request.messages)).get(PEOPLE, ""))
        names = [json.dumps(name, ensure_ascii=False)[1:-1] for name in (*listeners, *reach)]
        grammar = _JSON_TURN + _names("name", names) + common
    elif wanted == "notes":
        grammar = f'root ::= "{{\\"notes\\":[\\"" text "\\"" (",\\"" text "\\""){{0,3}} "]}}"\n{common}'
    elif wanted == "answer":
        grammar = f'root ::= "{{\\"answer\\":\\"" text text "\\"}}"\n{common}'
    else:
        assert request.schema is not None
        return Task(messages, "", request.schema.schema, max_tokens, str)
    return Task(messages, grammar, None, max_tokens, str)


def cut_messages(messages: Sequence[dict[str, str]], most: int) -> list[dict[str, str]]:
    r"""The messages with at most so many characters: what is oldest in the last one goes first, what was just heard stays.

    Args:
        messages: of a chat; the last one ends with what was just heard.
        most: characters in all of them together.

    >>> cut_messages([{"role": "user", "content": "old\nnewer" + NOW + "Speak!"}], 20)[0]["content"]
    'newer\n# Now\nSpeak!'
    """
    kept = [dict(message) for message in messages]
    excess = sum(len(message["content"]) for message in kept) - most
    if excess <= 0:
        return kept
    last = kept[-1]["content"]
    start = max(last.rfind(NOW), last.rfind(CONDENSE))
    old = last[:start] if start >= 0 else last
    at = min(excess, len(old))
    at = old.find("\n", at) + 1 or at  # whole lines go, as far as there are any
    kept[-1]["content"] = last[at:]
    for message in kept[:-1][::-1]:
        excess = sum(len(each["content"]) for each in kept) - most
        if excess > 0:
            message["content"] = message["content"][: max(0, len(message["content"]) - excess)]
    return kept


# ---------------------------------------------------------------------- the short prompts


def _chat(system: str, examples: Sequence[str], ask: str) -> list[dict[str, str]]:
    told = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(examples)]
    return [{"role": "system", "content": system}, *told, {"role": "user", "content": ask}]


def _short_tokens(request: Request) -> int:
    return min(_MAX_SHORT_TOKENS, request.max_tokens)


def _short_notes(request: Request) -> Task:
    """The records that carry a number first, in their order, as many as there is room for."""
    told = request.messages[-1].content.rpartition(CONDENSE)[2]
    lines = [line.partition(", ")[2] for line in told.splitlines() if line.startswith("step ")]
    order = sorted(range(len(lines)), key=lambda index: (not re.search(r"\d", lines[index]), index))
    room, chosen = _MAX_OLD, []
    for index in order:
        line = _squeeze(lines[index], _MAX_VOICE + 40)
        if len(line) > room:
            break
        room -= len(line)
        chosen.append((index, line))
    ask = "\n".join(line for _, line in sorted(chosen)) or "Nobody said anything."
    grammar = f'root ::= note ("\\n" note){{0,{_MAX_NOTES - 1}}}\nnote ::= "- " sentence\n'
    grammar += _sentence_grammar(request.max_tokens // _MAX_NOTES * 2)
    return Task(_chat(_SECRETARY, _NOTES_EXAMPLE, f"{ask}\nNotes:"), grammar, None, request.max_tokens, _notes)


def _person(persona: str, seed: int) -> tuple[str, str]:
    """A first name, and a line on who that is; the belief changes with the seed."""
    found = _loads(persona.strip())
    found = found if isinstance(found, dict) else {}
    name = _squeeze(found.get("name"), 40) or "You"
    occupation = found.get("occupation")
    title = occupation.get("title") if isinstance(occupation, dict) else occupation
    work = _squeeze(str(title or "").partition(",")[0], 40)
    beliefs = found.get("beliefs")
    belief = _squeeze(beliefs[seed % len(beliefs)], _MAX_BELIEF) if isinstance(beliefs, list) and beliefs else ""
    first = name.split(" ")[0]
    about = f"{name}, {work.lower()}." if work else name
    return first, f"{about} Believes: {belief}" if belief else about


def _people(text: str) -> tuple[list[str], list[str]]:
    """Whom one can talk to, and who is within reach."""
    listeners: list[str] = []
    reach: list[str] = []
    for line in text.splitlines():
        if line.startswith(_TALK_TO):
            names = line.removeprefix(_TALK_TO).removesuffix(".")
            listeners = [] if names == "nobody" else names.split(", ")
        elif line.startswith(_REACH):
            found = _loads(line.removeprefix(_REACH))
            reach = [str(name) for name in found] if isinstance(found, list) else []
    return listeners[:_MAX_NAMES], reach[:_MAX_NAMES]


def _heard(found: dict[str, str], who: str, seed: int, known: set[str]) -> str:
    """The last word from outside the circle, and one voice from within it, which the seed chooses: all would answer the last one."""
    now = found.get(NOW, "")
    told = [item for line in now.splitlines() if line.startswith('{"type"') and isinstance(item := _loads(line), dict)]
    outside = [item for item in told if str(item.get("source")) not in known]
    inside = [item for item in told if str(item.get("source")) in known]
    chosen = outside[-1:] + ([inside[seed % len(inside)]] if inside else [])
    lines = [
        f"{_squeeze(item.get('source'), 40)}: "
        + _squeeze(item.get("content"), _MAX_QUESTION if item in outside else _MAX_VOICE, end=item in outside)
        for item in chosen
    ]
    return "\n".join(lines) or _squeeze(now, _MAX_QUESTION, end=True) or "It is quiet."


def _squeeze(value: object, most: int, *, end: bool = False) -> str:
    """A text on one line, cut at a word: its beginning, or its end, where questions stand."""
    text = " ".join(str(value or "").split())
    if len(text) <= most:
        return text
    return text[-most:].partition(" ")[2] if end else text[:most].rpartition(" ")[0]


def _loads(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


# ---------------------------------------------------------------------- the grammars (GBNF)

_CHAR = 'char ::= [^"\\\\\\x7F\\x00-\\x1F] | "\\\\" ["\\\\/bfnrt]\n'
_JSON_TURN = (
    'root ::= "{\\"actions\\":[" (action ","){1,3} done "],\\"cognitive_state\\":{\\"goals\\":\\"" brief '
    '"\\",\\"attention\\":\\"" brief "\\",\\"emotions\\":\\"" brief "\\"}}"\n'
    'action ::= "{\\"type\\":\\"" ("THINK" | "TALK" | "REACH_OUT") "\\",\\"content\\":\\"" text "\\",\\"target\\":\\"" name? "\\"}"\n'
    'done ::= "{\\"type\\":\\"DONE\\",\\"content\\":\\"\\",\\"target\\":\\"\\"}"\n'
)


def _sentence_grammar(max_tokens: int) -> str:
    """A sentence of a few words: bounded by words, so that none is cut in the middle of one."""
    words = max(2, min(_SENTENCE_WORDS, (max_tokens - 24) // 4))
    letter = "[^ .!?,;:–/\\-\\x00-\\x1F\\x7F]"
    between = '" " | ", " | "; " | ": " | " – " | "-"'
    sentence = f"[A-Z] {letter}{{0,15}} (({between}) {letter}{{1,16}}){{1,{words}}} [.!?]"
    return f"sentence ::= {sentence}\n"


def _names(rule: str, names: Collection[str]) -> str:
    return f"{rule} ::= {' | '.join(json.dumps(name, ensure_ascii=False) for name in names) or _NOBODY}\n"


_NOBODY = '""'


def _turn_grammar(listeners: Collection[str], reach: Collection[str]) -> str:
    moods = " | ".join(f'"{mood}"' for mood in MOODS)
    says = ['"THINK: "', '"TALK" (" to " name)? ": "' if listeners else '"TALK: "']
    rules = f'root ::= "(" ({moods}) ") " said sentence\n' + (_names("name", listeners) if listeners else "")
    if reach:
        says.append('"REACH_OUT to " far ": "')
        rules += _names("far", reach)
    return f"{rules}said ::= {' | '.join(says)}\n"


def _called(names: Sequence[str]) -> dict[str, str]:
    """Names by what people are called in a line: the first name, which takes fewer tokens, where no two have it."""
    first = [name.split(" ")[0] for name in names]
    called = {short if first.count(short) == 1 else name: name for short, name in zip(first, names, strict=True)}
    return {short: name for short, name in called.items() if short and ":" not in short}


# ---------------------------------------------------------------------- from the short form to JSON


def _turn(called: dict[str, str], text: str) -> str:
    found = _LINE.fullmatch(text.strip())
    if found is None:  # only where the library was stopped half way, which its caller sees too
        return text
    mood, action, target, content = found.groups()
    return orjson.dumps(
        {
            "actions": [
                {"type": action, "content": content.strip(), "target": called.get(target or "", "")},
                {"type": "DONE", "content": "", "target": ""},
            ],
            "cognitive_state": {"emotions": mood},
        }
    ).decode()


def _notes(text: str) -> str:
    return orjson.dumps({"notes": [line.removeprefix("- ") for line in text.splitlines() if line]}).decode()


def _answer(text: str) -> str:
    return orjson.dumps({"answer": text.strip()}).decode()
