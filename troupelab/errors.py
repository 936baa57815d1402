"""Every error that TroupeLab raises on purpose.

```
TroupeLabError
├── LimitError            a limit out of range, unknown, or at odds with another   (also a ValueError)
├── InputError            a file or value from outside that cannot be used         (also a ValueError)
│   ├── PersonaError      ... in a persona file
│   └── WorldError        ... in a world file
├── ModelError            a model call that brought no usable reply
│   ├── ReplyError        the reply came, but cannot be read as what was asked for
│   ├── ModelSetupError   no call can succeed as things are: a wrong key, address or model name
│   ├── ModelRequestError the endpoint does not take this very request
│   └── ModelUnavailableError  this may pass: the request is sent again
│       ├── ModelBusyError        ... too many requests for now (408, 409, 429)
│       ├── ModelServerError      ... the endpoint failed (5xx)
│       ├── ModelConnectionError  ... the connection was lost, or none came about
│       └── ModelTimeoutError     ... no reply within `timeout_s`
├── RunError              a run asked for something that its state does not allow
│   └── CheckpointError   ... a folder without a run to go on with, or with another's
├── StoreError            the file of a run cannot be opened, read or written
│   ├── StoreLockedError  ... another store has it open
│   ├── StoreVersionError ... a newer TroupeLab wrote it, or none that this one can still read
│   ├── StoreCorruptError ... what it holds is not what was written
│   └── StoreFullError    ... the disk has no room
├── BridgeError           another engine is not as its bridge knows it, or cannot do what was asked
└── MissingPackageError   an optional package is needed; the message says how to install it (also an ImportError)
```

Each message is one sentence that names what was wrong and what was expected. Any thread may raise or catch these.
"""

from __future__ import annotations

__all__ = [
    "BridgeError",
    "CheckpointError",
    "InputError",
    "LimitError",
    "MissingPackageError",
    "ModelBusyError",
    "ModelConnectionError",
    "ModelError",
    "ModelRequestError",
    "ModelServerError",
    "ModelSetupError",
    "ModelTimeoutError",
    "ModelUnavailableError",
    "PersonaError",
    "ReplyError",
    "RunError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreVersionError",
    "TroupeLabError",
    "WorldError",
]


class TroupeLabError(Exception):
    """The root of every error that TroupeLab raises on purpose."""


class LimitError(TroupeLabError, ValueError):
    """A limit is unknown, out of range, or at odds with another; nothing was changed."""


class InputError(TroupeLabError, ValueError):
    """Something from outside cannot be used.

    The message names the `source` (a file, or what stands in for one), the `field` inside it, and what was expected.

    >>> str(InputError("town.json", "steps", "a whole number from 1 to 1000000", found="'many'"))
    "town.json: steps: expected a whole number from 1 to 1000000, found 'many'"
    """

    def __init__(self, source: str, field: str, expected: str, *, found: str = "") -> None:
        self.source = source
        self.field = field
        self.expected = expected
        where = f"{source}: {field}" if field else source
        super().__init__(f"{where}: expected {expected}" + (f", found {found}" if found else ""))


class PersonaError(InputError):
    """A persona file or value cannot be used."""


class WorldError(InputError):
    """A world file or value cannot be used."""


class ModelError(TroupeLabError):
    """A model call brought no usable reply."""


class ReplyError(ModelError):
    """A reply came but cannot be read as what was asked for; `reason` says why, `excerpt` shows the offending place."""

    def __init__(self, reason: str, excerpt: str = "") -> None:
        self.reason = reason
        self.excerpt = excerpt[:200]
        super().__init__(f"{reason}, near {self.excerpt!r}" if excerpt else reason)


class ModelSetupError(ModelError):
    """No call can succeed as things are: a wrong key, a wrong address, a model that does not exist, an account without credit."""


class ModelRequestError(ModelError):
    """The endpoint does not take this very request (too long, or refused for its content); sending it again would not help."""


class ModelUnavailableError(ModelError):
    """No reply came for a reason that may pass; `retry_after_s` is how long the endpoint asked to wait, or None."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class ModelBusyError(ModelUnavailableError):
    """The endpoint has too many requests for now (408, 409 or 429)."""


class ModelServerError(ModelUnavailableError):
    """The endpoint failed (5xx)."""


class ModelConnectionError(ModelUnavailableError):
    """The connection was lost, or none came about."""


class ModelTimeoutError(ModelUnavailableError):
    """No reply came within `timeout_s`."""


class RunError(TroupeLabError):
    """A run was asked for something that its state does not allow, or its engine failed."""


class CheckpointError(RunError):
    """A folder (or file) holds no run that can be gone on with, or that of another world, or lacks what it needs to go on."""


class BridgeError(TroupeLabError):
    """Another engine is not as its bridge knows it, or cannot do what was asked; the message says what to do."""


class MissingPackageError(TroupeLabError, ImportError):
    """An optional package is needed; the message says how to install it."""


class StoreError(TroupeLabError):
    """The file of a run cannot be opened, read or written; the message names the file and what to do."""


class StoreLockedError(StoreError):
    """Another store, in this process or another, has the file open for writing."""


class StoreVersionError(StoreError):
    """The file has a version that this TroupeLab does not know."""


class StoreCorruptError(StoreError):
    """What the file holds is not what was written; `Store.salvage` gets out what is still whole."""


class StoreFullError(StoreError):
    """The disk (or a quota) has no room for what waits to be written; nothing that waits is lost."""
