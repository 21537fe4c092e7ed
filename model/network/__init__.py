"""The model: one ONNX graph from a photo to a probability for each label, and the files beside it."""
