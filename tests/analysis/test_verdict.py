import dataclasses

import numpy as np
import pandas as pd
import pytest
from study_folders import isoflop_table

from analysis.config import parse_options
from analysis.envelope.fit import EnvelopeFit
from analysis.errors import RefusedError
from analysis.fits import analyse, survey
from analysis.intake.table import RunsTable, screen
from analysis.isoflop.fit import IsoflopFit
from analysis.parametric.profile import Profile
from analysis.powerlaw import Law, PowerLaw
from analysis.refusal import fitted
from analysis.scrutiny import parts as scrutiny
from analysis.verdict import judge


@pytest.fixture(autouse=True, scope="module")
def _no_multiverse():
    """Leave out the multiverse, most of an analysis's time; it has tests of its own."""

    def refuse(*args, **choices):
        raise RefusedError("left out of these tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scrutiny, "explore", refuse)
        yield


def analysis(frame, **options):
    words = [f"{key}={value}" for key, value in ({"bootstrap": 400} | options).items()]
    usable, excluded = screen(frame, None)
    table = RunsTable(usable, tuple(excluded), "t", "t.csv", "0" * 64)
    return analyse(survey(table, parse_options(["table=t.csv", *words])), lambda done: None)


def verdict(frame, **options):
    return analysis(frame, **options).verdict


def said(frame, text):
    return any(text in note for note in verdict(frame).notes)


def searched_and_repeated():
    """A study whose every cell has 3 learning rates, the middle one best, and 2 seeds."""
    rng = np.random.default_rng(0)
    parts = []
    for lr, factor in ((0.5, 1.02), (1.0, 1.0), (2.0, 1.02)):
        for seed in range(2):
            part = isoflop_table()
            noise = np.exp(0.0005 * rng.standard_normal(len(part)))
            parts.append(part.assign(lr=lr, seed=seed, loss=part["loss"] * factor * noise))
    return pd.concat(parts, ignore_index=True)


def test_a_clean_wide_study_with_searched_rates_and_seeds_is_firm():
    result = verdict(searched_and_repeated())
    assert result.trust == "firm"
    assert any("Learning rates were searched, up to 3" in note for note in result.notes)
    assert any("Seeds scatter the loss by 0.0" in note for note in result.notes)


def test_a_narrow_study_is_illustrative():
    frame = isoflop_table(budgets=(1e18, 1.5e18, 2.2e18), noise=0.003)
    assert verdict(frame).trust == "illustrative"


def test_a_study_without_seeds_or_rates_says_so():
    frame = isoflop_table(noise=0.002)
    assert said(frame, "No run was repeated with another seed")
    assert said(frame, "learning rates are not in the table")
    assert said(frame.assign(lr=1e-3), "follow a rule and were not searched")


def test_approaches_that_agree_are_said_to():
    result = verdict(isoflop_table(noise=0.001))
    assert result.agree is True
    assert any("The approaches agree" in note for note in result.notes)


def judged(done, **changed):
    parts = {
        "table": done.table,
        "cells": done.cells,
        "isoflop": done.isoflop,
        "parametric": done.parametric,
        "envelope": None,
        "scrutiny": done,
        "valleys": done.isoflop.valleys,
        "run_ids": [""] * 35,
    }
    return judge(**(parts | changed))


@pytest.fixture(scope="module")
def clean():
    return analysis(isoflop_table(noise=0.0005))


def test_approaches_that_differ_by_more_than_their_intervals_disagree(clean):
    surface = dataclasses.replace(
        clean.parametric,
        values=clean.parametric.values | {"a": 0.6},
        intervals=clean.parametric.intervals | {"a": (0.59, 0.61)},
    )
    result = judged(clean, parametric=surface)
    assert result.agree is False
    assert any("DISAGREE" in note and "0.600 by the surface" in note for note in result.notes)
    assert result.trust == "illustrative"
    (pair,) = result.comparisons
    assert pair.approaches == ("isoflop", "parametric")
    assert pair.difference == pytest.approx(clean.isoflop.n_law.fit.exponent - 0.6)
    assert pair.sigmas > 1.96


def envelope(clean, a, biased):
    fit = PowerLaw(a, 43.0, 20.0, 0.01)
    law = Law(fit, (a - 0.01, a + 0.01), np.full(9, a), np.full(9, 20.0))
    return EnvelopeFit(law, law, (), (), "training loss", 35, 9, 0, biased, ())


def test_an_envelope_of_held_learning_rates_that_differs_is_a_disagreement(clean):
    result = judged(clean, envelope=envelope(clean, 0.7, biased=False))
    assert result.agree is False
    assert any("DISAGREE" in note and "0.700 by the envelope" in note for note in result.notes)
    assert len(result.comparisons) == 3


def test_an_envelope_of_decaying_learning_rates_is_compared_but_not_counted(clean):
    result = judged(clean, envelope=envelope(clean, 0.7, biased=True))
    assert result.agree is True
    assert any("not counted against them" in note for note in result.notes)
    assert [item.agree for item in result.comparisons] == [True, False, False]


def test_a_biased_envelope_checks_nothing(clean):
    result = judged(clean, isoflop=None, envelope=envelope(clean, 0.5, biased=True))
    assert result.agree is None
    assert any("Nothing checks the answer" in note for note in result.notes)


def test_an_exponent_that_drifts_is_said_and_is_not_firm():
    rng = np.random.default_rng(0)
    parts = []
    for flops, alpha in ((1e18, 0.25), (3e18, 0.29), (1e19, 0.34), (3e19, 0.39), (1e20, 0.44)):
        part = isoflop_table(budgets=(flops,), sizes=9)
        at = part["n_params"] / part["n_params"].iloc[4] * (flops / 1e19) ** (2 * alpha)
        rise = 0.01 * np.log(at) ** 2
        part["loss"] = (3.0 * (flops / 1e19) ** -0.05) * np.exp(rise)
        parts.append(part)
    frame = pd.concat(parts, ignore_index=True)
    frame["loss"] *= np.exp(0.0005 * rng.standard_normal(len(frame)))
    result = analysis(frame)
    stable = [p.stable for p in (fitted(result.local), fitted(result.local_valleys)) if p]
    assert False in stable
    assert any("DRIFTS" in note for note in result.verdict.notes)
    assert result.verdict.trust != "firm"


def test_two_tests_of_drift_that_differ_speak_with_one_voice(clean):
    calm = fitted(clean.local_valleys)
    assert calm.stable
    drifting = dataclasses.replace(
        calm, source="surface", stable=False, sentence="The exponent DRIFTS.", p=0.001
    )
    result = judged(clean, scrutiny=dataclasses.replace(clean, local=drifting))
    told = [note for note in result.notes if "DRIFTS" in note or calm.sentence in note]
    assert told == [f"The exponent DRIFTS. By valleys it shows no such drift (p = {calm.p:.2g})."]


def test_drifts_in_opposite_directions_are_said_to_contradict(clean):
    calm = fitted(clean.local_valleys)
    up, down = (dataclasses.replace(calm, stable=False, drift=d) for d in (0.1, -0.1))
    opposed = judged(clean, scrutiny=dataclasses.replace(clean, local=up, local_valleys=down))
    alike = judged(clean, scrutiny=dataclasses.replace(clean, local=up, local_valleys=up))
    assert any("drifts are opposite" in note for note in opposed.notes)
    assert not any("drifts are opposite" in note for note in alike.notes)


def test_what_the_table_mixes_is_said_before_what_was_found(clean):
    mixed = dataclasses.replace(clean.table, notes=("Column warmup takes 2 values.",))
    notes = judged(clean, table=mixed).notes
    found = next(k for k, note in enumerate(notes) if "run that matters most" in note)
    assert notes.index("Column warmup takes 2 values.") < found


def test_parameters_that_the_runs_do_not_bound_are_named(clean):
    open_ended = clean.parametric.profiles | {"B": Profile(10.0, None)}
    result = judged(clean, parametric=dataclasses.replace(clean.parametric, profiles=open_ended))
    assert any(note.startswith("Not identified") and "most: B." in note for note in result.notes)
    assert not any("Not identified" in note for note in judged(clean).notes)


def test_a_study_that_does_not_foresee_its_largest_budget_is_not_firm():
    done = analysis(searched_and_repeated())
    assert done.verdict.trust == "firm"
    missed = dataclasses.replace(done.rollout.holdouts[0].loss, error=0.5, baseline=0.1)
    first = dataclasses.replace(done.rollout.holdouts[0], loss=missed)
    failing = dataclasses.replace(
        done, rollout=dataclasses.replace(done.rollout, holdouts=(first,))
    )
    assert judged(done, scrutiny=failing, run_ids=[""] * 210).trust != "firm"


def test_one_bad_run_left_in_is_named_and_does_not_move_the_answer():
    frame = isoflop_table(noise=0.0005)
    frame.loc[16, "loss"] *= 1.5
    assert said(frame, "1 run lies far off the surface (row 17 by 50")


def test_a_vanishing_irreducible_loss_is_not_called_a_measurement():
    frame = isoflop_table()
    frame["loss"] = 480 / frame["n_params"] ** 0.35 + 2100 / frame["tokens"] ** 0.37
    assert said(frame, "E is not identified")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_verdict(seed):
    frame = isoflop_table(noise=0.003)
    assert verdict(frame, seed=seed) == verdict(frame, seed=seed)


def test_bracketed_valleys_are_counted_when_their_law_is_refused():
    done = analysis(isoflop_table(budgets=(1e18, 1e19), noise=0.0005))
    assert not isinstance(done.isoflop, IsoflopFit)  # two valleys are no law
    assert any("2 of 2 valleys bracketed" in note for note in done.verdict.notes)
