"""Text made safe for HTML and SVG, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from conet_graph.ir.errors import shown

# Typography: a dash for what is not known, signs of arithmetic.
UNKNOWN, MINUS, TIMES = "\u2013", "\u2212", "\u00d7"


def safe(text: str) -> str:
    """Text of ours for an element or an attribute."""
    import html  # commands print numbers by this file, and escape nothing

    return html.escape(text, quote=True)


def named(name: str, limit: int = 160) -> str:
    r"""A name from a file for an element or an attribute: control characters escaped, shortened.

    >>> named('<b>"x"\n')
    '&lt;b&gt;&quot;x&quot;\\n'
    """
    return safe(shown(name, limit)[1:-1])


def count(number: int | None) -> str:
    """A number in three digits with a unit, as in 1.81 M; a dash where it is not known.

    >>> count(272474), count(950)
    ('272 k', '950')
    """
    if number is None:
        return UNKNOWN
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{_three(number / size)} {unit}"
    return str(number)


def short_count(number: float) -> str:
    """A round number with a unit, as an axis bears it.

    >>> short_count(1_500_000), short_count(0)
    ('1.5 M', '0')
    """
    digits, space, unit = count(round(number)).partition(" ")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + space + unit


def percent(share: float | None) -> str:
    """A share of 1 as a percentage with one digit.

    >>> percent(0.9123)
    '91.2 %'
    """
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that suits them.

    >>> duration(4.2), duration(750), duration(8100)
    ('4.20 s', '12.5 min', '2.25 h')
    """
    if seconds is None:
        return UNKNOWN
    if seconds < 120:
        return f"{_three(seconds)} s"
    return f"{_three(seconds / 60)} min" if seconds < 7200 else f"{_three(seconds / 3600)} h"


def change(old: float, new: float) -> str:
    """How much something grew or shrank.

    >>> change(32, 40), change(32, 32)
    ('+25 %', '±0 %')
    """
    if not old:
        return UNKNOWN
    percentage = round(100 * (new - old) / old)
    sign = "+" if percentage > 0 else MINUS if percentage < 0 else "±"
    return f"{sign}{abs(percentage)} %"


def _three(number: float) -> str:
    """A number below 1000 in three digits."""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"


def kernel(shape: Sequence[int] | None) -> str:
    """The size of a kernel, '' of a layer that has none."""
    return TIMES.join(map(str, shape or ()))
