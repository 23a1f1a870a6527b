"""The version of conet-graph that runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The installed version; 'unknown' in a checkout that is not installed."""
    try:
        return version("conet-graph")
    except PackageNotFoundError:
        return "unknown"
