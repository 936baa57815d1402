"""TroupeLab: LLM-persona simulations on a concurrent engine, watched and tuned while they run.

```python
import troupelab as tl

run = tl.Run("product_launch", tl.ScriptedModel(seed=7), limits=tl.Limits(recent_max_records=100), seed=7)
tl.Dashboard(run)          # in a notebook; or tl.Lab() to choose everything with widgets
run.start()
run.limits.update(recent_max_records=50, note="smaller window")
run.frames.memory          # pandas
```

The public names are those of `__all__`. Each is loaded when it is first used, so that importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from troupelab.compare import side_by_side
    from troupelab.dashboard.dashboard import Dashboard
    from troupelab.dashboard.lab import Lab
    from troupelab.dashboard.report import report
    from troupelab.dashboard.snapshot import snapshot
    from troupelab.engine.interventions import Intervention
    from troupelab.errors import (
        BridgeError,
        CheckpointError,
        InputError,
        LimitError,
        MissingPackageError,
        ModelBusyError,
        ModelConnectionError,
        ModelError,
        ModelRequestError,
        ModelServerError,
        ModelSetupError,
        ModelTimeoutError,
        ModelUnavailableError,
        PersonaError,
        ReplyError,
        RunError,
        StoreCorruptError,
        StoreError,
        StoreFullError,
        StoreLockedError,
        StoreVersionError,
        TroupeLabError,
        WorldError,
    )
    from troupelab.limits import Limits
    from troupelab.livelimits import LiveLimits
    from troupelab.memory.memory import Memory
    from troupelab.memory.pool import Pool
    from troupelab.models import ChatMessage, Model, Reply, Request, Schema, ScriptedModel
    from troupelab.models.cache import ReplyCache
    from troupelab.models.chat import ChatModel
    from troupelab.models.embeddings import EndpointEmbedder
    from troupelab.models.local import LocalModel
    from troupelab.models.prices import Price
    from troupelab.models.rehearsal.process import Rehearsal
    from troupelab.people.persona import Fragment, Persona
    from troupelab.people.probes import Probe
    from troupelab.people.world import World
    from troupelab.presets import PRESETS, Preset
    from troupelab.recording import Recording
    from troupelab.run import Run, runs
    from troupelab.store import Store
    from troupelab.text.embed import Embedder, HashingEmbedder
    from troupelab.text.wordllama import WordLlamaEmbedder
    from troupelab.tuning.differ import would_go
    from troupelab.tuning.replay import replay
    from troupelab.tuning.retention import retention
    from troupelab.tuning.stream import Stream
    from troupelab.tuning.sweep import sweep

__version__ = "0.1.0"

_HOMES = {
    "troupelab.compare": ("side_by_side",),
    "troupelab.dashboard": ("Dashboard", "Lab", "report", "snapshot"),
    "troupelab.engine.interventions": ("Intervention",),
    "troupelab.errors": (
        "BridgeError", "CheckpointError", "InputError", "LimitError", "MissingPackageError", "ModelBusyError", "ModelConnectionError", "ModelError",
        "ModelRequestError", "ModelServerError", "ModelSetupError", "ModelTimeoutError", "ModelUnavailableError", "PersonaError",
        "ReplyError", "RunError", "StoreCorruptError", "StoreError", "StoreFullError", "StoreLockedError", "StoreVersionError",
        "TroupeLabError", "WorldError",
    ),
    "troupelab.limits": ("Limits",),
    "troupelab.livelimits": ("LiveLimits",),
    "troupelab.memory.memory": ("Memory",),
    "troupelab.memory.pool": ("Pool",),
    "troupelab.models": ("ChatMessage", "Model", "Reply", "Request", "Schema", "ScriptedModel"),
    "troupelab.models.cache": ("ReplyCache",),
    "troupelab.models.chat": ("ChatModel",),
    "troupelab.models.embeddings": ("EndpointEmbedder",),
    "troupelab.models.local": ("LocalModel",),
    "troupelab.models.prices": ("Price",),
    "troupelab.models.rehearsal.process": ("Rehearsal",),
    "troupelab.people.persona": ("Fragment", "Persona"),
    "troupelab.people.probes": ("Probe",),
    "troupelab.people.world": ("World",),
    "troupelab.recording": ("Recording",),
    "troupelab.presets": ("PRESETS", "Preset"),
    "troupelab.run": ("Run", "runs"),
    "troupelab.store": ("Store",),
    "troupelab.text.embed": ("Embedder", "HashingEmbedder"),
    "troupelab.text.wordllama": ("WordLlamaEmbedder",),
    "troupelab.tuning.replay": ("replay",),
    "troupelab.tuning.retention": ("retention",),
    "troupelab.tuning.stream": ("Stream",),
    "troupelab.tuning.differ": ("would_go",),
    "troupelab.tuning.sweep": ("sweep",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "PRESETS",
    "BridgeError",
    "ChatMessage",
    "ChatModel",
    "CheckpointError",
    "Dashboard",
    "Embedder",
    "EndpointEmbedder",
    "Fragment",
    "HashingEmbedder",
    "InputError",
    "Intervention",
    "Lab",
    "LimitError",
    "Limits",
    "LiveLimits",
    "LocalModel",
    "Memory",
    "MissingPackageError",
    "Model",
    "ModelBusyError",
    "ModelConnectionError",
    "ModelError",
    "ModelRequestError",
    "ModelServerError",
    "ModelSetupError",
    "ModelTimeoutError",
    "ModelUnavailableError",
    "Persona",
    "PersonaError",
    "Pool",
    "Preset",
    "Price",
    "Probe",
    "Recording",
    "Rehearsal",
    "Reply",
    "ReplyCache",
    "ReplyError",
    "Request",
    "Run",
    "RunError",
    "Schema",
    "ScriptedModel",
    "Store",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreVersionError",
    "Stream",
    "TroupeLabError",
    "WordLlamaEmbedder",
    "World",
    "WorldError",
    "__version__",
    "bridges",
    "load_ipython_extension",
    "replay",
    "report",
    "retention",
    "runs",
    "side_by_side",
    "snapshot",
    "sweep",
    "would_go",
]


def __getattr__(name: str) -> Any:
    if name == "bridges":
        return import_module("troupelab.bridges")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'troupelab' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext troupelab` in a notebook: from then on there are `%%troupe` and `%troupe`, see `troupelab.bridges.tinytroupe.magic`."""
    import_module("troupelab.bridges.tinytroupe.magic").register(ipython)


def __dir__() -> list[str]:
    return sorted(__all__)
