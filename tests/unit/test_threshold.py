import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from model.training.threshold import CONFIDENCE, Threshold, choose_threshold


def chosen(answers: list[tuple[float, bool]], precision: float) -> Threshold:
    confidence, correct = zip(*answers, strict=True)
    return choose_threshold(np.array(confidence), np.array(correct), precision)


def test_the_lowest_threshold_that_guarantees_the_precision_is_chosen():
    """2 wrong of 60 are 3%, and with 95% confidence at most 10.1% of all future answers."""
    answers = [(1 - n / 1000, n not in {30, 48}) for n in range(60)]

    assert chosen(answers, 0.89) == Threshold(
        0.941, accepted=60, correct=58, meets_target=True, guaranteed=True
    )
    assert chosen(answers, 0.9) == Threshold(
        0.953, accepted=48, correct=47, meets_target=True, guaranteed=True
    )
    # too few to guarantee that precision, so the share itself decides
    assert chosen(answers, 0.96) == Threshold(
        0.941, accepted=60, correct=58, meets_target=True, guaranteed=False
    )


@pytest.mark.parametrize(("wrong", "enough"), [(0, 299), (1, 473), (4, 913)])
def test_the_number_of_answers_needed_to_guarantee_99_percent(wrong, enough):
    """By Clopper's and Pearson's bound: 0.99 ** 299 < 0.05 < 0.99 ** 298, and so on."""
    answers = [(0.9, False)] * wrong + [(0.9, True)] * (enough - wrong)

    assert chosen(answers, 0.99).guaranteed
    assert not chosen([*answers[:-1]], 0.99).guaranteed


def test_without_a_guarantee_the_lowest_threshold_with_the_precision_is_chosen():
    answers = [(0.9, True), (0.5, True), (0.8, True), (0.6, False), (0.7, True)]

    assert chosen(answers, 1) == Threshold(0.7, accepted=3, correct=3, meets_target=True, guaranteed=False)
    assert chosen(answers, 0.8) == Threshold(0.5, accepted=5, correct=4, meets_target=True, guaranteed=False)


def test_answers_below_an_error_are_accepted_if_enough_of_them_are_correct():
    answers = [(0.9, False), (0.8, True), (0.7, True), (0.6, True)]

    assert chosen(answers, 0.75) == Threshold(0.6, accepted=4, correct=3, meets_target=True, guaranteed=False)


def test_equal_confidences_are_accepted_together():
    answers = [(0.9, True), (0.8, True), (0.8, False), (0.8, True)]

    assert chosen(answers, 1) == Threshold(0.9, accepted=1, correct=1, meets_target=True, guaranteed=False)
    assert chosen(answers, 0.75) == Threshold(0.8, accepted=4, correct=3, meets_target=True, guaranteed=False)


def test_without_the_precision_the_highest_confidence_is_chosen():
    answers = [(0.9, True), (0.9, False), (0.8, True)]

    assert chosen(answers, 0.9) == Threshold(0.9, accepted=2, correct=1, meets_target=False, guaranteed=False)


def test_the_precision_is_not_met_if_all_answers_are_wrong():
    assert chosen([(0.7, False), (0.9, False)], 0.5) == Threshold(
        0.9, accepted=1, correct=0, meets_target=False, guaranteed=False
    )


@pytest.mark.parametrize("correct", [True, False])
def test_one_answer_is_enough(correct):
    assert chosen([(0.7, correct)], 0.99) == Threshold(
        0.7, accepted=1, correct=int(correct), meets_target=correct, guaranteed=False
    )


def test_the_threshold_is_rounded_down_to_four_digits():
    threshold = chosen([(0.98765432, True), (0.5, False)], 1)

    assert threshold.value == 0.9876


def rare(wrong: int, of: int, precision: float) -> bool:
    return wrong < of and bool(binom.cdf(wrong, of, 1 - precision) <= 1 - CONFIDENCE)


ANSWERS = st.lists(
    st.tuples(st.integers(0, 20).map(lambda n: n / 20) | st.floats(0, 1), st.booleans()), min_size=1
)


@given(ANSWERS, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_no_lower_threshold_reaches_the_precision(answers, precision):
    threshold = chosen(answers, precision)

    confidence, correct = (np.array(column) for column in zip(*answers, strict=True))
    meeting = [at for at in confidence if correct[confidence >= at].mean() >= precision]
    # the inverse of the bound: so few errors would be too unlikely at a lower precision
    guaranteed = [
        at
        for at in confidence
        if rare((~correct[confidence >= at]).sum(), (confidence >= at).sum(), precision)
    ]
    assert threshold.guaranteed == bool(guaranteed)
    meeting = guaranteed or meeting
    exact = min(meeting) if meeting else confidence.max()
    accepted = confidence >= exact
    assert threshold.meets_target == bool(meeting)
    assert (threshold.accepted, threshold.correct) == (accepted.sum(), correct[accepted].sum())
    assert exact - 1e-4 <= threshold.value <= exact
