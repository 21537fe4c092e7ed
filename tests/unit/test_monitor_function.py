"""The monitor function: the window it reads, the metrics it publishes, and the faults it raises."""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from moto import mock_aws

from functions.monitor import app
from functions.monitor.capture_analysis.captures import CaptureError
from functions.monitor.capture_analysis.drift import BaselineError
from model.training import baseline
from pipeline import sample_images
from tests import captures

START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1, hours=1)
"""The start of a recent day, because CloudWatch drops metrics that are older than two weeks."""
PHOTOS = captures.photos(12)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in {
        "CAPTURE_URI": "s3://captures/data/vehicle-classifier",
        "CLASS_LABELS": "bicycle,motorcycle,other",
        "CONFIDENCE_THRESHOLD": "0.8",
        "WINDOW_HOURS": "24",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3():
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="captures")
        yield client


@pytest.fixture
def captured(s3, tmp_path):
    """Call it with photos to write a day of captures."""

    def capture(photos=PHOTOS, count=240, **more):
        chance = random.Random(1)
        captures.write(tmp_path, captures.records(count, photos, chance, START, **more), chance)
        for file in tmp_path.rglob("*.jsonl"):
            s3.upload_file(str(file), "captures", f"data/{file.relative_to(tmp_path).as_posix()}")

    return capture


@pytest.fixture
def known_baseline(s3, monkeypatch):
    """A baseline made from a similar day."""
    import numpy as np  # noqa: PLC0415

    chance = random.Random(2)
    answers = np.array([captures.answer(chance) for _ in range(500)])
    made = baseline.make(
        model="vehicles 1",
        labels=captures.LABELS,
        threshold=0.8,
        confidence=answers.max(axis=1),
        predicted=answers.argmax(axis=1),
        properties=baseline.measure_properties(PHOTOS * 20),
    )
    s3.put_object(Bucket="captures", Key="baseline.json", Body=made.text().encode())
    monkeypatch.setenv("BASELINE_URI", "s3://captures/baseline.json")
    return made


DAY_AFTER = {"time": (START + timedelta(days=1, minutes=15)).isoformat()}


