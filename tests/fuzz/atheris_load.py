"""A target for atheris, the coverage-guided fuzzer of Python (`pip install atheris`).

    python -m tests.fuzz.atheris_load build/fuzz-corpus -max_total_time=300 -rss_limit_mb=0

Files are parsed, checked and analysed. Whatever is no clean error ends the run, and leaves the file.
The first folder is where atheris keeps what it learns; it begins with the seeds of `tests/fuzz/seeds/`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Fuzz; atheris ends the process."""
    import atheris

    with atheris.instrument_imports(include=["conet_graph"]):
        from conet_graph.ir.errors import ConetGraphError
        from conet_graph.ir.load import load_model
        from conet_graph.passes import analysed

    path = Path(tempfile.mkdtemp(prefix="conet-graph-atheris-")) / "model.onnx"

    def load(data: bytes) -> None:
        path.write_bytes(data)
        try:
            analysed(load_model(path))
        except ConetGraphError:
            return

    for folder in [Path(a) for a in sys.argv[1:] if not a.startswith("-")][:1]:
        plant(folder)
    atheris.Setup(sys.argv, load)
    atheris.Fuzz()


def plant(folder: Path) -> None:
    """Write the seeds into a folder."""
    from tests.fuzz.seed_files import SEEDS, seed_model

    folder.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        (folder / f"{seed.stem}.onnx").write_bytes(seed_model(seed))


if __name__ == "__main__":
    main()
