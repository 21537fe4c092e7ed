"""A short drift rehearsal: both the monitor function and the report detect the drift."""

from local import drift_rehearsal
from model.network.classifier import Classifier


def test_a_dirty_lens_and_night_are_detected_and_dated(stack, monkeypatch):
    monkeypatch.setattr(drift_rehearsal, "YESTERDAY", 80)
    monkeypatch.setattr(drift_rehearsal, "TODAY", 160)
    monkeypatch.setattr(drift_rehearsal, "DAY", 15.0)
    monkeypatch.setattr(drift_rehearsal, "WINDOWS", 2)

    rehearsal = drift_rehearsal.rehearse(stack, Classifier.load().description, print)

    morning, evening = rehearsal.windows
    assert morning.records + evening.records == 160
    assert morning.drifted == 0
    assert evening.drifted >= 2
    assert "sharpness" in rehearsal.found.drifted
    assert rehearsal.found.since["sharpness"] >= morning.end - (evening.end - morning.end) / 2
    assert rehearsal.page.exists()
