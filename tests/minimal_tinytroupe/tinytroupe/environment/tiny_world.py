"""A world: steps, who acts in them, and what actions do to others."""

import concurrent.futures
import copy
import random
from datetime import datetime

from tinytroupe import config_manager, logger, utils
from tinytroupe.agent import TinyPerson
from tinytroupe.control import transactional


class Console:
    """Prints."""

    def print(self, text):
        print(text)

    def rule(self, text):
        print(f"--- {text} ---")


class TinyWorld:
    """Persons who can talk to one another, and what happens to them."""

    all_environments = {}
    communication_display = True

    def __init__(
        self,
        name=None,
        agents=(),
        initial_datetime=None,
        interventions=(),
        broadcast_if_no_target=True,
        max_additional_targets_to_display=3,
    ):
        self.name = name or f"TinyWorld {utils.fresh_id()}"
        self.current_datetime = initial_datetime or datetime.now()
        self.broadcast_if_no_target = broadcast_if_no_target
        self.simulation_id = None
        self.agents = []
        self.name_to_agent = {}
        self._interventions = list(interventions)
        self._displayed_communications_buffer = []
        self.console = Console()
        self._simulation_steps = 0
        TinyWorld.add_environment(self)
        self.add_agents(agents)

    def __repr__(self):
        return f"TinyWorld(name='{self.name}')"

    # --- steps

    @transactional()
    def _step(self, timedelta_per_step=None, randomize_agents_order=True, parallelize=True):
        self._advance_datetime(timedelta_per_step)
        self._simulation_steps += 1
        for intervention in self._interventions:
            if intervention.check_precondition():
                if TinyWorld.communication_display:
                    self._say("intervention", intervention.name)
                intervention.apply_effect()
        if parallelize:
            return self._step_in_parallel(timedelta_per_step=timedelta_per_step)
        return self._step_sequentially(timedelta_per_step, randomize_agents_order)

    def _step_sequentially(self, timedelta_per_step=None, randomize_agents_order=True):
        agents = copy.copy(self.agents)
        if randomize_agents_order:
            random.shuffle(agents)
        actions = {}
        for agent in agents:
            actions[agent.name] = agent.act(return_actions=True)
            self._handle_actions(agent, agent.pop_latest_actions())
        return actions

    def _step_in_parallel(self, timedelta_per_step=None):
        actions = {}
        with concurrent.futures.ThreadPoolExecutor() as executor:
            acts = {agent: executor.submit(agent.act, return_actions=True) for agent in self.agents}
            concurrent.futures.wait(acts.values())
        for agent, act in acts.items():
            try:
                actions[agent.name] = act.result()
                self._handle_actions(agent, agent.pop_latest_actions())
            except Exception as error:
                logger.error("[%s] %s failed: %s", self.name, agent.name, error)
        return actions

    def _advance_datetime(self, timedelta):
        if timedelta is not None:
            self.current_datetime += timedelta

    @transactional()
    @config_manager.config_defaults(parallelize="parallel_agent_actions")
    def run(self, steps, timedelta_per_step=None, return_actions=False, randomize_agents_order=True, parallelize=None):
        actions = []
        for step in range(steps):
            if TinyWorld.communication_display:
                self._say("step", f"{self.name}, step {step + 1} of {steps}")
            actions.append(
                self._step(
                    timedelta_per_step=timedelta_per_step,
                    randomize_agents_order=randomize_agents_order,
                    parallelize=parallelize,
                )
            )
        return actions if return_actions else None

    # --- who is there

    def add_agents(self, agents):
        for agent in agents:
            self.add_agent(agent)
        return self

    def add_agent(self, agent):
        if agent in self.agents:
            return self
        if agent.name in self.name_to_agent:
            raise ValueError(f"There is a person named {agent.name} here already.")
        agent.environment = self
        self.agents.append(agent)
        self.name_to_agent[agent.name] = agent
        return self

    def remove_all_agents(self):
        self.agents = []
        self.name_to_agent = {}
        return self

    def get_agent_by_name(self, name):
        return self.name_to_agent.get(name)

    def make_everyone_accessible(self):
        for one in self.agents:
            for other in self.agents:
                if one != other:
                    one.make_agent_accessible(other)

    def add_intervention(self, intervention):
        self._interventions.append(intervention)

    # --- what actions do

    @transactional()
    def _handle_actions(self, source, actions):
        for action in actions:
            if action["type"] == "REACH_OUT":
                self._handle_reach_out(source, action.get("content"), action.get("target"))
            elif action["type"] == "TALK":
                self._handle_talk(source, action.get("content"), action.get("target"))

    @transactional()
    def _handle_reach_out(self, source_agent, content, target):
        other = self.get_agent_by_name(target)
        if other is not None:
            source_agent.make_agent_accessible(other)
            other.make_agent_accessible(source_agent)
            source_agent.socialize(f"You can talk to {other.name} now.", source=self)
            other.socialize(f"{source_agent.name} came to you; you can talk now.", source=self)

    @transactional()
    def _handle_talk(self, source_agent, content, target):
        other = self.get_agent_by_name(target)
        if other is not None:
            other.listen(content, source=source_agent)
        elif self.broadcast_if_no_target:
            self.broadcast(content, source=source_agent)

    @transactional()
    def broadcast(self, speech, source=None):
        for agent in self.agents:
            if agent != source:
                agent.listen(speech, source=source)

    # --- the feed

    def _say(self, kind, text):
        self._push_and_display_latest_communication(
            {"kind": kind, "rendering": text, "content": None, "source": None, "target": None}
        )

    def _push_and_display_latest_communication(self, communication):
        self._displayed_communications_buffer.append(communication)
        self._display(communication)

    def _display(self, communication):
        show = self.console.rule if communication["kind"] == "step" else self.console.print
        show(communication["rendering"])

    def pop_and_display_latest_communications(self):
        shown, self._displayed_communications_buffer = self._displayed_communications_buffer, []
        for communication in shown:
            self._display(communication)
        return shown

    def clear_communications_buffer(self):
        self._displayed_communications_buffer = []

    # --- states

    def encode_complete_state(self):
        left_out = ("console", "agents", "name_to_agent", "current_datetime", "_interventions")
        state = copy.deepcopy({name: value for name, value in vars(self).items() if name not in left_out})
        state["agents"] = [agent.encode_complete_state() for agent in self.agents]
        state["current_datetime"] = self.current_datetime.isoformat()
        return state

    def decode_complete_state(self, state):
        state = copy.deepcopy(state)
        self.remove_all_agents()
        for one in state.pop("agents"):
            self.add_agent(TinyPerson.get_agent_by_name(one["name"]).decode_complete_state(one))
        state["current_datetime"] = datetime.fromisoformat(state["current_datetime"])
        vars(self).update(state)
        return self

    @staticmethod
    def add_environment(environment):
        if environment.name in TinyWorld.all_environments:
            raise ValueError(f"There is a world named {environment.name} already.")
        TinyWorld.all_environments[environment.name] = environment

    @staticmethod
    def get_environment_by_name(name):
        return TinyWorld.all_environments.get(name)

    @staticmethod
    def clear_environments():
        TinyWorld.all_environments = {}
