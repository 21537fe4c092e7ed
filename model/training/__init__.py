"""From labelled photos to a model: embed them, fit the head, choose the threshold, write the model."""
