"""``deployment.json``: the endpoint that a stage's stack calls, and the stack parameters for it."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Self

from model import storage

FILE = Path("deployment.json")


class DeploymentError(Exception):
    """``deployment.json`` cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Deployment:
    """What ``scones deploy`` writes for ``make deploy``; most fields are parameters of the stack.

    `model` is the model's name and version, `model_package` its ARN in the registry, and `deployed_at` is in
    ISO 8601, UTC. `capture_percent` is for the pipeline to capture, because a serverless endpoint cannot.
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
        """Read the file; fields that an older version did not write get their defaults."""
        try:
            content = json.loads(path.read_bytes())
            values = {
                field.name: content[field.name]
                if field.default is MISSING
                else content.get(field.name, field.default)
                for field in fields(cls)
            }
        except FileNotFoundError:
            raise DeploymentError(f"No such file: {path}. Create it with: scones deploy.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DeploymentError(f"{path} is damaged ({error}): delete it and deploy again") from error
        return cls(**values | {"class_labels": tuple(values["class_labels"])})

    def write(self, path: Path = FILE) -> None:
        """Write the file atomically."""
        storage.write_file(path, (json.dumps(asdict(self), indent=2) + "\n").encode())

    def parameters(self) -> dict[str, str]:
        """Return the parameters of a stack that calls this endpoint."""
        return {
            "EndpointName": self.endpoint_name,
            "ClassLabels": ",".join(self.class_labels),
            "ConfidenceThreshold": f"{self.confidence_threshold:g}",
            "ImageSize": str(self.image_size),
            # Included even if 0, because a stack update keeps the previous value of a missing parameter.
            "CapturePercent": str(self.capture_percent),
        } | ({"CaptureUri": self.capture_uri} if self.capture_uri else {})


def parameters(stage: str, endpoint: str | None = None, path: Path = FILE) -> dict[str, str]:
    """Return the parameters of a stage's stack, by name.

    An `endpoint` other than the deployed one gets the template's defaults. Otherwise a missing deployment, or
    one of another stage, is a `DeploymentError`.
    """
    if endpoint and not path.exists():
        return {"EndpointName": endpoint}
    deployment = Deployment.read(path)
    if endpoint and endpoint != deployment.endpoint_name:
        return {"EndpointName": endpoint}
    if stage != deployment.stage:
        raise DeploymentError(
            f"{path} belongs to stage {deployment.stage}: scones deploy --stage {stage}, or give an endpoint"
        )
    return deployment.parameters()
