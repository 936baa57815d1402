"""Frames: the recorder's events as pandas, one frame a family.

Columns carry their units in their names (see `troupelab.events`). Whole numbers are int64, shares and times float64, flags
bool, and agents categories that show their names. Built afresh at each reading, from any thread; pandas is imported then.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from troupelab.errors import MissingPackageError
from troupelab.events import FAMILIES
from troupelab.telemetry.recorder import Recorder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Frames"]


class Frames:
    """Each family of events as a DataFrame: `frames.memory`, `frames.calls`, `frames.acts` and so on.

    `frames.memory.attrs["rows_lost"]` says how many older rows had left the recorder's ring.
    """

    def __init__(self, recorder: Recorder, agents: Sequence[str]) -> None:
        self._recorder = recorder
        self._agents = list(agents)

    def __getattr__(self, family: str) -> pd.DataFrame:
        if family not in FAMILIES:
            raise AttributeError(f"there is no frame {family!r}; the frames are {', '.join(FAMILIES)}")
        return self._frame(family)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *FAMILIES]

    def _frame(self, family: str) -> pd.DataFrame:
        import pandas as pd

        columns = self._recorder.read(family).columns
        frame = pd.DataFrame({name: pd.Series(column, dtype=_dtype(column)) for name, column in columns.items()})
        if "agent" in frame:
            # Code -1 (all agents, or none) becomes a missing value, as pandas has it.
            frame["agent"] = pd.Categorical.from_codes(frame["agent"].to_numpy(dtype=np.int64), pd.Index(self._agents))
        frame.attrs["rows_lost"] = self._recorder.lost(family)
        return frame

    def to_parquet(self, folder: str | Path) -> list[Path]:
        """Write each frame as `<family>.parquet` into a folder, which is made if need be; returns the files.

        Raises:
            MissingPackageError: pyarrow is not installed.
        """
        try:
            import pyarrow  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
        except ImportError as error:
            raise MissingPackageError("to_parquet needs pyarrow: pip install pyarrow") from error
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        files = []
        for family in FAMILIES:
            file = target / f"{family}.parquet"
            frame = self._frame(family)
            frame.attrs = {}
            frame.to_parquet(file, index=False)
            files.append(file)
        return files


def _dtype(column: NDArray[Any]) -> Any:
    """The recorder's own dtype; texts, which numpy holds as objects, become pandas' strings."""
    return "str" if column.dtype == object else column.dtype
