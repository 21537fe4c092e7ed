"""A window counts answers and samples photos, whose image properties are measured."""

import io
import json
import random

import pytest
from PIL import Image, ImageFilter

from functions.filter import decision
from functions.monitor.capture_analysis import window as window_module
from functions.monitor.capture_analysis.captures import Record
from functions.monitor.capture_analysis.window import Window, default_labels, image_properties
from pipeline import sample_images
from tests import captures


def record(answer: list[float] | str, photo: bytes | None = b"photo", name: str = "photo-1") -> Record:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    made = captures.parsed(next(captures.records(1, [photo], random.Random(1))).line) if photo else None
    return Record(
        event_id="event",
        inference_id=name,
        at=captures.START,
        input=made["captureData"]["endpointInput"] if made else None,
        output={"data": text, "encoding": "JSON"},
    )


def test_a_window_records_each_answers_label_confidence_and_time():
    window = Window(0.8)
    for answer in ([0.9, 0.1], [0.3, 0.7], [0.5, 0.5]):
        window.add(record(answer))

    assert list(window.confidence) == [0.9, 0.7, 0.5]
    assert window.by_label() == {"bicycle": 2, "motorcycle": 1}
    assert window.under_threshold() == 2
    assert set(window.at) == {captures.START.timestamp()}
    assert window.names == []  # a day of them takes memory, and the function needs none


@pytest.mark.parametrize(
    ("count", "labels"),
    [
        (2, ("bicycle", "motorcycle")),
        (3, ("bicycle", "motorcycle", "other")),
        (4, ("label 0", "label 1", "label 2", "label 3")),
    ],
)
def test_unknown_labels_default_to_the_stacks_if_their_number_fits(count, labels):
    assert default_labels(count) == labels


def test_answers_with_other_labels_are_counted_as_unusable():
    window = Window(0.8, ["bicycle", "motorcycle"])
    for answer in ([0.9, 0.1], [0.8, 0.1, 0.1], "broken"):
        window.add(record(answer))

    assert len(window.confidence) == 1
    assert dict(window.unusable) == {
        "3 probabilities for 2 labels": 1,
        "the output is not a list of numbers": 1,
    }


def test_the_label_of_no_vehicle_is_the_one_that_the_filter_function_never_accepts():
    # The monitor has a copy, because each function is deployed with its own folder only.
    assert window_module.OTHER == decision.OTHER


def test_a_photo_without_a_vehicle_is_never_accepted():
    window = Window(0.8, ["bicycle", "other"])

    assert window.accepts(0, 0.8)
    assert not window.accepts(0, 0.79)
    assert not window.accepts(1, 0.99)


def test_the_sample_has_the_requested_size_and_every_photo_the_same_chance():
    drawn = [0] * 40
    for seed in range(200):
        window = Window(0.8, sample_size=10)
        window._random = random.Random(seed)
        for number in range(40):
            window.add(record([0.9, 0.1], name=str(number)))
        assert len(window.sample) == 10
        for answer in window.sample:
            drawn[int(answer.name)] += 1

    assert min(drawn) > 25
    assert max(drawn) < 75


def test_the_least_confident_answers_are_retained_in_ascending_order():
    window = Window(0.8, least_confident_size=3)
    for number in range(50):
        confidence = 0.5 + ((number * 17) % 50) / 100
        window.add(record([confidence, 1 - confidence]))

    assert [answer.confidence for answer in window.least_confident] == pytest.approx([0.5, 0.51, 0.52])


def test_an_answer_without_a_photo_still_counts():
    window = Window(0.8, sample_size=10)
    for _ in range(2):
        window.add(record([0.9, 0.1], photo=None))

    assert len(window.confidence) == 2
    assert window.sample == []
    assert dict(window.unusable) == {"no input was captured": 2}


def test_answers_without_a_photo_leave_the_others_their_chance():
    drawn = 0
    for seed in range(200):
        window = Window(0.8, sample_size=1)
        window._random = random.Random(seed)
        for number in range(20):
            window.add(record([0.9, 0.1], name=str(number)))
            window.add(record([0.9, 0.1], photo=None))
        drawn += int(window.sample[0].name)

    assert 8 < drawn / 200 < 11  # 9.5 on average, 5.8 in deviation


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_image_properties_equal_a_manual_calculation():
    # Columns of black and white, two pixels wide each: half of all neighbours across differ by 1, none down.
    columns = Image.new("L", (8, 4))
    columns.putdata([255 if x % 4 < 2 else 0 for _ in range(4) for x in range(8)])

    assert image_properties(encoded(columns)) == pytest.approx(
        {"brightness": 0.5, "contrast": 0.5, "sharpness": 3 / 7 / 2, "size": 8, "aspect": 2}
    )


def test_a_single_pixel_has_no_contrast_and_no_sharpness():
    found = image_properties(encoded(Image.new("RGB", (1, 1), "white")))

    assert found == {"brightness": 1, "contrast": 0, "sharpness": 0, "size": 1, "aspect": 1}


def test_an_unreadable_photo_has_no_image_properties():
    assert image_properties(b"not a photo") is None


def test_a_night_photo_is_darker_and_a_blurred_one_less_sharp():
    day = sample_images.picture(sample_images.bicycle, 1)
    night, blurred = day.point(lambda level: level * 0.3), day.filter(ImageFilter.GaussianBlur(3))

    of_day, of_night, of_blurred = (image_properties(encoded(picture)) for picture in (day, night, blurred))

    assert of_night["brightness"] < 0.4 * of_day["brightness"]
    assert of_blurred["sharpness"] < 0.5 * of_day["sharpness"]
    assert of_blurred["brightness"] == pytest.approx(of_day["brightness"], abs=0.01)


@pytest.mark.parametrize(("size", "sharpness"), [((2, 1), 0.5), ((1, 2), 0.5), ((1, 1), 0), ((2, 2), 0.5)])
def test_the_smallest_pictures_have_a_sharpness(size, sharpness):
    """A black and a white pixel differ by 1 in one direction, of which there are two."""
    picture = Image.new("L", size)
    if size[0] > 1:
        picture.paste(255, (1, 0, 2, size[1]))
    elif size[1] > 1:
        picture.paste(255, (0, 1, 1, 2))
    file = io.BytesIO()
    picture.save(file, "PNG")

    assert image_properties(file.getvalue())["sharpness"] == pytest.approx(sharpness)
