"""conet-graph."""
