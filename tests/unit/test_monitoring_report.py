"""`scones monitor`: its report, its errors, and the baseline that it compares with."""

import hashlib
import json
import random
import re
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from functions.monitor.capture_analysis import drift
from functions.monitor.capture_analysis.captures import ReadCounts, TimeWindow, read
from functions.monitor.capture_analysis.drift import BaselineError
from functions.monitor.capture_analysis.window import Window
from model import charts, storage
from model.training import baseline
from pipeline import sample_images
from pipeline.commands import monitor
from pipeline.monitoring import analysis, plots
from scones import cli
from tests import captures

PHOTOS = captures.photos(30)
DARK = [
    sample_images.encoded(sample_images.picture(sample_images.bicycle, seed).point(lambda level: level * 0.3))
    for seed in range(9)
]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["monitor", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def captured(folder: Path, photos=PHOTOS, count=240, seed=1, **more) -> Path:
    chance = random.Random(seed)
    captures.write(folder, captures.records(count, photos, chance, **more), chance)
    return folder


def reported(*arguments: object, code: int = 0) -> dict:
    return json.loads(run(*arguments, "--json", code=code))


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Path:
    """The baseline of a normal day."""
    folder = tmp_path_factory.mktemp("known")
    captured(folder / "captures", count=500, seed=2)
    run("--captures", folder / "captures", "--write-baseline", folder / "baseline.json")
    return folder / "baseline.json"


def test_without_a_baseline_everything_but_drift_is_reported(tmp_path):
    metrics = reported("--captures", captured(tmp_path))

    assert metrics["records_read"] == metrics["records"] == metrics["answers"] == 240
    assert (metrics["duplicates"], metrics["broken"]) == (0, 0)
    assert metrics["from"] == "2026-03-04T00:00:00.000Z"
    assert metrics["to"].startswith("2026-03-04T23:5")
    assert sum(metrics["class_mix"].values()) == 240
    assert (
        metrics["estimated_accuracy"]["low"]
        < metrics["mean_confidence"]
        < metrics["estimated_accuracy"]["high"]
    )
    assert metrics["features"].keys() >= {
        "confidence",
        "brightness",
        "contrast",
        "sharpness",
        "size",
        "aspect",
    }
    assert metrics["features"]["aspect"]["p50"] == pytest.approx(4 / 3)
    assert "statistic" not in metrics["features"]["brightness"]
    assert metrics["drifted"] == []


def test_each_event_counts_once_and_a_broken_line_is_listed(tmp_path):
    captured(tmp_path, count=20)
    (first, *_) = sorted(tmp_path.rglob("*.jsonl"))
    first.write_text(first.read_text() * 2 + "{broken\n")
    lines = len(first.read_text().splitlines()) // 2

    metrics = reported("--captures", tmp_path)

    assert (metrics["records_read"], metrics["records"], metrics["duplicates"]) == (20 + lines, 20, lines)
    assert metrics["broken"] == 1
    assert metrics["skipped"] == [f"{first}:{2 * lines + 1}: not JSON"]


def test_the_report_covers_the_requested_time_window(tmp_path):
    metrics = reported(
        "--captures", captured(tmp_path), "--from", "2026-03-04T06:00", "--to", "2026-03-04T07:00+00:00"
    )

    assert (metrics["from"], metrics["to"]) == ("2026-03-04T06:00:00.000Z", "2026-03-04T07:00:00.000Z")
    assert 0 < metrics["records"] < 40


def test_a_day_like_the_baseline_has_not_drifted(tmp_path, known):
    metrics = reported("--captures", captured(tmp_path), "--baseline", known, "--fail-on-drift")

    assert metrics["drifted"] == []
    for feature in (
        "confidence",
        "class_mix",
        "under_threshold",
        "other",
        "brightness",
        "contrast",
        "sharpness",
    ):
        one = metrics["features"][feature]
        assert one["limit"] == (0.1 if one["ks"] is None else 0.2)
        assert one["drifted"] is False
        assert one["statistic"] == max(one["psi"], one["ks"] or one["variation"])


def test_darkness_is_detected_with_its_start_and_sets_the_exit_code(tmp_path, known):
    captured(tmp_path, count=200, hours=12)
    captured(tmp_path, DARK, count=200, start=captures.START.replace(hour=12), hours=12)

    metrics = reported("--captures", tmp_path, "--baseline", known, "--fail-on-drift", code=3)

    assert "brightness" in metrics["drifted"]
    assert "2026-03-04T10" < metrics["since"]["brightness"] < "2026-03-04T14"
    assert metrics["features"]["brightness"]["drifted"] is True


def test_a_change_of_the_class_mix_is_detected(tmp_path, known):
    captured(tmp_path, answers=lambda chance: captures.answer(chance, (0.25, 0.7, 0.05)))

    assert reported("--captures", tmp_path, "--baseline", known)["drifted"] == ["class_mix"]


def test_the_page_the_plots_and_the_metrics_are_written(tmp_path, known):
    folder = captured(tmp_path / "captures")
    run("--captures", folder, "--baseline", known, "--out", tmp_path / "report")

    written = {file.name for file in (tmp_path / "report").iterdir()}
    assert written == {"metrics.json", "report.html"} | {
        f"{name}.png" for name in plots.NAMES if name != "calibration"
    }
    for file in (tmp_path / "report").glob("*.png"):
        with Image.open(file) as plot:
            assert plot.width > 600


def test_plots_of_an_earlier_report_are_removed(tmp_path, known):
    folder = captured(tmp_path / "captures")
    run("--captures", folder, "--baseline", known, "--out", tmp_path / "report")
    run("--captures", folder, "--out", tmp_path / "report")

    assert not (tmp_path / "report" / "drift.png").exists()


def test_the_page_works_offline_and_its_ids_are_unique(tmp_path, known):
    folder = captured(tmp_path / "captures", hours=2.8)
    run("--captures", folder, "--baseline", known, "--out", tmp_path)

    page = (tmp_path / "report.html").read_text()

    assert "default-src 'none'" in page
    assert not re.findall(r"https?://", page)
    assert page.count("<svg") == 6
    assert page.count('src="data:image/jpeg') == 24
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_untrusted_text_is_escaped_on_the_page(tmp_path):
    chance = random.Random(1)
    (made,) = captures.records(1, PHOTOS, chance)
    record = captures.parsed(made.line)
    record["eventMetadata"]["inferenceId"] = "<script>alert(1)</script>"
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n<img src=x>\n")
    run("--captures", tmp_path, "--out", tmp_path / "out", "--labels", "<b>,&,$x_1$")

    page = (tmp_path / "out" / "report.html").read_text()

    assert "<script>" not in page
    assert "<b>," not in page
    assert "&lt;script&gt;" in page


def test_an_empty_window_has_a_report(tmp_path):
    run("--captures", tmp_path, "--out", tmp_path / "out")

    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["records"] == 0
    assert metrics["from"] is None
    assert metrics["estimated_accuracy"] is None
    assert "There are no answers in this time window." in (tmp_path / "out" / "report.html").read_text()


def test_true_labels_give_the_accuracy(tmp_path):
    folder = captured(tmp_path / "captures", count=100)
    truth = tmp_path / "truth"
    truth.mkdir()
    ground = [
        {
            "groundTruthData": {"data": str(number % 2), "encoding": "CSV"},
            "eventMetadata": {"eventId": f"photo-{number}"},
        }
        for number in range(50)
    ]
    review = [
        {"inference_id": f"photo-{number}", "label": "motorcycle", "confidence": 0.4}
        for number in range(50, 60)
    ]
    (truth / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ground + review))

    metrics = reported("--captures", folder, "--truth", truth)

    answers = [record.probabilities() for record in read(str(folder), TimeWindow(), ReadCounts())][:60]
    shown = [number % 2 for number in range(50)] + [1] * 10
    correct = sum(answer[label] == max(answer) for answer, label in zip(answers, shown, strict=True))
    assert (metrics["labelled"]["accuracy"]["of"], metrics["labelled"]["accuracy"]["count"]) == (60, correct)
    assert metrics["labelled"]["bins"]


