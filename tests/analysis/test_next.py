"""The proposal command, closed with the truth: what it proposes is run, and what it says holds."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from study_folders import isoflop_table, surface, write_study

from analysis.config import parse_options
from analysis.design.candidates import By
from analysis.design.proposal import Limits, make_proposal
from analysis.errors import InputError, OptionError
from analysis.fits import survey
from analysis.intake.load import load_table
from analysis.isoflop.fit import IsoflopFit
from analysis.next import main, parse
from analysis.parametric.result import ParametricFit
from analysis.refusal import Refusal

NOISE = 0.001


def write(folder, table):
    path = folder / "runs.csv"
    table.to_csv(path, index=False)
    return path


def proposal_for(folder, table, *, runs=8, total=None, by=By.flops):
    path = write(folder, table)
    options = parse_options([f"table={path}", "bootstrap=100"])
    surveyed = survey(load_table(path, where=None, allow_incomplete=False), options)
    return make_proposal(surveyed, Limits(runs, total, by))


def trained(table, proposal, seed=7):
    """Run what is proposed, on the true surface."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "n_params": step.n_params,
            "tokens": step.tokens,
            "flops": step.flops,
            "loss": float(surface(np.array(step.n_params), np.array(step.tokens)))
            * np.exp(NOISE * rng.standard_normal()),
            **({"seed": step.seed or 0} if "seed" in table else {}),
        }
        for step in proposal.steps
    ]
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)


