"""``python -m model evaluate``: how right a model is on photos of known labels, and whether it knows."""

import base64
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from functions.filter.app import OTHER
from model.evaluation.figures import Answers, Evaluation, evaluate
from model.network.photo import PhotoError
from model.terminal.progress import counted
from model.training import dataset
from model.training.dataset import Dataset

METRICS = "metrics.json"
REPORT = "report.html"


class EvaluationError(Exception):
    """The model cannot be evaluated on this; the message says why."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes
    ----------
    name
        For people to read.
    labels
        What the probabilities are of, in their order.
    threshold
        The least confidence, 0 to 1, at which an answer is accepted.
    classify
        Gives the probabilities for a photo's bytes.
    """

    name: str
    labels: tuple[str, ...]
    threshold: float
    classify: Callable[[bytes], list[float]]


@click.command("evaluate")
@click.option(
    "--model",
    type=click.Path(exists=True, path_type=Path),
    help="A model's folder or model.tar.gz.  [default: the ready-made zero-shot model, made on first use]",
)
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What `model data` wrote, or a folder with a sub-folder of photos for each label.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="test",
    show_default=True,
    help="Which photos of what `model data` wrote.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help=f"A folder for {METRICS} and {REPORT}."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
@click.option(
    "--through",
    metavar="ENDPOINT",
    help="Ask a SageMaker endpoint, as the pipeline does, not the model itself.",
)
@click.option("--endpoint-url", help="Where SageMaker Runtime answers, such as http://127.0.0.1:4567.")
@click.option(
    "--labels", help="An endpoint's labels in their order, separated by commas.  [default: the model's]"
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="The least confidence to accept.  [default: the model's own]",
)
def command(
    *,
    model: Path | None,
    data: Path,
    split: str,
    out: Path | None,
    as_json: bool,
    through: str | None,
    endpoint_url: str | None,
    labels: str | None,
    threshold: float | None,
) -> None:
    """Measure how right a model is on photos whose labels are known.

    Photos of `other`, something else than a vehicle, are welcome, whether the model has that label or
    not: they count for how many of them are accepted as a vehicle.

    \b
    Examples:
      python -m model evaluate --data photos/
      python -m model evaluate --model trained/ --data data/ --out evaluation/
      python -m model evaluate --data photos/ --through any --endpoint-url http://127.0.0.1:8080
      python -m model evaluate --data photos/ --json | jq .at_threshold

    \b
    Exit codes:
      0  it is measured, whatever came out
      1  something failed; one line on stderr says what
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    photos = dataset.read(data, split)
    subject = find_subject(model, through, endpoint_url)
    if labels:
        subject = replace(subject, labels=tuple(label.strip() for label in labels.split(",")))
    if threshold is not None:
        subject = replace(subject, threshold=threshold)
    check_labels(photos, subject.labels)
    evaluation = evaluate(ask(subject, photos, data))
    about = {
        "model": subject.name,
        "data": data.resolve().name,
        "split": split if photos.manifest_sha256 else None,
        "manifest_sha256": photos.manifest_sha256,
    }
    report = about | asdict(evaluation)
    if out:
        from model.evaluation.report import render  # noqa: PLC0415  --help should not wait for it

        write(out, report, render(evaluation, about, data))
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        Console().print(summary(evaluation))


def find_subject(model: Path | None, endpoint: str | None, endpoint_url: str | None) -> Subject:
    """Load a model, or find an endpoint that serves one.

    Raises
    ------
    ArtifactError
        The model cannot be loaded.
    """
    from model.network.classifier import Classifier  # noqa: PLC0415  ONNX Runtime takes a while to import

    classifier = Classifier.load(model)
    description = classifier.description
    name = f"{description.name} {description.version}"
    if not endpoint:
        return Subject(name, description.labels, description.threshold, classifier.classify)
    return Subject(
        f"endpoint {endpoint}",
        description.labels,
        description.threshold,
        asking(endpoint, endpoint_url, description.input_size),
    )


def asking(endpoint: str, endpoint_url: str | None, box: int) -> Callable[[bytes], list[float]]:
    """Return what asks an endpoint about a photo, reduced to `box` x `box` pixels as the pipeline does it.

    What it returns raises `EvaluationError` if the endpoint does not answer with a list of numbers, and
    `PhotoError` if the photo is rejected before it is sent.
    """
    import boto3  # noqa: PLC0415  takes half a second to import
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  as above

    from functions.serialize.app import RejectedError, serialize  # noqa: PLC0415  as above

    runtime = boto3.client("sagemaker-runtime", endpoint_url=endpoint_url)

    def classify(photo: bytes) -> list[float]:
        try:
            reduced = serialize(io.BytesIO(photo), box)
        except RejectedError as error:
            raise PhotoError(error.detail) from error
        try:
            answer = runtime.invoke_endpoint(
                EndpointName=endpoint,
                ContentType=reduced["content_type"],
                Accept="application/json",
                Body=base64.b64decode(reduced["image_data"]),
            )
            return [float(probability) for probability in json.loads(answer["Body"].read())]
        except (BotoCoreError, ClientError) as error:
            raise EvaluationError(f"{endpoint} does not answer: {error}") from error
        except (ValueError, TypeError) as error:
            raise EvaluationError(f"{endpoint} does not answer with a list of probabilities") from error

    return classify


def check_labels(photos: Dataset, labels: Sequence[str]) -> None:
    """Make sure that the model can be right on all photos but those of ``other``.

    Raises
    ------
    EvaluationError
        There are photos of a label that the model does not have.
    """
    present = {photos.labels[target] for target in photos.targets}
    if unknown := sorted(present.difference(labels, {OTHER})):
        raise EvaluationError(
            f"there are photos of {', '.join(unknown)}, which the model does not know: its labels are "
            f"{', '.join(labels)}"
        )


def ask(subject: Subject, photos: Dataset, folder: Path) -> Answers:
    """Let it classify photos, one after the other.

    Parameters
    ----------
    subject
        What to ask.
    photos
        What to ask about.
    folder
        Where the photos are; they are named from there.

    Raises
    ------
    EvaluationError
        A photo cannot be read, or an answer has not one number for each label.
    """
    answers, seconds = [], []
    for path in counted(photos.paths, len(photos.paths), "Asking"):
        photo = _read(path)
        started = time.perf_counter()
        try:
            answer = subject.classify(photo)
        except PhotoError as error:
            raise EvaluationError(f"{path} cannot be read as a photo: {error}") from error
        seconds.append(time.perf_counter() - started)
        if len(answer) != len(subject.labels):
            raise EvaluationError(
                f"{subject.name} gives {len(answer)} probabilities for the {len(subject.labels)} labels "
                f"{', '.join(subject.labels)}"
            )
        answers.append(answer)
    return Answers(
        labels=subject.labels,
        threshold=subject.threshold,
        probabilities=np.array(answers),
        seconds=np.array(seconds),
        files=[path.relative_to(folder).as_posix() for path in photos.paths],
        shown=[photos.labels[target] for target in photos.targets],
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror})") from error


def write(out: Path, report: dict[str, object], page: str) -> None:
    """Write both files, each complete before it has its name.

    Raises
    ------
    EvaluationError
        The folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as draft:
            Path(draft, METRICS).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            Path(draft, REPORT).write_text(page, encoding="utf-8")
            for name in (METRICS, REPORT):
                Path(draft, name).replace(out / name)
    except OSError as error:
        raise EvaluationError(f"{out} cannot be written ({error.strerror})") from error


