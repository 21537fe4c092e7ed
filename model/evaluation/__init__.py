"""Evaluate a model on labelled photos: predictions, metrics, plots and the report."""
