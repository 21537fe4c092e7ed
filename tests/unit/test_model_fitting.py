"""Fitting a head to what might be seen of photos: clusters of numbers, a cluster a label."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from model.network import embedding
from model.network.fusion import Seen
from model.training import fitting
from model.training.fitting import FitError, fit, principal_components


def clusters(*counts: int, apart: float = 1.0, seed: int = 3) -> tuple[Seen, np.ndarray]:
    """So many photos of each label, none of them with detail."""
    chance = np.random.default_rng(seed)
    targets = np.repeat(np.arange(len(counts)), counts)
    n = len(targets)
    centres = chance.normal(size=(len(counts), embedding.OUTPUTS["descriptor"])) * apart
    descriptor = centres[targets] + chance.normal(size=(n, embedding.OUTPUTS["descriptor"]))
    logits = chance.normal(size=(n, embedding.OUTPUTS["logits"]))
    seen = [logits, np.zeros((n, embedding.OUTPUTS["features"])), descriptor, np.zeros((n, 1))]
    return Seen(*(numbers.astype(np.float32) for numbers in seen)), targets


@pytest.fixture(scope="module")
def three():
    """12 photos of each of two vehicles and something else."""
    seen, targets = clusters(12, 12, 12)
    return seen, targets, ("bicycle", "motorcycle", "other")


def test_what_differs_is_told_apart_although_held_out(three):
    seen, targets, labels = three

    made = fit(seen, targets, labels)

    assert made.held_out.shape == (36, 3)
    assert np.allclose(made.held_out.sum(axis=1), 1)
    assert (made.held_out.argmax(axis=1) == targets).all()
    assert (made.head.probabilities(seen).argmax(axis=1) == targets).all()
    assert made.penalty in fitting.PENALTIES


def test_what_does_not_differ_is_not_told_apart_when_held_out():
    """A label by chance can be learned by heart, so the same head on its own photos would look right."""
    seen, targets = clusters(30, 30, apart=0)
    labels = ("bicycle", "motorcycle")

    made = fit(seen, targets, labels)

    logits, _ = made.head.expert(seen.descriptor)
    assert fitting.least_log_loss(logits, targets) < 0.01
    assert fitting.log_loss(np.log(made.held_out[:, :2]), targets) > 0.6


def test_each_photo_is_asked_of_an_expert_fitted_without_it(three, monkeypatch):
    seen, targets, labels = three
    asked = []
    plain = fitting.fit_experts

    def spying(descriptor, *arguments):
        def spied(expert):
            def ask(held_out):
                rows = {row.tobytes() for row in descriptor} & {row.tobytes() for row in held_out}
                asked.append((len(held_out), len(rows)))
                return expert(held_out)

            return ask

        experts = plain(descriptor, *arguments)
        return {penalty: spied(one) for penalty, one in experts.items()} if len(experts) > 1 else experts

    monkeypatch.setattr(fitting, "fit_experts", spying)
    fit(seen, targets, labels)

    assert sum(count for count, _ in asked) == len(targets) * len(fitting.PENALTIES)
    assert {common for _, common in asked} == {0}


def test_the_same_photos_make_the_same_head(three):
    first, second = fit(*three), fit(*three)

    assert np.array_equal(first.held_out, second.held_out)
    assert np.array_equal(first.head.expert.weights, second.head.expert.weights)
    assert np.array_equal(first.head.expert.span, second.head.expert.span)
    assert astuple(first.head.weighing) == astuple(second.head.weighing)


def test_other_is_a_label_whether_or_not_it_was_trained():
    seen, targets = clusters(6, 6)

    made = fit(seen, targets, ("bicycle", "motorcycle"))

    assert made.head.labels == ("bicycle", "motorcycle", "other")
    assert made.head.trained == ("bicycle", "motorcycle")
    assert made.head.weighing.c == 0
    assert (made.held_out[:, :2].argmax(axis=1) == targets).all()


def test_what_looks_like_no_training_photo_is_something_else():
    seen, targets = clusters(40, 40)
    labels = ("tram", "van")

    made = fit(seen, targets, labels)

    strange, _ = clusters(10, seed=99)
    far = replace(strange, descriptor=strange.descriptor * 10)
    assert made.head.labels[made.head.probabilities(far).argmax(axis=1)[0]] == "other"
    # .995 of the training photos' own are taken for vehicles
    assert (made.held_out.argmax(axis=1) != 2).mean() >= 0.97


def test_large_photos_of_vehicles_are_taken_for_vehicles_if_they_were_trained_on():
    """What other photos must show beyond the usual, those that were learned from need not."""
    seen, targets = clusters(20, 20)
    large = replace(seen, detail=np.ones_like(seen.detail))

    made = fit(large, targets, ("bicycle", "motorcycle"))

    assert (made.held_out.argmax(axis=1) == targets).mean() >= 0.9


def test_large_photos_are_told_apart_from_a_few_large_ones_of_something_else():
    """The same, where photos of something else were learned from too."""
    seen, targets = clusters(12, 12, 12)
    large = replace(seen, detail=np.ones_like(seen.detail))

    made = fit(large, targets, ("bicycle", "motorcycle", "other"))

    assert (made.held_out.argmax(axis=1) == targets).mean() >= 0.9


def test_few_photos_do_not_make_it_sure_even_if_all_are_told_apart(three):
    seen, targets, labels = three

    made = fit(seen, targets, labels)

    vehicle = targets != 2
    which = made.held_out[vehicle] / made.held_out[vehicle, :2].sum(axis=1, keepdims=True)
    assert which[np.arange(24), targets[vehicle]].mean() == pytest.approx(12.5 / 13, abs=0.01)
    assert made.held_out[~vehicle, 2].mean() == pytest.approx(12.5 / 13, abs=0.03)


def test_witnesses_are_weighed_by_a_logistic_regression():
    """As another library does it: a photo counts as what it shows, and a little as what it does not."""
    seen, targets = clusters(30, 30, 20, apart=0.05)
    labels = ("bicycle", "motorcycle", "other")
    head = replace(fit(seen, targets, labels).head, weighing=fitting.UNWEIGHED)
    witnesses, vehicle = head.witnesses(seen), targets != 2
    wanted = np.where(vehicle, 60.5 / 61, 0.5 / 21)
    weight = np.where(vehicle, 80 / 120, 80 / 40)
    evidence = head.evidence(witnesses).astype(float)
    evidence = (evidence - evidence.mean(axis=0)) / evidence.std(axis=0)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(
        np.tile(evidence, (2, 1)),
        np.repeat([True, False], 80),
        np.concatenate([weight * wanted, weight * (1 - wanted)]),
    )

    ours = fitting._weigh_witnesses(head, witnesses, vehicle)

    said = replace(head, weighing=ours).whether_vehicle(witnesses)
    assert said == pytest.approx(theirs.decision_function(evidence), abs=1e-2)


def test_probabilities_wanted_by_hand():
    wanted = fitting.smoothed(np.array([0, 0, 0, 1]), 3)

    assert wanted[0] == pytest.approx([3.5 / 4, 0.5 / 8, 0.5 / 8])
    assert wanted[3] == pytest.approx([0.5 / 4, 1.5 / 2, 0.5 / 4])


def test_one_vehicle_and_other_are_enough():
    seen, targets = clusters(8, 8)

    made = fit(seen, targets, ("bicycle", "other"))

    assert made.held_out.shape == (16, 2)
    assert (made.held_out.argmax(axis=1) == targets).all()


@pytest.mark.parametrize("labels", [("bicycle", "motorcycle"), ("bicycle", "other")])
def test_two_photos_of_each_label_are_enough(labels):
    seen, targets = clusters(2, 2)

    made = fit(seen, targets, labels)

    assert made.folds == 2
    assert np.isfinite(made.held_out).all()


def test_there_are_as_many_folds_as_the_rarest_label_has_photos_but_ten_at_most():
    assert fit(*clusters(3, 8), ("bicycle", "motorcycle")).folds == 3
    assert fit(*clusters(11, 11), ("bicycle", "motorcycle")).folds == 10


def test_progress_is_told_a_fold_at_a_time():
    steps = []

    fit(*clusters(10, 10), ("bicycle", "motorcycle"), lambda: steps.append(1))

    assert len(steps) == fitting.FOLDS + 1


@pytest.mark.parametrize(
    ("counts", "labels", "message"),
    [
        ((4, 1), ("bicycle", "motorcycle"), r"at least two photos.*too few of motorcycle \(1\)"),
        ((1, 4, 0), ("bicycle", "motorcycle", "van"), r"too few of bicycle \(1\), van \(0\)"),
        ((4,), ("other",), "no photos of anything but other"),
        ((4,), ("bicycle",), "at least two labels"),
    ],
)
def test_too_few_photos_are_told_by_label(counts, labels, message):
    seen, targets = clusters(*counts)

    with pytest.raises(FitError, match=message):
        fit(seen, targets, labels)


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


def test_detail_enough_teaches_how_much_imagenet_counts():
    """Where ImageNet is right and the trained expert sees nothing, beta is learned."""
    seen, targets = clusters(60, 60, apart=0)
    logits = seen.logits.copy()
    for target, classes in enumerate(([444, 671], [665, 670])):
        logits[np.ix_(targets == target, classes)] += 3
    known = replace(seen, logits=logits, detail=np.ones_like(seen.detail))

    learned = fit(known, targets, ("bicycle", "motorcycle"))
    assumed = fit(replace(known, detail=seen.detail), targets, ("bicycle", "motorcycle"))

    assert learned.head.weighing.beta != fitting.IMAGENET_COUNTS == assumed.head.weighing.beta
    right = [(one.held_out[:, :2].argmax(axis=1) == targets).mean() for one in (learned, assumed)]
    assert right[0] > 0.9 > right[1]
