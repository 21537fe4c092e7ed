"""Fitting a head to synthetic embeddings: a cluster for each label."""

from dataclasses import astuple, replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from model.network import embedding
from model.network.embedding import Embedding
from model.training import fitting
from model.training.fitting import FitError, fit, principal_components


def clusters(*counts: int, apart: float = 1.0, seed: int = 3) -> tuple[Embedding, np.ndarray]:
    """Embeddings without detail, `counts` of each label, and their labels."""
    chance = np.random.default_rng(seed)
    targets = np.repeat(np.arange(len(counts)), counts)
    n, outputs = len(targets), embedding.OUTPUTS

    def clustered(width: int) -> np.ndarray:
        centers = chance.normal(size=(len(counts), width)) * apart
        return centers[targets] + chance.normal(size=(n, width))

    numbers = {
        "logits": chance.normal(size=(n, outputs["logits"])),
        "features": np.zeros((n, outputs["features"])),
        "descriptor": clustered(outputs["descriptor"]),
        "pooled": clustered(outputs["pooled"]),
        "detail": np.zeros((n, 1)),
    }
    return Embedding(**{name: one.astype(np.float32) for name, one in numbers.items()}), targets


@pytest.fixture(scope="module")
def three():
    """12 photos of each of two vehicles and something else."""
    embeddings, targets = clusters(12, 12, 12)
    return embeddings, targets, ("bicycle", "motorcycle", "other")


def test_separate_clusters_are_told_apart_when_held_out(three):
    embeddings, targets, labels = three

    made = fit(embeddings, targets, labels)

    assert made.held_out.shape == (36, 3)
    assert np.allclose(made.held_out.sum(axis=1), 1)
    assert (made.held_out.argmax(axis=1) == targets).all()
    assert (made.head.predict_proba(embeddings).argmax(axis=1) == targets).all()
    assert made.penalty in fitting.PENALTIES


def test_random_labels_are_not_told_apart_when_held_out():
    """They can be memorized: on its own training photos the head looks accurate."""
    embeddings, targets = clusters(30, 30, apart=0)
    labels = ("bicycle", "motorcycle")

    made = fit(embeddings, targets, labels)

    logits = made.head.classifier.logits(embeddings.descriptor)
    assert fitting.calibrated_log_loss(logits, targets) < 0.01
    assert fitting.log_loss(np.log(made.held_out[:, :2]), targets) > 0.6


def test_each_photo_is_predicted_by_a_classifier_that_was_fitted_without_it(three, monkeypatch):
    embeddings, targets, labels = three
    predicted, scored = [], []
    fit_classifiers, fit_novelty = fitting.fit_classifiers, fitting.fit_novelty

    def rows(array):
        return {row.tobytes() for row in array}

    class Spy:
        def __init__(self, fitted, predict, log):
            self.fitted, self.predict, self.log = rows(fitted), predict, log

        def __call__(self, held_out):
            self.log.append((len(held_out), len(self.fitted & rows(held_out))))
            return self.predict(held_out)

    def spying_classifiers(descriptor, *arguments):
        classifiers = fit_classifiers(descriptor, *arguments)
        if len(classifiers) == 1:  # the final one, fitted to all photos
            return classifiers
        spies = {penalty: Spy(descriptor, one.logits, predicted) for penalty, one in classifiers.items()}
        return {penalty: SimpleNamespace(logits=spy) for penalty, spy in spies.items()}

    def spying_novelty(pooled):
        detector = fit_novelty(pooled)
        final = len(pooled) == (targets != 2).sum()
        return detector if final else SimpleNamespace(novelty=Spy(pooled, detector.novelty, scored))

    monkeypatch.setattr(fitting, "fit_classifiers", spying_classifiers)
    monkeypatch.setattr(fitting, "fit_novelty", spying_novelty)
    fit(embeddings, targets, labels)

    assert sum(count for count, _ in predicted) == len(targets) * len(fitting.PENALTIES)
    assert sum(count for count, _ in scored) == len(targets)
    assert {common for _, common in predicted + scored} == {0}


def test_the_same_photos_make_the_same_head(three):
    first, second = fit(*three), fit(*three)

    assert np.array_equal(first.held_out, second.held_out)
    assert np.array_equal(first.head.classifier.weights, second.head.classifier.weights)
    assert np.array_equal(first.head.detector.pca_basis, second.head.detector.pca_basis)
    assert astuple(first.head.weights) == astuple(second.head.weights)


