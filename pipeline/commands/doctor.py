"""``scones doctor``."""

from dataclasses import asdict

import click

from model.terminal.options import json_option, stage_option
from model.terminal.output import echo, echo_json


@click.command("doctor")
@stage_option
@click.option("--instance-type", default="ml.m5.large", help="The endpoint's instance type.")
@click.option("--serverless", is_flag=True, help="Check for a serverless endpoint instead.")
@json_option
def command(*, stage: str, instance_type: str, serverless: bool, as_json: bool) -> None:
    """Check this machine and the AWS account for what would make a deployment fail.

    Creates nothing. Checks Python, disk, ports, Docker, region, credentials, permissions as far as
    they can be simulated, and Service Quotas against what a deployment and its updates need.

    \b
    Examples:
      scones doctor
      scones doctor --stage prod --instance-type ml.c7g.large
      scones doctor --json | jq '.[] | select(.status == "failed")'

    \b
    Exit codes:
      0  nothing would fail
      1  at least one check failed; its line says what to do
      2  usage error
    """  # noqa: D301  click reads \b as a character
    from model.sagemaker.endpoint import Hosting  # noqa: PLC0415  --help needs none of it
    from pipeline.doctor import diagnose  # noqa: PLC0415

    checks = []
    for check in diagnose(stage, Hosting(instance_type=None if serverless else instance_type)):
        checks.append(check)
        if not as_json:
            advice = f"  {check.advice}" if check.advice else ""
            echo(f"{check.status:<8}{check.name:<12} {check.finding}{advice}")
    if as_json:
        echo_json([asdict(check) for check in checks], indent=2)
    if any(check.status == "failed" for check in checks):
        raise click.exceptions.Exit(1)
