"""How the dashboard writes and colours things: numbers with units, safe text, a palette for everyone.

Names, notes and replies come from users and models. Plotly reads a little HTML in labels, and browsers read all of it, so
every such text passes `for_plot` or `for_page` on its way. Pure functions: any thread may call them.
"""

from __future__ import annotations

import html
import math
import unicodedata

__all__ = [
    "ACCENTS",
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "bytes_text",
    "count_text",
    "for_page",
    "for_plot",
    "isolated",
    "plain",
    "seconds_text",
    "value_text",
]

BLUE = "#3a86c8"
ORANGE = "#e08a1e"
GREY = "#8a8f98"
GREEN = "#1a9c78"
PURPLE = "#8d6fc4"
ACCENTS = ("#3a86c8", "#b5651d", "#2fa5b5", "#a8871a", "#c2577e", "#7aa329", "#8d6fc4", "#1a9c78")
"""Line colours: after Okabe and Ito, in tones that stand out on white and on black alike, in an order that keeps neighbours apart for colour-blind eyes."""


def for_page(text: object, limit: int = 400) -> str:
    """Make any text harmless in HTML, shortened to `limit` characters.

    >>> for_page("<img src=x>")
    '&lt;img src=x&gt;'
    """
    return html.escape(isolated(plain(text, limit)))


def for_plot(text: object, limit: int = 80) -> str:
    """Make any text harmless in a Plotly label: no tags, no entities, no formulas, one line.

    >>> for_plot("<b>R&D</b> $x$")
    '&lt;b&gt;R&amp;D&lt;/b&gt; &#36;x&#36;'
    """
    shown = isolated(plain(" ".join(str(text)[: 4 * limit].split()), limit))
    return html.escape(shown, quote=False).replace("$", "&#36;")


def plain(text: object, limit: int) -> str:
    r"""The first `limit` characters of a text without what cannot be shown: control characters, direction marks, lone surrogates.

    >>> plain("a\x00b\u202egnp.exe\ud800", 80), plain("abcdef", 4)
    ('a b gnp.exe ', 'abc…')
    """
    whole = str(text)
    head = whole if len(whole) <= limit else whole[: limit - 1] + "…"
    if head.isprintable():
        return head
    return "".join(letter if letter.isprintable() or letter in _KEPT else " " for letter in head)


_KEPT = "\n\t\u200c\u200d"
"""Not printable to Python, and yet kept: lines, and the joiners that Persian, many Indian scripts and emoji need."""


def isolated(shown: str) -> str:
    """Keep a text that is read from right to left from reordering what stands beside it; other texts stay as they are.

    >>> isolated("Ann"), isolated("\u05d0")
    ('Ann', '\u2068\u05d0\u2069')
    """
    if shown.isascii() or not any(unicodedata.bidirectional(letter) in _RIGHT_TO_LEFT for letter in shown):
        return shown
    return f"\u2068{shown}\u2069"


_RIGHT_TO_LEFT = {"R", "AL", "AN"}


def bytes_text(size: float) -> str:
    """Write a number of bytes with three figures at most.

    >>> bytes_text(0), bytes_text(1234), bytes_text(5_000_000)
    ('0 B', '1.23 kB', '5 MB')
    """
    return _scaled(size, ("B", "kB", "MB", "GB", "TB"))


def count_text(number: float) -> str:
    """Write a count or a rate with three figures at most, in thousands from ten thousand on.

    >>> count_text(7), count_text(1234), count_text(56_000), count_text(0.04)
    ('7', '1,234', '56k', '0.04')
    """
    if 100 <= abs(number) < 10_000:
        return f"{number:,.0f}"
    return _scaled(number, ("", "k", "M", "G")).replace(" ", "")


def _scaled(number: float, units: tuple[str, ...]) -> str:
    rank = 0
    while abs(number) >= 999.5 and rank < len(units) - 1:
        number /= 1000
        rank += 1
    shown = f"{number:.3g}" if abs(number) < 999.5 else f"{number:,.0f}"
    return f"{shown} {units[rank]}"


def seconds_text(seconds: float) -> str:
    """Write a duration in the unit in which one would say it.

    >>> seconds_text(0.0123), seconds_text(0.9), seconds_text(42), seconds_text(150), seconds_text(7300)
    ('12 ms', '0.9 s', '42 s', '2 min 30 s', '2 h 1 min')
    """
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.2g} ms"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole < 600 and whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def value_text(value: float | None, unit: str = "") -> str:
    """Write a limit's value with its unit; None and what is not finite are no limit.

    >>> value_text(200, "records"), value_text(1_000_000, "bytes"), value_text(None, "s"), value_text(0.7, "share")
    ('200 records', '1 MB', 'no limit', '0.7 share')
    """
    if value is None or not math.isfinite(value):
        return "no limit"
    if unit == "bytes":
        return bytes_text(value)
    shown = f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
    return f"{shown} {unit}".strip()
