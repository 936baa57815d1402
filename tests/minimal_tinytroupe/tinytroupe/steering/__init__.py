"""Things that happen to persons when something is the case."""


class Intervention:
    """An effect on its targets, at each step at which a condition holds."""

    def __init__(self, targets, first_n=10, last_n=100, name=None):
        self.targets = targets
        self.name = name or "Intervention"
        self.precondition_func = None
        self.effect_func = None

    def set_functional_precondition(self, func):
        self.precondition_func = func
        return self

    def set_effect(self, effect_func):
        self.effect_func = effect_func
        return self

    def check_precondition(self):
        return self.precondition_func is None or self.precondition_func(self.targets)

    def apply_effect(self):
        self.effect_func(self.targets)
