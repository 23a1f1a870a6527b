"""The searches of the widths experiment, each as the command line runs it, at one equal budget."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

BASELINES = ("compound", "flat", "random")
# Kind -> options of `conet-graph search`.
SEARCHES: dict[str, tuple[str, ...]] = {
    "conet": ("--trials", "8", "--epochs", "5", "--gamma", "0.05", "--delta", "0.03"),
}


def found_shape(
    kind: str, model: Path, images: Path, folder: Path, draw: int, options: argparse.Namespace
) -> tuple[dict[str, float], int]:
    """Run a search within the parameters and MACs of the file's own widths, or go on with it.

    Returns:
        Size -> the width that was found, and the epochs that it trained.

    """
    own = "1.0"
    common = (
        *("--data", f"npz:{images}", "--out", str(folder), "--width", "own", "--max-params", own),
        *("--max-macs", own, "--min-width", "2", "--multiple-of", "1", "--max-width", "1024", "--augment"),
        *("--batch", str(options.batch), "--seed", str(draw), "--device", options.device, "--json"),
    )
    resume = ("--resume",) if (folder / "run.sqlite").exists() else ()
    command = [sys.executable, "-m", "conet_graph", "search", str(model), *common, *SEARCHES[kind], *resume]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    epochs = SEARCHES[kind][SEARCHES[kind].index("--epochs") + 1]
    widths = {entry["size"]: float(entry["width"]) for entry in told["sizes"]}
    return widths, told["trials"] * int(epochs)
