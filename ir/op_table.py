"""Tables by operator: each family file fills one of its own, and they are gathered into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Handler = TypeVar("Handler")


def handles(
    table: dict[tuple[str, str], Handler], *op_types: str, domain: str = ""
) -> Callable[[Handler], Handler]:
    """Enter a function for operators into a family's table; a second one for an operator is an error."""

    def entered(function: Handler) -> Handler:
        for op_type in op_types:
            if (domain, op_type) in table:
                raise ValueError(f"two entries for {op_type}")
            table[domain, op_type] = function
        return function

    return entered


def gathered(tables: Iterable[dict[tuple[str, str], Handler]]) -> dict[tuple[str, str], Handler]:
    """One table of all families; an operator in two of them is an error."""
    whole: dict[tuple[str, str], Handler] = {}
    for table in tables:
        for key, function in table.items():
            if key in whole:
                raise ValueError(f"two entries for {key}")
            whole[key] = function
    return whole
