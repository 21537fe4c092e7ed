"""The network: one ONNX graph from a photo to a probability for each label, and what is kept beside it."""
