"""``python -m model monitor``: see from captured data whether an endpoint can still be trusted."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.monitor.monitoring.drift import Baseline
    from model.monitoring.figures import Monitoring, Sample
    from model.network.classifier import Classifier

METRICS = "metrics.json"
REPORT = "report.html"
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
    help="What to compare with: what `model train` wrote (folder or model.tar.gz), or a baseline.json.",
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

    Reads SageMaker's data capture, where `model serve --capture` and the local stack write, too. Without a
    baseline everything but drift is reported.

    \b
    Examples:
      python -m model monitor --captures .local/captures --out report/
      python -m model monitor --captures s3://bucket/captures --from 2026-11-24 --to 2026-11-25 \\
          --baseline trained/ --model trained/ --out report/
      python -m model monitor --captures s3://bucket/captures --from 2026-10-01 --to 2026-11-01 \\
          --write-baseline october.json
      python -m model monitor --captures captures/ --baseline october.json --fail-on-drift

    \b
    Exit codes:
      0  it is reported, whatever came out
      1  something failed; one line on stderr says what
      2  the command was called wrongly
      3  with --fail-on-drift: a feature has drifted
    """  # noqa: D301  click reads \b as a character
    from rich.console import Console  # noqa: PLC0415  --help should not wait for any of this

    from functions.monitor.monitoring.captures import TimeWindow  # noqa: PLC0415
    from functions.monitor.monitoring.window import Window  # noqa: PLC0415
    from model.monitoring import baseline, figures  # noqa: PLC0415

    if start and end and start >= end:
        raise click.UsageError("--from must be before --to")
    if fail_on_drift and not baseline_path:
        raise click.UsageError("--fail-on-drift needs a --baseline to compare with")
    known = baseline.read(baseline_path) if baseline_path else None
    classifier = load(model, known) if model else None
    shown = figures.read_truth(truth) if truth else None
    window = Window(
        threshold=threshold if threshold is not None else known.threshold if known else THRESHOLD,
        labels=split(labels) if labels else known.labels if known else (),
        sample_size=sample_size,
        least_confident_size=figures.SHOWN,
        keep_names=bool(shown),
    )
    bounds = TimeWindow(start, end)
    with Console(stderr=True).status("Reading captures …") as status:
        tally = figures.gather(captures, bounds, window, lambda n: status.update(f"Reading captures … {n:,}"))
        status.update("Looking at photos …")
        sample = figures.measure(window, classifier, features_sample)
        report = figures.monitor(captures, bounds, window, tally, sample, baseline=known, truth=shown)
        if write_baseline:
            baseline.write(write_baseline, as_baseline(report, sample, classifier))
        if out:
            status.update("Drawing …")
            write(out, report)
    if as_json:
        click.echo(json.dumps(figures.metrics(report), indent=2))
    else:
        for line in summary(report):
            click.echo(line)
    if fail_on_drift and report.drifted:
        raise click.exceptions.Exit(DRIFTED)


def split(labels: str) -> list[str]:
    """Return labels that are separated by commas."""
    return [label.strip() for label in labels.split(",")]


def load(model: Path, baseline: Baseline | None) -> Classifier:
    """Load the model whose feature space the baseline's distances are in.

    Raises
    ------
    ArtifactError
        It cannot be loaded.
    BaselineError
        It is another one.
    """
    from functions.monitor.monitoring.drift import BaselineError  # noqa: PLC0415  as above
    from model.monitoring.baseline import FeatureSpace  # noqa: PLC0415
    from model.network.classifier import Classifier  # noqa: PLC0415

    classifier = Classifier.load(model)
    space = FeatureSpace.of(baseline) if baseline else None
    if space and space.graph_sha256 != classifier.description.graph_sha256:
        raise BaselineError(
            f"the baseline is of another model than {model}: give its own, or leave --model out"
        )
    return classifier


def as_baseline(report: Monitoring, sample: Sample, classifier: Classifier | None) -> Baseline:
    """Make a baseline of what was reported.

    Raises
    ------
    BaselineError
        There were no answers.
    """
    import numpy as np  # noqa: PLC0415  as above

    from model.monitoring import baseline  # noqa: PLC0415

    described = classifier.description if classifier else None
    return baseline.make(
        model=f"{described.name} {described.version}" if described else report.model or "captured answers",
        labels=report.labels,
        threshold=report.threshold,
        confidence=np.array(report.window.confidence),
        answered=np.array(report.window.label),
        look=sample.look,
        features=sample.features,
        graph_sha256=described.graph_sha256 if described else "",
    )


def write(out: Path, report: Monitoring) -> None:
    """Write metrics, page and plots, each complete before it has its name; plots of before are taken away.

    Raises
    ------
    MonitoringError
        The folder cannot be written.
    """
    from model.monitoring import plots  # noqa: PLC0415  as above
    from model.monitoring import report as page  # noqa: PLC0415  as above
    from model.monitoring.figures import MonitoringError, metrics  # noqa: PLC0415

    drawn = plots.draw(report)
    files: Mapping[str, bytes] = {
        METRICS: (json.dumps(metrics(report), indent=2) + "\n").encode(),
        **{f"{name}.png": plots.png(figure) for name, figure in drawn.items()},
        REPORT: page.render(
            report, {name: plots.svg(figure, name) for name, figure in drawn.items()}
        ).encode(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as draft:
            for name, content in files.items():
                Path(draft, name).write_bytes(content)
            for name in plots.CAPTIONS:
                (out / f"{name}.png").unlink(missing_ok=True)
            for name in files:
                Path(draft, name).replace(out / name)
    except OSError as error:
        raise MonitoringError(f"{out} cannot be written ({error.strerror})") from error


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
