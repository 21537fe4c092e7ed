"""What a time window's records say: how sure the answers were, of what, and how their photos look."""

import heapq
import io
import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from PIL import Image, ImageChops, ImageStat

from .captures import PayloadError, Record

OTHER = "other"
"""The label of a photo that shows no vehicle."""
USUAL_LABELS = ("bicycle", "motorcycle", OTHER)
"""The stack's, which name an endpoint's answers where nothing else does."""
PROPERTIES = ("brightness", "contrast", "sharpness", "size", "aspect")
UNKNOWN = float("nan")


class Answer(NamedTuple):
    """What the endpoint answered to one photo.

    Attributes
    ----------
    at
        When, in seconds since 1970, or NaN.
    name
        The inference's id, or else the event's.
    label
        The number of the most probable label.
    confidence
        Its probability, from 0 to 1.
    photo
        The bytes of the file that the endpoint was given.
    """

    at: float
    name: str
    label: int
    confidence: float
    photo: bytes


@dataclass
class Window:
    """Gathers records; it keeps a few numbers of each, and the photos of a sample only.

    Parameters
    ----------
    threshold
        The least confidence, 0 to 1, at which an answer is accepted.
    labels
        What the answers are of, in their order; by default the stack's labels, as many as the first answer
        has probabilities.
    sample_size
        Of how many photos, drawn at random from all, the bytes are kept.
    least_confident_size
        Of how many of the least confident answers the photo is kept, too.

    Attributes
    ----------
    at, label, confidence
        Of each answer, in the order of the files: as in `Answer`.
    names
        Of each answer, where `keep_names` is set.
    sample
        Answers drawn at random, with their photos.
    without
        How many records lack something, by what it is.
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
    without: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._chance = random.Random(0)  # noqa: S311  for a sample, not for secrets
        self._photos = 0
        self._least: list[tuple[float, int, Answer]] = []
        self._order = count()

    def add(self, record: Record) -> None:
        """Take a record in. One without an answer, or with one for other labels, is counted in `without`."""
        try:
            probabilities = record.probabilities()
        except PayloadError as error:
            self.without[str(error)] += 1
            return
        self.labels = self.labels or usual_labels(len(probabilities))
        if len(probabilities) != len(self.labels):
            self.without[f"{len(probabilities)} probabilities for {len(self.labels)} labels"] += 1
            return
        confidence = max(probabilities)
        label = probabilities.index(confidence)
        at = record.at.timestamp() if record.at else UNKNOWN
        name = record.inference_id or record.event_id or ""
        self.at.append(at)
        self.label.append(label)
        self.confidence.append(confidence)
        if self.keep_names:
            self.names.append(name)
        self._keep_photo(record, at, name, label, confidence)

    def _keep_photo(self, record: Record, at: float, name: str, label: int, confidence: float) -> None:
        """Keep the photo if it is drawn for the sample, or the answer is among the least confident.

        The sample is a reservoir: each photo so far has the same chance to be in it (J. S. Vitter, "Random
        sampling with a reservoir", ACM Transactions on Mathematical Software 11, 1985, algorithm R).
        """
        self._photos += 1
        place = self._chance.randrange(self._photos)
        unsure = len(self._least) < self.least_confident_size or (
            self._least and -self._least[0][0] > confidence
        )
        if place >= self.sample_size and not unsure:
            return
        try:
            answer = Answer(at, name, label, confidence, record.photo())
        except PayloadError as error:
            self.without[str(error)] += 1
            self._photos -= 1
            return
        if len(self.sample) < self.sample_size:
            self.sample.append(answer)
        elif place < self.sample_size:
            self.sample[place] = answer
        if unsure:
            heapq.heappush(self._least, (-confidence, next(self._order), answer))
            if len(self._least) > self.least_confident_size:
                heapq.heappop(self._least)

    @property
    def least_confident(self) -> list[Answer]:
        """The least confident answers, the least confident first."""
        return [answer for *_, answer in sorted(self._least, reverse=True)]

    def accepts(self, label: int, confidence: float) -> bool:
        """Say whether the pipeline acts on such an answer."""
        return confidence >= self.threshold and self.labels[label] != OTHER

    def under_threshold(self) -> int:
        """Count the answers whose confidence is under the threshold."""
        return sum(confidence < self.threshold for confidence in self.confidence)

    def by_label(self) -> dict[str, int]:
        """Count the answers by label."""
        counts = Counter(self.label)
        return {label: counts[number] for number, label in enumerate(self.labels)}


def usual_labels(how_many: int) -> tuple[str, ...]:
    """Name the labels of an endpoint that nothing is known of."""
    if how_many <= len(USUAL_LABELS):
        return USUAL_LABELS[:how_many]
    return tuple(f"label {number}" for number in range(how_many))


def properties(photo: bytes) -> dict[str, float] | None:
    """Measure how a photo looks, as it came to the endpoint; ``None`` if it cannot be read.

    Returns
    -------
    dict
        Of each of `PROPERTIES`, with gray from 0 (black) to 1 (white):

        - ``brightness``, the mean gray;
        - ``contrast``, its standard deviation (RMS contrast: E. Peli, "Contrast in complex images", Journal
          of the Optical Society of America A 7, 1990);
        - ``sharpness``, the mean absolute difference of neighbours across and down, a focus measure by
          absolute gradients (S. Pertuz, D. Puig, M. A. Garcia, "Analysis of focus measure operators for
          shape-from-focus", Pattern Recognition 46, 2013);
        - ``size``, the longer side in pixels;
        - ``aspect``, width by height.
    """
    try:
        with Image.open(io.BytesIO(photo)) as image:
            gray = image.convert("L")
    except Exception:  # noqa: BLE001  a decoder given hostile bytes may raise nearly anything
        return None
    level = ImageStat.Stat(gray)
    width, height = gray.size
    across = _mean_difference(gray, (0, 0, width - 1, height), (1, 0, width, height))
    down = _mean_difference(gray, (0, 0, width, height - 1), (0, 1, width, height))
    return {
        "brightness": level.mean[0] / 255,
        "contrast": level.stddev[0] / 255,
        "sharpness": (across + down) / 2 / 255,
        "size": float(max(width, height)),
        "aspect": width / height,
    }


def _mean_difference(gray: Image.Image, a: tuple[int, ...], b: tuple[int, ...]) -> float:
    if a[2] == 0 or a[3] == 0:  # one pixel wide or high has no neighbours
        return 0.0
    return ImageStat.Stat(ImageChops.difference(gray.crop(a), gray.crop(b))).mean[0]  # type: ignore[arg-type]
