"""What is gathered of a time window, and how photos are measured."""

import io
import json
import random

import pytest
from PIL import Image, ImageFilter

from functions.monitor.capture_analysis.captures import Record
from functions.monitor.capture_analysis.window import Window, properties, usual_labels
from pipeline import sample_images
from tests import captures


def record(answer: list[float] | str, photo: bytes | None = b"photo", name: str = "photo-1") -> Record:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    asked = captures.parsed(next(captures.records(1, [photo], random.Random(1))).line) if photo else None
    return Record(
        event_id="event",
        inference_id=name,
        at=captures.START,
        asked=asked["captureData"]["endpointInput"] if asked else None,
        answered={"data": text, "encoding": "JSON"},
    )


def test_each_answer_leaves_its_label_its_confidence_and_its_time():
    window = Window(0.8)
    for answer in ([0.9, 0.1], [0.3, 0.7], [0.5, 0.5]):
        window.add(record(answer))

    assert list(window.confidence) == [0.9, 0.7, 0.5]
    assert window.by_label() == {"bicycle": 2, "motorcycle": 1}
    assert window.under_threshold() == 2
    assert set(window.at) == {captures.START.timestamp()}


@pytest.mark.parametrize(
    ("how_many", "labels"),
    [
        (2, ("bicycle", "motorcycle")),
        (3, ("bicycle", "motorcycle", "other")),
        (4, ("label 0", "label 1", "label 2", "label 3")),
    ],
)
def test_labels_that_nobody_told_are_the_stacks_if_they_can_be(how_many, labels):
    assert usual_labels(how_many) == labels


def test_answers_of_another_model_are_counted_and_left_out():
    window = Window(0.8, ["bicycle", "motorcycle"])
    for answer in ([0.9, 0.1], [0.8, 0.1, 0.1], "broken"):
        window.add(record(answer))

    assert len(window.confidence) == 1
    assert dict(window.without) == {"3 probabilities for 2 labels": 1, "the output is no list of numbers": 1}


def test_a_photo_of_something_else_is_never_accepted():
    window = Window(0.8, ["bicycle", "other"])

    assert window.accepts(0, 0.8)
    assert not window.accepts(0, 0.79)
    assert not window.accepts(1, 0.99)


def test_the_sample_has_as_many_as_asked_for_each_as_likely_as_any_other():
    drawn = [0] * 40
    for seed in range(200):
        window = Window(0.8, sample_size=10)
        window._chance = random.Random(seed)
        for number in range(40):
            window.add(record([0.9, 0.1], name=str(number)))
        assert len(window.sample) == 10
        for answer in window.sample:
            drawn[int(answer.name)] += 1

    assert min(drawn) > 25
    assert max(drawn) < 75


def test_the_least_confident_are_kept_the_least_first():
    window = Window(0.8, least_confident_size=3)
    for number in range(50):
        confidence = 0.5 + ((number * 17) % 50) / 100
        window.add(record([confidence, 1 - confidence]))

    assert [answer.confidence for answer in window.least_confident] == pytest.approx([0.5, 0.51, 0.52])


def test_a_missing_photo_is_counted_and_its_answer_kept():
    window = Window(0.8, sample_size=10)
    window.add(record([0.9, 0.1], photo=None))

    assert len(window.confidence) == 1
    assert window.sample == []
    assert dict(window.without) == {"no input was captured": 1}


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_properties_by_hand():
    # Columns of black and white, two pixels wide each: half of all neighbours across differ by 1, none down.
    columns = Image.new("L", (8, 4))
    columns.putdata([255 if x % 4 < 2 else 0 for _ in range(4) for x in range(8)])

    assert properties(encoded(columns)) == pytest.approx(
        {"brightness": 0.5, "contrast": 0.5, "sharpness": 3 / 7 / 2, "size": 8, "aspect": 2}
    )


def test_one_pixel_has_no_neighbours():
    found = properties(encoded(Image.new("RGB", (1, 1), "white")))

    assert found == {"brightness": 1, "contrast": 0, "sharpness": 0, "size": 1, "aspect": 1}


def test_what_cannot_be_read_has_no_properties():
    assert properties(b"no photo") is None


def test_night_is_darker_and_a_dirty_lens_less_sharp():
    day = sample_images.picture(sample_images.bicycle, 1)
    night, blurred = day.point(lambda level: level * 0.3), day.filter(ImageFilter.GaussianBlur(3))

    of_day, of_night, of_blurred = (properties(encoded(picture)) for picture in (day, night, blurred))

    assert of_night["brightness"] < 0.4 * of_day["brightness"]
    assert of_blurred["sharpness"] < 0.5 * of_day["sharpness"]
    assert of_blurred["brightness"] == pytest.approx(of_day["brightness"], abs=0.01)
