"""A study's state as its folders tell it, with every state, and the command's exit codes."""

import dataclasses
from pathlib import Path

import pytest

from tests.train.planned_runs import planned, status_row
from train import status
from train.config.experiment import OptimizerConfig
from train.config.runtime import MachineConfig
from train.errors import ConfigError, DivergedError
from train.plan.planning import plan_run
from train.run_folder.accounting import RunCost
from train.run_folder.manifest import find_study, register_runs
from train.run_folder.run_folder import RunFolder
from train.status import cost_lines, summary
from train.storage.records import read_json, write_json
from train.study.run_status import study_status
from train.training.trainer import train_run


@pytest.fixture
def study(tmp_path, make_config):
    """Six planned runs of 40 steps."""
    runs = [planned(make_config(seed=seed)) for seed in range(6)]
    folder = tmp_path / "runs" / "tiny"
    register_runs(folder, "tiny", runs, extend=False)
    return folder


def folders(study):
    made = [RunFolder(study / run.run_id) for run in study_status(study)]
    for folder in made:
        folder.path.mkdir(exist_ok=True)
    return made


def test_the_summary_counts_states_flops_and_time_left_by_hand():
    runs = [
        status_row("completed", 100, flops=6 * 10**9, seconds=60.0),
        status_row("running", 50, flops=4 * 10**9, seconds=20.0),
        status_row("planned", 0, flops=6 * 10**9, seconds=0.0),
    ]
    # 8e9 FLOPs took 80 s, and 8e9 of 16e9 are left
    assert summary(runs) == (
        "3 runs: 1 completed, 1 planned, 1 running; 50% of 1.6e+10 FLOPs; "
        "about 80 s left at the rate so far, 1 at a time"
    )


def test_the_summary_counts_attempts_that_were_cut_short_by_cause():
    runs = [
        status_row("completed", 100, flops=6, attempts=3, stops={"killed": 2}),
        status_row("failed", 4, flops=4, attempts=1, stops={"bug": 1}),
        status_row("completed", 100, flops=6, attempts=1),
    ]
    assert summary(runs).endswith("FLOPs; 5 attempts, cut short: 2 killed, 1 bug")


def test_runs_that_ended_keep_their_seconds_for_the_rate(make_config):
    config = make_config(machine=MachineConfig(log_every=10))
    train_run(config, plan_run(config))
    diverging = make_config(
        optimizer=OptimizerConfig(lr=1e30, batch_tokens=256), machine=MachineConfig(log_every=1)
    )
    with pytest.raises(DivergedError):
        train_run(diverging, plan_run(diverging))
    runs = Path(config.paths.runs) / "tiny"
    told = {path.parent: read_json(path) for path in runs.glob("*/status.json")}
    assert sorted(status["state"] for status in told.values()) == ["completed", "diverged"]
    assert all(status["seconds"] > 0 for status in told.values())


def test_nothing_is_left_of_a_finished_study():
    done = [status_row("diverged", 7, flops=10, seconds=1.0)]
    assert summary(done) == "1 runs: 1 diverged; 100% of 10 FLOPs"


