"""The tab "interview": ask an agent something while the run goes on, and read what it answers.

Only the dashboard's UI thread calls it; its buttons leave a wish for that. A question is an errand, so that several may be under
way at once and none of them holds the page up. What was asked is kept for each run as long as that is held.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import ipywidgets as widgets

from troupelab.dashboard.look import for_page, plain, seconds_text
from troupelab.dashboard.panels import Panels
from troupelab.dashboard.readings import Readings
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.tab import Errands, Tab, choices, code_line, note, rows_box, sentence
from troupelab.dashboard.tables import nothing_yet

__all__ = ["InterviewTab", "starters"]

ANSWER_CHARACTERS = 20_000
MOST_KEPT = 20
MOST_AT_ONCE = 8
MOST_NAMES = 2_000
ANSWER_WITHIN_S = 120.0
LAST_LETTERS_S = 0.15
"""The browser may send the last letters of a question a moment after the Enter that ends it."""

REMEMBER = "the agent keeps question and answer in its memory from its next act on, which may change what it does"
NOT_REMEMBERED = "nothing is kept: the run goes on as if nobody had asked"
EMPTY = "Choose an agent and ask it something: the run goes on meanwhile, and the answer will appear here."
NO_ONE_ANSWERS = "Nobody can answer here: this is a recording, and its agents are not at a model any more."
GENERAL = "What has mattered most to you so far, and why?"
OTHERS = "Whom here do you agree with most, and whom least?"


@dataclass
class Exchange:
    """A question and what came of it; `seconds` is None while the answer is on its way."""

    agent: str
    question: str
    step: int
    remember: bool
    answer: str = ""
    refused: str = ""
    seconds: float | None = None

    def html(self) -> str:
        """The exchange as a bit of a chat."""
        kept = ", to be remembered" if self.remember else ""
        when = f"at step {self.step + 1}{kept}" if self.step >= 0 else f"before the first step{kept}"
        if self.seconds is None:
            said = '<p class="troupelab-answer">…</p>'
        elif self.refused:
            said = f'<p class="troupelab-said">{for_page(self.refused, 1000)}</p>'
        else:
            said = f'<p class="troupelab-answer">{for_page(self.answer, ANSWER_CHARACTERS)}</p>'
        took = "waiting for the answer" if self.seconds is None else f"after {seconds_text(self.seconds)}"
        return (
            f'<div class="troupelab-exchange"><p class="troupelab-question">{for_page(self.question, 2000)}</p>'
            f"<small>to <b>{for_page(self.agent, 80)}</b>, {when}, {took}</small>{said}</div>"
        )


class InterviewTab(Tab):
    """A chat with the agents."""

    name: ClassVar[str] = "interview"

    def __init__(self, errands: Errands) -> None:
        super().__init__(errands)
        self.agent = widgets.Dropdown(description="agent", layout={"width": "260px"})
        self.question = widgets.Text(description="question", placeholder="ask something, then press Enter")
        self.question.add_class("troupelab-wide")
        # The Text's own on_submit is on its way out of ipywidgets; the browser's message stays.
        self.question.on_msg(self._heard)
        self.button = widgets.Button(description="Ask", icon="comment", layout={"width": "80px"})
        self.button.on_click(lambda _: self._pressed())
        self.remember = widgets.Checkbox(description="remember", indent=False, layout={"width": "100px"})
        self.remember.observe(lambda _: errands.wish(self._explain), "value")
        self.explained = widgets.HTML(note(NOT_REMEMBERED))
        self.starters = [widgets.Button() for _ in range(3)]
        for button in self.starters:
            button.add_class("troupelab-starter")
            button.on_click(lambda pressed: errands.wish(lambda: self._start_with(pressed.tooltip)))
        self.told = widgets.HTML()
        self.code = widgets.HTML()
        self.chat = widgets.HTML()
        self.page.children = [
            choices(self.agent, self.question, self.button, self.remember, self.explained),
            choices(*self.starters, self.told, self.code),
            rows_box(self.chat),
        ]
        self._by_run: weakref.WeakKeyDictionary[Shown, deque[Exchange]] = weakref.WeakKeyDictionary()
        self._kept: deque[Exchange] = deque(maxlen=MOST_KEPT)

    def begin(self, run: Shown, panels: Panels, readings: Readings) -> None:
        """Another run is shown, with what was asked of it before."""
        super().begin(run, panels, readings)
        self._kept = self._by_run.setdefault(run, deque(maxlen=MOST_KEPT))
        names = run.agent_names[:MOST_NAMES]
        self.agent.options = [(plain(name, 60), name) for name in names]
        self.agent.index = 0 if names else None  # not by itself where there were none before
        more = len(run.agent_names) - len(names)
        self.told.value = note(f"{more:,} more agents answer to run.ask(name, question)") if more else ""
        for button, question in zip(self.starters, starters(run), strict=True):
            button.description, button.tooltip = plain(question, 60), question
        can = hasattr(run, "ask")
        for part in (self.agent, self.question, self.button, self.remember, *self.starters):
            part.disabled = not can
        if not can:
            self.told.value = note(NO_ONE_ANSWERS)
        self._show()

    # ------------------------------------------------------------------ handlers, on the kernel's threads

    def _heard(self, _: object, content: Mapping[str, Any], buffers: object) -> None:
        if content.get("event") == "submit":
            self._pressed()

    def _pressed(self) -> None:
        self.errands.send(lambda: time.sleep(LAST_LETTERS_S), lambda _: self._ask(), lambda _: None)

    # ------------------------------------------------------------------ on the UI thread

    def _explain(self) -> None:
        self.explained.value = note(REMEMBER if self.remember.value else NOT_REMEMBERED)

    def _start_with(self, question: str) -> None:
        self.question.value = question
        self.question.focus()

    def _ask(self) -> None:
        run: Any = self.run
        agent, question, remember = self.agent.value, self.question.value.strip(), self.remember.value
        if run is None or not hasattr(run, "ask"):
            return
        if not question or agent is None:
            self.told.value = note("type a question first")
            return
        if sum(exchange.seconds is None for exchange in self._kept) >= MOST_AT_ONCE:
            self.told.value = note(f"{MOST_AT_ONCE} questions wait for an answer: ask again when one has come")
            return
        self.told.value, self.question.value = "", ""
        self.code.value = code_line(f"run.ask({agent!r}, {question!r}{', remember=True' if remember else ''})")
        exchange = Exchange(agent, question, run.progress().step, remember)
        self._kept.append(exchange)
        self._show()
        begun = time.monotonic()

        def end(answer: str, refused: str) -> None:
            exchange.seconds = time.monotonic() - begun
            exchange.answer, exchange.refused = answer, refused
            self._show()

        self.errands.send(
            lambda: str(run.ask(agent, question, remember=remember, timeout_s=ANSWER_WITHIN_S)),
            lambda answer: end(answer, ""),
            lambda error: end("", sentence(error)),
        )

    def _show(self) -> None:
        self.chat.value = "".join(exchange.html() for exchange in reversed(self._kept)) or nothing_yet(EMPTY)

    def write(self) -> None:
        """Nothing changes here but when something is asked or answered, and then it is shown at once."""


def starters(run: object) -> tuple[str, str, str]:
    """Three questions to begin with: one about what the world opens with, or is about, and two general ones."""
    world = getattr(run, "world", None)
    opening = next((event.text for event in getattr(world, "events", ()) if event.step == 0), "")
    about = opening or getattr(world, "description", "")
    if not about:
        return "What is going on here, in your own words?", GENERAL, OTHERS
    return f"What do you make of this: {plain(' '.join(about[:400].split()), 160)}", GENERAL, OTHERS
