"""Latency tables that are kept for the user: the same command takes the same way again, and sooner."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

from conet_graph.ir.errors import BadUsage
from conet_graph.ir.graph import Graph
from conet_graph.latency.sessions import Conditions
from conet_graph.latency.table import FORMAT, Table
from conet_graph.rewriting.alignment import Alignment


def kept_path(graph: Graph, conditions: Conditions, alignment: Alignment) -> Path | None:
    """The file for the table of a network under some conditions; None where there is no folder for it."""
    import onnxruntime as ort

    try:
        folder = _cache() / "conet-graph" / "latency"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # read-only, or a user without a home
        return None
    if not os.access(folder, os.W_OK):
        return None
    where = ort.__version__, _processor(), conditions.to_json()
    told = [FORMAT, graph.loaded.sha256, *where, asdict(alignment)]
    return folder / f"{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]}.json"


def kept_table(path: Path) -> Table | None:
    """The table in such a file, if there is a whole one; a damaged one goes."""
    if not path.exists():
        return None
    try:
        table = Table.read(path)
    except BadUsage:
        path.unlink()
        return None
    return table if table.measured == table.asked else None


def _cache() -> Path:
    """The user's folder for what can be made again (XDG Base Directory Specification; on Windows another)."""
    given = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(given) if given else Path.home() / ".cache"


def _processor() -> str:
    """What the processor calls itself: a home may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.machine())
