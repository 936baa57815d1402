"""TinyTroupe on this engine: `accelerate` runs one's own TinyTroupe code, `adopt` makes a Run of a TinyTroupe world.

TinyTroupe itself is imported when one of these is called for the first time.
"""

from __future__ import annotations

from troupelab.bridges.tinytroupe.accelerate import Acceleration, accelerate
from troupelab.bridges.tinytroupe.adopt import AdoptedRun, adopt
from troupelab.bridges.tinytroupe.convert import from_transcript, memories, remember, to_person, to_persona, transcript
from troupelab.bridges.tinytroupe.seams import TinyTroupe, find
from troupelab.bridges.tinytroupe.values import to_records, to_values

__all__ = [
    "Acceleration",
    "AdoptedRun",
    "TinyTroupe",
    "accelerate",
    "adopt",
    "find",
    "from_transcript",
    "memories",
    "remember",
    "to_person",
    "to_persona",
    "to_records",
    "to_values",
    "transcript",
]
