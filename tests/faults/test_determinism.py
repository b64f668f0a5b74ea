"""E3 and E4: the same config is the same run, whatever the environment of its process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from faults.damage import train_and_kill
from faults.overrides import as_overrides
from faults.runner import run_folder, run_here
from faults.same_run import assert_same_run
from train.config.runtime import AttentionKernel, Device, Dtype
from train.engine.batches import Batches
from train.plan.identity import science
from train.storage.records import canonical_json

REPO = Path(__file__).resolve().parents[2]


def test_e3_twice_a_run_has_the_same_bits(tiny, reference_run):
    assert_same_run(reference_run, run_here(tiny(study__name="again")))


def test_e3_in_bfloat16_it_has_them_after_a_kill_too(tiny):
    """Whatever a device chooses for itself, a restart keeps."""
    chosen = {"machine__dtype": Dtype.bf16, "machine__attention": AttentionKernel.plain}
    once = run_here(tiny(study__name="once", **chosen))
    resumed = train_and_kill(tiny(study__name="resumed", **chosen))
    free = {"machine__dtype": Dtype.auto, "machine__attention": AttentionKernel.auto}
    run_here(tiny(study__name="resumed", **free))
    assert_same_run(once, resumed)


@pytest.mark.gpu
def test_e3_on_cuda_it_has_in_deterministic_mode(tiny):
    """On one model of device and one version of torch."""
    machine = {"machine__device": Device.cuda, "machine__deterministic": True}
    try:
        once = run_here(tiny(study__name="once", **machine))
        again = run_here(tiny(study__name="again", **machine))
        resumed = train_and_kill(tiny(study__name="resumed", **machine))
        run_here(tiny(study__name="resumed", **machine))
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert_same_run(once, again)
    assert_same_run(once, resumed)


def test_e3_control_another_order_of_the_data_has_other_bits(tiny, monkeypatch, reference_run):
    real = Batches.starts
    monkeypatch.setattr(Batches, "starts", lambda batches, step, n: real(batches, 59 - step, n))
    with pytest.raises(AssertionError):
        assert_same_run(reference_run, run_here(tiny()))


HASH_SEEDS = ("1", "2")

OTHERWISE = {"PYTHONHASHSEED": HASH_SEEDS[0], "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"}
"""Nothing of it as here, where the reference run was made."""


def test_e4_hash_seed_locale_zone_umask_and_folder_change_nothing(tiny, tmp_path, reference_run):
    """In an interpreter of its own, for the seed of its hashes is read at its start alone."""
    config, cwd = tiny(), tmp_path / "elsewhere"
    cwd.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "train", *as_overrides(config)],
        cwd=cwd,
        env={**os.environ, **OTHERWISE, "PYTHONPATH": str(REPO)},
        umask=0o077,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    folder = run_folder(config)
    assert folder.path.name == reference_run.path.name
    assert_same_run(reference_run, folder)
    assert list(cwd.iterdir()) == []  # nothing is left where it ran
    assert folder.result.stat().st_mode & 0o777 == 0o600  # the umask is respected


def test_e4_control_python_s_own_hash_would_name_a_run_anew_each_time(tiny):
    text = canonical_json(science(tiny()))
    names = {
        subprocess.run(
            [sys.executable, "-c", "import sys; print(hash(sys.argv[1]))", text],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in HASH_SEEDS
    }
    assert len(names) == 2
    assert all(re.fullmatch(r"-?\d+\n", name) for name in names)
