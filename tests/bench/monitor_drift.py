"""Measure false alarms and detections of `scones monitor`: ``python -m tests.bench monitor_drift``.

Needs a folder of photos with sub-folders ``bicycle``, ``motorcycle`` and ``other``. Photos are augmented
(cropped, mirrored, brightened), resized as the pipeline does, and classified by the model.
"""

import io
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

WINDOW, BASELINE = 200, 450
"""Photos in a window, and in a baseline."""
EVERY_DAY = {"bicycle": 0.7, "motorcycle": 0.24, "other": 0.06}
FLIPPED = {"bicycle": 0.24, "motorcycle": 0.7, "other": 0.06}
SHIFTED = {"bicycle": 0.5, "motorcycle": 0.44, "other": 0.06}
WITH_ANOTHER = {"bicycle": 0.49, "motorcycle": 0.17, "other": 0.04, "another": 0.3}

type Change = Callable[[Image.Image], Image.Image]


def unchanged(photo: Image.Image) -> Image.Image:
    return photo


def blurred(photo: Image.Image) -> Image.Image:
    """A dirty lens: a radius of 2.5 pixels at the model's input size of 224."""
    return photo.filter(ImageFilter.GaussianBlur(2.5 * max(photo.size) / 224))


def at_night(photo: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(photo).enhance(0.3)


@dataclass(frozen=True)
class Pool:
    """N classified photos of one kind."""

    probabilities: np.ndarray
    features: np.ndarray
    properties: np.ndarray

    def __len__(self) -> int:
        return len(self.properties)

    def __getitem__(self, which: np.ndarray) -> "Pool":
        return Pool(self.probabilities[which], self.features[which], self.properties[which])


def concatenate(pools: list[Pool]) -> Pool:
    return Pool(
        *(
            np.concatenate([getattr(pool, name) for pool in pools])
            for name in ("probabilities", "features", "properties")
        )
    )


def augment(photo: Image.Image, chance: random.Random) -> Image.Image:
    width, height = photo.size
    share = chance.uniform(0.75, 1)
    left, top = (chance.uniform(0, side * (1 - share)) for side in photo.size)
    photo = photo.crop((int(left), int(top), int(left + width * share), int(top + height * share)))
    if chance.random() < 0.5:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(photo).enhance(chance.uniform(0.8, 1.2))


def classify(
    files: list[Path], count: int, change: Change, classifier: Classifier, *, what: str, chance: random.Random
) -> Pool:
    answers, features, measured = [], [], []
    for _ in track(range(count), what):
        picture = change(augment(Image.open(chance.choice(files)).convert("RGB"), chance))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        sent = baseline.serialize_photo(file.getvalue(), classifier.description.input_size)
        pixels = read_pixels(sent, classifier.description.input_size)[np.newaxis]
        answers.append(classifier.probabilities(pixels)[0])
        features.append(classifier.features(pixels)[0])
        measured.append(list(image_properties(sent).values()))
    return Pool(np.array(answers), np.array(features), np.array(measured))


def draw_window(
    pools: Mapping[str, Pool], mix: Mapping[str, float], count: int, rng: np.random.Generator
) -> Pool:
    """Draw a window at random; the number of photos of each kind is multinomial.

    No photo is repeated unless there are too few, because repeats make a window less informative.
    """
    counts = dict(zip(mix, rng.multinomial(count, list(mix.values())), strict=True))
    return concatenate(
        [
            pools[kind][rng.choice(len(pools[kind]), n, replace=n > len(pools[kind]))]
            for kind, n in counts.items()
            if n
        ]
    )


def as_baseline(pool: Pool, classifier: Classifier) -> Baseline:
    return baseline.make(
        model="bench",
        labels=classifier.description.labels,
        threshold=classifier.description.threshold,
        confidence=pool.probabilities.max(axis=1),
        predicted=pool.probabilities.argmax(axis=1),
        properties=dict(zip(IMAGE_PROPERTIES, pool.properties.T, strict=True)),
        features=pool.features,
    )


def compare(pool: Pool, known: Baseline, *, with_model: bool) -> dict[str, Drift]:
    """Compare a window with a baseline, as the command does, or without a model as the function does."""
    confidence, answers = pool.probabilities.max(axis=1), pool.probabilities.argmax(axis=1)
    numbers = {"confidence": confidence.tolist()}
    numbers |= dict(zip(IMAGE_PROPERTIES, pool.properties.T.tolist(), strict=True))
    if with_model:
        space = baseline.FeatureSpace.from_baseline(known)
        numbers["feature_distance"] = space.distance(pool.features).tolist()
    by_label = np.bincount(answers, minlength=len(known.labels)).tolist()
    under = int((confidence < known.threshold).sum())
    found = Features(numbers, drift.categories(dict(zip(known.labels, by_label, strict=True)), under))
    return drift.compare(found, known)


@click.command()
@click.option("--photos", required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--another",
    multiple=True,
    default=("k10.jpg", "k14.jpg"),
    help="Files in `other` that show another vehicle.",
)
@click.option("--model", type=click.Path(path_type=Path))
@click.option("--windows", default=100, show_default=True)
@click.option("--pool", default=640, show_default=True, help="Photos to generate for each vehicle.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).with_suffix(".json"), show_default=True
)
def bench(
    *, photos: Path, another: tuple[str, ...], model: Path | None, windows: int, pool: int, out: Path
) -> None:
    """Count alarms in windows of 200 photos, without drift and with each kind of drift."""
    classifier, chance = Classifier.load(model), random.Random(1)
    files = {kind: sorted((photos / kind).iterdir()) for kind in EVERY_DAY}
    files["another"] = [file for file in files["other"] if file.name in another]
    files["other"] = [file for file in files["other"] if file.name not in another]

    def generate(kind: str, count: int, change: Change = unchanged) -> Pool:
        return classify(
            files[kind], count, change, classifier, what=f"{kind} {change.__name__}", chance=chance
        )

    day = {kind: generate(kind, pool if kind in FLIPPED and kind != "other" else pool // 5) for kind in files}
    changed = {
        change: {kind: generate(kind, pool // 5, change) for kind in EVERY_DAY}
        for change in (blurred, at_night)
    }
    rng = np.random.default_rng(1)
    found: dict[str, object] = {"photos_a_window": WINDOW, "windows": windows}
    for who, with_model in (("command", True), ("function", False)):
        found[who] = count_alarms(day, changed, classifier, windows, rng, with_model=with_model)
        click.echo(json.dumps({who: found[who]}, indent=2))
    measurements.write(out, found, "monitor_drift")


def count_alarms(
    day: dict[str, Pool],
    changed: dict[Change, dict[str, Pool]],
    classifier: Classifier,
    windows: int,
    rng: np.random.Generator,
    *,
    with_model: bool,
) -> dict[str, object]:
    alarms, beyond = Counter(), 0
    for _ in range(windows):  # each with its own baseline, from other photos
        first, second = split(day, rng)
        known = as_baseline(draw_window(first, EVERY_DAY, BASELINE, rng), classifier)
        verdict = compare(draw_window(second, EVERY_DAY, WINDOW, rng), known, with_model=with_model)
        alarms.update({"any": any(one.drifted for one in verdict.values())})
        alarms.update(name for name, one in verdict.items() if one.drifted)
        beyond += any(one.statistic > drift.MODERATE for one in verdict.values())
    first, second = split(day, rng)
    known = as_baseline(draw_window(first, EVERY_DAY, BASELINE, rng), classifier)
    one_baseline = sum(
        any(
            one.drifted
            for one in compare(
                draw_window(second, EVERY_DAY, WINDOW, rng), known, with_model=with_model
            ).values()
        )
        for _ in range(windows)
    )
    kinds = {
        **{change.__name__: (pools, EVERY_DAY) for change, pools in changed.items()},
        "flipped class mix": (second, FLIPPED),
        "class mix shifted by 20%": (second, SHIFTED),
        "another vehicle, 30%": (second, WITH_ANOTHER),
    }
    return {
        "alarms_without_drift": alarms["any"],
        "alarms_without_drift_against_one_baseline": one_baseline,
        "windows_without_drift_beyond_0.1_before_the_test": beyond,
        "found": {
            name: count_detections(*kind, known, rng, with_model=with_model) for name, kind in kinds.items()
        },
    }


def split(day: dict[str, Pool], rng: np.random.Generator) -> tuple[dict[str, Pool], dict[str, Pool]]:
    """Split each pool into two disjoint halves."""
    orders = {kind: rng.permutation(len(pool)) for kind, pool in day.items()}
    return tuple({kind: pool[orders[kind][half::2]] for kind, pool in day.items()} for half in (0, 1))


def count_detections(
    pools: dict[str, Pool],
    mix: Mapping[str, float],
    known: Baseline,
    rng: np.random.Generator,
    *,
    with_model: bool,
) -> dict[str, object]:
    features, hits, tries = Counter(), 0, 20
    for _ in range(tries):
        verdict = compare(draw_window(pools, mix, WINDOW, rng), known, with_model=with_model)
        drifted = [name for name, one in verdict.items() if one.drifted]
        hits += bool(drifted)
        features.update(drifted)
    return {"windows": tries, "found": hits, "by": dict(features.most_common())}


if __name__ == "__main__":
    bench()