def test_labels_and_threshold_of_the_command_line_are_used(tmp_path):
    metrics = reported("--captures", captured(tmp_path), "--labels", "van, car,scooter", "--threshold", "1")

    assert list(metrics["class_mix"]) == ["van", "car", "scooter"]
    assert metrics["under_threshold"]["value"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--captures", "nowhere"], 1, r"nowhere cannot be read \(No such file or directory\)"),
        (["--captures", ".", "--from", "soon"], 2, "'soon' is not a time. Examples: 2026-11-25"),
        (["--captures", ".", "--from", "2026-11-25", "--to", "2026-11-24"], 2, "--from must be before --to"),
        (["--captures", ".", "--fail-on-drift"], 2, "--fail-on-drift needs a --baseline"),
        (["--captures", ".", "--baseline", "pyproject.toml"], 1, "pyproject.toml: not a baseline"),
        (["--captures", ".", "--baseline", "docs"], 1, r"docs/baseline.json cannot be read \(No such file"),
        (
            ["--captures", "docs", "--write-baseline", "x.json"],
            1,
            "There are no answers to make a baseline from",
        ),
        (["--captures", "docs", "--truth", "docs"], 1, "docs contains no labels"),
    ],
)
def test_an_error_is_one_line(arguments, code, reason):
    output = run(*arguments, code=code)

    assert re.search(f"Error: .*{reason}", output)
    assert not Path("x.json").exists()


def test_a_label_file_of_another_format_is_an_error(tmp_path):
    (tmp_path / "labels.jsonl").write_text('{"photo": "x"}\n')

    output = run("--captures", tmp_path, "--truth", tmp_path / "labels.jsonl", code=1)

    assert (
        f"{tmp_path}/labels.jsonl:1 is neither ground truth nor an object with inference_id and label"
        in output
    )


