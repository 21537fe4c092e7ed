"""Measure false alarms and detections of drift on simulated days: ``python -m tests.bench monitor_drift``.

Needs a folder of photos with sub-folders ``bicycle``, ``motorcycle`` and ``other``; a file's name begins with
its source, as in ``bicycle/park-001.jpg``.

A day differs from the next: its photos come from the sources in other shares, each label has another share,
and the light is another. A photo belongs to the baseline or to windows, never to both. Photos are resized as
the pipeline does and classified by the model; a day has none twice, but may have some of the day before.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from rich.progress import track

from functions.monitor.capture_analysis import drift
from functions.monitor.capture_analysis.drift import Baseline, Drift, Features
from functions.monitor.capture_analysis.window import IMAGE_PROPERTIES, image_properties
from model.network.classifier import Classifier
from model.photo import read_pixels
from model.training import baseline
from tests import measurements

BASELINE, PHOTOS_A_DAY = 230, 120
"""Photos in a baseline, and on a day: as many as there are without repeating any."""
HOURS = 24
"""Overlapping windows of a day: the monitor looks at the last 24 hours every hour."""
EVERY_DAY = {"bicycle": 0.5, "motorcycle": 0.35, "other": 0.15}
FLIPPED = {"bicycle": 0.2, "motorcycle": 0.65, "other": 0.15}
SHIFTED = {"bicycle": 0.3, "motorcycle": 0.55, "other": 0.15}
LIGHTS = (0.8, 0.9, 1.0, 1.1, 1.25)
"""Factors of brightness; a day has one of them, most often the middle one."""
LIGHT_SHARES = (0.1, 0.2, 0.4, 0.2, 0.1)

type Change = Callable[[Image.Image], Image.Image]


def brightened(photo: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(photo).enhance(factor)


def blurred(photo: Image.Image) -> Image.Image:
    """A dirty lens: a radius of 2.5 pixels at the model's input size of 224."""
    return photo.filter(ImageFilter.GaussianBlur(2.5 * max(photo.size) / 224))


CHANGES: dict[str, Change] = {
    **{f"light {factor}": partial(brightened, factor=factor) for factor in LIGHTS},
    "blurred": blurred,
    "at night": partial(brightened, factor=0.3),
}


@dataclass(frozen=True)
class Photos:
    """N classified photos."""

    probabilities: np.ndarray
    features: np.ndarray
    properties: np.ndarray

    def __getitem__(self, which: np.ndarray) -> "Photos":
        return Photos(self.probabilities[which], self.features[which], self.properties[which])


@dataclass(frozen=True)
class Variation:
    """How much days differ: the larger a concentration of a Dirichlet distribution, the less shares vary.

    At 50, a label or a source that has 30% of all photos has 18% to 43% on 19 of 20 days; at 15, 10% to 54%.
    """

    concentration: float
    light: bool


def classify(files: list[Path], what: str, classifier: Classifier) -> Photos:
    answers, features, measured = [], [], []
    side = classifier.description.input_size
    for file in track(files, what):
        content = io.BytesIO()
        CHANGES[what](Image.open(file).convert("RGB")).save(content, "JPEG", quality=90)
        sent = baseline.serialize_photo(content.getvalue(), side)
        pixels = read_pixels(sent, side)[np.newaxis]
        answers.append(classifier.probabilities(pixels)[0])
        features.append(classifier.features(pixels)[0])
        measured.append(list(image_properties(sent).values()))
    return Photos(np.array(answers), np.array(features), np.array(measured))


class Fleet:
    """Photos by label and source, from which days are drawn."""

    def __init__(self, labels: list[str], sources: list[str], rng: np.random.Generator) -> None:
        self.labels, self.sources, self.rng = np.array(labels), np.array(sources), rng

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Split the photos of each label and source into two halves: for the baseline, and for windows."""
        order = self.rng.permutation(len(self.labels))
        taken, first = Counter[tuple[str, str]](), np.zeros(len(order), bool)
        for photo in order:
            cell = self.labels[photo], self.sources[photo]
            first[photo] = taken[cell] % 2
            taken[cell] += 1
        return np.flatnonzero(first), np.flatnonzero(~first)

    def draw(
        self, photos: np.ndarray, mix: Mapping[str, float], count: int, variation: Variation | None = None
    ) -> np.ndarray:
        """Draw a day's photos without repeating any, or fewer if there are too few of a kind."""
        drawn = []
        for label, share in zip(mix, self._vary(list(mix.values()), variation), strict=True):
            of_label = photos[self.labels[photos] == label]
            names, numbers = np.unique(self.sources[of_label], return_counts=True)
            shares = self._vary(numbers / numbers.sum(), variation)
            for source, part in zip(names, shares, strict=True):
                cell = of_label[self.sources[of_label] == source]
                wanted = min(len(cell), self.rng.poisson(count * share * part))
                drawn.append(self.rng.choice(cell, wanted, replace=False))
        return self.rng.permutation(np.concatenate(drawn))

    def _vary(self, shares: list[float] | np.ndarray, variation: Variation | None) -> np.ndarray:
        if variation is None or np.isinf(variation.concentration) or len(shares) == 1:
            return np.array(shares)
        return self.rng.dirichlet(variation.concentration * np.array(shares))


def as_baseline(photos: Photos, classifier: Classifier) -> Baseline:
    return baseline.make(
        model="bench",
        labels=classifier.description.labels,
        threshold=classifier.description.threshold,
        confidence=photos.probabilities.max(axis=1),
        predicted=photos.probabilities.argmax(axis=1),
        properties=dict(zip(IMAGE_PROPERTIES, photos.properties.T, strict=True)),
        features=photos.features,
    )


