"""The vehicle classifier: data, training, evaluation, serving and deployment."""

import os

# ONNX Runtime reads this when it is imported; otherwise it stores a device id under ~/.cache
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# boto3 and SAM read AWS_DEFAULT_REGION only, the AWS CLI and other SDKs AWS_REGION first (boto/boto3#3620)
if region := os.environ.get("AWS_REGION"):
    os.environ["AWS_DEFAULT_REGION"] = region
