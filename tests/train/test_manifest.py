"""A study's manifest: registered once, the same again, never silently another."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from train.config import BudgetConfig, Config
from train.errors import ConfigError, DataError, StorageError
from train.identity import science
from train.manifest import PlannedRun, manifest_entry, read_manifest, register_runs
from train.planning import plan_run

MakeConfig = Callable[..., Config]


def planned(config: Config, *overrides: str) -> PlannedRun:
    return PlannedRun(overrides=list(overrides), config=config, plan=plan_run(config))


@pytest.fixture
def runs(make_config: MakeConfig) -> list[PlannedRun]:
    return [planned(make_config(seed=seed), f"seed={seed}") for seed in range(5)]


def test_a_study_that_was_not_planned_has_no_manifest(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "none") is None


def test_a_manifest_holds_what_was_asked_and_what_it_comes_to(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    config = make_config(budget=BudgetConfig(flops=1e10))
    run = planned(config, "budget.flops=1e10")
    register_runs(tmp_path / "s", "s", [run], extend=False)
    manifest = read_manifest(tmp_path / "s")
    assert manifest is not None
    assert manifest["study"] == "s"
    (entry,) = manifest["runs"]
    assert entry == json.loads(json.dumps(manifest_entry(run)))
    assert entry["run_id"] == run.plan.run_id
    assert entry["overrides"] == ["budget.flops=1e10"]
    assert entry["science"] == science(config)
    assert entry["plan"] == {
        "rung": "d32l2",
        "n_params": 26_624,
        "n_params_total": 26_624 + 2_048 + 2 * 96 + 32,
        "tokens": run.plan.steps * 256,
        "flops": 6 * 26_624 * run.plan.steps * 256,
        "flops_exact": (6 * 26_624 + 12 * 2 * 32 * 32) * run.plan.steps * 256,
        "steps": round(1e10 / 6 / 26_624 / 256),
        "lr": 0.01,
    }


def test_the_same_grid_again_changes_nothing(tmp_path: Path, runs: list[PlannedRun]) -> None:
    register_runs(tmp_path, "s", runs, extend=False)
    before = (tmp_path / "manifest.json").read_bytes()
    register_runs(tmp_path, "s", list(reversed(runs)), extend=False)
    register_runs(tmp_path, "s", runs[1:2], extend=False)  # one job of the study
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_another_grid_is_refused_and_leaves_the_manifest(
    tmp_path: Path, runs: list[PlannedRun]
) -> None:
    register_runs(tmp_path, "s", runs[:1], extend=False)
    before = (tmp_path / "manifest.json").read_bytes()
    names = ", ".join(run.plan.run_id for run in runs[1:4])
    message = (
        f"study.name=s: {tmp_path} was planned with another grid; 4 of 5 runs are not in it "
        f"({names}, ...); use study.extend=true to add them, or another study.name"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        register_runs(tmp_path, "s", runs, extend=False)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_scratch_takes_any_run(tmp_path: Path, runs: list[PlannedRun]) -> None:
    register_runs(tmp_path, "scratch", runs[:1], extend=False)
    register_runs(tmp_path, "scratch", runs[1:], extend=False)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert len(manifest["runs"]) == len(runs)


def test_extending_appends_and_keeps_what_was_there(tmp_path: Path, runs: list[PlannedRun]) -> None:
    register_runs(tmp_path, "s", runs[:2], extend=False)
    register_runs(tmp_path, "s", runs[1:], extend=True)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert [run["run_id"] for run in manifest["runs"]] == [run.plan.run_id for run in runs]
    assert [run["overrides"] for run in manifest["runs"]] == [run.overrides for run in runs]


def test_the_hash_is_of_the_runs(tmp_path: Path, runs: list[PlannedRun]) -> None:
    register_runs(tmp_path / "a", "a", runs, extend=False)
    register_runs(tmp_path / "b", "b", runs, extend=False)
    register_runs(tmp_path / "c", "c", runs[:4], extend=False)
    hashes = [read_manifest(tmp_path / name)["sha256"] for name in "abc"]  # type: ignore[index]
    assert hashes[0] == hashes[1] != hashes[2]
    assert all(len(bytes.fromhex(each)) == hashlib.sha256().digest_size for each in hashes)


def test_a_manifest_that_is_not_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{torn", encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest.json: not JSON .*; bring the file back"):
        read_manifest(tmp_path)


def test_a_study_folder_that_cannot_be_made_is_a_storage_error(runs: list[PlannedRun]) -> None:
    with pytest.raises(StorageError, match="/proc/nowhere/x: cannot be written"):
        register_runs(Path("/proc/nowhere/x"), "x", runs, extend=False)