def test_a_study_that_does_not_exist_lists_near_names(study, tmp_path):
    runs = tmp_path / "runs"
    assert find_study(runs, "tiny") == study
    assert study_status(tmp_path / "none") == []
    for root, name, message in (
        (runs, "tinny", r"study=tinny: no such study in .*; did you mean tiny\?"),
        (runs, "zzz", "; known: tiny"),
        (tmp_path / "empty", "tiny", r"no such study in .*/empty/$"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_study(root, name)


def test_the_command_prints_every_run(study, tmp_path, capsys):
    folders(study)[0].write_status("failed", reason="because", step=4, exit_code=1)
    assert status.main(["study=tiny", f"runs={tmp_path / 'runs'}"]) == 0
    printed = capsys.readouterr().out
    for run in study_status(study):
        assert run.run_id in printed
    assert "because" in printed
    assert "6 runs: 1 failed, 5 planned; 2% of" in printed  # 4 of 240 steps


def test_the_command_shows_time_left_stops_and_notes(study, tmp_path, capsys):
    folder = folders(study)[0]
    folder.log_attempt("start", attempt=1)
    folder.log_attempt("start", attempt=2)
    folder.write_status("running", step=10, seconds=5.0)
    with folder.locked():
        assert status.main(["study=tiny", f"runs={tmp_path / 'runs'}"]) == 0
    line, *_ = [line for line in capsys.readouterr().out.splitlines() if "running" in line]
    assert line.split()[1:3] == ["running", "25%"]
    assert line.split()[4:] == ["15", "s", "1", "killed"]  # 30 of 40 steps, 10 took 5 s


def test_what_a_file_says_is_never_markup(study, tmp_path, capsys):
    folders(study)[0].write_status("failed", reason="[/red] [bold]x", step=0)
    assert status.main(["study=tiny", f"runs={tmp_path / 'runs'}"]) == 0
    assert "[/red] [bold]x" in capsys.readouterr().out


def cost(**facts):
    """On one device whose measured peak is 100 FLOP/s."""
    facts = {"flops": 0, "seconds": 0.0, "peak_flops": 100.0, **facts}
    return RunCost(**{"flops_charged": facts["flops"], **facts})


def costs(*runs):
    return cost_lines([dataclasses.replace(status_row("completed"), cost=each) for each in runs])


TRUNK = cost(
    flops=1_000,
    spent={"train": 8.0, "data": 2.0, "startup": 4.0},
    devices=2.0,
    peak_datasheet=125.0,
)
BRANCH = cost(
    flops=600,
    flops_charged=100,
    spent={"train": 1.0, "evaluation": 1.0},
    devices=2.0,
    peak_datasheet=125.0,
)


def test_shared_work_is_counted_once_by_hand():
    # 11 seconds of training on two devices could have multiplied 2,200 and 2,750
    assert costs(TRUNK, BRANCH, None) == [
        "cost: 1.6e+03 FLOPs of 2 runs, attention included, for 1.1e+03 computed (69%); "
        "0.00889 device-hours, 338 completed runs per device-hour",
        "time: 56.2% steps, 25.0% start-up, 12.5% data, 6.2% evaluation; mean MFU 50.0% of the "
        "measured peak, 40.0% of the datasheet's",
    ]


def test_runs_without_a_peak_are_left_out_of_the_mean_mfu():
    unknown = cost(flops=8_991, spent={"train": 1.0}, peak_flops=None)
    assert costs(TRUNK, unknown)[1].endswith(
        "; mean MFU 50.0% of the measured peak, 40.0% of the datasheet's"
    )
    assert costs(unknown)[1] == "time: 100.0% steps"


def test_the_command_prints_what_runs_have_cost_last(study, tmp_path, capsys):
    whole, branch, old, *_ = folders(study)
    spent = {"train": 54.0, "evaluation": 6.0}
    write_json(whole.result, {"cost": cost(flops=4_000, spent=spent).to_json()})
    whole.write_status("completed", step=40)
    half = cost(flops=2_000, flops_charged=400, spent={"train": 6.0}, fork_step=16)
    branch.write_status("running", step=20, cost=half.to_json())
    plan = read_json(study / "manifest.json")["runs"][2]["plan"]
    write_json(old.result, {"row": {"flops_exact": plan["flops_exact"], "seconds": 4.0}})
    old.write_status("completed", step=40)
    assert status.main(["study=tiny", f"runs={tmp_path / 'runs'}"]) == 0
    total, computed = 4_000 + 2_000 + plan["flops_exact"], 4_000 + 400 + plan["flops_exact"]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"cost: {total:.3g} FLOPs of 3 runs, attention included, for {computed:.3g} computed "
        f"({computed / total:.0%}); 0.0194 device-hours, 103 completed runs per device-hour",
        "time: 91.4% steps, 8.6% evaluation; mean MFU 73.3% of the measured peak",
    ]


def test_a_study_that_has_cost_nothing_ends_with_its_summary(study, tmp_path, capsys):
    assert status.main(["study=tiny", f"runs={tmp_path / 'runs'}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("6 runs: 6 planned; 0% of")


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_is_printed_and_ends_well(word, capsys):
    assert status.main([word, "study=nope"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("python -m train.status study=NAME [runs=DIR]\n")
    assert printed.err == ""


def test_a_damaged_manifest_ends_with_exit_2_and_its_name(study, tmp_path, capsys):
    (study / "manifest.json").write_text("{torn", encoding="utf-8")
    assert status.main(["study=tiny", f"runs={tmp_path / 'runs'}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {study / 'manifest.json'}: not JSON")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: study=NAME is missing: python -m train.status study=NAME [runs=DIR]"),
        (["stuy=tiny"], "error: stuy=tiny: unknown option; did you mean study?"),
        (["tiny"], "error: tiny: unknown option; known: runs, study"),
        (["study=nope", "runs=nowhere"], "error: study=nope: no such study in nowhere/"),
    ],
)
def test_a_wrong_command_ends_with_exit_2(words, message, capsys):
    assert status.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.strip() == message


def test_a_name_that_no_file_system_takes_is_said_without_a_traceback(tmp_path, capsys):
    assert status.main([f"study={'a' * 300}", f"runs={tmp_path}"]) == 3
    assert "cannot be written or read (File name too long)" in capsys.readouterr().err
