"""Where persons meet."""

from tinytroupe.environment.tiny_social_network import TinySocialNetwork
from tinytroupe.environment.tiny_world import TinyWorld

__all__ = ["TinySocialNetwork", "TinyWorld"]
