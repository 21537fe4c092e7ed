"""``scones monitor``: see from captured data whether an endpoint can still be trusted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.labels import split_labels
from pipeline.monitoring.metrics import as_baseline, load
from pipeline.monitoring.report import METRICS, REPORT, write

if TYPE_CHECKING:
    from pipeline.monitoring.metrics import Monitoring


THRESHOLD = 0.8
"""The stack's, where neither a baseline nor the caller gives one."""

DRIFTED = 3
"""The exit code of --fail-on-drift."""


class Moment(click.ParamType):
    """A time in ISO 8601; UTC where it names no zone."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Make a time of what was typed."""
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time such as 2026-11-25, 2026-11-25T14:00 or 2026-11-25T14:00Z", param, ctx
            )
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


@click.command("monitor")
@click.option(
    "--captures",
    required=True,
    metavar="FOLDER|S3-URI",
    help="Captured data: a folder, s3://bucket/prefix, or one file.",
)
@click.option(
    "--baseline",
    "baseline_path",
    type=click.Path(exists=True, path_type=Path),
    help="What to compare with: what `scones train` wrote (folder or model.tar.gz), or a baseline.json.",
)
@click.option("--from", "start", type=Moment(), help="Only from this time on; UTC where it names no zone.")
@click.option("--to", "end", type=Moment(), help="Only before this time.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"A folder for {METRICS}, {REPORT} and the plots.",
)
@click.option(
    "--model",
    type=click.Path(exists=True, path_type=Path),
    help="A model's folder or model.tar.gz, to measure distances in its feature space; the baseline's model.",
)
@click.option(
    "--truth", metavar="FOLDER|S3-URI", help="What photos show: ground truth records, or answers from review."
)
@click.option(
    "--labels", help="The answers' labels in their order, separated by commas.  [default: the baseline's]"
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help=f"The least confidence to accept.  [default: the baseline's, or {THRESHOLD}]",
)
@click.option(
    "--sample",
    "sample_size",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="How many photos to look at; all else is of every record.",
)
@click.option(
    "--features-sample",
    type=click.IntRange(1),
    default=400,
    show_default=True,
    help="How many of these to show the model, which takes far longer.",
)
@click.option(
    "--write-baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write this data as a baseline to compare later data with.",
)
@click.option("--fail-on-drift", is_flag=True, help=f"End with exit code {DRIFTED} if a feature has drifted.")
@click.option("--json", "as_json", is_flag=True, help=f"Print what {METRICS} holds.")
def command(
    *,
    captures: str,
    baseline_path: Path | None,
    start: datetime | None,
    end: datetime | None,
    out: Path | None,
    model: Path | None,
    truth: str | None,
    labels: str | None,
    threshold: float | None,
    sample_size: int,
    features_sample: int,
    write_baseline: Path | None,
    fail_on_drift: bool,
    as_json: bool,
) -> None:
    """Report on an endpoint's captured data: how sure, how right, and how far from the baseline.

    Reads SageMaker's data capture, where `scones serve --capture` and the local stack write, too. Without a
    baseline everything but drift is reported.

    \b
    Examples:
      scones monitor --captures .local/captures --out report/
      scones monitor --captures s3://bucket/captures --from 2026-11-24 --to 2026-11-25 \\
          --baseline trained/ --model trained/ --out report/
      scones monitor --captures s3://bucket/captures --from 2026-10-01 --to 2026-11-01 \\
          --write-baseline october.json
      scones monitor --captures captures/ --baseline october.json --fail-on-drift

    \b
    Exit codes:
      0  it is reported, whatever came out
      1  something failed; one line on stderr says what
      2  the command was called wrongly
      3  with --fail-on-drift: a feature has drifted
    """  # noqa: D301  click reads \b as a character
    from rich.console import Console  # noqa: PLC0415  --help should not wait for any of this

    from functions.monitor.capture_analysis.captures import TimeWindow  # noqa: PLC0415
    from functions.monitor.capture_analysis.window import Window  # noqa: PLC0415
    from model import storage  # noqa: PLC0415
    from model.training import baseline  # noqa: PLC0415
    from pipeline.monitoring import ground_truth, metrics  # noqa: PLC0415

    if start and end and start >= end:
        raise click.UsageError("--from must be before --to")
    if fail_on_drift and not baseline_path:
        raise click.UsageError("--fail-on-drift needs a --baseline to compare with")
    known = baseline.read(baseline_path) if baseline_path else None
    classifier = load(model, known) if model else None
    shown = ground_truth.read_truth(truth) if truth else None
    window = Window(
        threshold=threshold if threshold is not None else known.threshold if known else THRESHOLD,
        labels=split_labels(labels) if labels else known.labels if known else (),
        sample_size=sample_size,
        least_confident_size=metrics.SHOWN,
        keep_names=bool(shown),
    )
    bounds = TimeWindow(start, end)
    with Console(stderr=True).status("Reading captures …") as status:
        tally = metrics.gather(captures, bounds, window, lambda n: status.update(f"Reading captures … {n:,}"))
        status.update("Looking at photos …")
        sample = metrics.measure(window, classifier, features_sample)
        report = metrics.monitor(captures, bounds, window, tally, sample, baseline=known, truth=shown)
        if write_baseline:
            storage.write_file(write_baseline, as_baseline(report, sample, classifier).text().encode())
        if out:
            status.update("Drawing …")
            write(out, report)
    if as_json:
        click.echo(json.dumps(metrics.metrics(report), indent=2))
    else:
        for line in summary(report):
            click.echo(line)
    if fail_on_drift and report.drifted:
        raise click.exceptions.Exit(DRIFTED)


def summary(report: Monitoring) -> list[str]:
    """Put the main figures in a few lines."""
    tally = report.tally
    lines = [
        f"{tally.read:,} records read from {tally.files:,} files: {tally.records:,} events, "
        f"{tally.duplicates:,} repeats, {tally.broken:,} broken lines"
    ]
    if report.under_threshold and report.accepted:
        lines.append(
            f"{report.accepted.value:.1%} accepted, {report.under_threshold.value:.1%} under the threshold"
        )
    if report.estimated_accuracy:
        value, low, high = report.estimated_accuracy
        lines.append(f"{value:.1%} right, as far as confidence tells ({low:.1%} to {high:.1%})")
    if report.labelled:
        right = report.labelled.accuracy
        lines.append(
            f"{right.value:.1%} of {right.of:,} labelled answers right ({right.low:.1%} to {right.high:.1%})"
        )
    if report.drift:
        far = ", ".join(f"{name} {report.drift[name].statistic:.2f}" for name in report.drifted)
        lines.append(f"drifted: {far}" if far else "no feature has drifted")
    return lines
