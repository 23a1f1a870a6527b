"""Trials: data, training, and whatever else trains a network for a few epochs."""