def compare(photos: Photos, known: Baseline, *, with_model: bool) -> dict[str, Drift]:
    """Compare a window with a baseline, as the command does, or without a model as the function does."""
    confidence, answers = photos.probabilities.max(axis=1), photos.probabilities.argmax(axis=1)
    numbers = {"confidence": confidence.tolist()}
    numbers |= dict(zip(IMAGE_PROPERTIES, photos.properties.T.tolist(), strict=True))
    if with_model:
        space = baseline.FeatureSpace.from_baseline(known)
        numbers["feature_distance"] = space.distance(photos.features).tolist()
    by_label = np.bincount(answers, minlength=len(known.labels)).tolist()
    under = int((confidence < known.threshold).sum())
    found = Features(numbers, drift.categories(dict(zip(known.labels, by_label, strict=True)), under))
    return drift.compare(found, known)


def merged(parts: list[Photos]) -> Photos:
    names = ("probabilities", "features", "properties")
    return Photos(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Simulation:
    """Days of a fleet whose photos were classified under each of `CHANGES`."""

    fleet: Fleet
    classified: Mapping[str, Photos]
    classifier: Classifier
    with_model: bool

    def known(self, photos: np.ndarray) -> Baseline:
        drawn = self.fleet.draw(photos, EVERY_DAY, BASELINE)
        return as_baseline(self.classified["light 1.0"][drawn], self.classifier)

    def windows(self, photos: np.ndarray, days: int, variation: Variation) -> Iterator[tuple[int, Photos]]:
        """Yield the day and the last 24 hours' photos of every hour after the first day."""
        before: list[Photos] = []
        for day in range(days + 1):
            lights = LIGHTS if variation.light else (1.0,)
            light = self.fleet.rng.choice(lights, p=LIGHT_SHARES if variation.light else None)
            drawn = self.fleet.draw(photos, EVERY_DAY, PHOTOS_A_DAY, variation)
            hours = [self.classified[f"light {light}"][part] for part in np.array_split(drawn, HOURS)]
            for hour in range(HOURS if before else 0):
                yield day, merged([*before[hour + 1 :], *hours[: hour + 1]])
            before = hours

    def false_alarms(self, days: int, baselines: int, variation: Variation) -> dict[str, object]:
        """Count the alarms of days without drift, for several splits into baseline and windows."""
        windows, by, alarmed = 0, Counter[str](), set()
        for split in range(baselines):
            first, second = self.fleet.halves()
            known = self.known(first)
            for day, window in self.windows(second, days, variation):
                drifted = [
                    n for n, one in compare(window, known, with_model=self.with_model).items() if one.drifted
                ]
                windows += 1
                by.update([*drifted, *(["any"] if drifted else [])])
                alarmed |= {(split, day)} if drifted else set()
        alarms = by.pop("any", 0)
        return {
            "windows": windows,
            "alarms": alarms,
            "days": days * baselines,
            "days_with_an_alarm": len(alarmed),
            "by": dict(by.most_common()),
        }

    def detections(self, change: str, mix: Mapping[str, float], tries: int) -> dict[str, object]:
        """Count the windows of a day with drift in which it is found, each against a baseline of its own."""
        hits, by = 0, Counter[str]()
        for _ in range(tries):
            first, second = self.fleet.halves()
            window = self.classified[change][self.fleet.draw(second, mix, PHOTOS_A_DAY)]
            verdict = compare(window, self.known(first), with_model=self.with_model)
            drifted = [name for name, one in verdict.items() if one.drifted]
            hits += bool(drifted)
            by.update(drifted)
        return {"windows": tries, "found": hits, "by": dict(by.most_common())}


@click.command()
@click.option("--photos", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--model", type=click.Path(path_type=Path))
@click.option("--days", default=30, show_default=True)
@click.option("--baselines", default=4, show_default=True)
@click.option("--detections", default=20, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).with_suffix(".json"), show_default=True
)
def bench(*, photos: Path, model: Path | None, days: int, baselines: int, detections: int, out: Path) -> None:
    """Count alarms on simulated days of 200 photos, without drift and with each kind of drift."""
    classifier = Classifier.load(model)
    files = [file for label in EVERY_DAY for file in sorted((photos / label).iterdir())]
    sources = [file.name.partition("-")[0] for file in files]
    fleet = Fleet([file.parent.name for file in files], sources, np.random.default_rng(1))
    classified = {change: classify(files, change, classifier) for change in CHANGES}
    kinds = {
        "blurred": ("blurred", EVERY_DAY),
        "at night": ("at night", EVERY_DAY),
        "flipped class mix": ("light 1.0", FLIPPED),
        "class mix shifted by 20%": ("light 1.0", SHIFTED),
    }
    variations = {
        "days alike": Variation(np.inf, light=False),
        "days that differ": Variation(50, light=True),
        "days that differ much": Variation(15, light=True),
    }
    found: dict[str, object] = {
        "photos": len(files),
        "sources": len(set(sources)),
        "photos_a_day": PHOTOS_A_DAY,
    }
    for who, with_model in (("command", True), ("function", False)):
        simulation = Simulation(fleet, classified, classifier, with_model)
        found[who] = {
            "false_alarms": {
                name: simulation.false_alarms(days, baselines, one) for name, one in variations.items()
            },
            "found": {name: simulation.detections(*kind, detections) for name, kind in kinds.items()},
        }
        click.echo(json.dumps({who: found[who]}, indent=1))
    measurements.write(out, found, "monitor_drift")


if __name__ == "__main__":
    bench()
