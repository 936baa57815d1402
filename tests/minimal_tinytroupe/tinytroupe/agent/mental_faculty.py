"""What a person can do besides talking and thinking."""

from tinytroupe.utils import JsonSerializableRegistry


class TinyMentalFaculty(JsonSerializableRegistry):
    """Something that reacts to actions of its types."""

    def __init__(self, name, requires_faculties=None):
        self.name = name
        self.requires_faculties = requires_faculties or []

    def process_action(self, agent, action):
        raise NotImplementedError

    def actions_definitions_prompt(self):
        raise NotImplementedError

    def actions_constraints_prompt(self):
        raise NotImplementedError


class RecallFaculty(TinyMentalFaculty):
    """Searches the semantic memory."""

    def __init__(self):
        super().__init__("Recall")

    def process_action(self, agent, action):
        if action["type"] != "RECALL":
            return False
        found = agent.retrieve_relevant_memories(action["content"])
        agent.think("\n".join(f"I remember: {each}" for each in found) or "Nothing comes to mind.")
        return True

    def actions_definitions_prompt(self):
        return "RECALL: look for something in your memory."

    def actions_constraints_prompt(self):
        return ""


class TinyToolUse(TinyMentalFaculty):
    """Hands actions to tools, one after the other, until one takes it."""

    def __init__(self, tools):
        super().__init__("Tools")
        self.tools = tools

    def process_action(self, agent, action):
        return any(tool.process_action(agent, action) for tool in self.tools)

    def actions_definitions_prompt(self):
        return "\n".join(tool.actions_definitions_prompt() for tool in self.tools)

    def actions_constraints_prompt(self):
        return "\n".join(tool.actions_constraints_prompt() for tool in self.tools)
