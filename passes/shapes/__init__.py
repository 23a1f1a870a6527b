"""What shape inference leaves open: arithmetic of shapes, stand-ins for private operators."""
