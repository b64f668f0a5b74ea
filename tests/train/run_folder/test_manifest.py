"""A study's manifest: registered once, the same again, never silently another."""

import errno
import hashlib
import json
import re
from pathlib import Path

import pytest
from faults.damage import contents

from tests.train.planned_runs import planned
from train.config.experiment import BudgetConfig
from train.config.runtime import SCRATCH
from train.errors import ConfigError, DataError, StorageError
from train.plan.identity import science
from train.run_folder.manifest import (
    manifest_entry,
    read_manifest,
    refuse_another_grid,
    register_runs,
)
from train.storage.lock import hold
from train.storage.records import canonical_json


@pytest.fixture
def runs(make_config):
    return [planned(make_config(seed=seed), f"seed={seed}") for seed in range(5)]


@pytest.fixture
def study(tmp_path, runs):
    register_runs(tmp_path / "s", "s", runs, extend=False)
    return tmp_path / "s"


def test_a_manifest_holds_what_was_asked_and_what_it_comes_to(tmp_path, make_config):
    config = make_config(budget=BudgetConfig(flops=1e10))
    run = planned(config, "budget.flops=1e10")
    assert read_manifest(tmp_path / "s") is None
    register_runs(tmp_path / "s", "s", [run], extend=False)
    manifest = read_manifest(tmp_path / "s")
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


def test_the_same_grid_again_changes_nothing_and_waits_for_no_writer(study, runs):
    before = (study / "manifest.json").read_bytes()
    with hold(study / "manifest.lock", task="is writing its manifest"):
        register_runs(study, "s", list(reversed(runs)), extend=False)
        register_runs(study, "s", runs[1:2], extend=False)  # one job of the study
    assert (study / "manifest.json").read_bytes() == before


