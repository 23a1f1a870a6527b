"""New widths: the rules once more over copies of channels, and the model that comes of it."""