def published(lines: list[dict]) -> dict[str, float]:
    """The metrics among log lines by name, followed by the feature if there is one."""
    return {
        metric["Name"] + (f" {line['feature']}" if "feature" in line else ""): line[metric["Name"]][0]
        for line in lines
        if "_aws" in line
        for directive in line["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
    }


def handled(event, context, capsys):
    answer = app.lambda_handler(event, context)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return answer, lines


def test_without_a_baseline_everything_but_drift_is_published(captured, context, capsys):
    captured()

    answer, lines = handled(DAY_AFTER, context, capsys)

    metrics = published(lines)
    assert metrics.keys() - {"ColdStart"} == {
        "CapturedRecords",
        "CapturedDuplicates",
        "CapturedBrokenLines",
        "UnusableRecords",
        "EstimatedAccuracy",
        "EstimatedAccuracyUpperBound",
        "ShareUnderThreshold",
        "ShareUnderThresholdLowerBound",
        "ShareOther",
    }
    assert metrics["CapturedRecords"] == answer["records"] == 240
    assert 0.9 < metrics["EstimatedAccuracy"] < metrics["EstimatedAccuracyUpperBound"] <= 1
    assert 0 < metrics["ShareUnderThresholdLowerBound"] < metrics["ShareUnderThreshold"] < 0.2
    assert answer["drifted"] == []


def test_every_metric_has_its_unit_and_counts_are_counts(captured, known_baseline, context, metrics):
    captured()

    app.lambda_handler(DAY_AFTER, context)

    counted = {"CapturedRecords", "CapturedDuplicates", "CapturedBrokenLines", "UnusableRecords"}
    units = {name: unit for name, (unit, _) in metrics().items()}
    assert {name for name, unit in units.items() if unit == "Count"} == counted
    assert {unit for name, unit in units.items() if name not in counted} == {"None"}


def test_the_summary_has_what_was_read_and_estimated(captured, known_baseline, context, metrics):
    """A baseline with labels corrects the estimate by how far its own confidence was off."""
    captured()

    answer = app.lambda_handler(DAY_AFTER, context)
    found = {name: values[0] for name, (_, values) in metrics().items()}

    assert answer["window"] == {"from": f"{START:{app.ISO}}", "to": f"{START + timedelta(days=1):{app.ISO}}"}
    assert (answer["records"], answer["duplicates"], answer["broken"]) == (
        found["CapturedRecords"],
        found["CapturedDuplicates"],
        found["CapturedBrokenLines"],
    )
    assert answer["estimated_accuracy"] == pytest.approx(found["EstimatedAccuracy"])
    assert answer["share_under_threshold"] == pytest.approx(found["ShareUnderThreshold"])


def test_known_accuracy_of_the_baseline_corrects_the_estimate(captured, s3, known_baseline, context):
    captured()
    plain = app.lambda_handler(DAY_AFTER, context)["estimated_accuracy"]
    labelled = replace(known_baseline, accuracy=known_baseline.mean_confidence - 0.2)
    s3.put_object(Bucket="captures", Key="baseline.json", Body=labelled.text().encode())

    assert app.lambda_handler(DAY_AFTER, context)["estimated_accuracy"] == pytest.approx(
        plain - 0.2, abs=0.01
    )


def test_broken_lines_and_repeated_events_are_reported(captured, s3, context, metrics):
    captured()
    key = f"data/vehicle-classifier/AllTraffic/{START:%Y/%m/%d/%H}/00-00-000-broken.jsonl"
    s3.put_object(Bucket="captures", Key=key, Body=b"broken\n" * 3)

    answer = app.lambda_handler(DAY_AFTER, context)

    assert answer["broken"] == metrics()["CapturedBrokenLines"][1][0] == 3


def test_without_the_label_other_its_share_is_none(captured, monkeypatch, context, capsys):
    monkeypatch.setenv("CLASS_LABELS", "bicycle,motorcycle,tricycle")
    captured()

    _, lines = handled(DAY_AFTER, context, capsys)

    assert published(lines)["ShareOther"] == 0


def test_a_day_like_the_baseline_has_no_drifted_features(captured, known_baseline, context, capsys):
    captured()

    answer, lines = handled(DAY_AFTER, context, capsys)

    metrics = published(lines)
    assert metrics["DriftedFeatures"] == 0
    assert {name for name in metrics if name.startswith("Drift ")} == {
        f"Drift {feature}"
        for feature in (
            "confidence",
            "brightness",
            "contrast",
            "sharpness",
            "size",
            "aspect",
            "class_mix",
            "under_threshold",
            "other",
        )
    }
    assert answer["drifted"] == []


def test_a_dark_day_has_drifted_brightness(captured, known_baseline, context, capsys):
    dark = [
        sample_images.encoded(
            sample_images.picture(sample_images.bicycle, seed).point(lambda level: level * 0.3)
        )
        for seed in range(12)
    ]
    captured(dark)

    answer, lines = handled(DAY_AFTER, context, capsys)

    assert "brightness" in answer["drifted"]
    assert published(lines)["DriftedFeatures"] == len(answer["drifted"])
    assert answer["estimated_accuracy"] is None
    assert not {"EstimatedAccuracy", "EstimatedAccuracyUpperBound"} & published(lines).keys()
    assert published(lines)["ShareUnderThreshold"] >= 0
    assert published(lines)["Drift brightness"] > 0.2


def test_metrics_have_the_time_of_the_windows_end(captured, known_baseline, context, capsys):
    captured()

    _, lines = handled(DAY_AFTER, context, capsys)

    ends = {line["_aws"]["Timestamp"] for line in lines if "_aws" in line and "ColdStart" not in line}
    assert ends == {int((START + timedelta(days=1)).timestamp() * 1000)}


def test_metrics_have_the_dimensions_that_alarms_and_dashboard_use(captured, known_baseline, context, capsys):
    captured()

    _, lines = handled(DAY_AFTER, context, capsys)

    sets = {
        (metric["Name"], tuple(sorted(names)))
        for line in lines
        if "_aws" in line
        for directive in line["_aws"]["CloudWatchMetrics"]
        for names in directive["Dimensions"]
        for metric in directive["Metrics"]
        if metric["Name"] != "ColdStart"
    }
    assert {names for name, names in sets if name == "Drift"} == {("feature", "service")}
    assert {names for name, names in sets if name != "Drift"} == {("service",)}
    assert {line["service"] for line in lines if "_aws" in line} == {"vehicle-classifier"}


@pytest.mark.parametrize(
    ("event", "start", "end"),
    [
        ({"time": "2026-03-05T10:15:00Z"}, "2026-03-04T10:00", "2026-03-05T10:00"),
        ({"time": "2026-03-05T10:00:00Z"}, "2026-03-04T10:00", "2026-03-05T10:00"),
        (
            {"from": "2026-03-05T10:00:05Z", "to": "2026-03-05T10:00:10Z"},
            "2026-03-05T10:00:05",
            "2026-03-05T10:00:10",
        ),
        ({"from": "2026-03-05", "to": "2026-03-05T12:00+01:00"}, "2026-03-05", "2026-03-05T11:00"),
    ],
)
def test_the_window_is_the_last_full_hours_or_the_requested_range(event, start, end):
    window = app.time_window(event, 24)

    assert window.start == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert window.end == datetime.fromisoformat(end).replace(tzinfo=UTC)


def test_a_day_without_traffic_is_not_a_fault(s3, context, capsys):
    answer, lines = handled(DAY_AFTER, context, capsys)

    assert answer["records"] == 0
    assert answer["estimated_accuracy"] is None
    assert published(lines)["CapturedRecords"] == 0
    assert "EstimatedAccuracy" not in published(lines)


def test_a_broken_line_is_counted_and_logged_with_its_place(s3, context, capsys, logged):
    key = f"data/vehicle-classifier/AllTraffic/{START:%Y/%m/%d/%H}/00-00-000-x.jsonl"
    s3.put_object(Bucket="captures", Key=key, Body=b'{"captureData"\n')
    logged(app.logger)

    _, lines = handled(DAY_AFTER, context, capsys)

    assert published(lines)["CapturedBrokenLines"] == 1
    assert [line["line"] for line in lines if line.get("message") == "skipped"] == [
        f"s3://captures/{key}:1: not JSON"
    ]


def test_no_log_contains_a_photo(captured, known_baseline, context, capsys, logged):
    captured()
    logged(app.logger)

    _, lines = handled(DAY_AFTER, context, capsys)

    assert any(line.get("message") == "monitored" for line in lines)
    assert "/9j/" not in json.dumps(lines)


def test_a_missing_baseline_fails_the_function(s3, monkeypatch, context):
    monkeypatch.setenv("BASELINE_URI", "s3://captures/nowhere.json")

    with pytest.raises(CaptureError, match=r"s3://captures/nowhere\.json cannot be read"):
        app.lambda_handler(DAY_AFTER, context)


def test_an_invalid_baseline_fails_the_function(s3, monkeypatch, context):
    s3.put_object(Bucket="captures", Key="baseline.json", Body=b"{}")
    monkeypatch.setenv("BASELINE_URI", "s3://captures/baseline.json")

    with pytest.raises(BaselineError):
        app.lambda_handler(DAY_AFTER, context)