def test_other_is_a_label_even_if_no_photos_show_it():
    embeddings, targets = clusters(6, 6)

    made = fit(embeddings, targets, ("bicycle", "motorcycle"))

    assert made.head.labels == ("bicycle", "motorcycle", "other")
    assert made.head.trained_labels == ("bicycle", "motorcycle")
    assert made.head.weights.trained == 0
    assert (made.held_out[:, :2].argmax(axis=1) == targets).all()


def test_a_photo_unlike_all_training_photos_is_other():
    embeddings, targets = clusters(40, 40)
    labels = ("tram", "van")

    made = fit(embeddings, targets, labels)

    strange, _ = clusters(10, seed=99)
    far = replace(strange, descriptor=strange.descriptor * 10, pooled=strange.pooled * 10)
    assert made.head.labels[made.head.predict_proba(far).argmax(axis=1)[0]] == "other"
    # nearly all of the training photos are recognized as vehicles
    assert (made.held_out.argmax(axis=1) != 2).mean() >= 0.97


def test_large_photos_of_vehicles_are_recognized_as_vehicles_after_training_on_some():
    """The bias makes up for the detail offset."""
    embeddings, targets = clusters(20, 20)
    large = replace(embeddings, detail=np.ones_like(embeddings.detail))

    made = fit(large, targets, ("bicycle", "motorcycle"))

    assert (made.held_out.argmax(axis=1) == targets).mean() >= 0.9


def test_large_photos_of_vehicles_are_recognized_after_training_on_a_few_large_ones_of_other():
    """The fitted bias makes up for the detail offset here too."""
    embeddings, targets = clusters(12, 12, 12)
    large = replace(embeddings, detail=np.ones_like(embeddings.detail))

    made = fit(large, targets, ("bicycle", "motorcycle", "other"))

    assert (made.held_out.argmax(axis=1) == targets).mean() >= 0.9


def test_few_photos_limit_the_confidence_even_if_all_are_told_apart(three):
    embeddings, targets, labels = three

    made = fit(embeddings, targets, labels)

    vehicle = targets != 2
    which = made.held_out[vehicle] / made.held_out[vehicle, :2].sum(axis=1, keepdims=True)
    assert which[np.arange(24), targets[vehicle]].mean() == pytest.approx(12.5 / 13, abs=0.01)
    assert made.held_out[~vehicle, 2].mean() == pytest.approx(12.5 / 13, abs=0.03)


def test_vehicle_weights_are_those_of_a_logistic_regression():
    """scikit-learn's, with each photo in both classes, weighted by its smoothed targets."""
    embeddings, targets = clusters(30, 30, 20, apart=0.05)
    labels = ("bicycle", "motorcycle", "other")
    head = replace(fit(embeddings, targets, labels).head, weights=fitting.DEFAULT_WEIGHTS)
    scores, vehicle = head.scores(embeddings), targets != 2
    smoothed = np.where(vehicle, 60.5 / 61, 0.5 / 21)
    weight = np.where(vehicle, 80 / 120, 80 / 40)
    evidence = head.evidence(scores).astype(float)
    evidence = (evidence - evidence.mean(axis=0)) / evidence.std(axis=0)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(
        np.tile(evidence, (2, 1)),
        np.repeat([True, False], 80),
        np.concatenate([weight * smoothed, weight * (1 - smoothed)]),
    )

    ours = fitting._fit_vehicle_weights(head, scores, vehicle)

    logit = replace(head, weights=ours).vehicle_logit(scores)
    assert logit == pytest.approx(theirs.decision_function(evidence), abs=1e-2)


def test_smoothed_targets_by_hand():
    targets = fitting.smooth_targets(np.array([0, 0, 0, 1]), 3)

    assert targets[0] == pytest.approx([3.5 / 4, 0.5 / 8, 0.5 / 8])
    assert targets[3] == pytest.approx([0.5 / 4, 1.5 / 2, 0.5 / 4])


def test_one_vehicle_and_other_are_enough():
    embeddings, targets = clusters(8, 8)

    made = fit(embeddings, targets, ("bicycle", "other"))

    assert made.held_out.shape == (16, 2)
    assert (made.held_out.argmax(axis=1) == targets).all()


