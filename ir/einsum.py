"""Einsum equations: whose axes carry which letters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# An ellipsis stands for at most so many axes; each of them goes by a digit.
DIGITS = "0123456789"


def terms_of(equation: str) -> tuple[list[str], str]:
    """The letters of each operand and of the result, also where the equation does not name a result.

    >>> terms_of("ij, jk")
    (['ij', 'jk'], 'ik')
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        once = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        result = ("..." if "..." in left else "") + once
    return left.split(","), result


def spelled_out(equation: str, ranks: Sequence[int]) -> str:
    """An Einsum's equation with its result, and with digits for the axes that an ellipsis stands for.

    They are aligned at the right, so the last axis of an ellipsis is '9', the one before it '8'.

    >>> spelled_out("...i,ij", [3, 2])
    '89i,ij->89j'

    Raises:
        ValueError: the equation does not fit operands of these ranks.

    """
    terms, result = terms_of(equation)
    if len(terms) != len(ranks):
        raise ValueError("another number of operands")
    hidden = [rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=True) if "..." in term]
    spelled = [letters_of(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    return ",".join(spelled) + "->" + result.replace("...", DIGITS[10 - max(hidden, default=0) :], 1)


def letters_of(term: str, rank: int) -> str:
    """A term with a letter for each axis: digits for those that an ellipsis stands for.

    >>> letters_of("...c", 3)
    '89c'

    Raises:
        ValueError: the term does not fit the rank.

    """
    hidden = rank - len(term) + 3
    if "..." in term and not 0 <= hidden <= len(DIGITS):
        raise ValueError("an ellipsis of no possible length")
    found = term.replace("...", DIGITS[10 - hidden :], 1)
    if len(found) != rank:
        raise ValueError("an operand of another rank")
    return found


@dataclass(frozen=True)
class EinsumLayer:
    """An Einsum of a feature map and a weight that sums over channels, and makes others.

    ``data``, ``weight`` and ``result`` are their letters, ``summed`` those that both operands have and the
    result has not, ``made`` those that the result has of the weight alone; each in the weight's order.
    """

    data: str
    weight: str
    result: str
    summed: str
    made: str

    @staticmethod
    def of(equation: str, weight_slot: int) -> EinsumLayer | None:
        """What an equation of two operands says; None where it is no layer's.

        >>> layer = EinsumLayer.of("bchw,cde->bdehw", 1)
        >>> layer.summed, layer.made
        ('c', 'de')
        >>> EinsumLayer.of("btc,c->btc", 1) is None
        True
        """
        terms, result = terms_of(equation)
        if len(terms) != 2:
            return None
        weight, data = terms[weight_slot], terms[1 - weight_slot]
        for term in (data, weight, result):
            letters = term.replace("...", "")
            if len(set(letters)) != len(letters):
                return None
        if "..." in weight:
            return None
        summed = "".join(c for c in weight if c in data and c not in result)
        made = "".join(c for c in weight if c not in data and c in result)
        alone = any(c not in data and c not in result for c in weight)
        return EinsumLayer(data, weight, result, summed, made) if summed and made and not alone else None


def axes_of(letters: Iterable[str], term: str, rank: int) -> list[int]:
    """The axes of an operand or a result of this rank that carry some letters.

    >>> axes_of("c", "...c", 4)
    [3]

    Raises:
        ValueError: the term does not fit the rank.

    """
    spelled = letters_of(term, rank)
    return [spelled.index(letter) for letter in letters]
