"""Facts made up for a replay, told at drawn steps to everybody: replicates that owe nothing to what a world happens to say.

Each is a sentence with a number that occurs nowhere else, a question that shares words with it, one that shares none, and a neighbour of the
same form with another number. Pure; any thread may call it.
"""

from __future__ import annotations

from troupelab.errors import InputError
from troupelab.ids import draw
from troupelab.people.probes import Probe

__all__ = ["drawn_probes"]

_FORMS = (
    ("locker", "The code of the {} locker is {}.", "What is the code of the {} locker?", "Which digits open the cupboard in that colour?"),
    ("bicycle", "The {} bicycle was sold for {} crowns.", "For how many crowns was the {} bicycle sold?", "What did somebody pay for those two wheels?"),
    ("archive", "The {} folder has {} pages.", "How many pages does the {} folder have?", "How thick is that binder?"),
    ("garden", "In the {} garden stand {} pear trees.", "How many pear trees stand in the {} garden?", "What amount of fruit grows behind the house?"),
    ("choir", "The {} choir has sung for {} guests.", "For how many guests has the {} choir sung?", "How large was the audience at that concert?"),
    ("boat", "The {} boat weighs {} kilos.", "How many kilos does the {} boat weigh?", "How heavy is the vessel?"),
    ("shop", "The {} shop owes {} dollars.", "How many dollars does the {} shop owe?", "How deep in debt are its owners?"),
    ("team", "The {} team has won {} matches.", "How many matches has the {} team won?", "How successful are those players?"),
)  # fmt: skip
_COLOURS = "green amber violet silver crimson turquoise ivory scarlet".split()


def drawn_probes(seed: int, steps: int, *, count: int = 8, up_to: float = 0.6) -> tuple[Probe, ...]:
    """Draw facts and the steps at which they are told.

    Args:
        seed: of every draw.
        steps: how many steps there are.
        count: how many facts, up to 64.
        up_to: they are told in this share of the steps, so that there is time to forget them.

    Raises:
        InputError: `count` is out of range.

    >>> first, *others = drawn_probes(7, 40)
    >>> len(others), 0 <= first.step < 24, first.shares_word(0), first.shares_word(1)
    (7, True, True, False)
    """
    if not 1 <= count <= len(_FORMS) * len(_COLOURS):
        raise InputError("drawn_probes", "count", f"1 to {len(_FORMS) * len(_COLOURS)} facts", found=str(count))
    last = max(1, int(steps * up_to))
    probes = []
    for number in range(count):
        name, fact, question, other = _FORMS[number % len(_FORMS)]
        place = number // len(_FORMS) + draw(seed, "probe colour", number % len(_FORMS))
        colour, wrong = (_COLOURS[(place + more) % len(_COLOURS)] for more in (0, 3))
        value = 1_000 + draw(seed, "probe value", number) % 8_999
        unlike = 1_000 + (value + 1_234 + draw(seed, "probe neighbour", number) % 5_000) % 8_999
        step = draw(seed, "probe step", number) % last
        probes.append(
            Probe(
                f"{colour} {name}", fact.format(colour, value), question.format(colour), (other,),
                neighbour=fact.format(wrong, unlike), answer=(str(value),), step=step,
                neighbour_step=min(step + 1, steps - 1),
            )
        )  # fmt: skip
    return tuple(probes)
