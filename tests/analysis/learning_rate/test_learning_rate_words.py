"""What other programs and people read of the learning-rate laws."""

import json

import pandas as pd
import pytest
from lr_grids import PAIRS, P, Q, R, study

from analysis.learning_rate.answer import learning_rate_json, learning_rate_lines
from analysis.learning_rate.fit import fit_learning_rate
from analysis.learning_rate.optima import find_optima


def test_the_json_holds_laws_and_groups_and_no_nan():
    fit = fit_learning_rate(find_optima(study(noise=0.001), resamples=200, seed=0), seed=0)
    told = json.loads(json.dumps(learning_rate_json(fit), allow_nan=False))
    assert told["lr"]["n_params"] == pytest.approx(P, abs=0.05)
    assert told["lr"]["tokens"] == pytest.approx(Q, abs=0.05)
    assert told["lr"]["n_params_ci"][0] < P < told["lr"]["n_params_ci"][1]
    assert told["lr"]["optima"] == 9
    assert told["batch"]["tokens"] == pytest.approx(R, abs=0.05)
    assert [w["rise"] for w in told["windows"]] == [0.01, 0.02, 0.04]
    assert [(g["n_params"], g["tokens"]) for g in told["groups"]] == list(PAIRS)
    group = told["groups"][0]
    assert group["settings"] == 63
    assert group["lr_ci"][0] < group["lr_opt"] < group["lr_ci"][1]
    assert group["batch_ci"][0] < group["batch_tokens"] < group["batch_ci"][1]
    assert group["interior"] is True
    assert "why" not in group


def test_without_batches_and_intervals_nothing_is_made_up():
    frame = study(batches=1)
    kept = [rows.sort_values("loss").head(3) for _, rows in frame.groupby(["n_params", "tokens"])]
    survey = find_optima(pd.concat(kept).drop(columns="batch_tokens"), resamples=200, seed=0)
    told = learning_rate_json(fit_learning_rate(survey, seed=0))
    json.dumps(told, allow_nan=False)
    assert list(told["batch"]) == ["refused"]
    assert not {"lr_ci", "batch_tokens", "batch_ci"} & set(told["groups"][0])
    assert "batch_slope" not in told


def test_the_lines_are_the_laws_and_the_price_of_a_wrong_learning_rate():
    fit = fit_learning_rate(find_optima(study(), resamples=50, seed=0), seed=0)
    assert learning_rate_lines(fit) == [
        "lr ~ N^-0.700 [-0.700, -0.700] D^0.200 [0.200, 0.200]  (9 optima)",
        "batch ~ D^0.570 [0.570, 0.570]  (9 optima)",
        "a learning rate off by a factor of 2 costs 0.34% of the loss (0.34% to 0.34%)",
    ]
