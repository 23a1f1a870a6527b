"""``python -m conet_graph``: the command line."""

from __future__ import annotations

from conet_graph.cli import main

if __name__ == "__main__":
    main()
