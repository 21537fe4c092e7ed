import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from model.training.threshold import CONFIDENCE, Threshold, choose


def chosen(answers: list[tuple[float, bool]], precision: float) -> Threshold:
    confidence, right = zip(*answers, strict=True)
    return choose(np.array(confidence), np.array(right), precision)


def test_it_is_the_lowest_of_which_others_can_be_expected_to_be_right_often_enough():
    """2 wrong of 60 are 3%, and with 95% confidence no more than 10.1% of all that would come."""
    answers = [(1 - n / 1000, n not in {30, 48}) for n in range(60)]

    assert chosen(answers, 0.89) == Threshold(0.941, accepted=60, right=58, reached=True, assured=True)
    assert chosen(answers, 0.9) == Threshold(0.953, accepted=48, right=47, reached=True, assured=True)
    # so many are too few to be assured of that, and are what they are
    assert chosen(answers, 0.96) == Threshold(0.941, accepted=60, right=58, reached=True, assured=False)


@pytest.mark.parametrize(("wrong", "enough"), [(0, 299), (1, 473), (4, 913)])
def test_how_many_answers_it_takes_to_be_assured(wrong, enough):
    """Clopper's and Pearson's bound in numbers: 0.99 ** 299 < 0.05 < 0.99 ** 298, and so on."""
    answers = [(0.9, False)] * wrong + [(0.9, True)] * (enough - wrong)

    assert chosen(answers, 0.99).assured
    assert not chosen([*answers[:-1]], 0.99).assured


def test_it_is_the_lowest_that_is_right_often_enough():
    answers = [(0.9, True), (0.5, True), (0.8, True), (0.6, False), (0.7, True)]

    assert chosen(answers, 1) == Threshold(0.7, accepted=3, right=3, reached=True, assured=False)
    assert chosen(answers, 0.8) == Threshold(0.5, accepted=5, right=4, reached=True, assured=False)


def test_answers_below_a_wrong_one_are_accepted_if_enough_of_them_are_right():
    answers = [(0.9, False), (0.8, True), (0.7, True), (0.6, True)]

    assert chosen(answers, 0.75) == Threshold(0.6, accepted=4, right=3, reached=True, assured=False)


def test_equal_confidences_are_accepted_together():
    answers = [(0.9, True), (0.8, True), (0.8, False), (0.8, True)]

    assert chosen(answers, 1) == Threshold(0.9, accepted=1, right=1, reached=True, assured=False)
    assert chosen(answers, 0.75) == Threshold(0.8, accepted=4, right=3, reached=True, assured=False)


def test_where_none_is_good_enough_it_is_the_most_confident_answers():
    answers = [(0.9, True), (0.9, False), (0.8, True)]

    assert chosen(answers, 0.9) == Threshold(0.9, accepted=2, right=1, reached=False, assured=False)


def test_where_all_are_wrong_it_says_so():
    assert chosen([(0.7, False), (0.9, False)], 0.5) == Threshold(
        0.9, accepted=1, right=0, reached=False, assured=False
    )


@pytest.mark.parametrize("right", [True, False])
def test_one_answer_is_enough(right):
    assert chosen([(0.7, right)], 0.99) == Threshold(
        0.7, accepted=1, right=int(right), reached=right, assured=False
    )


def test_it_has_four_digits_and_still_accepts_the_answer_it_came_from():
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

    confidence, right = (np.array(column) for column in zip(*answers, strict=True))
    reaching = [at for at in confidence if right[confidence >= at].mean() >= precision]
    # the bound turned round: so few wrong ones were too rare, if more than were asked for were wrong
    assured = [
        at for at in confidence if rare((~right[confidence >= at]).sum(), (confidence >= at).sum(), precision)
    ]
    assert threshold.assured == bool(assured)
    reaching = assured or reaching
    exact = min(reaching) if reaching else confidence.max()
    accepted = confidence >= exact
    assert threshold.reached == bool(reaching)
    assert (threshold.accepted, threshold.right) == (accepted.sum(), right[accepted].sum())
    assert exact - 1e-4 <= threshold.value <= exact
