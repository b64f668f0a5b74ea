"""The lines of a plan that say which runs share a job, and what that saves."""

from collections.abc import Callable

import pytest

from train.config.experiment import BudgetConfig, ScheduleConfig, ScheduleShape
from train.config.runtime import MachineConfig
from train.config.schema import Config
from train.plan.grouping import RunGroup, group_runs
from train.plan.planning import PlannedRun, plan_run
from train.study.dry_run import job_lines, print_plan


@pytest.fixture
def runs(make_config: Callable[..., Config]) -> list[PlannedRun]:
    """Two replicas of two horizons, 100 and 50 steps, and one run of 10 steps."""
    made = []
    for seed, steps in ((0, 100), (1, 100), (0, 50), (1, 50), (5, 10)):
        config = make_config(
            seed=seed,
            budget=BudgetConfig(tokens=steps * 256.0),
            schedule=ScheduleConfig(shape=ScheduleShape.wsd, warmup_steps=2),
            machine=MachineConfig(stack=2, workers=1),
        )
        made.append(PlannedRun(overrides=[], config=config, plan=plan_run(config)))
    return made


def groups_of(runs: list[PlannedRun]) -> list[RunGroup]:
    return group_runs(runs, best_stack=lambda run, n: n)


def test_jobs_of_several_runs_are_listed_with_what_they_compute(runs: list[PlannedRun]) -> None:
    per_step = runs[0].plan.flops_exact // 100
    assert job_lines(groups_of(runs)) == [
        f"to train: jobs 2, runs 5; C of all runs {310 * per_step:.4g} FLOPs exact, computed "
        f"{230 * per_step:.4g} (74.2%; what runs share counts once)",
        f"  2 x 2 horizons: {runs[0].plan.run_id} and 3 more, computed {220 * per_step:.4g} FLOPs "
        f"of {300 * per_step:.4g}",
    ]


def test_a_single_run_is_one_job(runs: list[PlannedRun]) -> None:
    (line,) = job_lines(groups_of(runs[4:]))
    assert line.startswith("to train: jobs 1, runs 1; C of all runs ")
    assert line.endswith("(100.0%; what runs share counts once)")


def test_nothing_to_train_is_no_job() -> None:
    assert job_lines([]) == []


def test_the_plan_s_time_counts_shared_steps_once(
    runs: list[PlannedRun], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "train.study.dry_run.seconds_per_run",
        lambda runs: {run.plan.run_id: float(run.plan.steps) for run in runs},
    )
    print_plan(runs, groups_of(runs))
    printed = capsys.readouterr().out
    assert (
        "; 4 min of work to do (5 min for all, each alone), at least 4 min on the clock;" in printed
    )
    assert "to train: jobs 2, runs 5;" in printed
    assert all(run.plan.run_id in printed for run in runs)
    print_plan(runs, [])
    assert (
        "; 0 s of work to do (5 min for all, each alone), at least 0 s on the clock;"
        in capsys.readouterr().out
    )