def test_another_grid_is_refused_before_anything_is_locked_or_written(tmp_path, runs):
    def refuse(runs, study="s", *, extend=False):
        refuse_another_grid(read_manifest(tmp_path), tmp_path, study, runs, extend=extend)

    refuse(runs)  # nothing was planned yet
    register_runs(tmp_path, "s", runs[:1], extend=False)
    there = contents(tmp_path)
    names = ", ".join(run.plan.run_id for run in runs[1:4])
    message = (
        f"study.name=s: {tmp_path} was planned with another grid; 4 of 5 runs are not in it "
        f"({names}, ...); use study.extend=true to add them, or another study.name"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        refuse(runs)
    with pytest.raises(ConfigError, match=re.escape(message)):
        register_runs(tmp_path, "s", runs, extend=False)
    refuse(runs, extend=True)
    refuse(runs, SCRATCH)
    refuse(runs[:1])
    assert contents(tmp_path) == there


@pytest.mark.parametrize(("study", "extend"), [(SCRATCH, False), ("s", True)])
def test_runs_are_appended_where_they_may_be(tmp_path, runs, study, extend):
    register_runs(tmp_path, study, runs[:2], extend=False)
    register_runs(tmp_path, study, runs[1:], extend=extend)
    entries = read_manifest(tmp_path)["runs"]
    assert [run["run_id"] for run in entries] == [run.plan.run_id for run in runs]
    assert [run["overrides"] for run in entries] == [run.overrides for run in runs]


def test_the_hash_is_of_the_runs(tmp_path, runs):
    register_runs(tmp_path / "a", "a", runs, extend=False)
    register_runs(tmp_path / "b", "b", runs, extend=False)
    register_runs(tmp_path / "c", "c", runs[:4], extend=False)
    hashes = [read_manifest(tmp_path / name)["sha256"] for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]
    assert all(len(bytes.fromhex(each)) == hashlib.sha256().digest_size for each in hashes)


def nested(depth):
    return [nested(depth - 1)] if depth else []


def rewritten(folder, edit, *, rehash):
    """Edit a manifest as a text editor would, or as someone who also mends the hash."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    edit(manifest)
    if rehash:
        content = canonical_json(manifest["runs"]).encode()
        manifest["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest["runs"].pop(),
        lambda manifest: manifest["runs"].reverse(),
        lambda manifest: manifest["runs"][1]["science"].update(seed=9),
        lambda manifest: manifest["runs"][0]["plan"].update(flops=1),
        lambda manifest: manifest.update(sha256="0" * 64),
        lambda manifest: manifest.pop("sha256"),
        lambda manifest: manifest["runs"][0]["plan"].update(lr=float("nan")),
        lambda manifest: manifest["runs"][0].update(science=nested(600)),
    ],
)
def test_a_manifest_that_was_edited_is_refused_by_name(study, runs, edit):
    rewritten(study, edit, rehash=False)
    before = (study / "manifest.json").read_bytes()
    named = rf"^{re.escape(str(study / 'manifest.json'))}: "
    with pytest.raises(DataError, match=named + r".*; bring the file back"):
        read_manifest(study)
    with pytest.raises(DataError, match=named):
        register_runs(study, "s", runs, extend=True)
    assert (study / "manifest.json").read_bytes() == before


def test_an_edited_manifest_is_told_by_both_hashes_and_a_torn_one_by_its_place(study):
    rewritten(study, lambda manifest: None, rehash=False)  # white space is no edit
    assert read_manifest(study) is not None
    rewritten(study, lambda manifest: manifest.update(sha256="0" * 64), rehash=False)
    with pytest.raises(DataError, match=r"edited or damaged: its runs hash to .{12}, and it prom"):
        read_manifest(study)
    (study / "manifest.json").write_text("{torn", encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest.json: not JSON .*; bring the file back"):
        read_manifest(study)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda run: run.update(run_id="../../elsewhere"), "cannot name a folder of the study"),
        (lambda run: run.update(run_id="a/b"), "cannot name a folder of the study"),
        (lambda run: run.update(run_id=".hidden"), "cannot name a folder of the study"),
        (lambda run: run.update(run_id=7), "cannot name a folder of the study"),
        (lambda run: run.pop("plan"), "has no plan of steps and FLOPs"),
        (lambda run: run["plan"].update(steps=0), "has no plan of steps and FLOPs"),
        (lambda run: run["plan"].update(flops="many"), "has no plan of steps and FLOPs"),
        (lambda run: run["plan"].update(flops=10**400), "has no plan of steps and FLOPs"),
    ],
)
def test_a_manifest_with_a_right_hash_is_still_not_trusted(study, edit, message):
    rewritten(study, lambda manifest: edit(manifest["runs"][2]), rehash=True)
    with pytest.raises(DataError, match=message):
        read_manifest(study)


def test_a_study_has_no_more_runs_than_are_read(tmp_path, runs, monkeypatch):
    register_runs(tmp_path, "s", runs, extend=False)
    for module in ("train.storage.records", "train.run_folder.manifest"):
        monkeypatch.setattr(f"{module}.MOST_RUNS", 4)
    with pytest.raises(DataError, match=r"5 runs, more than the 4 that are read"):
        read_manifest(tmp_path)
    message = r"study\.name=t: 5 runs, more than the 4 of one manifest"
    with pytest.raises(ConfigError, match=message):
        register_runs(tmp_path / "t", "t", runs, extend=False)
    assert not (tmp_path / "t" / "manifest.json").exists()


def test_a_new_manifest_is_on_disk_with_its_folder(tmp_path, runs, monkeypatch):
    synced = []
    for module in ("train.storage.records", "train.run_folder.manifest"):
        monkeypatch.setattr(f"{module}.sync_folder", synced.append)
    register_runs(tmp_path / "s", "s", runs, extend=False)
    assert synced == [tmp_path / "s", tmp_path]


def test_a_disk_that_fails_is_a_storage_error(tmp_path, runs, monkeypatch):
    with pytest.raises(StorageError, match="/proc/nowhere/x: cannot be written"):
        register_runs(Path("/proc/nowhere/x"), "x", runs, extend=False)

    def refuse(path, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("train.run_folder.manifest.write_json", refuse)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\)"):
        register_runs(tmp_path / "s", "s", runs, extend=False)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(StorageError, match=r"manifest.json: cannot be read \(Is a directory\)"):
        read_manifest(tmp_path)
