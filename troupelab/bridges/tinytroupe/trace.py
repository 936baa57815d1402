"""A simulation's cache while the bridge is on: what `tinytroupe.control` begins, checkpoints and ends is kept in our file.

TinyTroupe compares each top-level call with what was called at this place before: when they are alike, it restores the
state behind it and gives back what was given back, else it runs the call and keeps the state. So does this module, but:

- what is kept lies in one file beside the path that the user named, with ".troupelab" behind it, and is written call by
  call (`trace_file`). TinyTroupe's own file is left alone; it is read once, when there is no file of ours yet.
- what is called inside another call is told by the context, not by the thread. So a parallel step replays as a whole.
- another way through the program does not cut off the way that was taken before: both are kept, and both replay.
- a call is recognised by the hash of its name and arguments and of who is in the simulation. Where somebody is missing or
  new, the call runs anew. Where an argument shows as an address in memory, the address does not count.

What cannot be replayed faithfully ends the recording of a simulation, with a warning that says why; the simulation goes
on as if without a cache. This happens when a call fails, when two top-level calls run at the same time, when a state has
something that JSON has not, and when the file can take no more (`max_bytes`, a full disk).

A `Tracing` belongs to the bridge that is on. TinyTroupe may call it from any thread and any greenlet.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from troupelab.bridges.tinytroupe.trace_calls import SEGMENT, Segment, call_hash, names_in, read_stock, text_of
from troupelab.bridges.tinytroupe.trace_file import MAX_BYTES, TraceFile, digest
from troupelab.errors import StoreError

if TYPE_CHECKING:
    from troupelab.bridges.tinytroupe.seams import TinyTroupe

__all__ = ["SUFFIX", "Recorder", "Tracing"]

SUFFIX = ".troupelab"
"""What our file's name has behind the name that the user gave."""

_log = logging.getLogger("troupelab.bridges")
_inside: ContextVar[Recorder | None] = ContextVar("troupelab_inside_transaction", default=None)


