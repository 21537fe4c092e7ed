"""The ablation benchmark: its table shows what was measured, and its metrics are the usual ones."""

import json

import numpy as np
import pytest

from model.network import embedding
from model.network.embedding import Embedding
from pipeline.costs.table import END
from tests.bench import ablation
from tests.bench.ablation import Ablation, Evaluation

FOUND = json.loads(ablation.RESULTS.read_text())
LABELS = ("bicycle", "motorcycle", "other")


def test_the_page_shows_what_was_measured():
    shown = ablation.PAGE.read_text().partition(ablation.BEGIN)[2].partition(END)[0].strip()

    assert shown == ablation.table(FOUND)


def test_every_component_was_measured_on_every_data_set():
    measured = [(row["component"], row["data"]) for row in FOUND]

    assert measured == [
        (name, data)
        for name in ablation.ABLATIONS
        for data in (ablation.CIFAR, ablation.FEW, ablation.PHOTOS, ablation.SOURCES)
    ]


def test_a_difference_is_bold_if_its_interval_excludes_zero():
    def cell(low: float, high: float) -> str:
        value = {"value": 0.9, "difference": -0.02, "interval": [low, high]}
        return ablation.cell({"component": "novelty", "accuracy": value}, "accuracy")

    assert cell(-0.031, -0.01) == "**-2.0** (-3.1 to -1.0)"
    assert cell(-0.03, 0.01) == "-2.0 (-3.0 to +1.0)"


def test_metrics_by_hand():
    probabilities = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.3, 0.6, 0.1], [0, 0, 1.0]])
    evaluation = Evaluation(LABELS, np.array([0, 1, 0, 2]), [probabilities])

    accuracy, loss, aurc, coverage = ablation.metrics(evaluation, np.arange(4))

    assert accuracy == 3 / 4
    assert loss == pytest.approx(-np.log([0.9, 0.8, 0.3, 1]).mean())
    assert aurc == 1 / 4 / 4
    # the photo of something else is never accepted
    assert coverage == 2 / 4


def test_a_model_compared_with_itself_does_not_differ():
    chance = np.random.default_rng(3)
    evaluation = Evaluation(LABELS, chance.integers(0, 3, 20), [chance.dirichlet(np.ones(3), 20)])

    for metric in ablation.compare(evaluation, evaluation).values():
        assert (metric["difference"], metric["interval"]) == (0, [0, 0])


def test_rotated_descriptors_have_the_same_products_of_what_is_kept():
    chance = np.random.default_rng(3)
    descriptor = chance.normal(size=(6, embedding.OUTPUTS["descriptor"])).astype(np.float32)
    whole = Embedding(descriptor, descriptor, descriptor, descriptor)
    kept = Ablation(pooled=10, bilinear=20)

    first, second = ablation.rotated([whole[np.arange(4)], whole[np.arange(4, 6)]], kept)

    pooled, bilinear = descriptor[:, :10], descriptor[:, embedding.POOLED :][:, :20]
    rotated = np.concatenate([first.descriptor, second.descriptor])
    assert np.array_equal(rotated[:, :10], pooled)
    assert np.allclose(rotated[:, 10:] @ rotated[:, 10:].T, bilinear @ bilinear.T, atol=1e-3)
