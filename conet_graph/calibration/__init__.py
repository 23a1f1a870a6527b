"""Calibrated narrowing: a trained network keeps its function, by unlabelled inputs and without a gradient."""