class Recorder:
    """The recording of one simulation, from its `begin` to its `end`.

    Args:
        simulation: TinyTroupe's.
        cache_path: what the user named.
        max_bytes: what the file may take on disk.

    Raises:
        LimitError: `max_bytes` is out of range.
        StoreError: the file cannot be used; the message says what to do.
        BridgeError: there is a file of TinyTroupe's that cannot be read.
    """

    def __init__(self, simulation: Any, cache_path: str | Path, *, max_bytes: int = MAX_BYTES) -> None:
        stock = Path(cache_path)
        path = stock.with_name(stock.name + SUFFIX)
        fresh = not path.exists()
        self.simulation = simulation
        self.file = TraceFile(path, max_bytes=max_bytes)
        self.position = 0
        self.stopped = ""
        self._running = 0
        self._segment: Segment | None = None
        self._lock = threading.Lock()
        try:
            if fresh and stock.is_file():
                self._take_over(stock)
        except BaseException:
            self.file.close()
            path.unlink(missing_ok=True)
            raise

    def execute(self, transaction: Any, begin_parallel: bool) -> Any:
        """Replay a call or make it, and record it.

        Args:
            transaction: TinyTroupe's `Transaction`.
            begin_parallel: whether the call makes people in parallel.

        Returns:
            What the call gives back, or gave back when it was recorded.
        """
        if self.stopped or _inside.get() is self:
            return _call(transaction)
        if self._segment is not None:
            return _call(transaction) if begin_parallel else self._in_segment(transaction, self._segment)
        with self._alone() as alone:
            if not alone:
                return _call(transaction)
            if begin_parallel:
                return self._make_segment(transaction)
            return self._single(transaction, call_hash(text_of(transaction), self._names()), _call)

    def stop(self, why: str) -> None:
        """End the recording; the simulation goes on without it."""
        with self._lock:
            known, self.stopped = self.stopped, self.stopped or why
        if not known:
            what = "records no more, and the rest of this simulation will not be replayed"
            _log.warning("%s %s: %s", self.file.path, what, why)

    def flush(self) -> None:
        """See that all that was recorded is on the disk.

        Raises:
            StoreError: it could not be written.
        """
        self.file.flush(self.position)

    def close(self) -> None:
        """Flush and give the file free; a second call does nothing."""
        try:
            self.flush()
        finally:
            self.file.close()

    def _single(self, transaction: Any, call: bytes, make: Callable[[Any], Any]) -> Any:
        """A top-level call: replayed with its state, or made and recorded with it."""
        found = self._replayed(transaction, call)
        if found is not None:
            self.simulation.cache_hits += 1
            return found[0]
        self.simulation.cache_misses += 1
        self._clear_buffers()
        with self._within():
            output = make(transaction)
        with self._recording(), self._within():
            if not self.stopped:  # by what ran at the same time
                encoded = transaction._encode_function_output(output)
                self._move(self.file.append(self.position, call, encoded, self.simulation._encode_simulation_state()))
        return output

    def _replayed(self, transaction: Any, call: bytes) -> tuple[Any] | None:
        simulation, state, encoded = self.simulation, None, None
        try:
            entry = self.file.find(self.position, call)
            if entry is None or not entry.state:
                return None
            state, encoded = self.file.load(entry.state), self.file.load(entry.output)
        except StoreError as error:
            _log.warning("a call is made anew, for its state cannot be read: %s", error)
            return None
        if not all(set(then) <= set(now) for then, now in zip(names_in(state), self._names(), strict=True)):
            return None  # the call itself brought somebody in, who is not there when it is not made
        with self._within():
            simulation._decode_simulation_state(state)
            self.position = entry.id
            return (transaction._decode_function_output(encoded),)

    def _make_segment(self, transaction: Any) -> Any:
        """A call that makes people in parallel: it runs each time, and the calls inside it are replayed."""
        known: dict[str, list[Any]] = {}
        entry = None
        with self._recording():
            entry = self.file.find(self.position, SEGMENT)
            if entry is not None:
                known = self.file.load(entry.output)
        self._clear_buffers()
        segment = self._segment = Segment(known)
        try:
            output = _call(transaction)
        finally:
            self._segment = None
        with self._recording():
            if entry is not None and not segment.grown:
                self.position = entry.id
            elif not self.stopped:
                at, outputs = self.position, segment.known
                self._move(
                    self.file.append(at, SEGMENT, outputs, None)
                    if entry is None
                    else self.file.amend(entry.id, outputs)
                )
        if self.stopped:
            return output
        # In the order of then: people come in the order in which they were done, and what follows depends on it.
        kept = self._single(transaction, segment.call_after(), lambda _: output)
        return output if kept is None else kept

    def _in_segment(self, transaction: Any, segment: Segment) -> Any:
        call = digest(text_of(transaction)).hex()
        with self._lock:
            found = segment.take(call)
            if found is not None:
                segment.note(call, found[0])
                self.simulation.cache_hits += 1
                return transaction._decode_function_output(found[0])
            self.simulation.cache_misses += 1
        with self._within():
            output = _call(transaction)
        with self._recording(), self._lock:
            encoded = transaction._encode_function_output(output)
            segment.add(call, encoded)
        return output

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other top-level call runs; with two at a time, neither one's state would be its own."""
        with self._lock:
            alone, self._running = not self._running, self._running + 1
        if not alone:
            self.stop("two top-level calls ran at the same time")
        try:
            yield alone
        except BaseException as error:
            self.stop(f"a call failed ({error!r})")  # and left a state that no replay comes by
            raise
        finally:
            with self._lock:
                self._running -= 1

    @contextlib.contextmanager
    def _within(self) -> Iterator[None]:
        """What is called from here on, in this context and its copies, is no top-level call."""
        token = _inside.set(self)
        try:
            yield
        finally:
            _inside.reset(token)

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        """A cache must not end a simulation: whatever cannot be recorded ends the recording."""
        try:
            yield
        except Exception as error:
            self.stop(f"its state or its output cannot be kept ({error})")

    def _move(self, entry: int | None) -> None:
        if entry is None:
            self.stop("the file is full; give max_bytes more room, or delete it to begin anew")
        else:
            self.position = entry
            self.simulation.has_unsaved_cache_changes = True

    def _clear_buffers(self) -> None:
        """What was displayed up to now is not displayed again when this call is replayed."""
        for one in [*self.simulation.agents, *self.simulation.environments]:
            one.clear_communications_buffer()

    def _names(self) -> list[list[str]]:
        """Who is in the simulation: agents, environments, factories."""
        simulation = self.simulation
        return [
            sorted(each)
            for each in (simulation.name_to_agent, simulation.name_to_environment, simulation.name_to_factory)
        ]

    def _take_over(self, stock: Path) -> None:
        """Record what TinyTroupe kept in a file of its own."""
        position = 0
        for call, output, state in read_stock(stock):
            number = self.file.append(position, call, output, state)
            if number is None:
                _log.warning("%s is taken over in part: the rest is more than max_bytes", stock)
                break
            position = number


