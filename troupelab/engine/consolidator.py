"""The consolidator: has old records made into notes beside the acts, and brings the notes in at the agent's next step.

Small jobs run in place, larger ones on a thread of their own, and where the model is to write the notes, as one more call. It
lives on the engine's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from troupelab.engine.ahead import Ahead
from troupelab.engine.parts import Parts
from troupelab.errors import ModelError
from troupelab.events import Failed
from troupelab.ids import draw
from troupelab.memory.consolidate import Consolidation, Job
from troupelab.models.account import Account
from troupelab.models.model import Request
from troupelab.people.agent import Agent
from troupelab.people.condense import (
    EXPECTED_NOTES,
    MAX_TOKENS,
    NOTES_SCHEMA,
    condense_part,
    condense_prompt,
    read_notes,
)
from troupelab.telemetry.journal import NotesRow

__all__ = ["Consolidator"]

SMALL_JOB_BYTES = 32_768
"""A consolidation of so many bytes takes 1 to 2 ms; with two threads in Python's way of taking turns, handing it over took 4."""


class Consolidator:
    """Runs the memories' jobs.

    Args:
        parts: the run's; where its options say so, the model writes the notes, and what it cannot answer is extracted.
        ahead: has vectors at hand.
        written: what a model wrote in an earlier life, by agent, step and place.
    """

    def __init__(self, parts: Parts, ahead: Ahead, written: Mapping[tuple[int, int, int], NotesRow]) -> None:
        self._parts = parts
        self._by_model = parts.options.notes == "model"
        self._clock = parts.clock.now
        self._ahead = ahead
        self._written = written
        self._running: dict[int, list[tuple[Job, asyncio.Future[Consolidation]]]] = {}
        self._workers = ThreadPoolExecutor(1, thread_name_prefix="troupelab-consolidate")

    def start(self, agent: Agent) -> None:
        """Start the consolidations that are due; their notes are awaited at the agent's next step."""
        if jobs := agent.memory.take_jobs():
            running = self._running.setdefault(agent.index, [])
            running.extend((job, self._start(agent, job, place)) for place, job in enumerate(jobs, len(running)))

    def _start(self, agent: Agent, job: Job, place: int) -> asyncio.Future[Consolidation]:
        """Have a job run beside the loop; a small one at once, since handing it over would take longer than the job."""
        loop = asyncio.get_running_loop()
        if (row := self._written.get((agent.index, job.step, place))) is not None:
            return asyncio.ensure_future(self._again(job, row))
        if self._by_model and agent.last_prompt:
            return asyncio.ensure_future(self._ask(agent, job, place))
        if job.embeds and hasattr(job.embedder, "prepare"):
            return asyncio.ensure_future(self._extract(job))
        if job.bytes > SMALL_JOB_BYTES:
            return loop.run_in_executor(self._workers, job.run)
        made = loop.create_future()
        try:
            made.set_result(job.run())
        except Exception as error:  # whatever it is, `admit` deals with it as with one from beside the loop
            made.set_exception(error)
        return made

    async def _ask(self, agent: Agent, job: Job, place: int) -> Consolidation:
        """Have the model write a job's notes; where it cannot, they are extracted, and the pipeline has told why."""
        part = condense_part(job.records)
        messages = condense_prompt(agent.last_prompt, part)
        call = place + 1  # 0 is the act's own

        def request(attempt: int) -> Request:
            seed = draw(self._parts.seed, "consolidate", agent.index, job.step, call, attempt)
            return Request(
                "consolidate", agent.index, job.step, call, attempt, seed, messages, max_tokens=MAX_TOKENS, schema=NOTES_SCHEMA,
                part=part,
            )  # fmt: skip

        account = Account(self._clock())
        try:
            # The agent's next step waits for these notes: they go before the acts of that step.
            notes = await self._parts.pipeline.complete(
                request, read_notes, EXPECTED_NOTES, account=account, priority=(job.step + 0.5,)
            )
        except ModelError:
            self._parts.teller.note(NotesRow(agent.index, job.step, place, None, 0, 0.0))
            return await self._extract(job)
        seconds = self._clock() - account.came_s - account.queue_s
        row = NotesRow(agent.index, job.step, place, list(notes), account.tokens, seconds)
        self._parts.teller.note(row)
        return await self._again(job, row)

    async def _again(self, job: Job, row: NotesRow) -> Consolidation:
        """Take what a model wrote, now or in an earlier life."""
        if row.lines is None:
            return await self._extract(job)
        return await asyncio.to_thread(job.written, row.lines, row.tokens, row.seconds)  # it embeds the notes

    async def _extract(self, job: Job) -> Consolidation:
        """Have a job's notes extracted beside the loop, with the vectors that it lacks fetched for all jobs together."""
        if job.embeds and not await self._ahead.fetch([record.text for record in job.records]):
            return job.verbatim()  # the run ends, and there are no vectors
        return await asyncio.get_running_loop().run_in_executor(self._workers, job.run)

    async def admit(self, agent: Agent) -> None:
        """Make the notes of the agent's earlier steps visible, in the order in which they became due."""
        while running := self._running.get(agent.index):
            job, outcome = running[0]
            try:
                made = await asyncio.shield(outcome)
            except asyncio.CancelledError:
                if not outcome.cancelled():
                    raise  # not the job was cancelled, but whoever waits for it
                made = await self._extract(job)
            except Exception as error:
                # Nothing is lost where condensing fails: the records become notes word for word.
                made = job.verbatim()
                message = f"{error}; {len(job.records)} records were kept word for word"
                self._parts.teller.tell(Failed(self._clock(), job.step, agent.index, type(error).__name__, message, 0))
            running.pop(0)
            agent.memory.admit(job, made)
        self._running.pop(agent.index, None)

    def stop(self, *, now: bool) -> None:
        """Ask the model for no more notes; with `now`, calls in flight are given up and their notes extracted."""
        self._by_model = False
        for running in self._running.values() if now else ():
            for _, outcome in running:
                outcome.cancel()

    def close(self) -> None:
        """End everything that still runs."""
        self.stop(now=True)
        self._workers.shutdown(wait=False, cancel_futures=True)
