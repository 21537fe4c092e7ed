"""``scones train``: train a model on labelled photos, here, in Docker or on SageMaker."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from model.network.artifact import ARCHIVE
from model.terminal.options import json_option, stage_option
from model.terminal.output import echo, echo_json
from model.training.paths import HYPERPARAMETERS, TrainingPaths, report_failure_to_sagemaker


def _from_job(context: click.Context, parameter: click.Parameter, value: Any) -> Any:  # noqa: ANN401  click's callback
    """Read an option that was not given from the training job's hyperparameters, which are all strings."""
    name = parameter.name or ""
    given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    if given or not HYPERPARAMETERS.exists():
        return value
    with report_failure_to_sagemaker():
        hyperparameters = json.loads(HYPERPARAMETERS.read_text())
        return parameter.type_cast_value(context, hyperparameters.get(name, value))


@click.command("train")
@click.option(
    "--data",
    help="A data set of `scones data`, or folder/<label>/*; with --on sagemaker also a data set in S3.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The output folder.")
@click.option(
    "--precision",
    type=click.FloatRange(0.5, 1),
    default=0.99,
    callback=_from_job,
    help="Target precision of accepted answers, which decides the threshold.",
)
@click.option(
    "--most",
    type=click.IntRange(min=2),
    default=2000,
    callback=_from_job,
    help="Maximum photos per label: more improve the model little and take memory (0.2 MB each).",
)
@click.option("--name", default="scones", callback=_from_job, help="The model's name.")
@json_option
@click.option(
    "--on",
    type=click.Choice(["here", "docker", "sagemaker"]),
    default="here",
    help="Where to train: in this process, in the container on this machine, or on SageMaker.",
)
@click.option(
    "--algorithm",
    type=click.Choice(["ours", "built-in"]),
    default="ours",
    help="With --on sagemaker: SageMaker's image-classification algorithm, on a GPU.",
)
@stage_option
@click.option("--instance-type", help="[default: ml.m5.xlarge; for the built-in algorithm ml.g4dn.xlarge]")
@click.option("--spot", is_flag=True, help="Use spot capacity: cheaper, later, and it may be interrupted.")
@click.option("--hours", type=click.FloatRange(0.1, 24), default=2, help="Time limit of the job.")
@click.option("--kms-key", help="A KMS key for the job's volume and model.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="With --on sagemaker: check the inputs and show the job without starting it.",
)
def command(
    *,
    data: str | None,
    out: Path | None,
    precision: float,
    most: int,
    name: str,
    on: str,
    as_json: bool,
    dry_run: bool,
    **job: Any,  # noqa: ANN401  the fields of `training_job.Job`
) -> None:
    """Train a model on labelled photos, and choose the confidence threshold.

    Writes OUT/model.tar.gz (the graph, labels, calibration, threshold, and a model card),
    OUT/metrics.json, and OUT/baseline.json, which `scones monitor` compares with. All metrics are of
    held-out photos in 10-fold cross-validation; test photos are not used. Embeddings of photos are
    kept in the user's cache folder, so a second training takes seconds.

    In a SageMaker training job, where /opt/ml exists, DATA and OUT default to the job's folders (the
    channel is called training), options default to its hyperparameters, and an error is written to
    /opt/ml/output/failure.

    \b
    Examples:
      scones train --data data --out trained
      scones train --data ~/Pictures/couriers --out trained --precision 0.995
      scones train --data data --out trained --on sagemaker --spot --dry-run

    \b
    Exit codes:
      0  the model is trained
      1  something failed; one line on stderr says what
      2  usage error
    """  # noqa: D301  click reads \b as a character
    if dry_run and on != "sagemaker":
        raise click.UsageError("--dry-run needs --on sagemaker: other trainings cost nothing")
    if on == "here":
        paths = TrainingPaths.resolve(Path(data) if data else None, out)
        with report_failure_to_sagemaker():
            _train_here(paths, precision=precision, most=most, name=name, as_json=as_json)
        return
    if not data or not out:
        raise click.UsageError("give --data and --out")
    hyperparameters = {"precision": precision, "most": most, "name": name}
    if on == "docker":
        _train_in_docker(data, out, hyperparameters, algorithm=job["algorithm"], as_json=as_json)
    else:
        _train_on_sagemaker(data, out, hyperparameters, job, dry_run=dry_run, as_json=as_json)


def _train_here(paths: TrainingPaths, *, precision: float, most: int, name: str, as_json: bool) -> None:
    from model.terminal.progress import progress_bar  # noqa: PLC0415  `--help` should not import these
    from model.training import trainer  # noqa: PLC0415

    with progress_bar() as progress:
        result = trainer.train(paths, progress, precision=precision, most=most, name=name)
    if as_json:
        echo_json(json.loads((paths.metrics / trainer.METRICS).read_text()))
        return
    _print_metrics(result.metrics)
    labels = ", ".join(result.photos.labels)
    echo(f"{paths.model}: trained on {len(result.photos.paths):,} photos of {labels}")
    echo(f"Threshold {result.threshold.value}: {result.threshold_reason}")


def _print_metrics(metrics: Mapping[str, float]) -> None:
    """Print metrics as SageMaker reads them from a job's log: ``name=value``."""
    for name, value in metrics.items():
        echo(f"{name}={value:.4f}")


def _train_in_docker(
    data: str, out: Path, hyperparameters: Mapping[str, object], *, algorithm: str, as_json: bool
) -> None:
    from model.sagemaker import registry, training_job  # noqa: PLC0415  boto3 is not needed to train here

    if algorithm == "built-in" or data.startswith("s3://"):
        raise click.UsageError("--on docker trains our own model, on a local folder")
    training_job.train_in_docker(Path(data), out, hyperparameters)
    if as_json:
        echo_json(json.loads((out / registry.METRICS_FILE).read_text()))
    else:
        echo(f"{out}: {ARCHIVE}, trained in the container")


def _train_on_sagemaker(
    data: str,
    out: Path,
    hyperparameters: Mapping[str, object],
    job_options: Mapping[str, Any],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from model.sagemaker import training_job  # noqa: PLC0415  boto3 is not needed to train here
    from model.sagemaker.account import connect  # noqa: PLC0415

    job = training_job.Job(**job_options)
    if dry_run:
        plan = training_job.plan(connect(), job, data)
        if as_json:
            echo_json(plan)
        else:
            echo(_format_plan(plan))
        return
    trained = training_job.train_on_sagemaker(connect(), job, data, out, hyperparameters)
    if as_json:
        echo_json(asdict(trained) | {"metrics": dict(trained.metrics)})
        return
    _print_metrics(trained.metrics)
    echo(f"{out}: {ARCHIVE}, trained by {trained.name} ({trained.billed_seconds} s billed)")
    echo(f"Next: scones deploy --stage {job.stage} --training-job {trained.name}")


def _format_plan(plan: Mapping[str, Any]) -> str:
    machine = f"{plan['instance_type']} (spot)" if plan["spot"] else plan["instance_type"]
    labels = ", ".join(plan["labels"])
    return (
        f"Would train {plan['image']} on {plan['photos']} photos ({labels}; {plan['data']}) "
        f"on {machine} for at most {plan['hours']:g} hours; account {plan['account']}, {plan['region']}."
    )