@pytest.mark.parametrize("labels", [("bicycle", "motorcycle"), ("bicycle", "other")])
def test_two_photos_of_each_label_are_enough(labels):
    embeddings, targets = clusters(2, 2)

    made = fit(embeddings, targets, labels)

    assert made.folds == 2
    assert np.isfinite(made.held_out).all()


def test_there_are_at_most_ten_folds_and_no_more_than_photos_of_the_rarest_label():
    assert fit(*clusters(3, 8), ("bicycle", "motorcycle")).folds == 3
    assert fit(*clusters(11, 11), ("bicycle", "motorcycle")).folds == 10


def test_progress_advances_with_each_fold():
    steps = []

    fit(*clusters(10, 10), ("bicycle", "motorcycle"), lambda: steps.append(1))

    assert len(steps) == fitting.FOLDS + 1


@pytest.mark.parametrize(
    ("counts", "labels", "message"),
    [
        ((4, 1), ("bicycle", "motorcycle"), r"at least two training photos.*Too few of: motorcycle \(1\)"),
        ((1, 4, 0), ("bicycle", "motorcycle", "van"), r"Too few of: bicycle \(1\), van \(0\)"),
        ((4,), ("other",), "All photos are labelled other"),
        ((4,), ("bicycle",), "The only label is bicycle"),
    ],
)
def test_labels_with_too_few_photos_are_named(counts, labels, message):
    embeddings, targets = clusters(*counts)

    with pytest.raises(FitError, match=message):
        fit(embeddings, targets, labels)


def test_the_scale_and_origin_of_descriptors_do_not_matter(three):
    embeddings, targets, labels = three
    penalty, descriptor = 0.3, embeddings.descriptor.astype(float)

    plain, moved = (
        fitting.fit_classifiers(some, targets, labels, [penalty])[penalty].logits(some)
        for some in (descriptor, descriptor * 0.01 + 4)
    )

    assert np.allclose(plain, moved, atol=1e-6)


def test_novelty_standardizes_numbers_and_ignores_those_that_never_vary():
    pooled = np.random.default_rng(3).normal(size=(20, 6)) * [1, 2, 3, 4, 5, 0] + 4

    detector = fitting.fit_novelty(pooled)

    scaled = (pooled - detector.mean) * detector.scale
    assert np.allclose(scaled.mean(axis=0), 0)
    assert scaled.std(axis=0) == pytest.approx([1, 1, 1, 1, 1, 0])
    elsewhere = pooled + np.array([0, 0, 0, 0, 0, 9])
    assert np.allclose(detector.novelty(elsewhere), detector.novelty(pooled))


def test_principal_components_are_those_of_a_singular_value_decomposition():
    rows = np.random.default_rng(3).normal(size=(6, 30))

    components = principal_components(rows, 4)

    _, _, expected = np.linalg.svd(rows)
    assert np.allclose(components @ components.T, np.eye(4), atol=1e-8)
    assert np.allclose(np.abs((components * expected[:4]).sum(axis=1)), 1)
    assert principal_components(rows, 100).shape == (5, 30)
    assert principal_components(rows[:1], 100).shape == (0, 30)


def test_log_loss_by_hand():
    logits = np.log([[0.5, 0.5], [0.25, 0.75]]) + 7

    assert fitting.log_loss(logits, np.array([0, 1])) == pytest.approx(-np.log(0.5 * 0.75) / 2)


def test_the_scale_of_imagenet_is_fitted_if_enough_photos_have_detail():
    """Here ImageNet is right, and the trained classifier is at chance."""
    embeddings, targets = clusters(60, 60, apart=0)
    logits = embeddings.logits.copy()
    for target, classes in enumerate(([444, 671], [665, 670])):
        logits[np.ix_(targets == target, classes)] += 3
    recognized = replace(embeddings, logits=logits, detail=np.ones_like(embeddings.detail))

    learned = fit(recognized, targets, ("bicycle", "motorcycle"))
    assumed = fit(replace(recognized, detail=embeddings.detail), targets, ("bicycle", "motorcycle"))

    assert learned.head.weights.imagenet_scale != fitting.DEFAULT_IMAGENET_SCALE
    assert assumed.head.weights.imagenet_scale == fitting.DEFAULT_IMAGENET_SCALE
    right = [(one.held_out[:, :2].argmax(axis=1) == targets).mean() for one in (learned, assumed)]
    assert right[0] > 0.9 > right[1]
