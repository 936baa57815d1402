"""The prober: asks memories about facts that their agents were told, and tells whether those are still found.

It asks through the retrieval that memories have, after an act, and leaves no trace: a run is the same without it. Each probe is asked in one
of its wordings at a time, which agents and rounds take in turn. Owned by the engine's loop thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from troupelab.events import Emit, ProbeAsked
from troupelab.memory.peek import Looked, Peek
from troupelab.people.agent import Agent
from troupelab.people.probes import Probe

__all__ = ["K", "Prober"]

K = 5
"""So many things are looked at: a fact beyond them is not found."""

_MORE = 8
"""So many more are asked for, since what has the score of a fact comes before it."""


class Prober:
    """Asks after every so many steps of an agent.

    Args:
        probes: what to ask about, in their order; `add` brings more.
        every: after how many steps; 0 for never.
        emit: is told of each answer.
    """

    def __init__(self, probes: Iterable[Probe], every: int, emit: Emit) -> None:
        self.probes: list[Probe] = []
        self._every = every
        self._emit = emit
        self._shares: list[list[bool]] = []
        for probe in probes:
            self.add(probe)

    def add(self, probe: Probe) -> None:
        """Ask about one more fact from now on."""
        self.probes.append(probe)
        self._shares.append([probe.shares_word(wording) for wording in range(len(probe.wordings))])

    def due(self, agent: int, step: int) -> list[tuple[int, int]]:
        """What is to be asked of an agent after a step: places of probes that it has heard, and of their wordings."""
        if not self._every or not self.probes or (step + 1) % self._every:
            return []
        turn = step // self._every + agent
        return [
            (place, (turn + place) % len(probe.wordings))
            for place, probe in enumerate(self.probes)
            if probe.step <= step and (probe.to is None or agent in probe.to)
        ]

    def texts(self, agent: int, step: int) -> list[str]:
        """The questions that are due: for vectors to be at hand."""
        return [self.probes[place].wordings[wording] for place, wording in self.due(agent, step)]

    def ask(self, agent: Agent, step: int, at_s: float) -> None:
        """Ask an agent's memory, as it is after the act of a step, which ended at `at_s`."""
        due = self.due(agent.index, step)
        if not due:
            return
        peek, folded = Peek(agent.memory), _Folded()
        for place, wording in due:
            probe = self.probes[place]
            found = peek.relevant(probe.wordings[wording], K + _MORE)
            rank, tier = _rank(found, lambda text, probe=probe: folded.holds(probe.keys, text))  # type: ignore[misc]
            wrong = 0
            if probe.neighbour:
                said = probe.neighbour.casefold()
                wrong = next(
                    (at for at, each in enumerate(found[:K], 1)
                     if said in folded[each.item.text] and not folded.holds(probe.keys, each.item.text)),
                    0,
                )  # fmt: skip
            held = tier if tier == "recent" else peek.holder(
                probe.step, lambda text, probe=probe: folded.holds(probe.keys, text)  # type: ignore[misc]
            )  # fmt: skip
            self._emit(
                ProbeAsked(
                    at_s, step, agent.index, probe.name, wording, step - probe.step, rank, tier, held or tier, wrong, K,
                    self._shares[place][wording],
                )
            )  # fmt: skip


class _Folded(dict[str, str]):
    """Texts in the form in which they are compared, each folded once."""

    def __missing__(self, text: str) -> str:
        folded = self[text] = text.casefold()
        return folded

    def holds(self, keys: tuple[str, ...], text: str) -> bool:
        folded = self[text]
        return all(key in folded for key in keys)


def _rank(found: list[Looked], holds: Callable[[str], bool]) -> tuple[int, str]:
    """The place of the first thing that holds the fact, after all others of its score, and its tier; (0, "") beyond the `K` best."""
    for each in found:
        if holds(each.item.text):
            rank = 1 + sum(other.score >= each.score and not holds(other.item.text) for other in found)
            return (rank, each.tier) if rank <= K else (0, "")
    return 0, ""
