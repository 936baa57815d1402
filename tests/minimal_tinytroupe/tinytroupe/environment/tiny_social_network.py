"""A world where only those who are related reach each other."""

from tinytroupe.control import transactional
from tinytroupe.environment.tiny_world import TinyWorld


class TinySocialNetwork(TinyWorld):
    """Relations by name. It cannot run: `run` hands arguments to `_step`, which takes none."""

    def __init__(self, name, broadcast_if_no_target=True):
        super().__init__(name, broadcast_if_no_target=broadcast_if_no_target)
        self.relations = {}

    @transactional()
    def add_relation(self, agent_1, agent_2, name="default"):
        self.agents += [agent for agent in (agent_1, agent_2) if agent not in self.agents]
        self.relations.setdefault(name, []).append((agent_1, agent_2))
        return self

    @transactional()
    def _update_agents_contexts(self):
        for agent in self.agents:
            agent.make_all_agents_inaccessible()
        for pairs in self.relations.values():
            for one, other in pairs:
                one.make_agent_accessible(other)
                other.make_agent_accessible(one)

    @transactional()
    def _step(self):
        self._update_agents_contexts()
        super()._step()

    @transactional()
    def _handle_reach_out(self, source_agent, content, target):
        if self.is_in_relation_with(source_agent, self.get_agent_by_name(target)):
            super()._handle_reach_out(source_agent, content, target)
        source_agent.socialize(f"{target} is no relation of yours: you cannot reach out.", source=self)

    def is_in_relation_with(self, agent_1, agent_2, relation_name=None):
        names = self.relations if relation_name is None else [relation_name]
        pairs = [pair for name in names for pair in self.relations.get(name, ())]
        return (agent_1, agent_2) in pairs or (agent_2, agent_1) in pairs
