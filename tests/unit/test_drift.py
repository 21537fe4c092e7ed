"""Drift statistics agree with SciPy's, and drift is detected when it is large and significant."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
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


@given(VALUES, VALUES)
def test_the_kolmogorov_smirnov_distance_equals_scipys(a, b):
    assert drift.kolmogorov_smirnov(a, b)[0] == pytest.approx(
        stats.ks_2samp(a, b, method="asymp").statistic, abs=1e-12
    )


@given(VALUES, VALUES)
def test_the_kolmogorov_smirnov_p_value_is_the_asymptotic_one(a, b):
    distance, p_value = drift.kolmogorov_smirnov(a, b)

    limit = stats.kstwobign.sf(distance * math.sqrt(len(a) * len(b) / (len(a) + len(b))))
    assert p_value == pytest.approx(limit, abs=1e-4)


@pytest.mark.parametrize(("n", "m"), [(100, 500), (200, 500), (2000, 500)])
@pytest.mark.parametrize("shift", [0.0, 0.2, 0.4, 0.8])
def test_for_windows_of_realistic_size_the_p_value_is_close_to_scipys_exact_one(n, m, shift):
    rng = np.random.default_rng(n)
    a, b = rng.normal(shift, 1, n), rng.normal(0, 1, m)

    exact = stats.ks_2samp(a, b, method="exact").pvalue
    assert drift.kolmogorov_smirnov(a, b)[1] == pytest.approx(exact, rel=0.25, abs=1e-6)


@given(COUNTS)
def test_the_chi_squared_p_value_is_close_to_scipys(pairs):
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    if not sum(a) or not sum(b):
        return
    table = np.array([a, b])[:, np.array([x + y > 0 for x, y in pairs])]
    exact = stats.chi2_contingency(table, correction=False).pvalue if table.shape[1] > 1 else 1.0

    if exact < 0.1:  # where it decides
        assert drift.same_shares(a, b) == pytest.approx(exact, rel=0.25, abs=1e-4)
    else:
        assert drift.same_shares(a, b) > 0.09


@given(COUNTS)
def test_the_population_stability_index_is_the_sum_of_scipys_relative_entropies(pairs):
    a, b = (np.array([pair[side] for pair in pairs]) + 0.5 for side in (0, 1))
    a, b = a / a.sum(), b / b.sum()

    index = drift.population_stability_index(*([pair[side] for pair in pairs] for side in (0, 1)))
    assert index == pytest.approx((special.rel_entr(a, b) + special.rel_entr(b, a)).sum(), abs=1e-9)


def test_the_population_stability_index_equals_a_manual_calculation():
    # (.2 - .5) ln(.2 / .5) + (.8 - .5) ln(.8 / .5) = .3 ln 4
    assert drift.population_stability_index([2000, 8000], [5000, 5000]) == pytest.approx(
        0.3 * math.log(4), rel=1e-3
    )


def test_total_variation_is_the_share_that_moved_and_for_two_categories_the_kolmogorov_smirnov_distance():
    assert drift.total_variation([60, 30, 10], [300, 600, 100]) == pytest.approx(0.3)

    a, b = [0] * 60 + [1] * 40, [0] * 45 + [1] * 55
    assert drift.total_variation([60, 40], [45, 55]) == pytest.approx(drift.kolmogorov_smirnov(a, b)[0])


def test_deciles_have_equally_many_values():
    sample = [n / 500 for n in range(500)]

    counts = drift._binned(sample, drift.deciles(sample))

    assert len(counts) == 10
    assert max(counts) - min(counts) <= 2


def test_a_frequent_value_gets_a_bin_of_its_own():
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


def test_a_changed_class_mix_has_drifted():
    found = drift.compare(window(0.5, bicycles=0.6), baseline())

    assert [name for name, one in found.items() if one.drifted] == ["class_mix"]
    assert found["class_mix"].ks is None
    assert found["class_mix"].variation == pytest.approx(0.3)
    assert found["class_mix"].n == 200


def test_a_reversed_mix_of_two_classes_has_drifted_although_psi_is_below_its_usual_limit():
    reference = baseline(counts={"class_mix": {"bicycle": 300, "motorcycle": 200}})

    turned = drift.compare(Features({}, {"class_mix": {"bicycle": 80, "motorcycle": 120}}), reference)[
        "class_mix"
    ]

    assert turned.psi < drift.LIMIT
    assert turned.drifted


def test_a_small_change_is_moderate():
    found = drift.compare(window(0.47, n=2000), baseline())

    assert (found["brightness"].level, found["brightness"].drifted) == ("moderate", False)


def test_a_few_odd_photos_are_not_significant():
    found = drift.compare(window(0.42, n=8), baseline())

    assert found["brightness"].statistic > drift.LIMIT
    assert (found["brightness"].level, found["brightness"].drifted) == ("none", False)


def test_a_value_that_all_photos_share_is_unchanged_by_writing_and_reading_the_baseline():
    numbers = {"aspect": Numbers(500, drift.rounded([4 / 3] * 500))}
    reference = Baseline.parse(baseline(numbers=numbers).text())

    found = drift.compare(Features({"aspect": [4 / 3] * 200}, {}), reference)

    assert found["aspect"].statistic < 0.01


def test_any_change_of_a_value_that_all_photos_shared_is_detected():
    reference = baseline(numbers={"aspect": Numbers(500, [1.0] * 500)})

    for changed in (0.75, 1.5):
        assert drift.compare(Features({"aspect": [changed] * 200}, {}), reference)["aspect"].drifted


def test_a_feature_that_only_one_side_has_is_not_compared():
    assert (
        drift.compare(Features({"contrast": [0.1] * 200, "brightness": []}, {"other": {}}), baseline()) == {}
    )


def test_windows_without_drift_rarely_raise_an_alarm():
    rng = np.random.default_rng(1)
    names = [f"feature {n}" for n in range(8)]
    reference = baseline(
        numbers={name: Numbers(500, sorted(rng.normal(size=500))) for name in names}, counts={}
    )
    windows = [Features({name: rng.normal(size=200) for name in names}, {}) for _ in range(50)]

    alarms = [
        window for window in windows if any(one.drifted for one in drift.compare(window, reference).values())
    ]

    assert len(alarms) <= 2


def test_a_baseline_is_unchanged_by_writing_and_reading():
    reference = baseline(feature_space={"graph_sha256": "0" * 64, "mean": [0.1], "deviation": [1.0]})

    assert Baseline.parse(reference.text()) == reference


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff", "not a baseline"),
        ("[]", "not a baseline"),
        ("{}", "not a baseline: KeyError 'format'"),
        (
            json.dumps({"format": 99}),
            "The baseline has format 99; this version reads format 1. Write it again with",
        ),
        (json.dumps({"format": 1, "numbers": {}}), "not a baseline: TypeError"),
    ],
)
def test_an_invalid_baseline_is_refused_with_the_reason(text, reason):
    with pytest.raises(BaselineError, match=reason):
        Baseline.parse(text)


def test_calibrated_confidence_estimates_accuracy():
    chance = random.Random(1)
    covered = 0
    for _ in range(300):
        confidence = [chance.uniform(0.6, 1) for _ in range(200)]
        right = sum(chance.random() < p for p in confidence) / 200
        estimate = estimated_accuracy(confidence)
        covered += estimate.low <= right <= estimate.high
    assert 0.92 <= covered / 300 <= 0.98


def test_the_baselines_accuracy_shifts_the_estimate_and_widens_its_interval():
    alone = estimated_accuracy([0.9] * 200)
    reference = estimated_accuracy([0.9] * 200, known_accuracy=0.8, known_confidence=0.85, known_n=100)

    assert alone.value == pytest.approx(0.9)
    assert reference.value == pytest.approx(0.85)
    assert reference.high - reference.low > alone.high - alone.low


def test_without_answers_there_is_no_estimate():
    assert estimated_accuracy([]) is None


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_equals_scipys(counts):
    exact = stats.binomtest(*counts).proportion_ci(method="wilson")

    assert wilson(*counts)[1:] == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_the_index_counts_each_value_in_its_bin():
    """Nine bounds, inclusive above, make ten bins; each has a tenth of the baseline's values."""
    sample = [float(number) for number in range(100)]
    found = drift.compare(
        Features({"brightness": [5.0] * 100}, {}), baseline(numbers={"brightness": Numbers(100, sample)})
    )["brightness"]

    a, b = [100.5] + [0.5] * 9, [10.5] * 10
    a[0], b[0], b[9] = 100.5, 11.5, 9.5
    shares = [(x / 105, y / 105) for x, y in zip(a, b, strict=True)]
    assert found.psi == pytest.approx(sum((x - y) * math.log(x / y) for x, y in shares))
    assert found.n == 100


def test_samples_with_equal_shares_are_the_same_with_certainty():
    assert drift.same_shares([10, 20], [100, 200]) == 1
    assert drift.same_shares([10], [20]) == 1


def test_categories_are_the_labels_the_threshold_and_whether_there_is_a_vehicle():
    assert drift.categories({"bicycle": 6, "other": 4}, 3) == {
        "class_mix": {"bicycle": 6, "other": 4},
        "under_threshold": {"under": 3, "over": 7},
        "other": {"other": 4, "vehicle": 6},
    }
    assert drift.categories({"bicycle": 6, "bus": 4}, 3).keys() == {"class_mix", "under_threshold"}
