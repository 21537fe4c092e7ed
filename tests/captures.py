"""Generate data captures in SageMaker's layout, with one or more records per file."""

import json
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from functions.classify.capture import VARIANT, format_record
from pipeline import sample_images

LABELS = ("bicycle", "motorcycle", "other")
START = datetime(2026, 3, 4, tzinfo=UTC)


class Made(NamedTuple):
    """The time and the line of a record."""

    at: datetime
    line: str


def photos(count: int, side: int = 224) -> list[bytes]:
    """Drawings as the pipeline sends them: they fit in `side` x `side` pixels."""
    drawn = []
    for seed in range(count):
        picture = sample_images.picture(
            (sample_images.bicycle, sample_images.motorcycle, sample_images.scone)[seed % 3], seed
        )
        picture.thumbnail((side, side))
        drawn.append(sample_images.encoded(picture))
    return drawn


def answer(chance: random.Random, mix: Sequence[float] = (0.6, 0.35, 0.05)) -> list[float]:
    """Probabilities for `LABELS`, mostly confident; `mix` is the distribution of the most probable label."""
    label = chance.choices(range(len(mix)), mix)[0]
    confidence = 1 - 0.55 * chance.betavariate(1, 8)
    rest = chance.random() * (1 - confidence)
    others = [rest, 1 - confidence - rest]
    return [confidence if k == label else others.pop() for k in range(len(mix))]


def records(
    count: int,
    files: Sequence[bytes],
    chance: random.Random,
    start: datetime = START,
    *,
    hours: float = 24,
    answers: Callable[[random.Random], list[float]] = answer,
) -> Iterator[Made]:
    """Records spread evenly over some hours, which use the photos in turn."""
    for number in range(count):
        at = start + timedelta(hours=hours) * number / count
        text = json.dumps(answers(chance))
        photo = files[number % len(files)]
        yield Made(at, format_record(photo, "image/jpeg", text, f"photo-{number}", at))


def write(
    folder: Path,
    made: Iterator[Made],
    chance: random.Random,
    most: int = 50,
    endpoint: str = "vehicle-classifier",
) -> int:
    """Write 1 to `most` records per file, in the hour of its first record; return the number of files."""
    number = 0
    pending: list[Made] = []
    size = chance.randint(1, most)
    for one in made:
        pending.append(one)
        if len(pending) == size:
            _write(folder / endpoint / VARIANT, pending)
            pending, size, number = [], chance.randint(1, most), number + 1
    if pending:
        _write(folder / endpoint / VARIANT, pending)
        number += 1
    return number


def _write(folder: Path, made: list[Made]) -> None:
    at = made[0].at
    path = folder / f"{at:%Y/%m/%d/%H}" / f"{at:%M-%S}-{at.microsecond // 1000:03}-{uuid.uuid4()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(one.line for one in made))


def parsed(line: str) -> dict[str, Any]:
    """A record's line as an object."""
    value: dict[str, Any] = json.loads(line)
    return value
