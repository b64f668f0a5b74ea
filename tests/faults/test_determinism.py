"""The same config is the same run: rows E3 and E4 of the fault catalogue.

E3 twice and after a kill, on the CPU and in CUDA's deterministic mode; E4 whatever the environment
of its process.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from faults.damage import train_and_kill
from faults.overrides import as_overrides
from faults.runner import run_folder, run_here
from faults.same_run import assert_same_run
from train.batches import Batches
from train.config import Config, Device
from train.identity import canonical_json, science
from train.rundir import RunFolder

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "device", [pytest.param(Device.cpu), pytest.param(Device.cuda, marks=pytest.mark.gpu)]
)
def test_e3_twice_and_after_a_kill_a_run_has_the_same_bits(
    tiny: Callable[..., Config], device: Device
) -> None:
    """On CUDA in deterministic mode, on one model of device."""
    machine = {"machine__device": device, "machine__deterministic": True}
    try:
        once = run_here(tiny(study__name="once", **machine))
        twice = run_here(tiny(study__name="twice", **machine))
        resumed = train_and_kill(tiny(study__name="resumed", **machine))
        run_here(tiny(study__name="resumed", **machine))
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert_same_run(once, twice)
    assert_same_run(once, resumed)


def test_e3_control_another_order_of_the_data_has_other_bits(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, reference_run: RunFolder
) -> None:
    real = Batches.train
    monkeypatch.setattr(Batches, "train", lambda batches, step: real(batches, 59 - step))
    with pytest.raises(AssertionError):
        assert_same_run(reference_run, run_here(tiny()))


ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "east": {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "umask": 0o077},
    "west": {"PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "TZ": "America/Lima", "umask": 0o002},
}


def start_in(environment: dict[str, Any], config: Config, cwd: Path) -> "subprocess.Popen[str]":
    """The command in an interpreter of its own, which alone reads the seed of its hashes."""
    cwd.mkdir()
    settings = {key: value for key, value in environment.items() if key != "umask"}
    return subprocess.Popen(
        [sys.executable, "-m", "train", *as_overrides(config)],
        cwd=cwd,
        env={**os.environ, **settings, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        umask=environment["umask"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def test_e4_hash_seed_locale_zone_umask_and_folder_change_nothing(
    tiny: Callable[..., Config], tmp_path: Path, reference_run: RunFolder
) -> None:
    configs = {name: tiny(study__name=name) for name in ENVIRONMENTS}
    children = [
        start_in(environment, configs[name], tmp_path / f"in {name}")
        for name, environment in ENVIRONMENTS.items()
    ]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
    for name in ENVIRONMENTS:
        folder = run_folder(configs[name])
        assert [path.name for path in folder.path.parent.glob("*-*")] == [reference_run.path.name]
        assert_same_run(reference_run, folder)
        assert list((tmp_path / f"in {name}").iterdir()) == []  # nothing is left where it ran
    modes = {name: run_folder(configs[name]).result.stat().st_mode & 0o777 for name in ENVIRONMENTS}
    assert modes == {"east": 0o600, "west": 0o664}  # the umask did differ, and is respected


def test_e4_control_python_s_own_hash_would_name_a_run_anew_each_time(
    tiny: Callable[..., Config],
) -> None:
    text = canonical_json(science(tiny()))
    names = {
        subprocess.run(
            [sys.executable, "-c", "import sys; print(hash(sys.argv[1]))", text],
            env={**os.environ, "PYTHONHASHSEED": environment["PYTHONHASHSEED"]},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for environment in ENVIRONMENTS.values()
    }
    assert len(names) == 2
    assert all(re.fullmatch(r"-?\d+\n", name) for name in names)
