"""The law as words of the next study's command: what train then does with them."""

import dataclasses
import re

import pytest
from lr_grids import BEND, P, Q, R, best_batch, best_lr, study

from analysis.errors import OptionError
from analysis.learning_rate.fit import fit_learning_rate
from analysis.learning_rate.optima import find_optima
from analysis.learning_rate.rule import learning_rate_words
from train.config.experiment import LearningRateRule, OptimizerConfig
from train.plan.planning import peak_lr


@pytest.fixture(scope="module")
def law():
    return fit_learning_rate(find_optima(study(), resamples=200, seed=0), seed=0)


def lr_of(words, n_params):
    """Return the learning rate that train plans under the words."""
    given = dict(re.fullmatch(r"optimizer\.lr_rule\.(\w+)=(.+)", word).groups() for word in words)
    rule = LearningRateRule(**{name: float(value) for name, value in given.items()})
    return peak_lr(OptimizerConfig(lr_rule=rule), n_params_standard=round(n_params))


def test_along_one_ratio_the_words_make_train_follow_the_law(law):
    found = learning_rate_words(law, tokens_per_param=40.0)
    assert found.exponent == pytest.approx(P + Q, abs=1e-6)
    for n in (1e8, 3e8, 1e9):
        assert lr_of(found.words, n) == pytest.approx(best_lr(n, 40.0 * n), rel=2e-3)
    assert found.note == ""


def test_along_one_budget_the_words_make_train_follow_the_law(law):
    found = learning_rate_words(law, flops=1e19)
    assert found.exponent == pytest.approx(P - Q, abs=1e-6)
    for n in (1e8, 3e8):
        assert lr_of(found.words, n) == pytest.approx(best_lr(n, 1e19 / (6 * n)), rel=2e-3)


def test_at_one_number_of_tokens_the_words_have_the_exponent_of_size(law):
    found = learning_rate_words(law, tokens=1e10)
    assert found.exponent == pytest.approx(P, abs=1e-6)
    assert lr_of(found.words, 2e8) == pytest.approx(best_lr(2e8, 1e10), rel=2e-3)


def test_at_a_fixed_batch_the_learning_rate_moves_along_the_valley(law):
    slope = -BEND[0, 1] / BEND[0, 0]
    found = learning_rate_words(law, tokens_per_param=40.0, batch_tokens=2e5)
    assert found.exponent == pytest.approx(P + Q - slope * R, abs=1e-5)
    right = best_lr(3e8, 1.2e10) * (2e5 / best_batch(1.2e10)) ** slope
    assert lr_of(found.words, 3e8) == pytest.approx(right, rel=2e-3)


def test_the_words_are_the_whole_rule_and_bound_what_was_not_tuned(law):
    words = learning_rate_words(law, tokens_per_param=40.0).words
    assert [word.split("=")[0].rsplit(".", 1)[1] for word in words] == [
        field.name for field in dataclasses.fields(LearningRateRule)
    ]
    smallest = min(group.n_params for group in law.survey.groups)
    most = lr_of(words, 1.0)
    assert most == pytest.approx(2.0 * best_lr(smallest, 40.0 * smallest), rel=2e-3)


def test_a_grid_far_from_every_tuned_run_is_noted(law):
    note = learning_rate_words(law, tokens_per_param=6400.0).note
    assert note.startswith(
        "the grid's runs train on more tokens than every tuned run of their size"
    )
    assert "by a factor of 10 or more" in note
    assert "fewer tokens" in learning_rate_words(law, tokens_per_param=1.0).note


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give exactly one of tokens_per_param, flops, tokens; got none"),
        ({"flops": 1e19, "tokens": 1e9}, r"got flops=1e\+19, tokens=1e\+09"),
        ({"tokens": -1.0}, "tokens=-1: must be positive and finite"),
    ],
)
def test_a_grid_is_one_of_three(law, given, message):
    with pytest.raises(OptionError, match=message):
        learning_rate_words(law, **given)
