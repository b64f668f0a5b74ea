import numpy as np
import pandas as pd
from study_folders import isoflop_table

from analysis.config import parse_options
from analysis.fits import analyse, survey
from analysis.intake.load import load_table
from analysis.refusal import Refusal


def analysed(folder, table):
    path = folder / "runs.csv"
    table.to_csv(path, index=False)
    options = parse_options([f"table={path}", "bootstrap=100"])
    return analyse(
        survey(load_table(path, where=None, allow_incomplete=False), options), lambda done: None
    )


def test_runs_without_any_answer_are_not_questioned(tmp_path):
    table = isoflop_table()
    table["loss"] = 3 + 0.05 * np.random.default_rng(0).standard_normal(len(table))
    found = analysed(tmp_path, table)
    assert isinstance(found.isoflop, Refusal)
    assert isinstance(found.parametric, Refusal)
    assert isinstance(found.envelope, Refusal)
    for part in (found.multiverse, found.rollout):
        assert isinstance(part, Refusal)
        assert part.why == "every approach was refused, so there is no answer to question"
    for part in (found.local, found.counted, found.influence):
        assert isinstance(part, Refusal)
        assert part.why == "the surface was refused"
    assert not any("a runs from" in note for note in found.verdict.notes)


def test_learning_rates_that_are_all_too_low_leave_nothing_and_say_why(tmp_path):
    table = isoflop_table()
    tried = [table.assign(lr=lr, loss=table["loss"] * (1.1 - 20 * lr)) for lr in (1e-3, 2e-3, 4e-3)]
    found = analysed(tmp_path, pd.concat(tried, ignore_index=True))
    assert isinstance(found.isoflop, Refusal)
    assert "add higher ones" in found.isoflop.why
    assert isinstance(found.parametric, Refusal)
    assert isinstance(found.forms, Refusal)
