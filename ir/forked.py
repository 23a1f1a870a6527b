"""Work of native libraries that may crash, done in a forked process that may take the crash."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, NoReturn

from conet_graph.ir.errors import BadUsage, InvalidModel, OwnFault, Refused, VerificationFailed

# Errors that come through as what they are.
_KNOWN: tuple[type[Exception], ...] = (
    *(InvalidModel, BadUsage, Refused, VerificationFailed, OwnFault, MemoryError),
)
# Seconds between two looks for signals, and bytes that are read at once.
LOOK, PIECE = 0.2, 2**20
# Seconds that a command waits to be stopped itself once its child has been: who ends all of a command's
# processes ends one after the other.
GRACE = 1.0
# Held back while forking: a child must not run its parent's handlers, a parent must know its child first.
_STOPPING = {signal.SIGINT, signal.SIGTERM}
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)

# A message of a child is a line with its kind and length, then as many bytes: one cut off by a crash shows.
_DOING, _DONE, _FAILED = b"doing", b"done", b"failed"

# In a child: where its parent reads.
_parent: BinaryIO | None = None


class Crashed(Exception):
    """The child ended without an answer; the text says who crashed, how, and at what."""


class FailedInChild(Exception):
    """The child raised what has no class here; ``text`` is what it said, and its traceback is a note."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.text = text


def doing(who: str, what: str) -> None:
    """Note which library does what from here on, should it crash; outside a child this does nothing."""
    if _parent is not None:
        _send(_parent, _DOING, json.dumps([who, what]).encode())


def in_child(work: Callable[[], bytes]) -> bytes:
    """The result of ``work``, done in a forked process; what that process changes is lost.

    For Linux. Whether forking is safe for what ``work`` does is the caller's to know: other threads do not
    exist in the child, and what locks they held stay locked. The child is ended by whatever ends the wait
    for it, and by the end of its parent.

    Raises:
        Crashed: the child ended without an answer.
        KeyboardInterrupt: somebody stopped the child.
        InvalidModel, BadUsage, Refused, VerificationFailed, MemoryError: as ``work`` raised them.
        FailedInChild: ``work`` raised something else.
        Refused: no process can be started.

    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        parent = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        child = None
        try:
            child = _fork()
            if child == 0:
                _be_child(work, writing, parent, before)
        finally:
            os.close(writing)
            if child is None:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        status = None
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            told = _all_of(pipe)
            status = _ended(child)
        finally:
            if status is None:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                _ended(child)
    if status >= 0 and os.WIFSIGNALED(status) and os.WTERMSIG(status) in _STOPPING:
        time.sleep(GRACE)  # ended by the handler of our own signal, if that comes
        raise KeyboardInterrupt
    return _understood(told, status)


def _all_of(pipe: BinaryIO) -> bytes:
    """All that comes through a pipe.

    Python runs its handlers between two looks: a signal that came just before a plain read would wait for
    the child's end, and so would those that restart what they interrupt (the clock of a command's steps).
    """
    pieces: list[bytes] = []
    while True:
        if select.select([pipe], [], [], LOOK)[0]:
            piece = os.read(pipe.fileno(), PIECE)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 and later warn where threads run, also those of numpy's BLAS, which is made for forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return os.fork()
        except OSError as error:
            raise Refused(f"No process can be started to run the network in: {error.strerror}.") from None


def _ended(child: int) -> int:
    """Wait for a child; its status, or -1 where it is not told since SIGCHLD is ignored."""
    try:
        return os.waitpid(child, 0)[1]
    except ChildProcessError:
        return -1


def _be_child(
    work: Callable[[], bytes], writing: int, parent: int, mask: set[int | signal.Signals]
) -> NoReturn:
    """Answer, and end without whatever the parent does at its end."""
    global _parent
    try:
        _die_alone(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with os.fdopen(writing, "wb") as _parent:
            _send(_parent, *_answer(work))
    finally:
        os._exit(0)


def _die_alone(parent: int) -> None:
    """Let this process end at once at a signal or with its parent, leaving no word on stderr and no core."""
    import ctypes
    import resource

    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)  # the parent had ended before
    faulthandler.disable()
    for number in {*_STOPPING, signal.SIGABRT}:
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where an assertion's text would go


def _answer(work: Callable[[], bytes]) -> tuple[bytes, bytes]:
    try:
        return _DONE, work()
    except Exception as error:
        known = next((c for c in type(error).__mro__ if c in _KNOWN), type(error))
        told = [known.__name__, str(error), "".join(traceback.format_exception(error))]
        return _FAILED, json.dumps(told).encode()


def _send(pipe: BinaryIO, kind: bytes, content: bytes) -> None:
    pipe.write(b"%s %d\n%s" % (kind, len(content), content))
    pipe.flush()


def _understood(told: bytes, status: int) -> bytes:
    """What the messages of a child come to."""
    who, what = "conet-graph", "working apart"
    while b"\n" in told:
        head, _, rest = told.partition(b"\n")
        kind, _, length = head.partition(b" ")
        content, told = rest[: int(length)], rest[int(length) :]
        if len(content) < int(length):
            break
        if kind == _DONE:
            return content
        if kind == _FAILED:
            raise _error(*json.loads(content))
        who, what = json.loads(content)
    raise Crashed(_crash(who, what, status))


def _error(kind: str, text: str, trace: str) -> Exception:
    known = next((c for c in _KNOWN if c.__name__ == kind), None)
    error = FailedInChild(kind, text) if known is None else known(text)
    error.add_note(f"In a child process:\n{trace}")
    return error


def _crash(who: str, what: str, status: int) -> str:
    if status >= 0 and os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            return f"{who} was killed (SIGKILL) while {what}, as the system does where memory runs out"
        named = {s.value: s.name for s in signal.Signals}
        return f"{who} crashed ({named.get(number, f'signal {number}')}) while {what}"
    return f"{who} ended the process while {what}"
