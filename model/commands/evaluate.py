"""``scones evaluate``: measure the accuracy of a model on labelled photos."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box

from model.terminal.options import json_option, labels_option, model_option, threshold_option
from model.terminal.output import echo_json
from model.terminal.tables import Console, Table

if TYPE_CHECKING:
    from model.evaluation.metrics import Evaluation


@click.command("evaluate")
@model_option
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Data set written by `scones data`, or a folder with a sub-folder of photos for each label.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="test",
    help="Split of a data set written by `scones data`.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for metrics.json and report.html."
)
@json_option
@click.option(
    "--through",
    metavar="ENDPOINT",
    help="Classify through a SageMaker endpoint, as the pipeline does, instead of in this process.",
)
@click.option("--endpoint-url", help="URL of SageMaker Runtime, such as http://127.0.0.1:4567.")
@labels_option("the model's own")
@threshold_option("the model's own")
def command(
    *,
    model: Path | None,
    data: Path,
    split: str,
    out: Path | None,
    as_json: bool,
    through: str | None,
    endpoint_url: str | None,
    labels: tuple[str, ...] | None,
    threshold: float | None,
) -> None:
    """Measure the accuracy of a model on labelled photos.

    Photos of `other`, anything but a vehicle, are useful even if the model has no such label:
    they show how many of them would be accepted as a vehicle.

    \b
    Examples:
      scones evaluate --data photos/
      scones evaluate --model trained/ --data data/ --out evaluation/
      scones evaluate --data photos/ --through any --endpoint-url http://127.0.0.1:8080
      scones evaluate --data photos/ --json | jq .at_threshold

    \b
    Exit codes:
      0  the evaluation is complete, whatever the result
      1  the command failed; one line on stderr says why
      2  usage error
    """  # noqa: D301  click reads \b as a character
    from model.data import dataset  # noqa: PLC0415  scikit-learn alone takes a second to import
    from model.evaluation.evaluator import check_labels, find_predictor, predict_photos  # noqa: PLC0415
    from model.evaluation.metrics import evaluate  # noqa: PLC0415

    photos = dataset.read(data, split)
    predictor = find_predictor(model, through, endpoint_url).with_overrides(labels, threshold)
    check_labels(photos, predictor.labels)
    evaluation = evaluate(predict_photos(predictor, photos, data))
    about = {
        "model": predictor.name,
        "data": data.resolve().name,
        "split": split if photos.manifest_sha256 else None,
        "manifest_sha256": photos.manifest_sha256,
    }
    if out:
        from model.evaluation.report import write  # noqa: PLC0415  imports Matplotlib

        write(out, evaluation, about, data)
    if as_json:
        echo_json(about | asdict(evaluation), indent=2)
    else:
        Console().print(_summary(evaluation))


def _summary(evaluation: Evaluation) -> Table:
    at = evaluation.at_threshold
    table = Table("", "", "95% interval", "photos", box=box.SIMPLE_HEAD)
    for name, share in (
        ("accuracy on vehicles", evaluation.accuracy),
        *((f"precision of {label}", one.precision) for label, one in evaluation.labels.items()),
        *((f"recall of {label}", one.recall) for label, one in evaluation.labels.items()),
        (f"vehicles accepted at {at.threshold:.3f}", at.coverage),
        ("precision of accepted answers", at.precision),
        ("precision, vehicles only", at.precision_of_vehicles),
        ("other photos accepted", at.others_accepted),
    ):
        if share:
            interval = f"{share.low:.1%} to {share.high:.1%}"
            table.add_row(name, f"{share.value:.1%}", interval, f"{share.count} of {share.of}")
    for name, value in (
        *((f"AUC, {pair}", area) for pair, area in evaluation.auc_of_pairs.items()),
        ("expected calibration error (ECE)", evaluation.calibration.ece),
        ("risk-coverage area (AURC)", evaluation.selection.aurc),
        ("seconds per photo", evaluation.seconds_per_photo["mean"]),
    ):
        if value is not None:
            table.add_row(name, f"{value:.4f}")
    return table
