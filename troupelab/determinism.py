"""Whether a run would be the same again, and if not, what keeps it from that. Any thread may call it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from troupelab.livelimits import LiveLimits
from troupelab.telemetry.recorder import Recorder

__all__ = ["Determinism", "determinism"]


class Determinism(NamedTuple):
    """True where the same world, model, seed and limits give the same transcript and memories; otherwise `reasons` say why not.

    >>> bool(Determinism(())), bool(Determinism(("2 calls ran into their time-out",)))
    (True, False)
    """

    reasons: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.reasons

    def __repr__(self) -> str:
        return "<deterministic>" if self else f"<not deterministic: {'; '.join(self.reasons)}>"


def determinism(
    recorder: Recorder, limits: LiveLimits, *, repeats_itself: bool, cached: bool, packs: bool, by_hand: int
) -> Determinism:
    """Look through what was recorded and through the limits for what depends on the clock or on chance.

    Args:
        recorder: the run's; what has left its rings is not seen.
        limits: the run's.
        repeats_itself: whether the model answers the same request alike.
        cached: whether replies are kept for another run.
        packs: whether acts that come together go out as one call.
        by_hand: how often the run was told or asked something that it remembers, while it was played.
    """
    return Determinism(tuple(_reasons(recorder, limits, repeats_itself, cached, packs, by_hand)))


def _reasons(
    recorder: Recorder, limits: LiveLimits, repeats_itself: bool, cached: bool, packs: bool, by_hand: int
) -> Iterator[str]:
    if not repeats_itself and not cached:
        yield "the model may answer the same request otherwise, and no cache keeps its replies: give the run a folder or a cache"
    if packs and not cached:
        yield "pack_acts: which acts go out together, and with what draw, depends on when they come, and no cache keeps it"
    if limits.cache_similarity is not None:
        yield "cache_similarity lets an agent have the answer that another was given first"
    if limits.max_hedged_fraction:
        yield "max_hedged_fraction takes whichever of two replies comes first"
    kinds = recorder.read("errors").columns["kind"]
    if late := int((kinds == "ModelTimeoutError").sum()):
        yield f"{late} attempts ran into timeout_s or deadline_s"
    if (kinds == "InexactPast").any():
        yield "its past could not be lived through again exactly"
    rules = recorder.read("evictions").columns["rule"]
    if (rules == "archive_max_bytes").any():
        yield "archive_max_bytes has dropped records, when depends on how soon the disk was written"
    alerts = recorder.read("alerts").columns["kind"]
    for guardrail in ("max_wall_s", "max_rss_bytes"):
        if (alerts == guardrail).any():
            yield f"{guardrail} was reached, at a moment that depends on the machine"
    changes = recorder.read("limits").columns
    changed = int(((changes["by"] == "user") & (changes["note"] != "fork")).sum())
    if changed:
        yield f"{changed} limits were changed by hand while it was played; a fork or a resumed run has them at the same steps"
    if by_hand:
        yield f"{by_hand} things were told or asked by hand while it was played; a fork or a resumed run has them at the same steps"
    if unread := int((kinds == "ReplyError").sum()):
        yield f"{unread} replies could not be read, and are not kept: another run may get others"
    errors = recorder.read("acts").columns["error"]
    if lost := int(((errors != "") & (errors != "ReplyError")).sum()):
        yield f"{lost} acts were lost since no reply came: whether an endpoint fails is not the run's to say"
