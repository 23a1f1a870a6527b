"""The way to PyTorch and back: an ONNX network as a module that trains, and its weights in the graph again."""
