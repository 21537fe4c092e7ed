"""Train a model: embed photos, fit the head, choose the threshold, write the model and its baseline."""
