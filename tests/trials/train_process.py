"""One process of a distributed training, as torchrun starts it: train_process.py FOLDER."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from small_trial import SETTINGS, Spots, small_net

from conet_graph.trials.training import ClassificationTrial


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    # Different weights at the start: all processes must take the first one's.
    module = small_net(4, rank)
    settings = replace(SETTINGS, batch=16, schedule="adas")
    trial = ClassificationTrial(Spots(), settings, "cpu")
    found = list(trial(module, 2, checkpoint=folder / "trial.safetensors"))
    save_file(module.state_dict(), folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
