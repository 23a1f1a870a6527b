from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_trial import SETTINGS, Spots, numbers, small_net

from conet_graph.trials.training import ClassificationTrial

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_two(folder: Path) -> list[Any]:
    """Two processes with the environment that torchrun sets; what each was yielded."""
    port = free_port()
    started = []
    for rank in range(2):
        env = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent / "helpers"),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, str(HERE / "train_process.py"), str(folder)]
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    try:
        for process in started:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_learn_as_one_and_end_with_equal_weights(tmp_path: Path) -> None:
    first, second = run_two(tmp_path)
    one, other = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [numbers(m) for m in first] == [numbers(m) for m in second]
    # One process with batches of both: only BatchNorm and dropout see other images together.
    settings = replace(SETTINGS, schedule="adas")
    alone = next(ClassificationTrial(Spots(), settings, "cpu")(small_net(), 2))
    assert first[0]["learning_rate"] == alone["learning_rate"]
    assert first[0]["train_loss"] == pytest.approx(alone["train_loss"], rel=0.15)
    # Both go on from the checkpoint that the first one wrote.
    again, _ = run_two(tmp_path)
    assert [numbers(m) for m in again] == [numbers(m) for m in first[-1:]]
