"""What a study has cost: sums by hand, shares of time, and the slots of its launches."""

from pathlib import Path

import pytest

from train.run_folder.accounting import RunCost, TimeKind, run_cost
from train.storage.records import append_jsonl
from train.study.costs import launch_costs, study_costs


def trunk_and_branch() -> list[RunCost]:
    """Ten steps, and six steps of which five are the other's; two devices, in a stack of two."""
    return [
        run_cost(
            step_flops=100,
            step=10,
            seconds=20.0,
            spent={"train": 8.0, "data": 2.0, "startup": 4.0},
            stack=2,
            devices=2.0,
            peak_flops=100.0,
            peak_datasheet=125.0,
        ),
        run_cost(
            step_flops=100,
            step=6,
            seconds=12.0,
            spent={"train": 1.0, "evaluation": 1.0},
            stack=2,
            devices=2.0,
            peak_flops=100.0,
            peak_datasheet=125.0,
            forked_from="long",
            fork_step=5,
        ),
    ]


def test_shared_work_is_counted_once() -> None:
    costs = study_costs(trunk_and_branch(), n_completed=2)
    assert (costs.flops, costs.flops_computed) == (1_600, 1_100)
    assert costs.seconds == 2 * 14.0 + 2 * 2.0
    assert costs.runs_per_hour == 2 * 3600 / 32.0
    assert costs.shares == {
        TimeKind.train: 18 / 32,
        TimeKind.startup: 8 / 32,
        TimeKind.data: 4 / 32,
        TimeKind.evaluation: 2 / 32,
    }
    assert list(costs.shares) == [
        TimeKind.train,
        TimeKind.startup,
        TimeKind.data,
        TimeKind.evaluation,
    ]
    # 11 seconds of training on two devices could have multiplied 2,200 and 2,750
    assert costs.mfu == pytest.approx(1_100 / 2_200)
    assert costs.mfu_datasheet == pytest.approx(1_100 / 2_750)


def test_the_report_in_words() -> None:
    assert study_costs(trunk_and_branch(), n_completed=2).lines() == [
        "cost: 1.6e+03 FLOPs of 2 runs, attention included, for 1.1e+03 computed (69%); "
        "0.00889 device-hours, 225 completed runs per device-hour",
        "time: 56.2% steps, 25.0% start-up, 12.5% data, 6.2% evaluation; mean MFU 50.0% of the "
        "measured peak, 40.0% of the datasheet's",
    ]


def test_runs_without_a_peak_are_left_out_of_the_mean_mfu() -> None:
    (known, _), unknown = (
        trunk_and_branch(),
        run_cost(step_flops=999, step=9, seconds=1.0, spent={"train": 1.0}),
    )
    costs = study_costs([known, unknown], n_completed=1)
    assert costs.mfu == pytest.approx(1_000 / 2_000)
    alone = study_costs([unknown], n_completed=1)
    assert (alone.mfu, alone.mfu_datasheet) == (None, None)
    assert alone.lines()[1] == "time: 100.0% steps"


def test_a_study_that_has_cost_nothing_says_nothing(tmp_path: Path) -> None:
    assert study_costs([], n_completed=0).lines() == []
    assert launch_costs(tmp_path).lines() == []


def test_the_slots_of_launches_add_up(tmp_path: Path) -> None:
    path = tmp_path / "launch.jsonl"
    append_jsonl(
        path,
        [{"slots": 2, "busy_seconds": 3_000, "waiting_seconds": 36.0, "starved_seconds": 564.0}],
    )
    (line,) = launch_costs(tmp_path).lines()
    assert line == (
        "slots: 1 hours in 1 launch: 83.3% busy, 1.0% free though a job waited, 15.7% without a job"
    )
    append_jsonl(path, [{"busy_seconds": 3_600, "waiting_seconds": "x"}, {}])
    costs = launch_costs(tmp_path)
    assert (costs.n_launches, costs.busy, costs.waiting, costs.starved) == (3, 6_600, 36.0, 564.0)
    assert costs.lines()[0].startswith("slots: 2 hours in 3 launches: 91.7% busy")


def test_launches_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "launch.jsonl"
    path.write_text('{torn\n{"busy_seconds": 5}\n[]\n', encoding="utf-8")
    assert launch_costs(tmp_path).busy == 5.0
    path.unlink()
    path.mkdir()
    assert launch_costs(tmp_path).n_launches == 0
