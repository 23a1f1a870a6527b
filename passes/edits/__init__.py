"""Changes to the graph of a file with all else left as it was."""
