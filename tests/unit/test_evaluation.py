import base64
import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from functions.serialize.photo import serialize
from model.evaluation import metrics, statistics
from model.evaluation.metrics import Evaluation, Predictions, evaluate
from model.predictor import Predictor
from scones import cli

# The formulas


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_wilson_interval_matches_the_literature(count, of, low, high):
    """R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    share = statistics.share(count, of)

    assert (round(share.low, 4), round(share.high, 4)) == (low, high)
    assert share.value == count / of


def test_an_interval_always_contains_its_value():
    for of in (1, 3, 200, 10**6):
        assert statistics.share(0, of).low == 0
        assert statistics.share(of, of).high == 1


def test_f1_is_the_harmonic_mean_and_lies_within_its_interval():
    share = statistics.f1(both=8, either=15)

    precision, recall = 8 / 13, 8 / 10
    assert share.value == pytest.approx(2 * precision * recall / (precision + recall))
    assert share.low < share.value < share.high
    assert share.low == pytest.approx(2 * statistics.share(8, 15).low / (1 + statistics.share(8, 15).low))


def test_there_are_no_statistics_of_no_photos():
    assert statistics.share(0, 0) is None
    assert statistics.f1(0, 0) is None
    assert statistics.calibration_error([]) is None
    assert metrics.brier(np.zeros((0, 2)), np.zeros(0, int)) is None
    assert len(statistics.risk_by_coverage(np.zeros(0), np.zeros(0, bool))) == 0


def test_the_calibration_error_matches_a_calculation_by_hand():
    confidence, right = np.array([0.95, 0.95, 0.65, 0.65]), np.array([True, False, True, True])

    bins = statistics.equal_width_bins(confidence, right)

    # |.5 - .95| and |1 - .65|, each with half the answers
    assert statistics.calibration_error(bins) == pytest.approx(0.4)
    assert [(one.n, one.confidence, one.accuracy) for one in bins] == [(2, 0.65, 1), (2, 0.95, 0.5)]


def test_equal_mass_bins_match_a_calculation_by_hand():
    confidence, right = np.array([0.99, 0.6, 0.98, 0.97]), np.array([True, False, True, False])

    two, one = (statistics.equal_mass_bins(confidence, right, bins) for bins in (2, 1))

    # .6 and .97, both wrong; .98 and .99, both right
    assert statistics.calibration_error(two) == pytest.approx((0.785 + 0.015) / 2)
    assert statistics.calibration_error(one) == pytest.approx(0.885 - 0.5)
    assert sum(part.n for part in statistics.equal_mass_bins(confidence, right)) == 4


def test_a_bin_includes_its_upper_bound_but_not_its_lower_bound():
    bins = statistics.equal_width_bins(np.array([0.0, 0.25, 0.5, 0.51, 1.0]), np.ones(5, bool), bins=4)

    assert [(one.low, one.high, one.n) for one in bins] == [
        (0, 0.25, 2),
        (0.25, 0.5, 1),
        (0.5, 0.75, 1),
        (0.75, 1, 1),
    ]


def test_the_brier_score_matches_a_calculation_by_hand():
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8]])

    assert metrics.brier(probabilities, np.array([0, 0])) == pytest.approx((0.18 + 1.28) / 2)


def test_rounded_probabilities_have_a_brier_score_too():
    assert metrics.brier(np.array([[0.92, 0.078]]), np.array([0])) == pytest.approx(0.08**2 + 0.078**2)


def test_the_area_under_the_roc_curve_matches_a_calculation_by_hand():
    positive = np.array([False, False, True, True])

    assert metrics.roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), positive) == 0.75
    assert metrics.roc_auc(np.array([0.5, 0.5, 0.5, 0.5]), positive) == 0.5
    assert metrics.roc_auc(np.array([0.1, 0.2, 0.2, 0.3]), positive) == 0.875
    assert metrics.roc_auc(np.array([0.1, 0.2]), np.array([True, True])) is None


def test_the_risk_coverage_curve_matches_a_calculation_by_hand():
    right = np.array([False, True, True, True])

    risk = statistics.risk_by_coverage(np.array([0.7, 0.9, 0.6, 0.8]), right)

    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4])


def test_answers_of_equal_confidence_share_their_risk():
    assert statistics.risk_by_coverage(np.array([0.9, 0.9]), np.array([True, False])).tolist() == [0.5, 0.5]


# The evaluation

WITH_OTHER = ("bicycle", "motorcycle", "other")


def evaluated(
    rows: list[tuple[str, list[float]]], labels: tuple[str, ...] = WITH_OTHER, threshold: float = 0.8
) -> Evaluation:
    true_labels, probabilities = zip(*rows, strict=True)
    n = len(rows)
    files = [f"{i}.png" for i in range(n)]
    seconds = np.full(n, 0.01)
    return evaluate(Predictions(labels, threshold, np.array(probabilities), seconds, files, true_labels))


ROWS = [
    ("bicycle", [0.9, 0.1, 0.0]),
    ("bicycle", [0.7, 0.2, 0.1]),
    ("motorcycle", [0.85, 0.1, 0.05]),
    ("motorcycle", [0.0, 1.0, 0.0]),
    ("motorcycle", [0.1, 0.3, 0.6]),
    ("other", [0.0, 0.1, 0.9]),
    ("other", [0.81, 0.0, 0.19]),
]


def test_every_metric_matches_a_calculation_by_hand():
    found = evaluated(ROWS)

    at = found.at_threshold
    assert (found.n, found.photos) == (7, {"bicycle": 2, "motorcycle": 3, "other": 2})
    assert (found.accuracy.count, found.accuracy.of) == (3, 5)
    assert found.confusion.counts == [[2, 0, 0], [1, 1, 1], [1, 0, 1]]
    assert (found.labels["bicycle"].precision.count, found.labels["bicycle"].precision.of) == (2, 4)
    assert (found.labels["motorcycle"].recall.count, found.labels["motorcycle"].recall.of) == (1, 3)
    assert (at.coverage.count, at.coverage.of) == (3, 5)
    assert (at.precision.count, at.precision.of) == (2, 4)
    assert (at.precision_of_vehicles.count, at.precision_of_vehicles.of) == (2, 3)
    assert (at.others_accepted.count, at.others_accepted.of) == (1, 2)
    # of 2 x 3 pairs of a bicycle and a motorcycle, only .85 / .95 comes before .7 / .9
    assert found.auc_of_pairs == {"bicycle against motorcycle": pytest.approx(5 / 6)}
    # the likeliest vehicles in order: 1 right, .9 right, .85 wrong, .7 right, .3 right
    assert found.selection.coverage == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert found.selection.risk == pytest.approx([0, 0, 1 / 3, 1 / 4, 1 / 5])
    assert found.selection.aurc == pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 5)
    assert found.calibration.n == 7
    assert [(one.file, one.answered, one.accepted) for one in found.mistakes] == [
        ("2.png", "bicycle", True),
        ("6.png", "bicycle", True),
        ("4.png", "other", False),
    ]


def test_calibration_leaves_out_photos_of_other_if_the_model_has_no_such_label():
    rows = [(shown, [p[0] / (p[0] + p[1]), p[1] / (p[0] + p[1])]) for shown, p in ROWS]

    found = evaluated(rows, labels=("bicycle", "motorcycle"))

    assert found.calibration.n == 5
    assert (found.at_threshold.others_accepted.count, found.at_threshold.others_accepted.of) == (2, 2)
    assert found.confusion.shown == ["bicycle", "motorcycle", "other"]
    assert found.confusion.counts == [[2, 0], [1, 2], [1, 1]]
    assert len(found.mistakes) == 3


def test_photos_of_other_are_not_required():
    found = evaluated([row for row in ROWS if row[0] != "other"])

    assert found.at_threshold.others_accepted is None
    assert found.labels["other"].recall is None
    assert found.accuracy.of == 5


def test_photos_of_other_alone_show_how_many_are_accepted():
    found = evaluated([row for row in ROWS if row[0] == "other"])

    assert (found.accuracy, found.at_threshold.coverage, found.selection.aurc) == (None, None, None)
    assert found.at_threshold.others_accepted.value == 0.5


def test_a_long_curve_is_thinned_but_keeps_its_ends():
    found = evaluated([("bicycle", [p, 1 - p, 0]) for p in np.linspace(0.5, 1, 1000)])

    assert len(found.selection.coverage) == 200
    assert (found.selection.coverage[0], found.selection.coverage[-1]) == (0.001, 1)


# The command


def by_colour(photo: bytes) -> list[float]:
    """Classify red as a bicycle, green as a motorcycle and blue as other."""
    red, green, blue = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))[0, 0] / 255 + 0.01
    return [value / (red + green + blue) for value in (red, green, blue)]


@pytest.fixture
def photos(tmp_path) -> Path:
    for label, colour in (("bicycle", "red"), ("motorcycle", "lime"), ("other", "blue")):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40 + i, 30), colour).save(folder / f"{i}.png")
    Image.new("RGB", (9, 9), "red").save(tmp_path / "photos" / "motorcycle" / "<script>alert(1)<.png")
    return tmp_path / "photos"


@pytest.fixture
def model(monkeypatch) -> Callable[..., None]:
    """Return a function that replaces the model to evaluate."""

    def use(
        classify: Callable[[bytes], list[float]] = by_colour, labels: tuple[str, ...] = WITH_OTHER
    ) -> None:
        monkeypatch.setattr(
            "model.evaluation.evaluator.find_predictor",
            lambda *_: Predictor("by colour", labels, 0.8, 224, classify),
        )

    use()
    return use


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)])


def fails(result: Result, reason: str) -> bool:
    """Whether the command ended with one line that gives the reason."""
    return result.exit_code == 1 and reason in result.output and result.output.count("\n") == 1


def test_json_is_one_object_on_stdout(model, photos):
    result = run("--data", photos, "--json")

    found = json.loads(result.output)
    assert result.exit_code == 0
    assert (found["model"], found["data"], found["manifest_sha256"]) == ("by colour", "photos", None)
    assert (found["accuracy"]["count"], found["accuracy"]["of"]) == (6, 7)
    assert found["at_threshold"]["threshold"] == 0.8
    assert set(found["labels"]) == set(WITH_OTHER)
    assert [mistake["file"] for mistake in found["mistakes"]] == ["motorcycle/<script>alert(1)<.png"]


def test_the_default_output_is_a_table(model, photos):
    result = run("--data", photos)

    assert result.exit_code == 0
    assert "accuracy on vehicles" in result.output
    assert "6 of 7" in result.output


def test_the_threshold_can_be_overridden(model, photos):
    strict = json.loads(run("--data", photos, "--json", "--threshold", "0.999").output)

    assert strict["at_threshold"]["coverage"]["count"] == 0
    assert strict["at_threshold"]["precision"] is None


def test_a_data_set_is_evaluated_by_split(model, photos, tmp_path):
    CliRunner().invoke(cli, ["data", "--source", str(photos), "--out", str(tmp_path / "data")])

    test, train = (
        json.loads(run("--data", tmp_path / "data", "--json", *split).output)
        for split in ([], ["--split", "train"])
    )

    assert test["n"] + train["n"] == 10
    assert test["n"] < train["n"]
    assert len(test["manifest_sha256"]) == 64


class Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def test_the_page_works_offline_and_runs_no_scripts(model, photos, tmp_path):
    result = run("--data", photos, "--out", tmp_path / "out")

    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json", "report.html"]
    assert not page.all("script", "link", "iframe", "object")
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert "url(" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert "&lt;script&gt;alert(1)&lt;.png" in text


def test_the_page_is_accessible(model, photos, tmp_path):
    run("--data", photos, "--out", tmp_path / "out")

    page = Page((tmp_path / "out" / "report.html").read_text())
    assert len(page.all("h1")) == 1
    assert len(page.all("h2")) == 5
    assert len(page.all("svg")) == len(page.all("figcaption")) == 2
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert [image["alt"] for image in page.all("img")] == ["motorcycle classified as bicycle"]
    assert page.all("html")[0]["lang"] == "en"


def test_the_page_is_written_for_a_single_label(model, photos, tmp_path):
    for label in ("bicycle", "motorcycle"):
        for path in (photos / label).iterdir():
            path.unlink()
        (photos / label).rmdir()

    result = run("--data", photos, "--out", tmp_path / "out", "--json")

    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == json.loads(result.output)
    assert "None: every answer is correct." in (tmp_path / "out" / "report.html").read_text()


def test_a_label_that_the_model_lacks_is_an_error(model, photos):
    (photos / "bicycle").rename(photos / "unicycle")

    assert fails(run("--data", photos), "There are photos of unicycle, but the model only has the labels")


def test_a_file_that_is_not_a_photo_is_an_error(photos):
    (photos / "bicycle" / "1.png").write_text("no photo")

    assert fails(run("--data", photos, "--json"), f"{photos / 'bicycle' / '1.png'} cannot be read as a photo")


def test_a_wrong_number_of_probabilities_is_an_error(model, photos):
    model(classify=lambda _: [0.5, 0.5])

    assert fails(run("--data", photos), "returns 2 probabilities for the 3 labels")


def test_an_answer_without_probabilities_is_an_error(model, photos):
    model(classify=lambda _: [3.0, -1.0, 0.0])

    assert fails(run("--data", photos), "must be probabilities")


def test_a_folder_that_cannot_be_written_is_an_error(model, photos, tmp_path):
    (tmp_path / "file").write_text("in the way")

    assert fails(run("--data", photos, "--out", tmp_path / "file" / "out"), "cannot be written")


def test_a_usage_error_is_exit_code_2(photos):
    assert run().exit_code == 2
    assert run("--data", photos, "--threshold", "2").exit_code == 2


# Through an endpoint


class Runtime:
    """SageMaker Runtime with by_colour as the model; it records the requests."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.answer = answer
        self.requests: list[dict[str, object]] = []

    def client(self, service: str, **options: object) -> "Runtime":
        self.options = options
        return self

    def invoke_endpoint(self, **request: object) -> dict[str, object]:
        self.requests.append(request)
        answer = self.answer or json.dumps(by_colour(request["Body"])).encode()
        return {"Body": io.BytesIO(answer)}


