"""What a run has cost: as it is written, as it is read back, and where no version recorded it."""

import json

import pytest

from train.run_folder.accounting import RunCost, cost_number, read_cost

PLAN = {"steps": 40, "flops": 6_000, "flops_exact": 8_000}


def test_device_seconds_are_what_its_time_was_spent_on_times_its_devices():
    spent = {"train": 8.0, "data": 1.0, "logging": 0.5}
    for devices, charged in ((1.0, 9.5), (4.0, 38.0), (0.5, 4.75)):
        cost = RunCost(flops=8, flops_charged=8, seconds=9.0, spent=spent, devices=devices)
        assert cost.seconds_charged == charged


def test_what_is_written_is_read_back():
    cost = RunCost(
        flops=1_000_001 * (10**15 + 1),
        flops_charged=500_001 * (10**15 + 1),
        seconds=9.0625,
        spent={"train": 8.0, "other": 0.25},
        stack=8,
        devices=0.5,
        peak_flops=2.2e11,
        peak_datasheet=9.894e14,
        forked_from="d8l2-b",
        fork_step=500_000,
    )
    written = json.loads(json.dumps(cost.to_json()))
    known = read_cost(PLAN, {}, {"cost": written})
    assert known.flops == 1_000_001 * (10**15 + 1)  # to the last digit
    assert known.to_json() == {**written, "spent": known.spent, "seconds": 9.062}
    assert {kind: seconds for kind, seconds in known.spent.items() if seconds} == cost.spent


def test_kinds_of_time_of_other_versions_are_kept_as_other():
    recorded = {"spent": {"train": 8.0, "waiting": 0.5, "other": 0.25, "x": "y"}, "devices": 2.0}
    known = read_cost(PLAN, {}, {"cost": recorded})
    assert (known.spent["train"], known.spent["other"], known.seconds_charged) == (8.0, 0.75, 17.5)


def test_the_result_goes_before_the_status():
    status, result = ({"cost": {"flops": flops}} for flops in (1, 2))
    assert read_cost(PLAN, status, result).flops == 2
    assert read_cost(PLAN, status, {}).flops == 1


def test_a_run_without_a_record_is_counted_by_its_row():
    result = {"row": {"flops_exact": 7_777, "seconds": 5.0}}
    assert read_cost(PLAN, {"step": 10, "seconds": 3.0}, result) == RunCost(
        flops=7_777, flops_charged=7_777, seconds=5.0, spent={"train": 5.0}
    )


def test_an_unfinished_run_without_a_record_is_counted_by_its_steps():
    cost = read_cost(PLAN, {"step": 10, "seconds": 3.0}, {})
    assert (cost.flops, cost.flops_charged, cost.seconds_charged) == (2_000, 2_000, 3.0)


def test_a_run_that_did_nothing_has_cost_nothing():
    assert read_cost(PLAN, {}, {}) is None
    assert read_cost(PLAN, {"state": "failed", "step": 0, "seconds": 0.0}, {}) is None


@pytest.mark.parametrize(
    "value", ["ten", None, [], {}, -1, -0.5, float("nan"), float("inf"), 10**400]
)
def test_what_can_be_no_cost_is_nothing(value):
    assert cost_number(value) == 0.0
    cost = read_cost({}, {}, {"cost": dict.fromkeys(RunCost.__dataclass_fields__, value)})
    assert (cost.flops, cost.seconds_charged, sum(cost.spent.values())) == (0, 0.0, 0.0)
    assert (cost.stack, cost.devices, cost.peak_flops, cost.fork_step) == (1, 1.0, None, None)
    assert read_cost({}, {"step": value, "seconds": value}, {"row": value}) is None
