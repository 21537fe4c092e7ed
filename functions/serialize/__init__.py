"""Reduce a photo to the model's input size."""
