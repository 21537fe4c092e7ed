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
    "inferences", [[], [1.0], [0.5, 0.5], [0.25] * 4, [float("nan"), 0.5, 0.5], [1.5, -0.5, 0.0]]
)
def test_an_answer_that_does_not_fit_the_labels_is_a_fault_and_not_an_outcome(inferences, context):
    with pytest.raises(InferencesError):
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


def test_spaces_around_labels_are_ignored(monkeypatch):
    monkeypatch.setenv("CLASS_LABELS", "bicycle, cargo bike, other")

    assert settings()[0] == ("bicycle", "cargo bike", "other")


def test_the_decision_is_counted_and_logged_with_the_executions_id(context, logged):
    logged(logger)
    lambda_handler({"inferences": [0.95, 0.03, 0.02], "execution": "arn:of:the:execution"}, context)

    lines = logged(logger)
    log = next(line for line in lines if line.get("message") == "decided")
    metrics = next(line for line in lines if "PhotosAccepted" in line)
    assert log["correlation_id"] == "arn:of:the:execution"
    assert log["label"] == "bicycle"
    assert metrics["PhotosAccepted"] == [1.0]
    assert metrics["Confidence"] == [0.95]
