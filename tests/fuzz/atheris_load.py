"""A target for atheris, the coverage-guided fuzzer of Python (`pip install atheris`).

    python -m tests.fuzz.atheris_load build/fuzz-corpus -max_total_time=300 -rss_limit_mb=2048

Files are parsed, checked and analysed. Whatever is no clean error ends the run, and leaves the file.
The first folder is where atheris keeps what it learns; it begins with the seeds of `tests/fuzz/seeds/`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["conet_graph"]):
    from conet_graph.ir.errors import ConetGraphError
    from conet_graph.ir.load import load_model
    from conet_graph.passes import analysed

FOLDER = Path(tempfile.mkdtemp(prefix="conet-graph-atheris-"))


def load(data: bytes) -> None:
    """Read one file as a user would."""
    path = FOLDER / "model.onnx"
    path.write_bytes(data)
    try:
        analysed(load_model(path))
    except ConetGraphError:
        return


def main() -> None:
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if folders:
        from tests.fuzz.seed_files import SEEDS, seed_model

        Path(folders[0]).mkdir(parents=True, exist_ok=True)
        for seed in SEEDS:
            (Path(folders[0]) / f"{seed.stem}.onnx").write_bytes(seed_model(seed))
    atheris.Setup(sys.argv, load)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
