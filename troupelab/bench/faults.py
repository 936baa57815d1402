"""A run through everything that can go wrong at once, and its account: 50 agents, 20 steps, a fault in a third of all requests.

Of the requests, 20 % are refused (429), 5 % fail (500), 5 % bring malformed replies, 2 % lose their connection and 1 % are never
answered. The rehearsal server counts what it was asked and what it did; the run's frames must tell the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from troupelab.bench.harness import report
from troupelab.limits import Limits
from troupelab.models.chat import ChatModel
from troupelab.models.rehearsal.process import Rehearsal
from troupelab.people.world import World
from troupelab.run import Run

__all__ = ["run"]

_SEED = 7
_FAULTS = {"p429": 0.2, "p500": 0.05, "pmalformed": 0.05, "pdrop": 0.02, "phang": 0.01}
_KINDS = ("ModelBusyError", "ModelServerError", "ReplyError", "ModelConnectionError", "ModelTimeoutError")


def run(*, quick: bool = False) -> dict[str, object]:
    """Play and report; `quick` plays once, with 10 agents and 5 steps."""
    agents, steps = (10, 5) if quick else (50, 20)
    return report("faults", lambda: _account(agents, steps), 1 if quick else 3)


def _account(agents: int, steps: int) -> Mapping[str, float]:
    with Rehearsal(latency="lognorm:0.05:0.5", seed=_SEED, **_FAULTS) as server:
        model = ChatModel("rehearsal", base_url=server.base_url, key="none")
        limits = Limits(max_concurrency=agents, timeout_s=2.0)
        world = World.load("market_panel", agents=agents, seed=_SEED)
        played = Run(world, model, limits=limits, steps=steps, seed=_SEED).start().wait(1_200)
        asked, summary = server.stats(), played.summary()
    statuses, kinds = asked["by_status"], played.frames.errors["kind"].value_counts()
    acts = played.frames.acts
    calls = played.frames.calls
    return {
        "acts": float(len(acts)),
        "acts_lost": float((acts["error"] != "").sum()),
        "calls": float(len(calls)),
        "requests_recorded": float(calls["attempts"].sum()),
        "requests_at_the_server": float(asked["requests"]),
        "retries": float(calls["attempts"].sum() - len(calls)),
        **{f"failures_{kind}": float(kinds.get(kind, 0)) for kind in _KINDS},
        "refused_by_the_server": float(statuses.get("429", 0)),
        "failed_at_the_server": float(statuses.get("500", 0)),
        "dropped_by_the_server": float(statuses.get("dropped", 0)),
        "hung_at_the_server": float(statuses.get("hung", 0)),
        "wall_s": float(str(summary["wall_s"])),
    }
