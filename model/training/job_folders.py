"""Where a training reads and writes: the folders given, or those of a SageMaker training job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

JOB = Path("/opt/ml")
"""Where SageMaker puts what a training job reads and collects what it leaves: SageMaker Developer Guide, "How
Amazon SageMaker AI provides training information"."""

JOB_INPUT, JOB_MODEL, JOB_OUTPUT = JOB / "input/data/training", JOB / "model", JOB / "output/data"

HYPERPARAMETERS = JOB / "input/config/hyperparameters.json"

FAILURE = JOB / "output/failure"


class Places(NamedTuple):
    """Where the data is, where the model and the metrics go, and whether SageMaker packs the model itself."""

    data: Path
    model: Path
    metrics: Path
    packed_later: bool


def find_places(data: Path | None, out: Path | None) -> Places:
    """Take the folders given, or those of the SageMaker job that this is.

    Raises
    ------
    click.UsageError
        It is no job, and one is not given.
    """
    if not (data and out) and not HYPERPARAMETERS.exists():
        raise click.UsageError("give --data and --out")
    data = data or Path(os.environ.get("SM_CHANNEL_TRAINING", JOB_INPUT))
    if out:
        return Places(data, out, out, packed_later=False)
    model, output = (
        os.environ.get("SM_MODEL_DIR", JOB_MODEL),
        os.environ.get("SM_OUTPUT_DATA_DIR", JOB_OUTPUT),
    )
    return Places(data, Path(model), Path(output), packed_later=True)


@contextmanager
def telling_the_job() -> Iterator[None]:
    """Leave the reason of a failure where SageMaker looks for it (its first 1024 characters are shown)."""
    try:
        yield
    except Exception as error:
        if FAILURE.parent.is_dir():
            reason = error.format_message() if isinstance(error, click.ClickException) else str(error)
            FAILURE.write_text(reason or type(error).__name__)
        raise
