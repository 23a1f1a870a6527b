"""What the fuzzer found: for each kind the text of a small network, in ``seeds/``."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.golden_text import filled

SEEDS = sorted((Path(__file__).parent / "seeds").glob("*.txt"))


def seed_model(path: Path) -> bytes:
    """The file of a seed; weights that the text only declares get numbers that depend on their names."""
    data: bytes = filled(path.read_text("utf-8")).SerializeToString(deterministic=True)
    return data
