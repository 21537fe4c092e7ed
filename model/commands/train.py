"""``scones train``: a model from labelled photos, here or in a SageMaker training job."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from model.network.artifact import ARCHIVE
from model.terminal.options import STAGE
from model.training.job_folders import HYPERPARAMETERS, Places, find_places, telling_the_job


def from_job(context: click.Context, parameter: click.Parameter, value: Any) -> Any:  # noqa: ANN401  click's callback
    """Take an option that was not given from the job's hyperparameters, which are all text."""
    given = context.get_parameter_source(parameter.name or "") is not click.core.ParameterSource.DEFAULT
    if given or not HYPERPARAMETERS.exists():
        return value
    with telling_the_job():
        hyperparameters = json.loads(HYPERPARAMETERS.read_text())
        name = parameter.name or ""
        return parameter.type_cast_value(context, hyperparameters[name]) if name in hyperparameters else value


def launch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a training that runs elsewhere to a click command."""
    for option in reversed(
        (
            click.option(
                "--on",
                type=click.Choice(["here", "docker", "sagemaker"]),
                default="here",
                show_default=True,
                help="Where: right here, in the container on this machine, or as a SageMaker training job.",
            ),
            click.option(
                "--algorithm",
                type=click.Choice(["ours", "built-in"]),
                default="ours",
                show_default=True,
                help="With --on sagemaker: SageMaker's image-classification algorithm, on a GPU.",
            ),
            click.option(
                "--stage",
                default="dev",
                show_default=True,
                help="Which of your deployments it is for.",
            ),
            click.option(
                "--instance-type", help="[default: ml.m5.xlarge; for the built-in algorithm ml.g4dn.xlarge]"
            ),
            click.option(
                "--spot", is_flag=True, help="Spare capacity: cheaper and later, and it may go away."
            ),
            click.option(
                "--hours",
                type=click.FloatRange(0.1, 24),
                default=2,
                show_default=True,
                help="When to stop the job.",
            ),
            click.option("--kms-key", help="A KMS key for the job's volume and model."),
            click.option(
                "--dry-run",
                is_flag=True,
                help="With --on sagemaker: check what can be, say what would be started, and start nothing.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command("train")
@click.option(
    "--data",
    help="What `scones data` wrote, or folder/<label>/*; with --on sagemaker also s3://… of the first.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The folder for what is made.")
@click.option(
    "--precision",
    type=click.FloatRange(0.5, 1),
    default=0.99,
    show_default=True,
    callback=from_job,
    help="How many of the accepted answers are to be right: decides the threshold.",
)
@click.option(
    "--most",
    type=click.IntRange(min=2),
    default=2000,
    show_default=True,
    callback=from_job,
    help="Photos of a label to use at most: beyond that they teach little and take memory (0.2 MB each).",
)
@click.option("--name", default="scones", show_default=True, callback=from_job, help="The model's name.")
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as one JSON object.")
@launch_options
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
    **how: Any,  # noqa: ANN401  as `launch` takes them
) -> None:
    """Train a model on labelled photos, and say from which confidence to accept it.

    Writes OUT/model.tar.gz (the graph, labels, calibration, threshold, and a model card),
    OUT/metrics.json, and OUT/baseline.json, which `scones monitor` compares with. All figures are of
    photos that took no part in the training, by 10-fold cross-validation; only the training photos
    are looked at. What the networks see of a photo is kept in the user's cache folder, so a second
    training takes seconds.

    In a SageMaker training job, where /opt/ml is, DATA and OUT are its folders (the channel is called
    training), options are its hyperparameters, and the reason of a failure is in /opt/ml/output/failure.

    \b
    Examples:
      scones train --data data --out trained
      scones train --data ~/Pictures/couriers --out trained --precision 0.995
      scones train --data data --out trained --on sagemaker --spot --dry-run

    \b
    Exit codes:
      0  the model is there
      1  something failed; one line on stderr says what
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    if dry_run and on != "sagemaker":
        raise click.UsageError("--dry-run goes with --on sagemaker: here a training costs nothing")
    if on != "here":
        if not data or not out:
            raise click.UsageError("give --data and --out")
        hyperparameters = {"precision": precision, "most": most, "name": name}
        launch(data, out, hyperparameters, on=on, dry_run=dry_run, as_json=as_json, **how)
        return
    places = find_places(Path(data) if data else None, out)
    with telling_the_job():
        train(places, precision, most, name, as_json=as_json)


