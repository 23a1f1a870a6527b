"""One case of the fuzzer: a mutant from its seed, and what becomes of it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from conet_graph.analysis.analysis import analysis_of
from conet_graph.ir.errors import ConetGraphError, OwnFault
from conet_graph.ir.load import load_model
from conet_graph.ir.save import save_model
from conet_graph.ir.text import to_text
from conet_graph.passes import analysed
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.verification.report import require
from conet_graph.verification.runtime import lacks_an_operator, open_session
from conet_graph.verification.verification import verify
from tests.fuzz.mutations import MUTATIONS
from tests.fuzz.sources import draw_source

# How many of the mutants have their bytes damaged (too): most of those are no protobuf message any more.
DAMAGED = 0.12


class Wrong(Exception):
    """The product accepted what it should not have."""


def mutant(seed: int) -> bytes:
    """The file of one case; the same seed and the same sources give the same bytes."""
    rng = random.Random(seed)
    data = draw_source(rng)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
            rng.choice(MUTATIONS)(rng, model)
        data = model.SerializeToString(deterministic=True)
    except (DecodeError, EncodeError, ValueError, UnicodeError):
        pass  # what protobuf itself does not write stays as it was
    return damaged(rng, data) if rng.random() < DAMAGED else data


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes overwritten, cut out, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = (
            rng.randrange(len(changed) + 1)
            if rng.random() < 0.5
            else rng.randrange(min(len(changed), 400) + 1)
        )
        size = rng.choice((1, 1, 2, 8, 100))
        how = rng.randrange(5)
        if how == 0:
            changed[at : at + size] = bytes(
                rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))) for _ in range(size)
            )
        elif how == 1:
            del changed[at : at + size]
        elif how == 2:
            changed[at:at] = changed[at : at + size]
        elif how == 3 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def placed(data: bytes, folder: Path) -> Path:
    """The mutant as a file, with what its external data may point at beside it."""
    folder.mkdir(exist_ok=True)
    path = folder / "mutant.onnx"
    path.write_bytes(data)
    if not (folder / "w.bin").exists():
        (folder / "w.bin").write_bytes(bytes(range(256)) * 256)
        os.symlink("/etc/passwd", folder / "link.bin")
    return path


def outcome(path: Path) -> str:
    """What becomes of a mutant: a verified rewrite, or the kind of clean error.

    Raises:
        Wrong: it was accepted, and ONNX Runtime refuses what was written.
        Exception: whatever is a bug.

    """
    try:
        return _rewritten(path)
    except OwnFault as error:
        # Of some mutants ONNX Runtime's values and onnx's sizes are memory that nobody has written.
        if "differs by" in str(error) or "Inferred=" in str(error):
            return "VerificationFailed"
        raise Wrong(str(error)) from error
    except ConetGraphError as error:
        told = str(error)
        if "\n" in told or len(told) > 2000 or not told.isprintable():
            raise Wrong(f"not one sentence: {told!r}") from error
        return type(error).__name__


def _rewritten(path: Path) -> str:
    model = load_model(path)
    graph = analysed(model)
    json.dumps(analysis_of(graph).to_dict(), allow_nan=False)
    to_text(graph)
    made, layout = planned(
        graph, choose_copies(graph, WidthRequest(scale=0.5, multiple_of=1)), "keep", False, 0
    )
    slim = rewritten(graph, made, layout)
    report = verify(graph, slim, made, model.folder)
    require(report)
    target = path.with_name("out.onnx")
    save_model(slim, target, model.folder)
    try:
        analysed(load_model(target))
    except ConetGraphError as error:
        raise Wrong(f"what was written is not read again: {error}") from error
    try:
        open_session(target, fused=False)
    except Exception as error:
        if lacks_an_operator(error):
            return "accepted, ONNX Runtime has not all of its operators"
        raise Wrong(f"ONNX Runtime refuses what verify accepts: {error}") from error
    return "equal" if report.equality == "passed" else f"accepted, {report.equality.split(':')[0]}"
