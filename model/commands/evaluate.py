"""``scones evaluate``: how right a model is on photos of known labels, and whether it knows."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from model.data import dataset
from model.evaluation.evaluator import METRICS, REPORT, ask, check_labels, find_subject, write
from model.evaluation.metrics import Evaluation, evaluate
from model.labels import split_labels


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
    help="What `scones data` wrote, or a folder with a sub-folder of photos for each label.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="test",
    show_default=True,
    help="Which photos of what `scones data` wrote.",
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
      scones evaluate --data photos/
      scones evaluate --model trained/ --data data/ --out evaluation/
      scones evaluate --data photos/ --through any --endpoint-url http://127.0.0.1:8080
      scones evaluate --data photos/ --json | jq .at_threshold

    \b
    Exit codes:
      0  it is measured, whatever came out
      1  something failed; one line on stderr says what
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    photos = dataset.read(data, split)
    subject = find_subject(model, through, endpoint_url)
    if labels:
        subject = replace(subject, labels=split_labels(labels))
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
