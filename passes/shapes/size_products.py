"""Products of sizes that only the run knows: '4*n' is four times the size that the file calls n."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from conet_graph.ir.graph import Dim

# A number, and the names that it is multiplied with.
Factors = tuple[int, Counter[str]]
# Shape inference numbers the sizes that it knows nothing of, anew each time. Until then equal names are
# equal sizes, so that they cancel.
UNNAMED = "unk__"


def is_open(dim: Dim) -> bool:
    """Whether nothing is known of a size, not even a lasting name."""
    return dim is None or (
        isinstance(dim, str) and any(part.strip().startswith(UNNAMED) for part in dim.split("*"))
    )


def factors(dim: Dim) -> Factors | None:
    """The number and the names whose product a size is; None where nothing is known, or it is 0."""
    if isinstance(dim, int):
        return (dim, Counter()) if dim > 0 else None
    if dim is None:
        return None
    if dim.isidentifier():
        return 1, Counter((dim,))
    parts = [part.strip() for part in dim.split("*")]
    names = [part for part in parts if not part.isdecimal()]
    if len(parts) > 1 and not all(name.isidentifier() for name in names):
        return None
    return math.prod(int(part) for part in parts if part.isdecimal()), Counter(names)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of sizes; None where one is not known."""
    number, names = 1, Counter[str]()
    for dim in dims:
        found = factors(dim)
        if found is None:
            return None
        number, names = number * found[0], names + found[1]
    return _size(number, names)


def quotient(whole: Dim, part: Dim) -> Dim:
    """How often one size goes into another; None where that is not known, or leaves a rest."""
    mine, theirs = factors(whole), factors(part)
    if mine is None or theirs is None or mine[0] % theirs[0] or theirs[1] - mine[1]:
        return None
    return _size(mine[0] // theirs[0], mine[1] - theirs[1])


def _size(number: int, names: Counter[str]) -> Dim:
    if not names:
        return number
    return "*".join([*([str(number)] if number > 1 else []), *sorted(names.elements())])
