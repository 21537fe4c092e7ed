"""The ablation benchmark: its table shows what was measured, and its metrics are the usual ones."""

import numpy as np
import pytest

from model.network import embedding
from model.network.backbone import LITE0, LITE2
from model.network.embedding import Embedding
from pipeline.markdown import END
from tests import measurements
from tests.bench import ablation
from tests.bench.ablation import Ablation, Evaluation

FOUND = measurements.read(ablation.RESULTS)
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
    descriptor = np.random.default_rng(3).normal(size=(6, 100)).astype(np.float32)
    whole = Embedding(descriptor, descriptor, descriptor, descriptor, descriptor)

    first, second = ablation.rotated([whole[np.arange(4)], whole[[4, 5]]], Ablation(kept=slice(20)))

    rotated = np.concatenate([first.descriptor, second.descriptor])
    assert np.allclose(rotated @ rotated.T, descriptor[:, :20] @ descriptor[:, :20].T, atol=1e-4)


def test_single_channels_are_the_diagonals_of_both_matrices():
    kept = ablation.of_single_channels()

    rows, columns = np.triu_indices(LITE0.feature_maps["stage6"])
    assert len(kept) == LITE0.feature_maps["stage6"] + LITE2.feature_maps["stage6"]
    assert (rows[kept[:100]] == columns[kept[:100]]).all()
    assert kept.max() == embedding.OUTPUTS["descriptor"] - 1


def test_photos_trained_on_are_not_evaluated():
    probabilities = np.array([[1.0, 0, 0], [np.nan] * 3])
    evaluation = Evaluation(LABELS, np.array([0, 1]), [probabilities])

    assert ablation.metrics(evaluation, np.arange(2))[0] == 1
