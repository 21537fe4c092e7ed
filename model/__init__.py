"""The vehicle classifier: data, training, evaluation, serving and deployment."""

import os

# ONNX Runtime reads this when it is imported; otherwise it stores a device id under ~/.cache
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
