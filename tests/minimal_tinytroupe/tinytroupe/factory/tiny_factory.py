"""What all factories have in common."""

import copy

from tinytroupe import utils


class TinyFactory:
    """A factory, known by its name."""

    all_factories = {}

    def __init__(self, simulation_id=None):
        self.name = f"Factory {utils.fresh_id()}"
        self.simulation_id = simulation_id
        TinyFactory.add_factory(self)

    @staticmethod
    def add_factory(factory):
        if factory.name in TinyFactory.all_factories:
            raise ValueError(f"There is a factory named {factory.name} already.")
        TinyFactory.all_factories[factory.name] = factory

    @classmethod
    def clear_factories(cls):
        TinyFactory.all_factories = {}
        cls._clear_factories()

    @classmethod
    def _clear_factories(cls):
        pass

    def encode_complete_state(self):
        return copy.deepcopy(vars(self))

    def decode_complete_state(self, state):
        vars(self).update(copy.deepcopy(state))
        return self