def summary(evaluation: Evaluation) -> Table:
    """Lay the main figures out for a terminal."""
    at = evaluation.at_threshold
    table = Table("", "", "95% interval", "photos", box=box.SIMPLE_HEAD)
    for what, share in (
        ("accuracy on vehicles", evaluation.accuracy),
        *((f"precision of {label}", one.precision) for label, one in evaluation.labels.items()),
        *((f"recall of {label}", one.recall) for label, one in evaluation.labels.items()),
        (f"vehicles accepted at {at.threshold:.3f}", at.coverage),
        ("accepted answers right", at.precision),
        ("the same among vehicles", at.precision_of_vehicles),
        ("others accepted", at.others_accepted),
    ):
        if share:
            interval = f"{share.low:.1%} to {share.high:.1%}"
            table.add_row(what, f"{share.value:.1%}", interval, f"{share.count} of {share.of}")
    for what, figure in (
        *((f"AUC, {pair}", area) for pair, area in evaluation.auc_of_pairs.items()),
        ("calibration error (ECE)", evaluation.calibration.ece),
        ("area under risk by coverage", evaluation.selection.aurc),
        ("seconds a photo", evaluation.seconds_per_photo.mean),
    ):
        if figure is not None:
            table.add_row(what, f"{figure:.4f}")
    return table
