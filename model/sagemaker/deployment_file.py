"""``deployment.json``: the endpoint that a stage's stack calls, and the parameters that follow from it."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Self

from model import storage

FILE = Path("deployment.json")


class DeploymentError(Exception):
    """There is no usable deployment; the message says what to do."""


@dataclass(frozen=True)
class Deployment:
    """What ``scones deploy`` leaves for ``make deploy``, in the words of the stack where it has one.

    Attributes
    ----------
    stage, region, account
        Where.
    endpoint_name
        The endpoint.
    class_labels
        What its answer's numbers are of, in their order.
    confidence_threshold
        The least confidence, 0 to 1, at which an answer is accepted.
    image_size
        The model's input size in pixels.
    capture_uri
        Where its data is captured, if it is.
    model
        Name and version of what it serves, for people to read.
    model_package
        The ARN under which that is registered.
    deployed_at
        ISO 8601, UTC.
    capture_percent
        How much the pipeline has to capture by itself, as a serverless endpoint cannot.
    """

    stage: str
    region: str
    account: str
    endpoint_name: str
    class_labels: tuple[str, ...]
    confidence_threshold: float
    image_size: int
    capture_uri: str | None
    model: str
    model_package: str
    deployed_at: str
    capture_percent: int = 0

    @classmethod
    def read(cls, path: Path = FILE) -> Self:
        """Read the file.

        Raises
        ------
        DeploymentError
            If there is none, or it is damaged.
        """
        try:
            values = json.loads(path.read_bytes())
            known = {
                field.name: values[field.name]
                if field.default is MISSING
                else values.get(field.name, field.default)
                for field in fields(cls)
            }
        except FileNotFoundError:
            raise DeploymentError(f"there is no {path}: scones deploy") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DeploymentError(f"{path} is damaged ({error}): delete it, and deploy again") from error
        return cls(**known | {"class_labels": tuple(known["class_labels"])})

    def write(self, path: Path = FILE) -> None:
        """Write the file atomically."""
        storage.write_file(path, (json.dumps(asdict(self), indent=2) + "\n").encode())

    def parameters(self) -> dict[str, str]:
        """Return the parameters of the stack that asks this endpoint."""
        return {
            "EndpointName": self.endpoint_name,
            "ClassLabels": ",".join(self.class_labels),
            "ConfidenceThreshold": f"{self.confidence_threshold:g}",
            "ImageSize": str(self.image_size),
            # said even when it is nothing: a stack that is updated keeps what it was told before
            "CapturePercent": str(self.capture_percent),
        } | ({"CaptureUri": self.capture_uri} if self.capture_uri else {})


def parameters(stage: str, endpoint: str | None = None, path: Path = FILE) -> dict[str, str]:
    """Return the stack's parameters by name.

    Parameters
    ----------
    stage
        Whose stack they are for.
    endpoint
        The endpoint to ask; by default the one deployed last.
    path
        Where ``deployment.json`` is.

    Raises
    ------
    DeploymentError
        There is no deployment, or it is another stage's.
    """
    try:
        deployment = Deployment.read(path)
    except DeploymentError:
        if endpoint and not path.exists():
            return {"EndpointName": endpoint}
        raise
    if endpoint and endpoint != deployment.endpoint_name:
        return {"EndpointName": endpoint}
    if stage != deployment.stage:
        raise DeploymentError(
            f"{path} is of stage {deployment.stage}: scones deploy --stage {stage}, or name an endpoint"
        )
    return deployment.parameters()
