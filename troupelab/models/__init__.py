"""How agents think: the model protocol, the scripted model, and the pipeline that every call goes through."""

from troupelab.models.model import ChatMessage, Model, Reply, Request, Schema
from troupelab.models.scripted import ScriptedModel

__all__ = ["ChatMessage", "Model", "Reply", "Request", "Schema", "ScriptedModel"]
