"""Check that an endpoint gives the same answer as the model gives on this machine."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

from model.sagemaker.account import Account
from model.sagemaker.endpoint import EndpointError, ask

TOLERANCE = 1e-3
"""Processors round float32 differently."""
SAMPLE = Path(__file__).parents[2] / "events" / "classify.json"
"""A photo as the pipeline sends it to the endpoint."""


def smoke_test(
    account: Account, endpoint: str, labels: int, classify: Callable[[bytes], list[float]] | None
) -> None:
    """Check that an endpoint answers a photo with one probability for each of its `labels`.

    They have to equal those of `classify`, the model on this machine, which is ``None`` if the model can only
    run in its container. Raises `EndpointError` if the endpoint does not answer, or answers differently.
    """
    sample = json.loads(SAMPLE.read_bytes())
    photo = base64.b64decode(sample["image_data"])
    answer = ask(account.runtime, endpoint, photo, sample["content_type"])
    if len(answer) != labels:
        raise EndpointError(f"{endpoint} returns {len(answer)} probabilities for {labels} labels")
    if classify is None:
        return
    expected = classify(photo)
    difference = max(abs(one - other) for one, other in zip(answer, expected, strict=True))
    if difference > TOLERANCE:
        raise EndpointError(f"{endpoint} answers {answer}, but the model on this machine answers {expected}")
