"""Makes persons."""

from tinytroupe.factory.tiny_person_factory import TinyPersonFactory

__all__ = ["TinyPersonFactory"]