def with_seeds(table):
    """Repeat each budget's middle run twice, so that noise is measured."""
    middle = table.iloc[len(table) // 2 :: 7].head(2)
    repeats = pd.concat([middle.assign(seed=k, loss=middle["loss"] * 1.001**k) for k in (1, 2)])
    return pd.concat([table.assign(seed=0), repeats], ignore_index=True)


def test_an_open_valley_is_closed_by_the_sizes_proposed(tmp_path):
    table = with_seeds(isoflop_table(noise=NOISE))
    top = table["flops"] == table["flops"].max()
    cut = table[~(top & (table["n_params"] > table.loc[top, "n_params"].median() * 0.7))]
    proposal = proposal_for(tmp_path, cut)
    needs = [step for step in proposal.steps if step.why.startswith("valley")]
    assert [step.why for step in needs] == ["valley 1e20: larger sizes"] * 2
    assert min(step.n_params for step in needs) > cut.loc[top, "n_params"].max()
    assert [step.flops for step in needs] == pytest.approx([1e20] * 2)
    again = proposal_for(tmp_path, trained(cut, proposal))
    assert not [step for step in again.steps if step.why.startswith("valley")]


def test_two_budgets_get_a_third_whose_valley_is_bracketed(tmp_path):
    table = with_seeds(isoflop_table(budgets=(1e18, 3e18), noise=NOISE))
    proposal = proposal_for(tmp_path, table)
    new = [step for step in proposal.steps if step.why == "a new budget: 3 valleys at least"]
    assert len(new) == 5
    assert [step.flops for step in new] == pytest.approx([9e18] * 5)
    path = write(tmp_path, trained(table, proposal))
    options = parse_options([f"table={path}", "bootstrap=100"])
    done = survey(load_table(path, where=None, allow_incomplete=False), options)
    assert isinstance(done.isoflop, IsoflopFit)


def test_noise_that_was_not_measured_is_asked_for_with_new_seeds(tmp_path):
    proposal = proposal_for(tmp_path, isoflop_table(noise=NOISE).assign(seed=4))
    repeats = [step for step in proposal.steps if step.seed is not None]
    assert [(step.why, step.seed) for step in repeats] == [("seed noise unknown", 5)] * 3
    assert [step.flops for step in repeats] == pytest.approx([1e18, 3e18, 1e19])
    again = proposal_for(tmp_path, trained(isoflop_table(noise=NOISE).assign(seed=4), proposal))
    assert not [step for step in again.steps if step.seed is not None]


def test_runs_at_one_ratio_get_spread_until_the_surface_can_be_fitted(tmp_path):
    n = np.geomspace(1e8, 1e10, 8)
    table = pd.DataFrame({"n_params": n, "tokens": 20 * n, "flops": 120 * n * n})
    table["loss"] = surface(n, 20 * n)
    proposal = proposal_for(tmp_path, table)
    assert isinstance(proposal.surface, Refusal)
    spread = [step for step in proposal.steps if step.why.startswith("spread")]
    assert spread
    assert all(step.half_width is None for step in proposal.steps)
    ratios = {round(step.tokens / step.n_params, 6) for step in spread}
    assert ratios & {5.0, 80.0}
    again = proposal_for(tmp_path, trained(table, proposal))
    assert isinstance(again.surface, ParametricFit)


def test_one_size_gets_others(tmp_path):
    tokens = np.geomspace(1e9, 1e11, 8)
    n = np.full(8, 1e9)
    table = pd.DataFrame({"n_params": n, "tokens": tokens, "flops": 6 * n * tokens})
    table["loss"] = surface(n, tokens)
    proposal = proposal_for(tmp_path, table)
    assert isinstance(proposal.surface, Refusal)
    assert {step.n_params for step in proposal.steps} >= {5e8, 2e9}


def test_each_added_run_narrows_the_predicted_interval(tmp_path):
    proposal = proposal_for(tmp_path, with_seeds(isoflop_table(noise=NOISE)))
    widths = [proposal.half_width, *(step.half_width for step in proposal.steps)]
    assert len(widths) > 3
    assert widths == sorted(widths, reverse=True)
    assert all(step.why == "narrows a" for step in proposal.steps)


def test_limits_hold(tmp_path):
    table = isoflop_table(noise=NOISE)
    proposal = proposal_for(tmp_path, table, runs=5, total=3e19)
    assert len(proposal.steps) <= 5
    assert sum(step.flops for step in proposal.steps) <= 3e19
    one = proposal_for(tmp_path, table, runs=1)
    assert [step.why for step in one.steps] == ["narrows a"]
    assert one.left_out == 3


def test_repeats_leave_half_of_the_runs_to_what_narrows_the_interval(tmp_path):
    proposal = proposal_for(tmp_path, isoflop_table(noise=NOISE), runs=4)
    assert [step.why for step in proposal.steps] == ["seed noise unknown"] * 2 + ["narrows a"] * 2
    assert proposal.left_out == 1


def timed(table):
    return table.assign(seconds=1e-11 * table["n_params"] ** 0.7 * table["tokens"])


def test_seconds_follow_their_power_law_and_are_what_is_limited(tmp_path):
    table = timed(isoflop_table(noise=NOISE))
    total = 0.3 * float(table["seconds"].sum())
    proposal = proposal_for(tmp_path, table, total=total, by=By.seconds)
    assert proposal.time is not None
    assert (proposal.time.by_n, proposal.time.by_d) == pytest.approx((0.7, 1.0))
    for step in proposal.steps:
        assert step.seconds == pytest.approx(1e-11 * step.n_params**0.7 * step.tokens)
    assert sum(step.seconds or 0.0 for step in proposal.steps) <= total


def test_seconds_need_rows_that_have_them(tmp_path):
    with pytest.raises(InputError, match="by=seconds needs the column 'seconds' in at least 6"):
        proposal_for(tmp_path, isoflop_table(noise=NOISE), by=By.seconds)


def test_too_small_a_budget_is_refused(tmp_path, capsys):
    path = write(tmp_path, isoflop_table(noise=NOISE))
    assert main([f"table={path}", "flops=1e3", "bootstrap=100"]) == 2
    assert "no run that would help fits within flops=1000" in capsys.readouterr().err


def test_the_command_ends_with_what_the_runs_bring(tmp_path, capsys):
    path = write(tmp_path, timed(isoflop_table(noise=NOISE)))
    assert main([f"table={path}", "bootstrap=100", "add=6"]) == 0
    out = capsys.readouterr().out
    pattern = (
        r"a \+-0\.\d{3} -> \+-0\.\d{3} with 6 runs, [\d.]+e\d+ FLOPs, [\d.]+(e\d+)? s  "
        r"\(parametric\)"
    )
    assert re.fullmatch(pattern, out.splitlines()[-1])
    assert "python -m train" not in out


def test_a_refused_surface_still_ends_with_a_line(tmp_path, capsys):
    n = np.geomspace(1e8, 1e10, 8)
    table = pd.DataFrame({"n_params": n, "tokens": 20 * n, "flops": 120 * n * n})
    table["loss"] = surface(n, 20 * n)
    assert main([f"table={write(tmp_path, table)}", "bootstrap=100"]) == 0
    out = capsys.readouterr().out
    assert "parametric: refused: all runs are at D/N = 20" in out
    assert out.splitlines()[-1].endswith("(parametric: refused until they are there)")


WIDTHS = (64, 96, 128, 192, 256)


def study(runs, extra=()):
    """Write a study of ladder rungs, whose manifest has the words it was started with."""
    rows = []
    for flops in (1e15, 3e15, 1e16):
        for width in WIDTHS:
            layers = max(2, round(width / 64))
            n = 256 * width + 12 * layers * width**2
            d = flops / (6 * n)
            rows.append({"n_params": n, "tokens": d, "flops": flops, "width": width,
                         "rung": f"d{width}l{layers}"})  # fmt: skip
    table = pd.DataFrame(rows)
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(len(table)))
    table["loss"] = 1.0 + 50 / table["n_params"] ** 0.3 + 400 / table["tokens"] ** 0.35
    table["loss"] *= noise
    ids = write_study(runs, "ladder", table.drop(columns=["width", "rung"]))
    path = runs / "ladder" / "manifest.json"
    manifest = json.loads(path.read_text())
    for run_id, entry, row in zip(ids, manifest["runs"], rows, strict=True):
        entry["overrides"] = [
            "study.name=ladder", f"model=d{row['width']}", f"budget.flops={row['flops']!r}", *extra,
        ]  # fmt: skip
        result = json.loads((runs / "ladder" / run_id / "result.json").read_text())
        result["row"]["rung"] = row["rung"]
        (runs / "ladder" / run_id / "result.json").write_text(json.dumps(result))
    path.write_text(json.dumps(manifest))


