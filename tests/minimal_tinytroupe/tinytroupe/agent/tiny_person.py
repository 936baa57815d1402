"""A person: perceives, acts, remembers."""

import copy
import json
import threading

from tinytroupe import config_manager, utils
from tinytroupe.agent import logger
from tinytroupe.agent.memory import EpisodicConsolidator, EpisodicMemory, SemanticMemory
from tinytroupe.control import current_simulation, transactional
from tinytroupe.utils import JsonSerializableRegistry, LLMChat, name_or_empty, repeat_on_error

concurrent_agent_action_lock = threading.Lock()
_displayed = config_manager.config_defaults(max_content_length="max_content_display_length")
_DONE = {"type": "DONE", "content": "", "target": ""}


@utils.post_init
class TinyPerson(JsonSerializableRegistry):
    """A simulated person, known by its name."""

    MAX_ACTIONS_BEFORE_DONE = 15
    MIN_EPISODE_LENGTH = config_manager.get("min_episode_length")
    MAX_EPISODE_LENGTH = config_manager.get("max_episode_length")
    serializable_attributes = [
        "_persona",
        "_mental_state",
        "_mental_faculties",
        "_current_episode_event_count",
        "episodic_memory",
        "semantic_memory",
    ]
    serializable_attributes_renaming = {
        "_persona": "persona",
        "_mental_state": "mental_state",
        "_mental_faculties": "mental_faculties",
        "_current_episode_event_count": "current_episode_event_count",
    }
    all_agents = {}
    communication_display = True

    def __init__(
        self,
        name=None,
        action_generator=None,
        episodic_memory=None,
        semantic_memory=None,
        mental_faculties=None,
        enable_basic_action_repetition_prevention=True,
    ):
        assert name is not None, "A person has a name."
        given = {
            "action_generator": action_generator,
            "episodic_memory": episodic_memory,
            "semantic_memory": semantic_memory,
            "_mental_faculties": mental_faculties,
        }
        vars(self).update({key: value for key, value in given.items() if value is not None})
        self.enable_basic_action_repetition_prevention = enable_basic_action_repetition_prevention
        self.name = name

    def _post_init(self, auto_rename_agent=False, new_agent_name=None):
        from tinytroupe.agent.action_generator import ActionGenerator

        self.current_messages = []
        self.environment = None
        self._actions_buffer = []
        self._accessible_agents = []
        self._displayed_communications_buffer = []
        self._extended_agent_summary = None
        self.actions_count = self.stimuli_count = 0
        if not hasattr(self, "_current_episode_event_count"):
            self._current_episode_event_count = 0
        if not hasattr(self, "enable_basic_action_repetition_prevention"):
            self.enable_basic_action_repetition_prevention = True
        if not hasattr(self, "action_generator"):
            self.action_generator = ActionGenerator()
        if not hasattr(self, "episodic_memory"):
            self.episodic_memory = EpisodicMemory(
                fixed_prefix_length=config_manager.get("episodic_memory_fixed_prefix_length"),
                lookback_length=config_manager.get("episodic_memory_lookback_length"),
            )
        if not hasattr(self, "semantic_memory"):
            self.semantic_memory = SemanticMemory()
        if not hasattr(self, "_mental_faculties"):
            self._mental_faculties = []
        if not hasattr(self, "_persona"):
            self._persona = dict.fromkeys(("age", "nationality", "occupation")) | {"name": self.name}
        if not hasattr(self, "_mental_state"):
            self._mental_state = {
                "datetime": None,
                "context": [],
                "goals": [],
                "attention": None,
                "emotions": "calm",
                "working_semantic_memory": None,
                "accessible_agents": [],
            }
        self.name = self._persona["name"] = new_agent_name or self._persona["name"]
        TinyPerson.add_agent(self)
        self.reset_prompt()
        self.simulation_id = None
        if current_simulation() is not None:
            current_simulation().add_agent(self)

    def __repr__(self):
        return f"TinyPerson(name='{self.name}')"

    def get(self, key):
        return self._persona.get(key)

    @transactional()
    def define(self, key, value):
        self._persona[key] = value
        self.reset_prompt()

    @transactional()
    def include_persona_definitions(self, additional_definitions):
        self._persona |= additional_definitions
        self.reset_prompt()

    def add_mental_faculties(self, mental_faculties):
        self._mental_faculties += mental_faculties
        return self

    def generate_agent_system_prompt(self):
        reachable = "\n".join(f"- {each.name}: somebody you know" for each in self._accessible_agents)
        learnt = "\n".join(f"- {each}" for each in self._mental_state["working_semantic_memory"] or ())
        recent = "\n".join(_line(each) for each in self.retrieve_recent_memories() if isinstance(each, dict))
        faculties = "\n".join(each.actions_definitions_prompt() for each in self._mental_faculties)
        return (
            f"You are this person:\n```json\n{json.dumps(self._persona, indent=4)}\n```\n"
            f"You can TALK, THINK, REACH_OUT and be DONE.\n{faculties}\n"
            f"You feel: {self._mental_state['emotions']}\nYou want: {self._mental_state['goals']}\n"
            f"accessible agents:\n{reachable}\n\n"
            f"available semantic memories:\n{learnt}\n# Lately\nEpisodic memories:\n{recent}"
        )

    def reset_prompt(self):
        self._init_system_message = self.generate_agent_system_prompt()
        self.current_messages = [
            {"role": "system", "content": self._init_system_message},
            {"role": "user", "content": "It is your turn: what do you do until you are DONE?"},
        ]

    # --- acting

    @transactional()
    @_displayed
    def act(self, until_done=True, n=None, return_actions=False, max_content_length=None, communication_display=None):
        assert not (until_done and n is not None)
        contents = []

        @repeat_on_error(retries=5, exceptions=[KeyError, TypeError])
        def one_turn():
            self.reset_prompt()
            heard = [each for each in self.episodic_memory.retrieve_recent() if each.get("type") == "stimulus"]
            if heard:
                self.current_messages.append({"role": "user", "content": heard[-1]["content"]})
            actions, role, content, _ = self.action_generator.generate_next_actions(self, self.current_messages)
            for action in actions[: TinyPerson.MAX_ACTIONS_BEFORE_DONE]:
                contents.append(self._commit(action, role, content, max_content_length, communication_display))
                if contents[-1]["action"]["type"] == "DONE" or len(contents) == n:
                    break

        one_turn()
        while n is not None and len(contents) < n:
            one_turn()
        self.consolidate_episode_memories()
        return contents if return_actions else None

    def _commit(self, action, role, content, max_content_length, communication_display):
        if self.enable_basic_action_repetition_prevention and action == self.last_remembered_action():
            action = dict(_DONE)
            self._remember("system", "You were about to repeat yourself, so you are done.", "feedback")
        done = {"action": action, "cognitive_state": content.get("cognitive_state", {})}
        self._remember(role, done, "action")
        self._actions_buffer.append(action)
        state = done["cognitive_state"]
        self._update_cognitive_state(*(state.get(name) for name in ("goals", "context", "attention", "emotions")))
        if TinyPerson.communication_display if communication_display is None else communication_display:
            self._display_communication(role, done, "action", max_content_length=max_content_length)
        for faculty in self._mental_faculties:
            faculty.process_action(self, action)
        self.actions_count += 1
        return done

    def last_remembered_action(self, ignore_done=True):
        for each in reversed(self.episodic_memory.retrieve_last(include_omission_info=False, item_type="action")):
            if not ignore_done or each["content"]["action"]["type"] != "DONE":
                return each["content"]["action"]
        return None

    @transactional()
    def pop_latest_actions(self):
        actions, self._actions_buffer = self._actions_buffer, []
        return actions

    # --- perceiving

    @transactional()
    @_displayed
    def listen(self, speech, source=None, max_content_length=None, communication_display=None):
        return self._observe(_stimulus("CONVERSATION", speech, source), max_content_length, communication_display)

    @_displayed
    def socialize(self, social_description, source=None, max_content_length=None):
        return self._observe(_stimulus("SOCIAL", social_description, source), max_content_length)

    @_displayed
    def see(self, visual_description, source=None, max_content_length=None):
        return self._observe(_stimulus("VISUAL", visual_description, source), max_content_length)

    @_displayed
    def think(self, thought, max_content_length=None):
        return self._observe(_stimulus("THOUGHT", thought, self), max_content_length)

    @_displayed
    def internalize_goal(self, goal, max_content_length=None):
        return self._observe(_stimulus("INTERNAL_GOAL_FORMULATION", goal, self), max_content_length)

    @transactional()
    @_displayed
    def _observe(self, stimulus, max_content_length=None, communication_display=None):
        content = {"stimuli": [stimulus]}
        self._remember("user", content, "stimulus")
        if TinyPerson.communication_display if communication_display is None else communication_display:
            self._display_communication("user", content, "stimuli", max_content_length=max_content_length)
        self.stimuli_count += 1
        return self

    @transactional()
    def listen_and_act(self, speech, return_actions=False, max_content_length=None, communication_display=None):
        shown = {"max_content_length": max_content_length, "communication_display": communication_display}
        self.listen(speech, **shown)
        return self.act(return_actions=return_actions, **shown)

    # --- other people

    @transactional()
    def make_agent_accessible(self, agent, relation_description="can be talked to"):
        if agent not in self._accessible_agents:
            self._accessible_agents.append(agent)
            known = {"name": agent.name, "relation_description": relation_description}
            self._mental_state["accessible_agents"].append(known)

    @transactional()
    def make_all_agents_inaccessible(self):
        self._accessible_agents = []
        self._mental_state["accessible_agents"] = []

    @property
    def accessible_agents(self):
        return self._accessible_agents

    @transactional()
    def _update_cognitive_state(self, goals=None, context=None, attention=None, emotions=None):
        if self.environment is not None and self.environment.current_datetime is not None:
            self._mental_state["datetime"] = self.environment.current_datetime.strftime("%Y-%m-%d %H:%M")
        news = {"goals": goals, "context": context, "attention": attention, "emotions": emotions}
        self._mental_state |= {name: value for name, value in news.items() if value is not None}
        self._mental_state["working_semantic_memory"] = self.retrieve_relevant_memories_for_current_context()
        self.reset_prompt()

    # --- remembering

    def _remember(self, role, content, kind):
        record = {"role": role, "content": content, "type": kind, "simulation_timestamp": self.iso_datetime()}
        self.store_in_memory(record)

    def store_in_memory(self, value):
        self.episodic_memory.store(value)
        self._current_episode_event_count += 1
        if self._current_episode_event_count >= self.MAX_EPISODE_LENGTH:
            self.consolidate_episode_memories()

    def consolidate_episode_memories(self):
        if self._current_episode_event_count <= self.MIN_EPISODE_LENGTH:
            return
        if config_manager.get("enable_memory_consolidation"):
            episode = self.episodic_memory.get_current_episode(item_types=["action", "stimulus"])
            notes = EpisodicConsolidator().process(
                episode,
                timestamp=self._mental_state["datetime"],
                context=self._mental_state,
                persona=self.minibio(),
            )
            self.semantic_memory.store_all(notes.get("consolidation") or [])
        self.episodic_memory.commit_episode()
        self._current_episode_event_count = 0

    def retrieve_memories(self, first_n, last_n, include_omission_info=True, max_content_length=None):
        return self.episodic_memory.retrieve(first_n, last_n, include_omission_info)

    def retrieve_recent_memories(self, max_content_length=None):
        return self.episodic_memory.retrieve_recent()

    def retrieve_relevant_memories(self, relevance_target, top_k=20):
        return self.semantic_memory.retrieve_relevant(relevance_target, top_k=top_k)

    def retrieve_relevant_memories_for_current_context(self, top_k=7):
        if not config_manager.get("enable_continuous_contextual_semantic_memory_retrieval"):
            return []
        recent = "\n".join(str(each["content"]) for each in self.retrieve_memories(first_n=10, last_n=20))
        return self.retrieve_relevant_memories(f"{self._mental_state['context']}\n{recent}", top_k=top_k)

    @transactional()
    def minibio(self, extended=True, requirements=None):
        short = f"{self.name}, {self.get('age')}, {self.get('nationality')}, {self.get('occupation')}."
        if not extended:
            return short
        if self._extended_agent_summary is None:
            wanted = f"Sum up this person in three sentences. {requirements or ''}"
            known = f"**Short biography:** {short}\n**Detailed specification:** {self._persona}"
            self._extended_agent_summary = LLMChat(wanted, known).call()
        return f"{short} {self._extended_agent_summary}"

    # --- the feed

    @_displayed
    def _display_communication(self, role, content, kind, simplified=True, max_content_length=None):
        with concurrent_agent_action_lock:
            if kind == "stimuli":
                item, target = content["stimuli"][0], self.name
                source = item["source"]
            else:
                item, source = content["action"], self.name
                target = item.get("target")
            text = f"{source} -> {target}: [{item['type']}] {item['content'][:max_content_length]}"
            place = self if self.environment is None else self.environment
            place._push_and_display_latest_communication(
                {"kind": kind, "rendering": text, "content": content, "source": source, "target": target}
            )

    def _push_and_display_latest_communication(self, communication):
        self._displayed_communications_buffer.append(communication)
        print(communication["rendering"])

    def pop_and_display_latest_communications(self):
        shown, self._displayed_communications_buffer = self._displayed_communications_buffer, []
        for communication in shown:
            print(communication["rendering"])
        return shown

    def clear_communications_buffer(self):
        self._displayed_communications_buffer = []

    def iso_datetime(self):
        now = None if self.environment is None else self.environment.current_datetime
        return None if now is None else now.isoformat()

    # --- files and states

    def save_specification(self, path, include_mental_faculties=True, include_memory=False, include_mental_state=False):
        left_out = [] if include_memory else ["episodic_memory", "semantic_memory"]
        left_out += [] if include_mental_faculties else ["_mental_faculties"]
        left_out += [] if include_mental_state else ["_mental_state"]
        self.to_json(suppress=left_out, file_path=path, serialization_type_field_name="type")

    @staticmethod
    def load_specification(
        path_or_dict,
        suppress_mental_faculties=False,
        suppress_memory=False,
        suppress_mental_state=False,
        auto_rename_agent=False,
        new_agent_name=None,
    ):
        parts = {
            "_mental_faculties": suppress_mental_faculties,
            "episodic_memory": suppress_memory,
            "semantic_memory": suppress_memory,
            "_mental_state": suppress_mental_state,
        }
        return TinyPerson.from_json(
            path_or_dict,
            suppress=[name for name, suppressed in parts.items() if suppressed],
            serialization_type_field_name="type",
            post_init_params={"auto_rename_agent": auto_rename_agent, "new_agent_name": new_agent_name},
        )

    def encode_complete_state(self):
        left_out = ("environment", "action_generator", "_mental_faculties")
        state = {name: value for name, value in vars(self).items() if name not in left_out}
        state["_accessible_agents"] = [agent.name for agent in self._accessible_agents]
        state["episodic_memory"] = self.episodic_memory.to_json()
        state["semantic_memory"] = self.semantic_memory.to_json()
        state["_mental_faculties"] = [faculty.to_json() for faculty in self._mental_faculties]
        return copy.deepcopy(state)

    def decode_complete_state(self, state):
        state = copy.deepcopy(state)
        del state["_mental_faculties"]
        self._accessible_agents = [TinyPerson.get_agent_by_name(each) for each in state.pop("_accessible_agents")]
        self.episodic_memory = EpisodicMemory.from_json(state.pop("episodic_memory"))
        self.semantic_memory = SemanticMemory.from_json(state.pop("semantic_memory"))
        vars(self).update(state)
        return self

    @staticmethod
    def add_agent(agent):
        if agent.name in TinyPerson.all_agents:
            raise ValueError(f"There is a person named {agent.name} already.")
        TinyPerson.all_agents[agent.name] = agent

    @staticmethod
    def get_agent_by_name(name):
        return TinyPerson.all_agents.get(name)

    @staticmethod
    def clear_agents():
        TinyPerson.all_agents = {}


def _stimulus(kind, content, source):
    return {"type": kind, "content": content, "source": name_or_empty(source)}


def _line(record):
    """A record in the prompt."""
    content, when = record["content"], f" [@{record['simulation_timestamp']}]"
    if isinstance(content, str):
        return f"- {content}"
    if "action" in content:
        action = content["action"]
        return f"- [ACTION:{action['type']}] to {action.get('target')}{when}: {action['content']}"
    stimulus = content["stimuli"][0]
    return f"- [STIMULUS:{stimulus['type']}] from {stimulus['source'] or 'ENV'}{when}: {stimulus['content']}"


__all__ = ["TinyPerson", "concurrent_agent_action_lock", "logger"]