class Tracing:
    """Our cache in the place of TinyTroupe's, while the bridge is on.

    Args:
        troupe: what `seams.find` gives.
        max_bytes: what the file of a simulation may take on disk.

    Example:
        Set what `replacing` names, run, set it back, and `close_all`.
    """

    def __init__(self, troupe: TinyTroupe, *, max_bytes: int = MAX_BYTES) -> None:
        self._control: Any = troupe.control
        self._max_bytes = max_bytes
        self._open: dict[Any, Recorder] = {}

    def replacing(self) -> list[tuple[object, str, object]]:
        """What to set while the bridge is on, as (object, name, value).

        A simulation that has begun before stays TinyTroupe's. Call it before anything is set: what is there now is what
        the simulations of TinyTroupe's own go on with.
        """
        simulation, transaction = self._control.Simulation, self._control.Transaction
        begin, end = simulation.begin, simulation.end
        save, execute = simulation._save_cache_file, transaction.execute

        def our_begin(self: Any, cache_path: str | None = None, auto_checkpoint: bool = False) -> None:
            tracing._close_abandoned()
            stopped = self.status == simulation.STATUS_STOPPED
            if stopped:  # who was in it at its last `begin` is not in it any more
                for names in (self.agents, self.environments, self.factories):
                    names.clear()
                for table in (self.name_to_agent, self.name_to_environment, self.name_to_factory):
                    table.clear()
            try:
                begin(self, cache_path, auto_checkpoint)
            except BaseException:
                if stopped:
                    self.status = simulation.STATUS_STOPPED
                raise

        def our_end(self: Any) -> None:
            try:
                end(self)
            finally:
                tracing._close(self)

        def our_load(self: Any, cache_path: str) -> None:
            self.cached_trace, self.execution_trace = [], []
            tracing._open[self] = Recorder(self, cache_path, max_bytes=tracing._max_bytes)

        def our_save(self: Any, cache_path: str) -> None:
            recorder = tracing._open.get(self)
            if recorder is None:
                save(self, cache_path)
            else:
                recorder.flush()
                self.has_unsaved_cache_changes = False

        def our_execute(self: Any, begin_parallel: bool = False, parallel_id: str | None = None) -> Any:
            recorder = tracing._open.get(self.simulation)
            if recorder is None:
                return execute(self, begin_parallel, parallel_id)
            output = recorder.execute(self, begin_parallel)
            if self.simulation.auto_checkpoint:
                self.simulation.checkpoint()
            return output

        tracing = self
        return [
            (simulation, "begin", our_begin),
            (simulation, "end", our_end),
            (simulation, "_load_cache_file", our_load),
            (simulation, "_save_cache_file", our_save),
            (transaction, "execute", our_execute),
        ]

    def close_all(self) -> None:
        """Checkpoint and end every simulation that began while the bridge was on.

        Raises:
            StoreError: one could not be written; all are ended all the same.
        """
        with contextlib.ExitStack() as each:
            for simulation in self._open:
                each.callback(self._close, simulation)

    def _close(self, simulation: Any) -> None:
        """Give its file free and see that it has ended, whatever happens meanwhile."""
        recorder, control = self._open.pop(simulation, None), self._control
        if recorder is None:
            return
        simulation.status = control.Simulation.STATUS_STOPPED
        simulation.has_unsaved_cache_changes = False
        if control._current_simulations.get(control._current_simulation_id) is simulation:
            control._current_simulation_id = None
        recorder.close()

    def _close_abandoned(self) -> None:
        """`control.reset` forgets simulations without ending them."""
        for simulation in [one for one in self._open if one not in self._control._current_simulations.values()]:
            self._close(simulation)


def _call(transaction: Any) -> Any:
    return transaction.function(*transaction.args, **transaction.kwargs)
