"""Check that an endpoint gives the same answer as the model does here."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

from model.sagemaker.account import Account
from model.sagemaker.endpoint import EndpointError, ask

SMOKE_TOLERANCE = 1e-3
"""Between an endpoint's answer and the same model's here: processors differ in how they round float32."""

SMOKE_PHOTO = Path(__file__).parents[2] / "events" / "classify.json"
"""A photo as the pipeline sends one."""


def smoke_test(
    account: Account, endpoint: str, labels: int, expected: Callable[[bytes], list[float]] | None
) -> None:
    """Make sure that an endpoint answers, and with what the same model answers here.

    Parameters
    ----------
    account, endpoint
        Which.
    labels
        How many probabilities there must be.
    expected
        Gives the right answer for a photo; ``None`` where nobody here can.

    Raises
    ------
    EndpointError
        It does not.
    """
    sample = json.loads(SMOKE_PHOTO.read_bytes())
    photo = base64.b64decode(sample["image_data"])
    answer = ask(account.runtime, endpoint, photo, sample["content_type"])
    if len(answer) != labels:
        raise EndpointError(f"{endpoint} gives {len(answer)} probabilities for {labels} labels")
    if expected is None:
        return
    right = expected(photo)
    apart = max(abs(one - other) for one, other in zip(answer, right, strict=True))
    if apart > SMOKE_TOLERANCE:
        raise EndpointError(f"{endpoint} answers {answer}, where the model answers {right} here")
