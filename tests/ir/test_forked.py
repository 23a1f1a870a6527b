"""Work in a forked process: its answer, its errors, its crash, and its end with whoever waits for it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from conet_graph.ir.errors import BadUsage, InvalidModel, Refused, VerificationFailed
from conet_graph.ir.forked import Crashed, FailedInChild, doing, in_child
from tests.helpers.processes import gone

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for Linux")


def raising(error: BaseException) -> Callable[[], bytes]:
    def work() -> bytes:
        raise error

    return work


def signalled(number: int) -> bytes:
    doing("A library", "reading")
    doing("A library", "counting")
    os.kill(os.getpid(), number)
    return b"never"


def no_children() -> bool:
    with suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
        return False
    return True


@pytest.mark.parametrize("answer", [b"", b"done 3\nabc", b"x" * 1_000_000])
def test_the_answer_comes_back_and_nothing_else_does(answer: bytes) -> None:
    changed: list[int] = []

    def work() -> bytes:
        doing("A library", "reading\nlines")
        changed.append(os.getpid())
        return answer

    assert in_child(work) == answer
    assert changed == []
    assert no_children()


@pytest.mark.parametrize("kind", [InvalidModel, BadUsage, Refused, VerificationFailed, MemoryError])
def test_our_own_errors_are_passed_on(kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        in_child(raising(kind("Zeile 1: \u00fc\n\udc80")))
    assert type(raised.value) is kind
    assert str(raised.value) == "Zeile 1: \u00fc\n\udc80"


def test_a_kind_of_ours_is_passed_on_as_what_it_is_a_kind_of() -> None:
    class Special(Refused):
        pass

    with pytest.raises(Refused) as raised:
        in_child(raising(Special("no")))
    assert type(raised.value) is Refused
    assert str(raised.value) == "no"


def test_other_errors_keep_their_name_and_traceback() -> None:
    with pytest.raises(FailedInChild) as raised:
        in_child(raising(KeyError("name")))
    assert str(raised.value) == "KeyError: 'name'"
    assert raised.value.text == "'name'"
    assert "in work\n" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGSEGV, "A library crashed (SIGSEGV) while counting"),
        (signal.SIGFPE, "A library crashed (SIGFPE) while counting"),
        (signal.SIGABRT, "A library crashed (SIGABRT) while counting"),
        (signal.SIGRTMIN + 1, f"A library crashed (signal {signal.SIGRTMIN + 1}) while counting"),
        (
            signal.SIGKILL,
            "A library was killed (SIGKILL) while counting, as the system does where memory runs out",
        ),
    ],
)
def test_a_crash_is_told(number: int, sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Crashed) as raised:
        in_child(lambda: signalled(number))
    assert str(raised.value) == sentence
    assert capfd.readouterr() == ("", "")
    assert no_children()


def test_a_child_that_leaves_without_an_answer() -> None:
    with pytest.raises(Crashed, match=r"^conet-graph ended the process while working apart$"):
        in_child(lambda: os._exit(3))


def test_an_answer_cut_off_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(pipe: object, kind: bytes, content: bytes) -> None:
        os.write(pipe.fileno(), b"done 10\nhalf")  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setattr("conet_graph.ir.forked._send", write_half)
    with pytest.raises(Crashed, match="SIGSEGV"):
        in_child(lambda: b"0123456789")


def test_a_crash_in_a_child_of_a_child() -> None:
    def work() -> bytes:
        with pytest.raises(Crashed, match=r"crashed \(SIGSEGV\) while counting"):
            in_child(lambda: signalled(signal.SIGSEGV))
        return b"outlived"

    assert in_child(work) == b"outlived"


def test_threads_bring_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = os.fork

    def warning() -> int:
        warnings.warn("multi-threaded, use of fork() may lead to deadlocks", DeprecationWarning, stacklevel=2)
        return fork()

    monkeypatch.setattr(os, "fork", warning)
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        assert in_child(lambda: b"quiet") == b"quiet"
    finally:
        stop.set()
        other.join()


def test_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", full)
    before = len(os.listdir("/proc/self/fd")), signal.pthread_sigmask(signal.SIG_BLOCK, set())
    with pytest.raises(Refused, match=r"No process can be started .*: Resource temporarily unavailable\.$"):
        in_child(lambda: b"never")
    assert (len(os.listdir("/proc/self/fd")), signal.pthread_sigmask(signal.SIG_BLOCK, set())) == before


def test_where_ends_of_children_are_not_told() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert in_child(lambda: b"done") == b"done"
        with pytest.raises(Crashed, match=r"^A library ended the process while counting$"):
            in_child(lambda: signalled(signal.SIGSEGV))
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_an_interruption_ends_the_child_of_a_child_too(tmp_path: Path) -> None:
    def innermost() -> bytes:
        (tmp_path / "innermost").write_text(str(os.getpid()))
        os.kill(first, signal.SIGINT)
        time.sleep(600)
        return b"never"

    first = os.getpid()
    with pytest.raises(KeyboardInterrupt):
        in_child(lambda: in_child(innermost))
    assert no_children()
    assert gone(int((tmp_path / "innermost").read_text()))


def test_signals_that_restart_what_they_interrupt_are_seen_while_waiting() -> None:
    """The clock that tells the steps of a command: its handler runs before the child has ended."""
    seen: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(time.monotonic()))
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        answer = in_child(lambda: time.sleep(1.5) or b"done")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert answer == b"done"
    assert seen
    assert time.monotonic() - seen[0] > 0.5