class ColourModel:
    """A model whose features are the mean of each colour channel."""

    description = SimpleNamespace(
        name="colours", version="1", input_size=32, graph_sha256=hashlib.sha256(b"colours").hexdigest()
    )

    def features(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture
def colour_model(monkeypatch, tmp_path):
    """Make `--model` load ColourModel from any path; return a path that exists."""
    from model.network import classifier  # noqa: PLC0415

    monkeypatch.setattr(classifier.Classifier, "load", lambda path: ColourModel())
    return tmp_path


def test_distance_in_the_models_feature_space_is_one_more_feature(tmp_path, colour_model):
    good, dark = captured(tmp_path / "good"), captured(tmp_path / "dark", DARK)
    run("--captures", good, "--model", colour_model, "--write-baseline", tmp_path / "baseline.json")

    same = reported("--captures", good, "--baseline", tmp_path / "baseline.json", "--model", colour_model)
    night = reported(
        "--captures",
        dark,
        "--baseline",
        tmp_path / "baseline.json",
        "--model",
        colour_model,
        "--features-sample",
        90,
    )

    assert same["photos_seen_by_the_model"] == 240
    assert same["features"]["feature_distance"]["drifted"] is False
    assert night["photos_seen_by_the_model"] == 90
    assert night["features"]["feature_distance"]["drifted"] is True


def test_a_baseline_of_another_model_is_an_error(tmp_path, colour_model, monkeypatch):
    folder = captured(tmp_path / "captures")
    run("--captures", folder, "--model", colour_model, "--write-baseline", tmp_path / "baseline.json")
    other = SimpleNamespace(**vars(ColourModel.description) | {"graph_sha256": "0" * 64})
    monkeypatch.setattr(ColourModel, "description", other)

    output = run(
        "--captures", folder, "--baseline", tmp_path / "baseline.json", "--model", colour_model, code=1
    )

    assert "The baseline belongs to another model than" in output


def test_the_baseline_of_training_has_every_feature(tmp_path):
    description = SimpleNamespace(
        name="vehicles",
        version="1",
        labels=("bicycle", "other"),
        threshold=0.8,
        input_size=224,
        graph_sha256="0" * 64,
    )
    files = []
    for number, photo in enumerate(PHOTOS):
        files.append(tmp_path / f"{number}.jpg")
        files[-1].write_bytes(photo)
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]] * 10)
    features = np.random.default_rng(1).normal(size=(30, 8)).astype(np.float32)

    made = baseline.from_training(description, files, probabilities, np.array([0, 1, 1] * 10), features)
    storage.write_file(tmp_path / baseline.FILE, made.text().encode())

    assert baseline.read(tmp_path) == made
    assert (made.n, made.accuracy, made.mean_confidence) == (30, pytest.approx(2 / 3), pytest.approx(2.2 / 3))
    assert made.counts == {
        "class_mix": {"bicycle": 20, "other": 10},
        "under_threshold": {"under": 20, "over": 10},
        "other": {"other": 10, "vehicle": 20},
    }
    assert made.numbers.keys() == {
        "confidence",
        "brightness",
        "contrast",
        "sharpness",
        "size",
        "aspect",
        "feature_distance",
    }
    assert set(made.numbers["size"].sample) == {224.0}
    assert (tmp_path / baseline.FILE).stat().st_size < 10_000
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / baseline.FILE, baseline.FILE)
    assert baseline.read(tmp_path / "model.tar.gz") == made


def test_a_thinned_baseline_keeps_the_distribution():
    values = np.random.default_rng(1).normal(size=100_000)

    kept = baseline.sample_quantiles(values)

    assert len(kept) == baseline.MAX_VALUES
    assert drift.kolmogorov_smirnov(kept, values[:5000].tolist())[0] < 0.03


def test_the_feature_space_measures_in_deviations():
    features = np.array([[0.0, 0.0], [2.0, 20.0]])
    space = baseline.FeatureSpace.fit(features, "0" * 64)

    assert space.distance(features) == pytest.approx([1, 1])
    assert space.distance(np.array([[1.0, 10.0], [5.0, 10.0]])) == pytest.approx([0, 4 / 2**0.5])


def test_a_baseline_needs_answers():
    with pytest.raises(BaselineError, match="There are no answers to make a baseline from"):
        baseline.make(
            model="x",
            labels=["a", "b"],
            threshold=0.5,
            confidence=np.zeros(0),
            predicted=np.zeros(0, int),
            properties={},
        )


@pytest.mark.parametrize("hours", [0.01, 0.5, 2.85, 30, 24 * 9, 24 * 100, 24 * 1000])
def test_the_time_axis_fits_any_window(tmp_path, hours):
    captured(tmp_path, count=60, hours=hours)
    window = Window(monitor.DEFAULT_THRESHOLD)

    report = analysis.analyse(str(tmp_path), TimeWindow(), window)

    # pytest turns warnings into errors, such as that of an axis without ticks
    assert charts.svg(plots.draw(report)["recent"], "recent", "Latest answers").startswith("<svg")
