"""What a run has cost: as it is written, as it is read back, and where no version recorded it."""

import json
from typing import Any

import pytest

from train.run_folder.accounting import RunCost, cost_number, read_cost, run_cost

PLAN = {"steps": 40, "flops": 6_000, "flops_exact": 8_000}


def test_a_run_alone_is_charged_everything() -> None:
    cost = run_cost(
        step_flops=200, step=40, seconds=9.0, spent={"train": 8.0, "data": 1.0, "logging": 0.5}
    )
    assert (cost.flops, cost.flops_charged) == (8_000, 8_000)
    assert (cost.seconds, cost.seconds_charged) == (9.0, 9.5)
    assert (cost.stack, cost.devices, cost.forked_from, cost.fork_step) == (1, 1.0, None, None)


def test_a_branch_keeps_its_c_and_is_charged_what_follows_its_fork() -> None:
    cost = run_cost(
        step_flops=200,
        step=40,
        seconds=9.0,
        spent={"train": 1.5, "evaluation": 0.5},
        forked_from="d8l2-b",
        fork_step=32,
    )
    assert (cost.flops, cost.flops_charged) == (8_000, 1_600)
    assert (cost.seconds, cost.seconds_charged) == (9.0, 2.0)


def test_several_devices_and_parts_of_one_count_as_such() -> None:
    def charged(devices: float) -> float:
        spent = {"train": 6.0}
        return run_cost(
            step_flops=1, step=1, seconds=6.0, spent=spent, devices=devices
        ).seconds_charged

    assert (charged(4.0), charged(0.5)) == (24.0, 3.0)


def test_what_is_written_is_read_back() -> None:
    cost = run_cost(
        step_flops=10**15 + 1,
        step=1_000_001,
        seconds=9.0625,
        spent={"train": 8.0, "undone": 0.25},
        stack=8,
        devices=0.5,
        peak_flops=2.2e11,
        peak_datasheet=9.894e14,
        forked_from="d8l2-b",
        fork_step=500_000,
    )
    facts = json.loads(json.dumps(cost.facts()))
    known = read_cost(PLAN, {}, {"cost": facts})
    assert known is not None
    assert known.flops == 1_000_001 * (10**15 + 1)  # to the last digit
    assert known.facts() == {**facts, "spent": known.spent, "seconds": 9.062}
    assert {what: seconds for what, seconds in known.spent.items() if seconds} == cost.spent


def test_the_result_goes_before_the_status() -> None:
    status, result = ({"cost": {"flops": flops}} for flops in (1, 2))
    assert read_cost(PLAN, status, result).flops == 2  # type: ignore[union-attr]
    assert read_cost(PLAN, status, {}).flops == 1  # type: ignore[union-attr]


def test_a_run_without_a_record_is_counted_by_its_row() -> None:
    result = {"row": {"flops_exact": 7_777, "seconds": 5.0}}
    assert read_cost(PLAN, {"step": 10, "seconds": 3.0}, result) == RunCost(
        flops=7_777,
        flops_charged=7_777,
        seconds=5.0,
        seconds_charged=5.0,
        spent={"train": 5.0},
    )


def test_an_unfinished_run_without_a_record_is_counted_by_its_steps() -> None:
    cost = read_cost(PLAN, {"step": 10, "seconds": 3.0}, {})
    assert cost is not None
    assert (cost.flops, cost.flops_charged, cost.seconds_charged) == (2_000, 2_000, 3.0)


def test_a_run_that_did_nothing_has_cost_nothing() -> None:
    assert read_cost(PLAN, {}, {}) is None
    assert read_cost(PLAN, {"state": "failed", "step": 0, "seconds": 0.0}, {}) is None


@pytest.mark.parametrize(
    "value", ["ten", None, [], {}, -1, -0.5, float("nan"), float("inf"), 10**400]
)
def test_what_can_be_no_cost_is_nothing(value: Any) -> None:
    assert cost_number(value) == 0.0
    cost = read_cost({}, {}, {"cost": dict.fromkeys(RunCost.__dataclass_fields__, value)})
    assert cost is not None
    assert (cost.flops, cost.seconds_charged, sum(cost.spent.values())) == (0, 0.0, 0.0)
    assert (cost.stack, cost.devices, cost.peak_flops, cost.fork_step) == (1, 1.0, None, None)
    assert read_cost({}, {"step": value, "seconds": value}, {"row": value}) is None
