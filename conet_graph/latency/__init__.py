"""How long networks take: tables of layers measured in the runtime, predictions, widths for a given time."""