def train(places: Places, precision: float, most: int, name: str, *, as_json: bool = False) -> None:
    """Train on the training photos of a data set and write all that comes of it.

    Parameters
    ----------
    places
        What to read and where to write.
    precision
        The least share of right answers among the accepted, 0 to 1.
    most
        How many photos of a label to use.
    name
        The model's.
    as_json
        Whether to print what was measured as one JSON object.

    Raises
    ------
    DatasetError, FitError, TrainingError
        The photos are no good.
    ArtifactError
        The result cannot be written.
    """
    from model.data import dataset  # noqa: PLC0415
    from model.terminal.progress import counting  # noqa: PLC0415  --help should not wait for any of this
    from model.training import fitting, trainer  # noqa: PLC0415

    photos = trainer.Photos.of(dataset.read(places.data), most)
    with counting() as progress:
        looking = progress.add_task("Looking at the photos", total=len(photos.paths))
        seen = trainer.look(photos, advance=lambda: progress.advance(looking))
        fitting_task = progress.add_task(
            "Training, and testing on what was held out", total=fitting.FOLDS + 1
        )
        fit = fitting.fit(seen, photos.targets, photos.labels, lambda: progress.advance(fitting_task))
    result = trainer.conclude(name, photos, fit, precision)
    trainer.write(places, result, seen)
    if as_json:
        click.echo(json.dumps(json.loads((places.metrics / trainer.METRICS).read_text())))
        return
    for figure, value in result.metrics.items():
        click.echo(f"{figure}={value:.4f}")
    click.echo(f"{places.model}: trained on {len(photos.paths):,} photos of {', '.join(photos.labels)}")
    click.echo(f"accepts from {result.threshold.value} on, {result.threshold_reason}")


def launch(
    data: str,
    out: Path,
    hyperparameters: Mapping[str, object],
    *,
    on: str,
    algorithm: str,
    stage: str,
    instance_type: str | None,
    spot: bool,
    hours: float,
    kms_key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train elsewhere than in this process, and say how it ended.

    Parameters
    ----------
    data
        A folder that ``scones data`` wrote; for SageMaker it may be in S3.
    out
        The folder for what is made.
    hyperparameters
        Of ``scones train``.
    on, algorithm, stage, instance_type, spot, hours, kms_key, dry_run
        As `launch_options` adds them to the command.
    as_json
        Whether to say it as one JSON object.

    Raises
    ------
    click.UsageError
        The options do not go together.
    TrainingJobError, ImageError, AccountError
        It did not end well.
    """
    # here, since where there is no AWS to call, as in the container, there is no boto3 either
    from model.sagemaker import training_job  # noqa: PLC0415
    from model.sagemaker.account import connect  # noqa: PLC0415
    from model.sagemaker.registry import METRICS_FILE  # noqa: PLC0415

    if not STAGE.fullmatch(stage):
        raise click.UsageError("--stage is up to 16 lower case letters and digits, the first a letter")
    if on == "docker" and (algorithm == "built-in" or data.startswith("s3://")):
        raise click.UsageError("--on docker trains our own model, on a folder that is here")
    if on == "docker":
        training_job.train_in_docker(Path(data), out, hyperparameters)
        where = f"{out}: {ARCHIVE}, trained in the container"
        click.echo((out / METRICS_FILE).read_text().strip() if as_json else where)
        return
    job = training_job.Job(stage, algorithm, instance_type, spot, hours, kms_key)
    if dry_run:
        plan = training_job.plan(connect(), job, data)
        click.echo(json.dumps(plan) if as_json else told(plan))
        return
    trained = training_job.train_on_sagemaker(connect(), job, data, out, hyperparameters)
    if as_json:
        click.echo(json.dumps(asdict(trained) | {"metrics": dict(trained.metrics)}))
        return
    for name, value in trained.metrics.items():
        click.echo(f"{name}={value:.4f}")
    click.echo(f"{out}: {ARCHIVE}, trained by {trained.name} ({trained.billed_seconds} s billed)")
    click.echo(f"Next: scones deploy --stage {stage} --training-job {trained.name}")


def told(plan: Mapping[str, Any]) -> str:
    """Tell in words what a training on SageMaker would do."""
    machine = f"{plan['instance_type']}, spare capacity," if plan["spot"] else plan["instance_type"]
    labels = ", ".join(plan["labels"])
    return (
        f"Would train {plan['image']} on {plan['photos']} photos ({labels}; {plan['data']}) "
        f"on {machine} for {plan['hours']:g} hours at most; account {plan['account']}, {plan['region']}."
    )
