"""Functions of the generated code that read tensors as Python numbers; they say so where they are defined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

# From the input of that position on they read sizes; what they answer lies where their first input is.
READ_SIZES: dict[object, int] = {}
# Those that read any numbers, likewise.
READ_NUMBERS: dict[object, int] = {}


def reads_sizes(first: int) -> Callable[[Function], Function]:
    """Mark a function that reads its inputs from the ``first`` on as sizes."""

    def entered(function: Function) -> Function:
        READ_SIZES[function] = READ_NUMBERS[function] = first
        return function

    return entered


def reads_numbers(first: int) -> Callable[[Function], Function]:
    """Mark a function that reads its inputs from the ``first`` on as numbers, which are data.

    What PyTorch can compute for one image at a time only is marked so, too: from the first input on.
    """

    def entered(function: Function) -> Function:
        READ_NUMBERS[function] = first
        return function

    return entered
