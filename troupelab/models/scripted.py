"""The scripted model: answers as a persona would, without a network, the same for the same request.

It reads nothing but the request. From the prompt's sections it takes the persona, whom one can reach and what was just heard; it takes
up one stimulus, stands to its topic as this persona stands to this topic (the same all run long), and speaks from its beliefs,
tastes and work. It is no language model: it teaches how a simulation works and makes every run reproducible.

Stateless but for a bounded cache; `complete` is awaited on the engine's loop.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import orjson
import xxhash

from troupelab.ids import uniform
from troupelab.models import foreign, phrases
from troupelab.models.character import character, loads, words_in
from troupelab.models.model import (
    CONDENSE,
    NOTES,
    NOW,
    ONE_OF,
    PEOPLE,
    PERSONA,
    QUESTION,
    RECENTLY,
    Reply,
    Request,
    sections,
    unpacked,
)
from troupelab.text.words import Sentence, analyse

__all__ = ["ScriptedModel"]

_CHARACTERS_A_TOKEN = 4
_MAX_QUOTE = 120
_MAX_TOPIC = 32
_HEARD_AT_ONCE = 12
_LOOK_BACK = 0.15
_SOCIAL = "SOCIAL"
_QUOTED = re.compile("“([^“”]+)”")
_NOUN_PHRASE = re.compile(
    r"\b([Aa]n?|[Tt]he|[Tt]his|[Oo]ur|[Tt]heir|[Nn]o)\s((?:[^\W\d_]+(?:['’-][^\W\d_]+)*\s?){1,2})"
)
_REMEMBERED_LINE = re.compile(
    r"(?:- steps \d+ to \d+: |step \d+, )?(.{1,120}?)(?: said| thought)?: (?:\(to [^)]*\) )?(.+)"
)
_CONDENSED_LINE = re.compile(r"step \d+, (.{1,120}?): (.+)")
_SENTENCES_A_SPEAKER = 3
_MOST_NOTES = 24
_DIGIT = re.compile(r"\d")
_GAP = re.compile(r"\{(\w+)\}")
_LISTENERS = "You can talk to: "
_REACH = "Within reach: "
_ASKED = "The question: "
_NORMAL = NormalDist()
_TWO_64 = 2.0**64
_MASK = 2**64 - 1


class _Heard(NamedTuple):
    """What a reply takes up."""

    who: str
    topic: str
    quote: str
    words: tuple[str, ...]
    is_news: bool


class ScriptedModel:
    """A deterministic model that plays personas.

    Args:
        seed: another seed gives other replies to the same requests.
        latency_s: the median time that a call takes, in seconds.
        latency_sigma: the spread of that time (log-normal).
        repeat_rate: the share of speech that repeats an earlier sentence, so that memory has something to condense.

    >>> from troupelab.models.model import ChatMessage
    >>> request = Request("act", 0, 0, 0, 0, 1, (ChatMessage("user", "Hello."),))
    >>> reply = asyncio.run(ScriptedModel(latency_s=0.0).complete(request))
    >>> orjson.loads(reply.text)["actions"][-1]["type"]
    'DONE'
    """

    name = "scripted"
    repeats_itself = True
    """The same request gets the same answer."""

    @property
    def identity(self) -> str:
        """What distinguishes its replies from another's."""
        return f"{self.name}|{self.seed}|{self.repeat_rate}"

    def __init__(
        self, seed: int = 0, *, latency_s: float = 0.3, latency_sigma: float = 0.5, repeat_rate: float = 0.15
    ) -> None:
        if latency_s < 0 or latency_sigma < 0 or not 0 <= repeat_rate <= 1:
            raise ValueError("latency_s and latency_sigma must not be negative, and repeat_rate must be from 0 to 1")
        self.seed = seed
        self.latency_s = latency_s
        self.latency_sigma = latency_sigma
        self.repeat_rate = repeat_rate

    def __repr__(self) -> str:
        return f"ScriptedModel(seed={self.seed}, latency_s={self.latency_s}, latency_sigma={self.latency_sigma})"

    def draw_latency_s(self, request_seed: int) -> float:
        """The time that the request with this seed takes: log-normal around `latency_s`."""
        share = uniform(self.seed ^ request_seed, "latency")
        return self.latency_s * math.exp(self.latency_sigma * _NORMAL.inv_cdf(min(max(share, 1e-9), 1 - 1e-9)))

    async def complete(self, request: Request) -> Reply:
        """Answer one request after its latency."""
        prompt = "".join(message.content for message in request.messages)
        if items := unpacked(prompt):
            # Each item's draws depend on its own text, so that it does not matter with which others it was packed.
            drawn = [
                (key, part, xxhash.xxh3_64_intdigest(part.encode("utf-8", "surrogatepass"))) for key, part in items
            ]
            text = orjson.dumps({key: loads(self._answer(part, seed)) for key, part, seed in drawn}).decode()
        elif any(title in prompt for title in (NOW, CONDENSE, QUESTION)):
            text = self._answer(prompt, request.seed)
        else:
            found = self._answer_foreign(request)
            text = self._answer(prompt, request.seed) if found is None else found
        await asyncio.sleep(self.draw_latency_s(request.seed) if self.latency_s else 0.0)
        return Reply(text, len(prompt) // _CHARACTERS_A_TOKEN, len(text) // _CHARACTERS_A_TOKEN, 0.0, self.name)

    def _answer(self, prompt: str, request_seed: int) -> str:
        if CONDENSE in prompt:
            return _condensed(prompt.partition(CONDENSE)[2])
        if QUESTION in prompt:
            return _Turn(self.seed, request_seed, 0.0, prompt).answer()
        return _Turn(self.seed, request_seed, self.repeat_rate, prompt).write()

    def _answer_foreign(self, request: Request) -> str | None:
        """The answer to a prompt that is not laid out like ours, where its form can be told."""
        seed = self.seed ^ request.seed
        return foreign.answer(
            request.messages, request.schema, seed, lambda prompt: loads(self._answer(prompt, request.seed))
        )


def _condensed(old: str) -> str:
    """Notes as a careful secretary would take them: of each who spoke, the most telling sentence with its numbers first."""
    by_speaker: dict[str, list[Sentence]] = {}
    for line in old.splitlines():
        if found := _CONDENSED_LINE.fullmatch(line):
            by_speaker.setdefault(found[1], []).extend(analyse(found[2]))
    notes = []
    for speaker, said in by_speaker.items():
        best = sorted(
            {sentence.text: sentence for sentence in said}.values(), key=lambda each: (-len(each.facts), each.text)
        )
        if best:
            notes.append(f"{speaker}: {' '.join(sentence.text for sentence in best[:_SENTENCES_A_SPEAKER])}")
    return orjson.dumps({"notes": notes[:_MOST_NOTES] or ["Nothing was said."]}).decode()


class _Turn:
    """Writes one turn; every choice is a draw of its own."""

    def __init__(self, seed: int, request_seed: int, repeat_rate: float, prompt: str) -> None:
        self.seed = (seed ^ request_seed) & _MASK
        self.repeat_rate = repeat_rate
        parts = self.parts = defaultdict(str, sections(prompt))
        self.character = character(parts[PERSONA])
        people, _, reach = parts[PEOPLE].partition(_REACH)
        self.listeners = frozenset(people.strip().removeprefix(_LISTENERS).rstrip(".").split(", "))
        self.reach: list[str] = loads(reach) if reach else []
        self.heard = self._take_up(_stimuli(parts[NOW]))
        self.remembered = (
            self._look_back(parts[NOTES] + "\n" + parts[RECENTLY]) if self.chance("remember") < _LOOK_BACK else None
        )

    def draw(self, purpose: str) -> int:
        return xxhash.xxh3_64_intdigest(purpose.encode(), self.seed)

    def chance(self, purpose: str) -> float:
        return self.draw(purpose) / _TWO_64

    def pick(self, purpose: str, among: Sequence[str]) -> str:
        return among[self.draw(purpose) % len(among)]

    def write(self) -> str:
        heard = self.heard
        stance = self._stance(heard) if heard else "for"
        actions: list[dict[str, str]] = []
        if heard and self.chance("think") < 0.55:
            actions.append(
                {"type": "THINK", "content": self._fill("thought", phrases.THOUGHTS[stance], heard), "target": ""}
            )
        if self.chance("talk") < self.character.talkative or not actions:
            actions.append({"type": "TALK", **self._speech(stance)})
        if heard and heard.is_news and self.reach and self.chance("reach") < 0.35:
            content = self._fill("reach", phrases.REACH_OUTS, heard)
            actions.append({"type": "REACH_OUT", "content": content, "target": self.pick("whom", self.reach)})
        actions.append({"type": "DONE", "content": "", "target": ""})
        state = {
            "goals": self.pick("goal", self.character.tastes["goal"]),
            "attention": heard.topic if heard else "the beginning of the scene",
            "emotions": self.pick("emotion", phrases.EMOTIONS[stance]),
        }
        return orjson.dumps({"actions": actions, "cognitive_state": state}).decode()

    def answer(self) -> str:
        """Answer an interviewer: with what is remembered of the question's matter, or else with what this person believes."""
        asked, _, choices = self.parts[QUESTION].rpartition(_ASKED)[2].strip().partition(ONE_OF)
        question = _heard("the interviewer", asked)
        if choices:  # the same whenever it is asked, as a stance is
            among, key = choices.split("; "), f"{self.character.name}|{asked}".encode("utf-8", "surrogatepass")
            chosen = among[xxhash.xxh3_64_intdigest(key) % len(among)]
            return orjson.dumps({"answer": f"{_capital(chosen)}. {self._belief(question)}"}).decode()
        words = set(question.words) if question else set()
        told = [
            found
            for line in (self.parts[NOTES] + self.parts[QUESTION] + "\n" + self.parts[RECENTLY]).splitlines()
            if (found := _REMEMBERED_LINE.match(line.strip())) and not line.startswith(_ASKED)
        ]
        fits = [len(words.intersection(words_in(each[2]))) for each in told]
        fitting = [each for each, shared in zip(told, fits, strict=True) if shared and shared >= max(fits) - 1]
        if not fitting:
            text = self._fill("answer", phrases.TALKS["unsure"], question) if question else self._belief(None)
        else:
            best = fitting[self.draw("answer") % len(fitting)]
            who = "I" if best[1] == self.character.name else best[1]
            text = f"As I remember it, {who} said: {best[2]}"
        return orjson.dumps({"answer": text}).decode()

    def _speech(self, stance: str) -> dict[str, str]:
        heard = self.heard
        if heard is None:
            return {"content": self._fill("talk", phrases.OPENERS, None), "target": ""}
        if self.chance("repeat") < self.repeat_rate:
            return {"content": self._fill("talk", phrases.REPEATS, None), "target": ""}
        if self.remembered is not None:
            return {"content": self._fill("talk", phrases.REMEMBERED, self.remembered), "target": ""}
        if heard.is_news and self.chance("news") < 0.3:
            return {"content": self._fill("talk", phrases.NEWS, heard), "target": ""}
        # Most is said to all; now and then somebody is answered personally.
        target = heard.who if heard.who in self.listeners and self.chance("aside") < 0.2 else ""
        return {"content": self._fill("talk", phrases.TALKS[stance], heard), "target": target}

    def _take_up(self, stimuli: Sequence[tuple[str, str, str]]) -> _Heard | None:
        """Choose one stimulus: whatever comes from outside the circle, or has numbers in it, weighs more."""
        told = [
            stimulus for stimulus in stimuli[-_HEARD_AT_ONCE:] if stimulus[2] and stimulus[1] != self.character.name
        ]
        weighted = [
            stimulus
            for stimulus in told
            for _ in range(
                1 + 3 * (stimulus[1] not in self.listeners or stimulus[0] == _SOCIAL) + bool(_DIGIT.search(stimulus[2]))
            )
        ]
        if not weighted:
            return None
        _, who, text = weighted[self.draw("stimulus") % len(weighted)]
        return _heard(who, text)

    def _look_back(self, earlier: str) -> _Heard | None:
        """Choose something with a number in it that the prompt still holds from earlier."""
        lines = [line for line in earlier.splitlines() if _DIGIT.search(line, 20)]
        if not lines:
            return None
        found = _REMEMBERED_LINE.match(lines[self.draw("memory") % len(lines)].strip())
        return _heard(found[1], found[2]) if found and found[1] != self.character.name else None

    def _stance(self, heard: _Heard) -> str:
        """How this persona stands to this topic: the same whenever it comes up."""
        key = f"{self.character.name}|{heard.topic}".encode("utf-8", "surrogatepass")
        leaning = xxhash.xxh3_64_intdigest(key) % 100 + 12 * (self.character.agreeable - 1)
        return "for" if leaning >= 62 else "unsure" if leaning >= 34 else "against"

    def _belief(self, heard: _Heard | None) -> str:
        """The belief that has most to do with what was heard; among equals, a drawn one."""
        beliefs = self.character.beliefs
        start = self.draw("belief") % len(beliefs)
        order = [*beliefs[start:], *beliefs[:start]]
        return max(order, key=lambda belief: len(belief[1].intersection(heard.words)) if heard else 0)[0]

    def _fill(self, purpose: str, frames: Sequence[str], heard: _Heard | None) -> str:
        frame = self.pick(purpose, frames)
        return _GAP.sub(lambda gap: self._gap(gap[1], heard), frame)

    def _gap(self, name: str, heard: _Heard | None) -> str:
        """What stands in one gap of a sentence."""
        character = self.character
        if name in character.tastes:
            return self.pick(name, character.tastes[name])
        if name == "belief":
            return self._belief(heard)
        if name == "work":
            return character.work
        if name == "first" or heard is None:
            return character.name.split(" ")[0]
        if name.startswith("topic"):
            return _capital(heard.topic) if name == "topic_start" else heard.topic
        if name in ("quote", "sentence"):
            return heard.quote.rstrip(". ") if name == "quote" else heard.quote
        who = self._call(heard.who, spoken_to=name == "you")
        return _capital(who) if name == "who_start" else who

    def _call(self, who: str, *, spoken_to: bool) -> str:
        """First names for those in earshot; for voices from outside, what they are."""
        if who in self.listeners:
            return who.split(" ")[0]
        outside = who.lower()
        if spoken_to or not who:
            return outside or ("whoever you are" if spoken_to else "somebody")
        return outside if outside.startswith(("a ", "an ", "the ")) else f"the {outside}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stimuli(now: str) -> list[tuple[str, str, str]]:
    """Kind, source and text of each stimulus that a prompt ends with."""
    lines = [
        found for line in now.splitlines() if line.startswith('{"type"') and isinstance(found := loads(line), dict)
    ]
    return [(str(each.get("type", "")), str(each.get("source", "")), str(each.get("content", ""))) for each in lines]


def _heard(who: str, text: str) -> _Heard | None:
    """Take up the sentence with most numbers and names in it, and of a quotation what was quoted."""
    inner = _QUOTED.findall(text)
    sentences = analyse(inner[0] if inner else text) or analyse(text)
    if not sentences:
        return None
    sentence = max(sentences, key=lambda each: (not each.text.endswith("?"), len(each.facts), min(len(each.words), 8)))
    return _Heard(who, _topic(sentence), _shorten(sentence.text), sentence.words, bool(_DIGIT.search(sentence.text)))


def _topic(sentence: Sentence) -> str:
    """What a sentence is about: the longest thing in it that begins like a noun phrase (the ferry, a desk lamp)."""
    found = []
    for start, words in _NOUN_PHRASE.findall(sentence.text):
        phrase = []
        for word in words.split():
            if word.lower() not in sentence.words:
                break
            phrase.append(word)
        # "a" and "an" introduce what is now known: it is "the" from here on.
        if phrase:
            found.append(f"{'the' if start.lower() in ('a', 'an') else start.lower()} {' '.join(phrase)}")
    fitting = [topic for topic in found if len(topic) <= _MAX_TOPIC]
    return max(fitting, key=len) if fitting else "that"


def _shorten(text: str) -> str:
    if len(text) > _MAX_QUOTE:
        text = text[:_MAX_QUOTE].rsplit(" ", 1)[0] + " …"
    return text
