"""The options of ``scones train`` by which it runs elsewhere than in this process."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from model.network.artifact import ARCHIVE


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
    from model.sagemaker.account import STAGE, connect  # noqa: PLC0415

    if not STAGE.fullmatch(stage):
        raise click.UsageError("--stage is up to 16 lower case letters and digits, the first a letter")
    if on == "docker" and (algorithm == "built-in" or data.startswith("s3://")):
        raise click.UsageError("--on docker trains our own model, on a folder that is here")
    if on == "docker":
        training_job.train_in_docker(Path(data), out, hyperparameters)
        where = f"{out}: {ARCHIVE}, trained in the container"
        click.echo((out / training_job.METRICS_FILE).read_text().strip() if as_json else where)
        return
    job = training_job.Job(stage, algorithm, instance_type, spot, hours, kms_key)
    if dry_run:
        plan = training_job.foreseen(connect(), job, data)
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
