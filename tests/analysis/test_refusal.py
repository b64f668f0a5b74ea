import pytest

from analysis.errors import InputError, RefusedError
from analysis.refusal import Refusal, attempt, fitted


def refuse():
    raise RefusedError("2 budgets; add 1")


def test_an_attempt_is_its_result_or_the_reason_against_it():
    assert attempt(lambda: 3) == 3
    assert attempt(refuse) == Refusal("2 budgets; add 1")


def test_only_refusals_are_results():
    def mistaken():
        raise InputError("loss=-1 in run 3")

    with pytest.raises(InputError, match="loss=-1"):
        attempt(mistaken)


def test_what_was_refused_is_none():
    assert fitted(0.0) == 0.0
    assert fitted(Refusal("why")) is None
