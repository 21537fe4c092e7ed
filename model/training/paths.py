"""Input and output paths of a training run: given folders, or those of a SageMaker training job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

JOB = Path("/opt/ml")
"""Root of a training job's input and output: SageMaker Developer Guide, "How Amazon SageMaker AI provides
training information"."""
JOB_INPUT, JOB_MODEL, JOB_OUTPUT = JOB / "input/data/training", JOB / "model", JOB / "output/data"
HYPERPARAMETERS = JOB / "input/config/hyperparameters.json"
FAILURE = JOB / "output/failure"


class TrainingPaths(NamedTuple):
    """The data set, and the output folders for the model and the metrics.

    `packed_later` says whether SageMaker packs the model into an archive after training.
    """

    data: Path
    model: Path
    metrics: Path
    packed_later: bool

    @classmethod
    def resolve(cls, data: Path | None, out: Path | None) -> "TrainingPaths":
        """Return the given paths; in a SageMaker training job, missing ones are those of the job.

        Raises `click.UsageError` if a path is missing and this is not a training job.
        """
        if not (data and out) and not HYPERPARAMETERS.exists():
            raise click.UsageError("give --data and --out")
        data = data or Path(os.environ.get("SM_CHANNEL_TRAINING", JOB_INPUT))
        if out:
            return cls(data, out, out, packed_later=False)
        model = Path(os.environ.get("SM_MODEL_DIR", JOB_MODEL))
        metrics = Path(os.environ.get("SM_OUTPUT_DATA_DIR", JOB_OUTPUT))
        return cls(data, model, metrics, packed_later=True)


@contextmanager
def report_failure_to_sagemaker() -> Iterator[None]:
    """In a training job, write an error to the file whose first 1,024 characters SageMaker shows."""
    try:
        yield
    except Exception as error:
        if FAILURE.parent.is_dir():
            message = error.format_message() if isinstance(error, click.ClickException) else str(error)
            FAILURE.write_text(message or type(error).__name__)
        raise
