"""The rehearsal, a good deal shorter: what goes wrong is found, by the function and by the report."""

from local import watch
from model.network.classifier import Classifier


def test_a_dirty_lens_and_night_are_found_and_told_when(stack, monkeypatch):
    monkeypatch.setattr(watch, "YESTERDAY", 80)
    monkeypatch.setattr(watch, "TODAY", 160)
    monkeypatch.setattr(watch, "DAY", 15.0)
    monkeypatch.setattr(watch, "PARTS", 2)

    rehearsed = watch.rehearse(stack, Classifier.load().description, print)

    morning, evening = rehearsed.told
    assert morning.records + evening.records == 160
    assert morning.drifted == 0
    assert evening.drifted >= 2
    assert "sharpness" in rehearsed.found.drifted
    assert rehearsed.found.since["sharpness"] >= morning.end - (evening.end - morning.end) / 2
    assert rehearsed.page.exists()
