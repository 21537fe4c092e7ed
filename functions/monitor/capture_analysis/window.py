"""Summarize a time window's records: labels, confidences, and image properties of a sample of photos."""

import io
import math
import random
from array import array
from bisect import bisect_right, insort_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from PIL import Image, ImageChops, ImageStat

from .captures import PayloadError, Record

OTHER = "other"
"""The label of a photo that shows no vehicle: a copy of the filter function's, which is deployed apart."""
DEFAULT_LABELS = ("bicycle", "motorcycle", OTHER)
"""The stack's default."""
IMAGE_PROPERTIES = ("brightness", "contrast", "sharpness", "size", "aspect")


class Answer(NamedTuple):
    """The endpoint's answer to one photo: the index of the most probable label, and its probability.

    ``at`` is in seconds since 1970, or NaN. ``name`` is the inference id or, without one, the event id.
    """

    at: float
    name: str
    label: int
    confidence: float
    photo: bytes = b""


@dataclass
class Window:
    """Collects records: a few numbers of each, but only the photos of a sample.

    ``labels`` are in the order of the probabilities; by default, they are the `default_labels` for the first
    answer. ``at``, ``label``, ``confidence`` and, with ``keep_names``, ``names`` have one value per answer,
    in the order of the files. ``sample``, drawn at random, and ``least_confident``, in ascending order, have
    answers with their photos. ``unusable`` counts records without a usable input or output, by reason.
    """

    threshold: float
    labels: Sequence[str] = ()
    sample_size: int = 0
    least_confident_size: int = 0
    keep_names: bool = False
    at: array[float] = field(default_factory=lambda: array("d"))
    label: array[int] = field(default_factory=lambda: array("H"))
    confidence: array[float] = field(default_factory=lambda: array("d"))
    names: list[str] = field(default_factory=list)
    sample: list[Answer] = field(default_factory=list)
    least_confident: list[Answer] = field(default_factory=list)
    unusable: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(0)  # noqa: S311  for a sample, not for secrets
        self._photos = 0

    def add(self, record: Record) -> None:
        """Add a record. Count it as unusable if it has no answer, or one for a different number of labels."""
        try:
            probabilities = record.probabilities()
        except PayloadError as error:
            self.unusable[str(error)] += 1
            return
        self.labels = self.labels or default_labels(len(probabilities))
        if len(probabilities) != len(self.labels):
            self.unusable[f"{len(probabilities)} probabilities for {len(self.labels)} labels"] += 1
            return
        confidence = max(probabilities)
        label = probabilities.index(confidence)
        at = record.at.timestamp() if record.at else math.nan
        name = record.inference_id or record.event_id or ""
        self.at.append(at)
        self.label.append(label)
        self.confidence.append(confidence)
        if self.keep_names:
            self.names.append(name)
        self._sample_photo(record, Answer(at, name, label, confidence))

    def _sample_photo(self, record: Record, answer: Answer) -> None:
        """Retain the photo if it is drawn for the sample, or the answer is among the least confident.

        The sample is a reservoir: at any time, each photo is in it with the same probability (J. S. Vitter,
        "Random sampling with a reservoir", ACM Transactions on Mathematical Software 11, 1985, algorithm R).
        """
        try:
            answer = answer._replace(photo=record.photo())
        except PayloadError as error:
            self.unusable[str(error)] += 1
            return
        self._photos += 1
        place = self._random.randrange(self._photos)
        rank = bisect_right(self.least_confident, answer.confidence, key=attrgetter("confidence"))
        if len(self.sample) < self.sample_size:
            self.sample.append(answer)
        elif place < self.sample_size:
            self.sample[place] = answer
        if rank < self.least_confident_size:
            insort_left(self.least_confident, answer, key=attrgetter("confidence"))
            del self.least_confident[self.least_confident_size :]

    def accepts(self, label: int, confidence: float) -> bool:
        """Return whether the pipeline accepts such an answer."""
        return confidence >= self.threshold and self.labels[label] != OTHER

    def under_threshold(self) -> int:
        """Return the number of answers whose confidence is under the threshold."""
        return sum(confidence < self.threshold for confidence in self.confidence)

    def by_label(self) -> dict[str, int]:
        """Return the number of answers for each label."""
        counts = Counter(self.label)
        return {label: counts[number] for number, label in enumerate(self.labels)}


def default_labels(count: int) -> tuple[str, ...]:
    """Return names for the labels of an endpoint whose labels are not known."""
    if count <= len(DEFAULT_LABELS):
        return DEFAULT_LABELS[:count]
    return tuple(f"label {number}" for number in range(count))


def image_properties(photo: bytes) -> dict[str, float] | None:
    """Measure each of `IMAGE_PROPERTIES` of a photo; return ``None`` if it cannot be read.

    Gray levels range from 0 (black) to 1 (white).

    - ``brightness``: the mean gray level.
    - ``contrast``: its standard deviation (RMS contrast: E. Peli, "Contrast in complex images", Journal of
      the Optical Society of America A 7, 1990).
    - ``sharpness``: the mean absolute difference between horizontal and vertical neighbours, a focus measure
      by absolute gradients (S. Pertuz, D. Puig, M. A. Garcia, "Analysis of focus measure operators for
      shape-from-focus", Pattern Recognition 46, 2013).
    - ``size``: the longer side in pixels.
    - ``aspect``: width divided by height.
    """
    try:
        with Image.open(io.BytesIO(photo)) as image:
            gray = image.convert("L")
    except Exception:  # noqa: BLE001  decoders raise almost anything on malicious input
        return None
    levels = ImageStat.Stat(gray)
    width, height = gray.size
    across = _mean_difference(gray, (0, 0, width - 1, height), (1, 0, width, height))
    down = _mean_difference(gray, (0, 0, width, height - 1), (0, 1, width, height))
    return {
        "brightness": levels.mean[0] / 255,
        "contrast": levels.stddev[0] / 255,
        "sharpness": (across + down) / 2 / 255,
        "size": float(max(width, height)),
        "aspect": width / height,
    }


def _mean_difference(gray: Image.Image, a: tuple[int, ...], b: tuple[int, ...]) -> float:
    if a[2] == 0 or a[3] == 0:  # an image one pixel wide or high has no such neighbours
        return 0.0
    return ImageStat.Stat(ImageChops.difference(gray.crop(a), gray.crop(b))).mean[0]  # type: ignore[arg-type]
