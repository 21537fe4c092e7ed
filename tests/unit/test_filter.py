"""The filter function accepts confident answers and sends everything else to review."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.filter.app import SettingsError, lambda_handler, logger, settings
from functions.filter.decision import InferencesError, decide

LABELS = ("bicycle", "motorcycle", "other")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("CLASS_LABELS", "bicycle,motorcycle,other")
    monkeypatch.setenv("CONFIDENCE_THRESHOLD", "0.8")
    settings.cache_clear()


@pytest.mark.parametrize(
    ("inferences", "decision", "label", "reason"),
    [
        ([0.95, 0.03, 0.02], "accepted", "bicycle", "confident"),
        ([0.03, 0.95, 0.02], "accepted", "motorcycle", "confident"),
        ([0.8, 0.15, 0.05], "accepted", "bicycle", "confident"),
        ([0.79, 0.16, 0.05], "needs_review", "bicycle", "low_confidence"),
        ([0.01, 0.01, 0.98], "needs_review", "other", "not_a_vehicle"),
        ([0.2, 0.3, 0.5], "needs_review", "other", "not_a_vehicle"),
        ([0.4, 0.4, 0.2], "needs_review", "bicycle", "low_confidence"),
        ([0.0, 1.0, 0.0], "accepted", "motorcycle", "confident"),
    ],
)
def test_an_answer_is_accepted_if_it_is_a_vehicle_and_reaches_the_threshold(
    inferences, decision, label, reason, context
):
    result = lambda_handler({"inferences": inferences}, context)

    assert result == {
        "decision": decision,
        "label": label,
        "confidence": max(inferences),
        "reason": reason,
    }


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(0, 1))
def test_every_accepted_answer_is_a_vehicle_at_or_above_the_threshold(inferences, threshold):
    decision = decide(inferences, LABELS, threshold)

    assert decision["confidence"] == max(inferences)
    accepted = decision["decision"] == "accepted"
    assert accepted == (decision["label"] != "other" and decision["confidence"] >= threshold)


@pytest.mark.parametrize(
    "inferences", [[], [1.0], [0.5, 0.5], [0.25] * 4, [float("nan"), 0.5, 0.5], [1.5, 0.0, 0.0]]
)
def test_an_answer_that_does_not_fit_the_labels_is_a_fault_and_not_an_outcome(inferences, context):
    with pytest.raises(InferencesError, match=r"3 labels bicycle, motorcycle, other$|must be probabilities"):
        lambda_handler({"inferences": inferences}, context)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLASS_LABELS", ""),
        ("CLASS_LABELS", "bicycle,,other"),
        ("CLASS_LABELS", "bicycle,bicycle"),
        ("CONFIDENCE_THRESHOLD", "1.1"),
        ("CONFIDENCE_THRESHOLD", "nan"),
    ],
)
def test_invalid_settings_are_refused(name, value, monkeypatch):
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=name):
        settings()


@pytest.mark.parametrize("threshold", ["0", "1"])
def test_a_threshold_may_accept_everything_or_only_certainty(threshold, monkeypatch):
    monkeypatch.setenv("CONFIDENCE_THRESHOLD", threshold)

    assert settings()[1] == float(threshold)


def test_spaces_around_labels_are_ignored(monkeypatch):
    monkeypatch.setenv("CLASS_LABELS", "bicycle, cargo bike, other")

    assert settings()[0] == ("bicycle", "cargo bike", "other")


@pytest.mark.parametrize(
    ("inferences", "metric"),
    [([0.95, 0.03, 0.02], "PhotosAccepted"), ([0.5, 0.3, 0.2], "PhotosNeedingReview")],
)
def test_a_decision_is_counted(inferences, metric, context, metrics):
    lambda_handler({"inferences": inferences}, context)

    assert metrics() == {metric: ("Count", [1]), "Confidence": ("None", [max(inferences)])}


def test_a_decision_is_logged_with_the_executions_id(context, logged):
    logged(logger)
    lambda_handler({"inferences": [0.95, 0.03, 0.02], "execution": "arn:of:the:execution"}, context)

    log = next(line for line in logged(logger) if line.get("message") == "decided")
    assert log["correlation_id"] == "arn:of:the:execution"
    assert log["label"] == "bicycle"
