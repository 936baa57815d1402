"""Rows of events as HTML tables. Every cell is escaped here: names, errors and replies come from users and models.

Pure functions: any thread may call them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from troupelab.dashboard.look import for_page
from troupelab.dashboard.search import marked

__all__ = ["nothing_yet", "table", "who"]


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: int = 0,
    *,
    limit: int = 400,
    words: Sequence[str] = (),
    greyed: Callable[[int], bool] = lambda row: False,
) -> str:
    """A table whose first `numeric` columns are numbers; texts are cut to `limit` characters.

    Args:
        head: the columns' names.
        rows: their cells, as text.
        numeric: how many columns, from the left, are numbers.
        limit: of characters in a cell.
        words: are marked in the last column.
        greyed: whether a row, by its place, is one that is dealt with.

    >>> table(["step", "agent"], [["1", "<b>"]], 1)
    '<table><thead><tr><th>step</th><th>agent</th></tr></thead><tbody><tr><td class="number">1</td><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    top = "".join(f"<th>{for_page(name)}</th>" for name in head)
    body, grey = [], ' class="troupelab-done"'
    for number, row in enumerate(rows):
        cells = [
            f'<td class="number">{for_page(cell, limit)}</td>'
            if place < numeric
            else f"<td>{for_page(cell, limit)}</td>"
            for place, cell in enumerate(row)
        ]
        if words:
            cells[-1] = f"<td>{marked(row[-1], words, limit)}</td>"
        body.append(f"<tr{grey if greyed(number) else ''}>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def nothing_yet(sentence: str) -> str:
    """What stands in a tab that has nothing to show: a sentence that says what will appear."""
    return f"<p>{for_page(sentence)}</p>"


def who(names: Sequence[str], agent: int) -> str:
    """An agent's name by its index; -1 is all of them.

    >>> who(["Ann"], 0), who(["Ann"], -1)
    ('Ann', 'all')
    """
    return names[agent] if 0 <= agent < len(names) else "all"
