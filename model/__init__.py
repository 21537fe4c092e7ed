"""Which vehicle is in a courier's photo: the model, from weights to a served endpoint."""

import os

# read by ONNX Runtime when it is imported: without it, it keeps an id of the device under ~/.cache
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# boto3 and SAM read AWS_DEFAULT_REGION only, the AWS CLI and other SDKs AWS_REGION first (boto/boto3#3620)
if region := os.environ.get("AWS_REGION"):
    os.environ["AWS_DEFAULT_REGION"] = region
