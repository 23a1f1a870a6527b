"""A user's mistakes, as one sentence each; everything outside this family is a bug of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Set (by the tests, the fuzzer and --debug), it lets faults of ours that could be worked around end in a
# traceback.
RAISING = "CONET_GRAPH_RAISE"


class ConetGraphError(Exception):
    """Root of all errors that a user can mend; ``exit_code`` is the command line's."""

    exit_code = 2


class InvalidModel(ConetGraphError):
    """The model file cannot be read or is not a valid network."""


class BadUsage(ConetGraphError):
    """An option, a layer's name or another file than the model is wrong."""


class Refused(ConetGraphError):
    """The request is understood and the answer is no."""

    exit_code = 1


class VerificationFailed(ConetGraphError):
    """A rewritten network is not what it should be."""

    exit_code = 1


class OwnFault(VerificationFailed):
    """What conet-graph itself made is wrong: nobody else's fault."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h

    @classmethod
    def of(cls, what: str) -> OwnFault:
        """The error in one sentence, with what to report."""
        return cls(
            f"This is a fault of conet-graph, not of the file: {what.removesuffix('.')};"
            " please report it with the command and, if you can, the file."
        )


@contextmanager
def of_our_making(what: str) -> Iterator[None]:
    """Checks of a model that conet-graph made: what they find is our own fault.

    Raises:
        OwnFault: in place of InvalidModel.

    """
    try:
        yield
    except InvalidModel as error:
        raise OwnFault.of(f"{what}: {error}") from error


def shown(name: str, limit: int = 80) -> str:
    r"""A name from a model or a path, safe to print: quoted, control characters escaped, shortened.

    >>> print(shown("модель.onnx"), shown("two" + chr(10) + "lines"))
    'модель.onnx' 'two\nlines'

    What is too long loses its middle: the end of a path, or of a layer's name, says most.

    >>> shown("/a/long/way/to/model.onnx", 20)
    "'/a/lon.../model.onnx'"
    """
    if len(name) <= limit and len(text := _escaped(name)) <= limit:
        return f"'{text}'"
    end = (limit - 3) * 2 // 3
    begin = limit - 3 - end
    return f"'{_escaped(name[:begin])[:begin]}...{_escaped(name[-end:])[-end:]}'"


def _escaped(text: str) -> str:
    """Letters of all scripts as they are; what does not print, or turns the line round, escaped."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode("ascii") for c in text
    )