def test_an_endpoint_receives_what_the_pipeline_would_send(photos, monkeypatch):
    Image.new("RGB", (1600, 900), "red").save(photos / "bicycle" / "large.png")
    runtime = Runtime()
    monkeypatch.setattr("boto3.client", runtime.client)

    found = json.loads(
        run("--data", photos, "--json", "--through", "any", "--endpoint-url", "http://127.0.0.1:1").output
    )

    sizes = {Image.open(io.BytesIO(request["Body"])).size for request in runtime.requests}
    reduced = serialize(io.BytesIO((photos / "bicycle" / "large.png").read_bytes()), 224)
    assert found["model"] == "endpoint any"
    assert found["accuracy"]["of"] == 8
    assert runtime.options == {"endpoint_url": "http://127.0.0.1:1"}
    assert {request["EndpointName"] for request in runtime.requests} == {"any"}
    assert {request["ContentType"] for request in runtime.requests} == {"image/png", "image/jpeg"}
    assert sizes == {(40, 30), (41, 30), (42, 30), (9, 9), (224, 126)}
    assert base64.b64decode(reduced["image_data"]) in {request["Body"] for request in runtime.requests}


@pytest.mark.parametrize("answer", [b"no json", b'{"label": 1}', b"7", b'["a", "b"]'])
def test_an_endpoint_that_does_not_answer_with_probabilities_is_an_error(photos, monkeypatch, answer):
    monkeypatch.setattr("boto3.client", Runtime(answer).client)

    assert fails(run("--data", photos, "--through", "any"), "any did not answer with a list of probabilities")


def test_the_labels_of_an_endpoint_can_be_given(photos, monkeypatch):
    monkeypatch.setattr("boto3.client", Runtime(b"[0.9, 0.1]").client)

    result = run("--data", photos, "--json", "--through", "any", "--labels", "bicycle, motorcycle")

    assert json.loads(result.output)["confusion"]["answered"] == ["bicycle", "motorcycle"]
