"""``scones monitor``: report on the data that an endpoint captured."""

from datetime import UTC, datetime
from pathlib import Path

import click

from model.storage import write_file
from model.terminal.options import json_option, labels_option, threshold_option
from model.terminal.output import echo, echo_json
from model.terminal.tables import Console

DEFAULT_THRESHOLD = 0.8
"""The stack's default, used if neither the baseline nor the caller gives a threshold."""
DRIFTED = 3
"""Exit code of --fail-on-drift."""


def parse_time(value: str) -> datetime:
    """Parse a time in ISO 8601; it is in UTC if it has no time zone."""
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not a time. Examples: 2026-11-25, 2026-11-25T14:00, 2026-11-25T14:00Z."
        ) from error
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
    help="Baseline for drift: a trained model (folder or model.tar.gz) or a baseline.json.",
)
@click.option(
    "--from", "start", metavar="TIME", type=parse_time, help="Start, in UTC unless it has a time zone."
)
@click.option("--to", "end", metavar="TIME", type=parse_time, help="End of the time window, exclusive.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for metrics.json, report.html and the plots.",
)
@click.option(
    "--model",
    type=click.Path(exists=True, path_type=Path),
    help="The baseline's model (folder or model.tar.gz), to measure distances in its feature space.",
)
@click.option(
    "--truth", metavar="FOLDER|S3-URI", help="True labels: ground truth records, or answers from review."
)
@labels_option("the baseline's")
@threshold_option(f"the baseline's, or {DEFAULT_THRESHOLD}")
@click.option(
    "--sample",
    "sample_size",
    type=click.IntRange(1),
    default=2000,
    help="Number of photos to measure; everything else is computed from all records.",
)
@click.option(
    "--features-sample",
    type=click.IntRange(1),
    default=400,
    help="Number of photos to embed with the model, which is much slower.",
)
@click.option(
    "--write-baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save this data as a baseline for later reports.",
)
@click.option("--fail-on-drift", is_flag=True, help=f"Exit with code {DRIFTED} if a feature has drifted.")
@json_option
def command(
    *,
    captures: str,
    baseline_path: Path | None,
    start: datetime | None,
    end: datetime | None,
    out: Path | None,
    model: Path | None,
    truth: str | None,
    labels: tuple[str, ...] | None,
    threshold: float | None,
    sample_size: int,
    features_sample: int,
    write_baseline: Path | None,
    fail_on_drift: bool,
    as_json: bool,
) -> None:
    """Report on an endpoint's captured data: confidence, accuracy and drift.

    Reads SageMaker's data capture, and what `scones serve --capture` and the local stack write in the same
    format. Without a baseline, the report covers everything but drift.

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
      0  the report is complete, whatever the result
      1  the command failed; one line on stderr says why
      2  usage error
      3  with --fail-on-drift: a feature has drifted
    """  # noqa: D301  click reads \b as a character
    # SciPy and Matplotlib take seconds to import.
    from functions.monitor.capture_analysis.captures import TimeWindow  # noqa: PLC0415
    from functions.monitor.capture_analysis.window import Window  # noqa: PLC0415
    from model.training import baseline as baselines  # noqa: PLC0415
    from pipeline.monitoring import analysis  # noqa: PLC0415
    from pipeline.monitoring.ground_truth import read_truth  # noqa: PLC0415
    from pipeline.monitoring.metrics import metrics  # noqa: PLC0415
    from pipeline.monitoring.report import summary, write  # noqa: PLC0415

    if start and end and start >= end:
        raise click.UsageError("--from must be before --to")
    if fail_on_drift and not baseline_path:
        raise click.UsageError("--fail-on-drift needs a --baseline")
    baseline = baselines.read(baseline_path) if baseline_path else None
    classifier = analysis.load_classifier(model, baseline) if model else None
    true_labels = read_truth(truth) if truth else None
    if threshold is None:
        threshold = baseline.threshold if baseline else DEFAULT_THRESHOLD
    window = Window(
        threshold=threshold,
        labels=labels or (baseline.labels if baseline else ()),
        sample_size=sample_size,
        least_confident_size=analysis.GALLERY,
        keep_names=bool(true_labels),
    )
    with Console(stderr=True).status("Reading captures …") as status:
        report = analysis.analyse(
            captures,
            TimeWindow(start, end),
            window,
            baseline=baseline,
            classifier=classifier,
            max_embedded=features_sample,
            truth=true_labels,
            progress=status.update,
        )
        if write_baseline:
            write_file(write_baseline, analysis.make_baseline(report, classifier).text().encode())
        if out:
            status.update("Writing the report …")
            write(out, report)
    if as_json:
        echo_json(metrics(report), indent=2)
    else:
        echo(*summary(report))
    if fail_on_drift and report.drifted:
        raise click.exceptions.Exit(DRIFTED)
