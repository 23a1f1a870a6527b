"""Where the corpus of other people's ONNX files lies, if it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"

needs_corpus = pytest.mark.skipif(
    not CORPUS.is_dir(), reason="the corpus of ONNX files is not beside the project"
)


def files(*folders: str) -> list[Path]:
    """The ONNX files of some folders of the corpus."""
    return sorted(p for folder in folders for p in (CORPUS / folder).glob("*.onnx"))
