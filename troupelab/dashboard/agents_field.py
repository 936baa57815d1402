"""A field in which one names agents: a few letters are enough, and a name that nobody has is refused with a sentence.

Handlers leave a wish for the dashboard's UI thread, which calls everything else here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets as widgets

from troupelab.dashboard.look import for_page, plain

__all__ = ["AgentsField", "completed"]

NAMED = 4
"""How many of the names that fit are told where several do."""


def completed(names: Sequence[str], typed: str) -> tuple[str, str]:
    """The name that somebody means, and an empty sentence; or no name, and a sentence that says why.

    >>> completed(["Ann Lee", "Bo", "Anna"], "an")
    ('', 'Ann Lee and Anna begin with “an”: type more of the name')
    >>> completed(["Ann Lee", "Bo", "Anna"], " b"), completed(["Ann", "Anna"], "ANN")
    (('Bo', ''), ('Ann', ''))
    """
    if typed in names:
        return typed, ""
    meant = typed.strip().casefold()
    if same := [name for name in names if name.casefold() == meant]:
        return same[0], ""
    fitting = [name for name in names if meant and name.casefold().startswith(meant)]
    if len(fitting) == 1:
        return fitting[0], ""
    said = f"“{plain(typed.strip(), 40)}”"
    if not fitting:
        some = ", ".join(plain(name, 40) for name in names[:NAMED])
        return "", f"nobody's name begins with {said}; there are {some}" + (" and others" if len(names) > NAMED else "")
    told = [plain(name, 40) for name in fitting[:NAMED]]
    if len(fitting) > NAMED:
        return "", f"{len(fitting)} names begin with {said} ({', '.join(told)}, …): type more of the name"
    return "", f"{', '.join(told[:-1])} and {told[-1]} begin with {said}: type more of the name"


class AgentsField:
    """Names as tags.

    Args:
        wish: has something called on the UI thread.
        chosen: is called there with the names that are chosen now.
        placeholder: what stands in the field when nobody is.
        width: of the field.
    """

    def __init__(
        self,
        wish: Callable[[Callable[[], None]], None],
        chosen: Callable[[tuple[str, ...]], None],
        *,
        placeholder: str,
        width: str,
    ) -> None:
        self._names: tuple[str, ...] = ()
        self._chosen = chosen
        self._refused_beside: list[str] | None = None
        self.tags = widgets.TagsInput(allow_duplicates=False, placeholder=placeholder, layout={"width": width})
        self.tags.observe(lambda _: wish(self._changed), "value")
        self.said = widgets.HTML()
        self.parts = (self.tags, self.said)

    def offer(self, names: Sequence[str]) -> None:
        """Let these be chosen, none of them yet."""
        self._names = tuple(names)
        self.said.value = ""
        self.tags.value = []

    def _changed(self) -> None:
        """Make whole names of what was typed, and say what could not be made one."""
        typed = list(self.tags.value)
        found = [completed(self._names, str(tag)) for tag in typed]
        names = list(dict.fromkeys(name for name, _ in found if name))
        refused = [sentence for _, sentence in found if sentence]
        if refused:
            self._refused_beside = names
            self.said.value = f'<span class="troupelab-said" role="status">{for_page(refused[-1])}</span>'
        elif names != self._refused_beside:
            self._refused_beside = None
            self.said.value = ""
        if names != typed:
            self.tags.value = names
        self._chosen(tuple(names))
