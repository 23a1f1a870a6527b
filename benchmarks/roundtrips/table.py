"""Rewritten files through other runtimes, simplifiers, converters and quantisers, beside their originals.

    python benchmarks/roundtrips/table.py [NAME | FILE.onnx ...] [--rows build/roundtrips.csv]

Every network goes as it is, at half its work, and half as wide again. A row is a file and a way: how far the
outputs are from those of the same file in ONNX Runtime without optimisations (of their norm), or why it was
not accepted. What has a row is not run again. Exit code 1 where a rewritten file fares worse than its own
original. Needs `benchmarks/roundtrips/requirements.txt`.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
from networks import NETWORKS, for_one_image, network
from ways import UNOPTIMISED, WAYS, Answers, Image, missing

import conet_graph as cg

FIELDS = ("network", "file", "way", "error", "failure")
FILES = {"original": {}, "narrower": {"macs": 0.5}, "wider": {"scale": 1.5}}
IMAGES = 8
TIMES_WORSE = 4  # than the original's error, beyond what a way may always differ by

Row = dict[str, str]


def images_for(model: onnx.ModelProto) -> list[Image]:
    """Seeded inputs for a network of one input."""
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for _ in range(IMAGES)]


def apart(found: Answers, wanted: Answers) -> float:
    """How far outputs are from others: the largest norm of a difference, over the other's norm."""
    return max(
        float(np.linalg.norm(np.ravel(one).astype(np.float64) - np.ravel(other)))
        / max(float(np.linalg.norm(other)), 1e-12)
        for ones, others in zip(found, wanted, strict=True)
        for one, other in zip(ones, others, strict=True)
    )


def rows_of(name: str, model: onnx.ModelProto, there: set[tuple[str, ...]]) -> list[Row]:
    """The rows of a network that are not there yet."""
    found: list[Row] = []
    images = images_for(model)
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "original.onnx"
        onnx.save(model, whole)
        for file, request in FILES.items():
            ways = [w for w in WAYS if (name, file, w) not in there and not missing(WAYS[w][1])]
            if not ways:
                continue
            path = Path(temporary) / f"{file}.onnx"
            if request:
                loaded = cg.load(whole)
                cg.save(cg.rewrite(loaded, cg.plan(loaded, **request)), path)
            wanted = UNOPTIMISED(path, images, path.parent)
            found += [_row(name, file, way, path, images, wanted) for way in ways]
    return found


def _row(name: str, file: str, way: str, path: Path, images: list[Image], wanted: Answers) -> Row:
    row = dict.fromkeys(FIELDS, "") | {"network": name, "file": file, "way": way}
    with tempfile.TemporaryDirectory() as folder:
        try:
            row["error"] = f"{apart(WAYS[way][0](path, images, Path(folder)), wanted):.2e}"
        except Exception as error:  # whatever a tool raises is its answer
            row["failure"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return row


def worse(rows: list[Row]) -> list[str]:
    """Sentences about rewritten files that fare worse than their originals."""
    originals = {(r["network"], r["way"]): r for r in rows if r["file"] == "original"}
    found: list[str] = []
    for row in rows:
        original = originals[row["network"], row["way"]]
        if row["file"] == "original" or original["failure"]:
            continue
        told = f"{row['network']}, {row['file']}, {row['way']}: "
        if row["failure"]:
            found.append(f"{told}not accepted: {row['failure']}")
            continue
        allowed = max(WAYS[row["way"]][2], TIMES_WORSE * float(original["error"]))
        if not float(row["error"]) <= allowed:
            found.append(f"{told}error {row['error']}, the original's {original['error']}")
    return found


def main() -> int:
    """Measure, append the rows, and say what is worse."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rows", type=Path, default=Path("build/roundtrips.csv"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    if not options.rows.exists():
        options.rows.write_text(",".join(FIELDS) + "\n")
    for given in options.networks:
        with options.rows.open(newline="") as file:
            there = {(row["network"], row["file"], row["way"]) for row in csv.DictReader(file)}
        is_file = given.endswith(".onnx")
        model = for_one_image(onnx.load(given)) if is_file else network(given)
        rows = rows_of(Path(given).stem if is_file else given, model, there)
        with options.rows.open("a", newline="") as file:
            csv.DictWriter(file, FIELDS).writerows(rows)
    with options.rows.open(newline="") as file:
        found = worse(list(csv.DictReader(file)))
    for sentence in found:
        print(sentence)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
