"""The statistics of monitoring, held against SciPy's, and what is made of them."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from functions.monitor.capture_analysis import drift
from functions.monitor.capture_analysis.drift import Baseline, BaselineError, Features, Numbers
from functions.monitor.capture_analysis.intervals import estimated_accuracy, wilson

VALUES = st.lists(st.floats(0, 1).map(lambda value: round(value, 2)), min_size=3, max_size=80)
COUNTS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=2, max_size=8)


def baseline(**changes) -> Baseline:
    rng = np.random.default_rng(1)
    made = {
        "model": "vehicles 1",
        "labels": ["bicycle", "other"],
        "threshold": 0.8,
        "n": 500,
        "mean_confidence": 0.93,
        "accuracy": 0.95,
        "numbers": {"brightness": Numbers(500, sorted(drift.rounded(rng.normal(0.5, 0.1, 500))))},
        "counts": {"class_mix": {"bicycle": 450, "other": 50}},
    }
    return Baseline(**made | changes)


def window(mean: float, n: int = 200, bicycles: float = 0.9) -> Features:
    rng = np.random.default_rng(2)
    shown = round(n * bicycles)
    return Features(
        {"brightness": rng.normal(mean, 0.1, n)}, {"class_mix": {"bicycle": shown, "other": n - shown}}
    )


@settings(deadline=None)
@given(VALUES, VALUES)
def test_the_kolmogorov_smirnov_distance_is_scipys(a, b):
    assert drift.kolmogorov_smirnov(a, b)[0] == pytest.approx(
        stats.ks_2samp(a, b, method="asymp").statistic, abs=1e-12
    )


@settings(deadline=None)
@given(VALUES, VALUES)
def test_its_p_value_is_that_of_kolmogorovs_limit(a, b):
    distance, p_value = drift.kolmogorov_smirnov(a, b)

    limit = stats.kstwobign.sf(distance * math.sqrt(len(a) * len(b) / (len(a) + len(b))))
    assert p_value == pytest.approx(limit, abs=1e-4)


@pytest.mark.parametrize(("n", "m"), [(100, 500), (200, 500), (2000, 500)])
@pytest.mark.parametrize("shift", [0.0, 0.2, 0.4, 0.8])
def test_with_windows_as_large_as_ours_the_p_value_is_near_scipys_exact_one(n, m, shift):
    rng = np.random.default_rng(n)
    a, b = rng.normal(shift, 1, n), rng.normal(0, 1, m)

    exact = stats.ks_2samp(a, b, method="exact").pvalue
    assert drift.kolmogorov_smirnov(a, b)[1] == pytest.approx(exact, rel=0.25, abs=1e-6)


@settings(deadline=None)
@given(COUNTS)
def test_the_p_value_of_counts_is_near_scipys(pairs):
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    if not sum(a) or not sum(b):
        return
    table = np.array([a, b])[:, np.array([x + y > 0 for x, y in pairs])]
    exact = stats.chi2_contingency(table, correction=False).pvalue if table.shape[1] > 1 else 1.0

    if exact < 0.1:  # where it decides
        assert drift.same_shares(a, b) == pytest.approx(exact, rel=0.25, abs=1e-4)
    else:
        assert drift.same_shares(a, b) > 0.09


@settings(deadline=None)
@given(COUNTS)
def test_the_population_stability_index_is_a_divergence_of_scipys(pairs):
    a, b = (np.array([pair[side] for pair in pairs]) + 0.5 for side in (0, 1))
    a, b = a / a.sum(), b / b.sum()

    index = drift.population_stability_index(*([pair[side] for pair in pairs] for side in (0, 1)))
    assert index == pytest.approx((special.rel_entr(a, b) + special.rel_entr(b, a)).sum(), abs=1e-9)


def test_the_population_stability_index_by_hand():
    # (.2 - .5) ln(.2 / .5) + (.8 - .5) ln(.8 / .5) = .3 ln 4
    assert drift.population_stability_index([2000, 8000], [5000, 5000]) == pytest.approx(
        0.3 * math.log(4), rel=1e-3
    )


def test_total_variation_is_the_share_that_has_moved_and_for_two_categories_that_of_kolmogorov_and_smirnov():
    assert drift.total_variation([60, 30, 10], [300, 600, 100]) == pytest.approx(0.3)

    a, b = [0] * 60 + [1] * 40, [0] * 45 + [1] * 55
    assert drift.total_variation([60, 40], [45, 55]) == pytest.approx(drift.kolmogorov_smirnov(a, b)[0])


def test_deciles_hold_equally_many():
    sample = [n / 500 for n in range(500)]

    counts = drift._binned(sample, drift.deciles(sample))

    assert len(counts) == 10
    assert max(counts) - min(counts) <= 2


def test_a_value_that_most_photos_have_gets_a_bin_to_itself():
    sample = sorted([0.75] * 200 + [1.33333] * 250 + [n / 100 for n in range(50)])

    bounds = drift.deciles(sample)

    assert drift._binned([0.75], bounds) != drift._binned([0.74], bounds)
    assert drift._binned([1.33333], bounds) != drift._binned([1.3], bounds)


def test_a_window_like_the_baseline_has_not_drifted():
    found = drift.compare(window(0.5), baseline())

    assert {name: (one.level, one.drifted) for name, one in found.items()} == {
        "brightness": ("none", False),
        "class_mix": ("none", False),
    }


def test_a_darker_window_has_drifted_and_says_by_how_much():
    found = drift.compare(window(0.4), baseline())

    assert found["brightness"].drifted
    assert found["brightness"].level == "drifted"
    assert (
        found["brightness"].statistic
        == max(found["brightness"].psi, found["brightness"].ks)
        > found["brightness"].limit
    )
    assert found["brightness"].n == 200
    assert not found["class_mix"].drifted


def test_another_mix_of_classes_has_drifted():
    found = drift.compare(window(0.5, bicycles=0.6), baseline())

    assert [name for name, one in found.items() if one.drifted] == ["class_mix"]
    assert found["class_mix"].ks is None
    assert found["class_mix"].variation == pytest.approx(0.3)


def test_of_two_classes_a_mix_that_is_turned_round_has_drifted_though_psi_stays_below_its_usual_limit():
    known = baseline(counts={"class_mix": {"bicycle": 300, "motorcycle": 200}})

    turned = drift.compare(Features({}, {"class_mix": {"bicycle": 80, "motorcycle": 120}}), known)[
        "class_mix"
    ]

    assert turned.psi < drift.LIMIT
    assert turned.drifted


def test_some_change_is_moderate():
    found = drift.compare(window(0.47, n=2000), baseline())

    assert (found["brightness"].level, found["brightness"].drifted) == ("moderate", False)


def test_a_few_odd_photos_prove_nothing():
    found = drift.compare(window(0.42, n=8), baseline())

    assert found["brightness"].statistic > drift.LIMIT
    assert (found["brightness"].level, found["brightness"].drifted) == ("none", False)


def test_a_value_all_photos_have_is_the_same_after_it_was_written_and_read():
    numbers = {"aspect": Numbers(500, drift.rounded([4 / 3] * 500))}
    known = Baseline.parse(baseline(numbers=numbers).text())

    found = drift.compare(Features({"aspect": [4 / 3] * 200}, {}), known)

    assert found["aspect"].statistic < 0.01


def test_any_change_of_a_value_that_all_photos_had_is_seen():
    known = baseline(numbers={"aspect": Numbers(500, [1.0] * 500)})

    for changed in (0.75, 1.5):
        assert drift.compare(Features({"aspect": [changed] * 200}, {}), known)["aspect"].drifted


def test_what_only_one_side_has_is_not_compared():
    assert (
        drift.compare(Features({"contrast": [0.1] * 200, "brightness": []}, {"other": {}}), baseline()) == {}
    )


def test_windows_without_drift_seldom_raise_an_alarm():
    rng = np.random.default_rng(1)
    names = [f"feature {n}" for n in range(8)]
    known = baseline(numbers={name: Numbers(500, sorted(rng.normal(size=500))) for name in names}, counts={})
    windows = [Features({name: rng.normal(size=200) for name in names}, {}) for _ in range(50)]

    alarms = [
        window for window in windows if any(one.drifted for one in drift.compare(window, known).values())
    ]

    assert len(alarms) <= 2


def test_a_baseline_survives_being_written_and_read():
    known = baseline(feature_space={"graph_sha256": "0" * 64, "mean": [0.1], "deviation": [1.0]})

    assert Baseline.parse(known.text()) == known


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff", "it is no baseline"),
        ("[]", "it is no baseline"),
        ("{}", "it is no baseline: KeyError 'format'"),
        (json.dumps({"format": 99}), "the baseline is of format 99, this version reads 1: write it anew"),
        (json.dumps({"format": 1, "numbers": {}}), "it is no baseline: TypeError"),
    ],
)
def test_what_is_no_baseline_says_so(text, reason):
    with pytest.raises(BaselineError, match=reason):
        Baseline.parse(text)


def test_calibrated_confidence_tells_how_many_are_right():
    chance = random.Random(1)
    covered = 0
    for _ in range(300):
        confidence = [chance.uniform(0.6, 1) for _ in range(200)]
        right = sum(chance.random() < p for p in confidence) / 200
        estimate = estimated_accuracy(confidence)
        covered += estimate.low <= right <= estimate.high
    assert 0.92 <= covered / 300 <= 0.98


def test_what_the_baseline_knows_of_its_confidence_moves_the_estimate_and_widens_it():
    alone = estimated_accuracy([0.9] * 200)
    known = estimated_accuracy([0.9] * 200, known_accuracy=0.8, known_confidence=0.85, known_n=100)

    assert alone.value == pytest.approx(0.9)
    assert known.value == pytest.approx(0.85)
    assert known.high - known.low > alone.high - alone.low


def test_there_is_no_estimate_of_nothing():
    assert estimated_accuracy([]) is None


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_scipys(counts):
    exact = stats.binomtest(*counts).proportion_ci(method="wilson")

    assert wilson(*counts)[1:] == pytest.approx((exact.low, exact.high), abs=1e-9)
