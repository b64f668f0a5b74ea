import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from study_folders import isoflop_table

from analysis.config import parse_options
from analysis.fits import analyse, survey
from analysis.isoflop import IsoflopFit
from analysis.table import RunsTable, screen
from analysis.verdict import judge


def analysis(frame: Any, **options: Any) -> Any:
    words = [f"{key}={value}" for key, value in ({"bootstrap": 400} | options).items()]
    usable, excluded = screen(frame, None)
    table = RunsTable(usable, tuple(excluded), "t", "t.csv", "0" * 64)
    return analyse(survey(table, parse_options(["table=t.csv", *words])), lambda done: None)


def verdict(frame: Any, **options: Any) -> Any:
    return analysis(frame, **options).verdict


def said(frame: Any, text: str) -> bool:
    return any(text in note for note in verdict(frame).notes)


def test_a_clean_wide_study_with_searched_rates_and_seeds_is_firm() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for lr, factor in ((0.5, 1.02), (1.0, 1.0), (2.0, 1.02)):
        for seed in range(2):
            part = isoflop_table()
            noise = np.exp(0.0005 * rng.standard_normal(len(part)))
            parts.append(part.assign(lr=lr, seed=seed, loss=part["loss"] * factor * noise))
    result = verdict(pd.concat(parts, ignore_index=True))
    assert result.trust == "firm"
    assert any("Learning rates were searched, up to 3" in note for note in result.notes)
    assert any("Seeds scatter the loss by 0.0" in note for note in result.notes)


def test_a_narrow_study_is_illustrative() -> None:
    frame = isoflop_table(budgets=(1e18, 1.5e18, 2.2e18), noise=0.003)
    assert verdict(frame).trust == "illustrative"


def test_a_study_without_seeds_or_rates_says_so() -> None:
    frame = isoflop_table(noise=0.002)
    assert said(frame, "No run was repeated with another seed")
    assert said(frame, "learning rates are not in the table")
    assert said(frame.assign(lr=1e-3), "follow a rule and were not searched")


def test_approaches_that_agree_are_said_to() -> None:
    result = verdict(isoflop_table(noise=0.001))
    assert result.agree is True
    assert any("The approaches agree" in note for note in result.notes)


def test_approaches_that_differ_by_more_than_their_intervals_disagree() -> None:
    done = analysis(isoflop_table(noise=0.0005))
    surface = dataclasses.replace(
        done.parametric,
        values=done.parametric.values | {"a": 0.6},
        intervals=done.parametric.intervals | {"a": (0.59, 0.61)},
    )
    result = judge(
        table=done.table,
        cells=done.cells,
        isoflop=done.isoflop,
        parametric=surface,
        valleys=done.isoflop.valleys,
        run_ids=[""] * 35,
    )
    assert result.agree is False
    assert any("DISAGREE" in note and "0.600 by the surface" in note for note in result.notes)
    assert result.trust == "illustrative"


def test_one_bad_run_left_in_is_named_and_does_not_move_the_answer() -> None:
    frame = isoflop_table(noise=0.0005)
    frame.loc[16, "loss"] *= 1.5
    assert said(frame, "1 runs lie far off the surface (row 17 by 50")


def test_a_vanishing_irreducible_loss_is_not_called_a_measurement() -> None:
    frame = isoflop_table()
    frame["loss"] = 480 / frame["n_params"] ** 0.35 + 2100 / frame["tokens"] ** 0.37
    assert said(frame, "E is not identified")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_verdict(seed: int) -> None:
    frame = isoflop_table(noise=0.003)
    assert verdict(frame, seed=seed) == verdict(frame, seed=seed)


def test_bracketed_valleys_are_counted_when_their_law_is_refused() -> None:
    done = analysis(isoflop_table(budgets=(1e18, 1e19), noise=0.0005))
    assert not isinstance(done.isoflop, IsoflopFit)  # two valleys are no law
    assert any("2 of 2 valleys bracketed" in note for note in done.verdict.notes)
