"""The numbers of an undisturbed run do not move unannounced."""

import platform

import pytest

from faults.golden import COMMAND, GOLDEN, curve, differences, torch_minor
from faults.runner import run_here
from train.storage.records import read_json


@pytest.fixture(scope="module")
def golden():
    """The curve of this torch; the test is skipped where there is none."""
    curves = read_json(GOLDEN)["curves"]
    if torch_minor() not in curves:
        pytest.skip(f"no golden curve of torch {torch_minor()}; make it: {COMMAND}")
    if curves[torch_minor()]["machine"] != platform.machine():
        pytest.skip(f"the golden curve is of {curves[torch_minor()]['machine']}")
    return dict(curves[torch_minor()])


def test_the_undisturbed_run_is_the_golden_one(golden, reference_run):
    assert len(golden["loss"]) == 60
    assert differences(golden, curve(reference_run)) == []


@pytest.mark.parametrize("change", [{"optimizer__lr": 0.01001}, {"optimizer__beta2": 0.95095}])
def test_control_a_change_of_one_setting_by_a_thousandth_is_noticed(golden, tiny, change):
    assert differences(golden, curve(run_here(tiny(**change)))) != []
