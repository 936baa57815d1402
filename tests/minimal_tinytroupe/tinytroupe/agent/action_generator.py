"""From a prompt to the actions of one turn."""

import json

from tinytroupe.agent import CognitiveActionsModel
from tinytroupe.clients import client
from tinytroupe.utils import JsonSerializableRegistry, extract_json


class ActionGenerator(JsonSerializableRegistry):
    """Asks the model once a turn."""

    def __init__(self, max_attempts=2):
        self.max_attempts = max_attempts

    def generate_next_actions(self, agent, current_messages):
        messages = [{"role": each["role"], "content": json.dumps(each["content"])} for each in current_messages]
        reply = client().send_message(messages, response_format=CognitiveActionsModel)
        content = extract_json(reply["content"])
        actions = content["actions"]
        if not any(action["type"] == "DONE" for action in actions):
            actions.append({"type": "DONE", "content": "", "target": ""})
        return actions, reply["role"], content, []
