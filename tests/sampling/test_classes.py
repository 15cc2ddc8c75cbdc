"""Classes of answers under an equivalence that is no equivalence relation."""

from hypothesis import given
from hypothesis import strategies as st

from jlab.sampling import answer_classes


@given(st.lists(st.sampled_from("abcd"), max_size=20))
def test_without_an_equivalence_classes_are_strings(answers):
    classes = answer_classes(answers).tolist()
    for answer, number in zip(answers, classes, strict=True):
        assert classes.index(number) == answers.index(answer)
    assert sorted(set(classes)) == list(range(len(set(answers))))


def test_an_answer_joins_the_first_class_whose_first_member_it_equals():
    """2 is near 1 and 3 is near 2, but the first member of 2's class is 1, and 3 is not near 1."""
    near = {("2", "1"), ("3", "2")}
    classes = answer_classes(["1", "2", "3", "2"], lambda a, first: (a, first) in near)
    assert classes.tolist() == [0, 0, 1, 0]


def test_an_answer_that_equals_nothing_still_equals_its_own_string():
    assert answer_classes(["?", "?", "1"], lambda a, first: False).tolist() == [0, 0, 1]


def test_each_pair_of_different_answers_is_compared_once():
    asked = []

    def same(answer, first):
        asked.append((answer, first))
        return False

    answer_classes(["a", "b", "c"] * 1000, same)
    assert asked == [("b", "a"), ("c", "a"), ("c", "b")]
