"""What a trained network keeps when it is narrowed by unlabelled inputs: accuracy, output error, seconds.

    python benchmarks/bench_calibrated.py net.onnx --calibrate images.npz --test test.npz --out rows.jsonl

``images.npz`` holds an array for each input of the network, ``test.npz`` such arrays and ``answers``, the
right classes. A row is written for each method, share of the MACs and number of samples; rows that are there
already are not made again, so an interrupted run goes on. Methods are rankings of ``rewrite --importance``;
'plain' is l2 without calibration.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import conet_graph as cg

METHODS = ("plain", "best", "l2", "activation", "reconstruction", "taylor", "hessian")
BATCH = 100


def accuracy(model: Any, inputs: dict[str, np.ndarray[Any, Any]], answers: np.ndarray[Any, Any]) -> float:
    """Share of the test inputs to which the largest entry of the first output is the right one."""
    session = ort.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    fixed = session.get_inputs()[0].shape[0]
    batch = fixed if isinstance(fixed, int) else BATCH
    right = 0
    for k in range(0, len(answers), batch):
        feed = {name: array[k : k + batch] for name, array in inputs.items()}
        right += int((session.run(None, feed)[0].argmax(1) == answers[k : k + batch]).sum())
    return right / len(answers)


def row(model: Any, asked: argparse.Namespace, key: dict[str, Any]) -> dict[str, Any]:
    """Narrow, and measure."""
    with np.load(asked.test) as stored:
        answers = stored["answers"]
        inputs = {name: stored[name] for name in stored.files if name != "answers"}
    begin = time.perf_counter()
    request: dict[str, Any] = {"macs": key["macs"]}
    if key["method"] != "plain":
        with np.load(asked.calibrate) as stored:
            data = {name: stored[name] for name in stored.files}
        request |= {"calibrate": data, "samples": key["samples"], "importance": key["method"]}
    else:
        request["input_shapes"] = {name: (1, *array.shape[1:]) for name, array in inputs.items()}
    made = cg.plan(model, seed=key["seed"], **request)
    seconds = time.perf_counter() - begin
    slim = cg.rewrite(model, made)
    return {
        **key,
        "original": round(accuracy(model, inputs, answers), 4),
        "accuracy": round(accuracy(slim, inputs, answers), 4),
        "errors": {} if made.refit is None else made.refit.errors,
        "seconds": round(seconds, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Make the rows that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibrate", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", help="the network's, in the rows; the file's if not given")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.75, 0.5])
    parser.add_argument("--samples", type=int, nargs="+", default=[256])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    asked = parser.parse_args()
    name = asked.name or asked.model.stem
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    model = cg.load(asked.model)
    for macs in asked.macs:
        for method in asked.methods:
            for samples in asked.samples:
                for seed in asked.seeds:
                    key = {"network": name, "macs": macs, "method": method, "samples": samples, "seed": seed}
                    if any(key.items() <= done.items() for done in rows):
                        continue
                    made = row(model, asked, key)
                    with asked.out.open("a") as file:
                        file.write(json.dumps(made) + "\n")
                    print(json.dumps(made), flush=True)


if __name__ == "__main__":
    main()
