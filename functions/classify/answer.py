"""Parse the endpoint's answer. No AWS, no Powertools."""

import json
import math

DECIMALS = 15
"""The state machine writes probabilities into the table with JSONata's ``$string``, which keeps 15
significant digits; with more, the table would differ from the event. DynamoDB also refuses numbers under
1E-130, which round to 0."""


class EndpointAnswerError(Exception):
    """The endpoint's answer is not a JSON list of probabilities that add up to 1."""


def parse_probabilities(answer: bytes) -> list[float]:
    """Parse the endpoint's answer, for example ``[0.92, 0.05, 0.03]``, or raise `EndpointAnswerError`.

    SageMaker's built-in image-classification algorithm answers in this form for ``application/json`` (AWS,
    "Image Classification - MXNet: Input/Output Interface"). That algorithm and float32 models round, so the
    sum may differ from 1 by one percent.
    """
    try:
        inferences = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise EndpointAnswerError(f"not JSON: {answer[:80]!r}") from error
    if not isinstance(inferences, list) or not inferences:
        raise EndpointAnswerError(f"not a list of probabilities: {answer[:80]!r}")
    if not all(type(p) in (int, float) and 0 <= p <= 1 for p in inferences):
        raise EndpointAnswerError(f"not probabilities: {answer[:80]!r}")
    total = math.fsum(inferences)
    if not math.isclose(total, 1, abs_tol=0.01):
        raise EndpointAnswerError(f"probabilities that add up to {total:.3f}: {answer[:80]!r}")
    return [round(float(p), DECIMALS) for p in inferences]
