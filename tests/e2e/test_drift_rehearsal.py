"""A short drift rehearsal: both the monitor function and the report detect the drift."""

from local import drift_rehearsal
from model.network.classifier import Classifier


def test_a_dirty_lens_and_night_are_detected_and_dated(stack, monkeypatch):
    monkeypatch.setattr(drift_rehearsal, "GOOD_PHOTOS", 80)
    monkeypatch.setattr(drift_rehearsal, "PHOTOS", 160)
    monkeypatch.setattr(drift_rehearsal, "WINDOWS", 2)

    for _ in range(2):  # a repeated rehearsal replaces the first
        rehearsal = drift_rehearsal.rehearse(stack, Classifier.load().description, print)

    morning, evening = rehearsal.windows
    assert (morning.records, evening.records) == (80, 80)
    assert morning.drifted == 0
    assert evening.drifted >= 2
    assert "sharpness" in rehearsal.found.drifted
    assert (morning.end.hour, evening.end.hour) == (12, 0)
    assert 6 <= rehearsal.found.since["sharpness"].hour <= 12  # the part of the day that includes noon
    assert rehearsal.page.exists()