def test_a_study_s_runs_are_on_its_ladder_and_can_be_pasted(tmp_path, capsys):
    study(tmp_path, ("optimizer.batch_tokens=2048",))
    assert main(["study=ladder", f"runs={tmp_path}", "bootstrap=100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line.strip() for line in lines if line.startswith("  python -m train")]
    start = (
        r"python -m train -m study\.name=ladder optimizer\.batch_tokens=2048 study\.extend=true "
        r"model\.d_model=[\d,]+ budget\.flops=[\d.]+e\d+( seed=\d+)?"
    )
    assert commands
    assert all(re.fullmatch(start, line) for line in commands)
    assert any(line.endswith("seed=1") for line in commands)
    widths = {int(w) for line in commands for w in line.split("d_model=")[1].split()[0].split(",")}
    assert widths <= {32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512}


def test_keys_that_the_study_varies_are_left_to_the_reader(tmp_path, capsys):
    study(tmp_path)
    path = tmp_path / "ladder" / "manifest.json"
    manifest = json.loads(path.read_text())
    for k, entry in enumerate(manifest["runs"]):
        entry["overrides"].append(f"optimizer.lr={0.001 * (1 + k % 2)}")
    path.write_text(json.dumps(manifest))
    assert main(["study=ladder", f"runs={tmp_path}", "bootstrap=100"]) == 0
    assert "The study also varies optimizer.lr: add what these" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study=x", "add=0"], "add=0 proposes no run"),
        (["study=x", "flops=-1"], "flops=-1 must be positive"),
        (["study=x", "flops=inf"], "flops=inf must be positive"),
        (["study=x", "seconds=60"], "seconds=60 with by=flops: give flops=TOTAL, or by=seconds"),
        (["study=x", "by=seconds", "flops=1e20"], "give seconds=TOTAL, or by=flops"),
        (["study=x", "by=money"], "by=money is not a choice"),
        (["study=x", "ad=3"], "unknown key 'ad'; did you mean add"),
        (["study=x", "bootstrap=3"], "bootstrap=3 is too few"),
        ([], "give exactly one of"),
    ],
)
def test_bad_words_are_refused(words, message):
    with pytest.raises(OptionError, match=message):
        parse(words)


def test_mistakes_exit_2_without_a_traceback(tmp_path, capsys):
    assert main([f"table={tmp_path / 'nothing.csv'}"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main(["--help"]) == 0
    assert "  add=8" in capsys.readouterr().out
