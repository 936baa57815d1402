"""What usually mends an error: a sentence for each kind that a run can meet. Pure; any thread may call it."""

from __future__ import annotations

from troupelab import errors

__all__ = ["mend"]

MENDS = {
    "ModelBusyError": "the endpoint refuses for now: lower max_concurrency, or set requests_per_minute to what it allows",
    "ModelServerError": "the endpoint failed: it is asked again by itself; where it goes on, look at the endpoint's own log or status page",
    "ModelConnectionError": "no connection: look at the network, the address in base_url, and whether the server is up",
    "ModelTimeoutError": "no reply in time: raise timeout_s, or lower max_concurrency so that the endpoint is less busy",
    "ModelUnavailableError": "this may pass: it is asked again, up to max_attempts times",
    "ModelSetupError": "no call can succeed so: mend the key, the address, the model's name or the account, then resume",
    "ModelRequestError": "the endpoint refuses this very request: shorten what agents hold (recent_max_bytes), or look at its content rules",
    "ReplyError": "the reply could not be read: it is asked again; where it is frequent, a larger model or more max_tokens of a reply helps",
    "ModelError": "a call brought no usable reply: the message says why",
    "TooManyActions": "an agent did more in one turn than is allowed: what was over was left out; nothing needs to be mended",
    "Undeliverable": "somebody spoke to one whom it cannot reach: check hears and reach_out in the world file",
    "InexactPast": "the past was lived through with a difference: what follows is near to it, not the same",
    "TotalMaxBytesTooLow": "the memories cannot get below total_max_bytes: raise it, or lower recent_max_records",
    "StoreFullError": "the disk is full: free some room; what waits is written then",
    "StoreLockedError": "another process has the run's file open: close that one",
    "StoreCorruptError": "the run's file is damaged: Store.salvage gets out what is whole",
    "StoreVersionError": "another version of TroupeLab wrote the file: update troupelab",
    "StoreError": "the run's file could not be read or written: look at the folder, its rights and the disk",
    "BridgeError": "the other engine did something else than its bridge knows: the message says what to do",
    "LimitError": "a limit was refused: the message says what it may be",
    "PersonaError": "a persona file cannot be used: the message names the field",
    "WorldError": "a world file cannot be used: the message names the field",
    "InputError": "something from outside cannot be used: the message names the field",
    "CheckpointError": "the folder holds no run to go on with: the message says why",
    "RunError": "the run was asked for what its state does not allow: the message says what it needs",
    "MissingPackageError": "an optional package is missing: the message says how to install it",
    "TroupeLabError": "the message says what was wrong and what was expected",
}
UNKNOWN = (
    "no error of TroupeLab's own: it comes from a model, a tool or a faculty of yours; the message is all that is known"
)


def mend(kind: str) -> str:
    """What usually mends an error of some kind.

    >>> mend("ModelBusyError")
    'the endpoint refuses for now: lower max_concurrency, or set requests_per_minute to what it allows'
    """
    if kind in MENDS:
        return MENDS[kind]
    known = getattr(errors, kind, None) if kind.isidentifier() else None
    for base in known.__mro__ if isinstance(known, type) else ():
        if base.__name__ in MENDS:
            return MENDS[base.__name__]
    return UNKNOWN
