"""Which vehicle is in a courier's photo: the model, from weights to a served endpoint."""

import os

# read by ONNX Runtime when it is imported: without it, it keeps an id of the device under ~/.cache
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
