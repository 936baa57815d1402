"""What we show: controls, live panels, the dashboard, the launcher and the report page.

Importing this imports ipywidgets, anywidget and plotly; `import troupelab` alone does not.
"""

from __future__ import annotations

from troupelab.dashboard.dashboard import Dashboard
from troupelab.dashboard.lab import Lab
from troupelab.dashboard.report import report
from troupelab.dashboard.snapshot import snapshot

__all__ = ["Dashboard", "Lab", "report", "snapshot"]
