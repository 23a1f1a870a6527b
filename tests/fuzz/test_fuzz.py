"""Mutants of real models: each is rewritten and verified, or refused in one sentence; nothing else happens.

``CONET_GRAPH_FUZZ`` sets how many cases the long run has; see ``tests/fuzz/driver.py`` for one by hand.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz import cases
from tests.fuzz.cases import Wrong, mutant, outcome, placed
from tests.fuzz.driver import ROOT, Tally, keep, run_cases
from tests.fuzz.seed_files import SEEDS, seed_model

SHORT = 500
LONG = int(os.environ.get("CONET_GRAPH_FUZZ", "50000"))
CLEAN = {"InvalidModel", "Refused", "BadUsage", "VerificationFailed"}
WORKERS = min(2, os.cpu_count() or 1)


def assert_no_bugs(tally: Tally, count: int) -> None:
    """Every case ended well; what did not is kept in build/fuzz, and named."""
    keep(tally, ROOT / "build" / "fuzz")
    told = [f"{f['case']}: {f['outcome']}\n{f['bug']}" for f in tally.failures[:5]]
    assert not tally.failures, "\n".join(told)
    assert sum(tally.outcomes.values()) == count
    accepted = sum(n for kind, n in tally.outcomes.items() if kind == "equal" or kind.startswith("accepted"))
    assert accepted > count / 20
    assert sum(tally.outcomes[kind] for kind in CLEAN) == count - accepted


def test_mutants_are_rewritten_or_refused() -> None:
    assert_no_bugs(run_cases([str(seed) for seed in range(SHORT)], WORKERS), SHORT)


@pytest.mark.wide
def test_many_mutants_are_rewritten_or_refused() -> None:
    seeds = [str(seed) for seed in range(SHORT, SHORT + LONG)]
    assert_no_bugs(run_cases(seeds, WORKERS), LONG)


@pytest.mark.parametrize("path", SEEDS, ids=lambda p: p.stem)
def test_what_was_found_before(path: Path, tmp_path: Path) -> None:
    assert outcome(placed(seed_model(path), tmp_path)) in CLEAN | {"equal", "accepted, not checked"}


def test_the_same_seed_gives_the_same_mutant() -> None:
    assert mutant(7) == mutant(7)
    assert len({mutant(seed) for seed in range(20)}) == 20


def test_crashes_hangs_and_tracebacks_are_noticed(tmp_path: Path) -> None:
    """Worker processes that misbehave on purpose, one way a case."""
    planted = ("os.abort()", "while True: pass", "raise KeyError('no')", "bytearray(2**40)")
    for number, code in enumerate(planted):
        (tmp_path / f"{number}.planted").write_text(code)
    tally = run_cases([str(p) for p in sorted(tmp_path.glob("*.planted"))], 1, longest=1)
    told = sorted(failure["outcome"] for failure in tally.failures)
    assert told == [
        "bug: KeyError",
        "bug: MemoryError",
        "bug: more than 1 s of processor time",
        "bug: the process ends with SIGABRT",
    ]


def test_an_accepted_file_that_no_runtime_loads_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("INVALID_GRAPH")

    sample = ROOT / "models" / "samples" / "digits.onnx"
    path = placed(sample.read_bytes(), tmp_path)
    assert outcome(path) == "equal"
    monkeypatch.setattr(cases, "open_session", refuse)
    with pytest.raises(Wrong, match="ONNX Runtime refuses"):
        outcome(path)
