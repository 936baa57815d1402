"""All panels of a run, fed together through one cursor, in the order in which they stand.

Only the dashboard's UI thread may call them.
"""

from __future__ import annotations

from collections.abc import Iterator

from troupelab.dashboard.cache_panel import CachePanel
from troupelab.dashboard.consolidation_panel import ConsolidationPanel
from troupelab.dashboard.cost_panel import CostPanel
from troupelab.dashboard.errors_panel import ErrorsPanel
from troupelab.dashboard.latency_panel import LatencyPanel
from troupelab.dashboard.memory_panel import MemoryPanel
from troupelab.dashboard.panel import Clock, Feed, News, Panel, PanelGroup
from troupelab.dashboard.process_panel import ProcessPanel
from troupelab.dashboard.recall_panel import RecallPanel
from troupelab.dashboard.remembered_panel import RememberedPanel
from troupelab.dashboard.shown import Shown
from troupelab.dashboard.throughput_panel import ThroughputPanel
from troupelab.dashboard.tiers_panel import TiersPanel

__all__ = ["Panels"]

TALL, USUAL, SHORT = 340, 270, 230
"""Heights in pixels: two rows and the header fit a laptop's screen."""


class Panels(PanelGroup):
    """The panels of a run. Those that are folded away at first have a mark in their figures for the page."""

    def __init__(self, run: Shown) -> None:
        self.run = run
        self.feed = Feed(run.recorder)
        clock = self.clock = Clock.of(run)
        self.memory = MemoryPanel(run, clock, height=TALL)
        self.tiers = TiersPanel(run, clock, height=TALL)
        self.consolidations = ConsolidationPanel(run, clock, height=USUAL)
        self.latency = LatencyPanel(run, clock, height=USUAL)
        self.throughput = ThroughputPanel(run, clock, height=USUAL)
        self.remembered = RememberedPanel(run, clock, height=USUAL)
        self.recall = RecallPanel(run, clock, height=SHORT)
        self.cache = CachePanel(run, clock, height=SHORT)
        self.cost = CostPanel(run, clock, height=SHORT)
        self.errors = ErrorsPanel(run, clock, height=SHORT)
        self.process = ProcessPanel(run, clock, height=SHORT)
        for panel in (self.cache, self.cost, self.errors, self.process):
            panel.figure.layout.meta = {**panel.figure.layout.meta, "folded": True}

    def __iter__(self) -> Iterator[Panel]:
        yield from (self.memory, self.tiers, self.consolidations, self.latency, self.throughput, self.remembered)
        yield from (self.recall, self.cache, self.cost, self.errors, self.process)

    def read(self) -> News:
        """Take in what is new in the recorder, and hand it on."""
        news = self.feed.take()
        if news:
            self.clock.take(news)
            for panel in self:
                panel.take(news)
        return news
