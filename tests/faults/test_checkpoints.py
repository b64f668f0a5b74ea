"""C1 to C4: damaged checkpoints."""

import shutil

import pytest

from faults.damage import (
    DAMAGE,
    NEWEST,
    PREVIOUS,
    TRUNCATIONS,
    contents,
    exponent_of_a_number,
    flip_bit,
    names,
    step_name,
)
from faults.runner import run_child, run_here, start_steps
from faults.same_run import assert_same_run
from train.errors import CheckpointError, StorageError
from train.run_folder import checkpoint
from train.run_folder.checkpoint import load_newest
from train.storage.records import read_json, read_jsonl
from train.training import resume


def quarantined(folder, step):
    bad = folder.checkpoints / "bad"
    assert (bad / step_name(step)).is_dir()
    return str(read_json(bad / f"{step_name(step)}.json")["reason"])


def test_c0_an_undamaged_run_resumes_at_its_newest_checkpoint(stopped, reference_run):
    config, folder = stopped
    run_here(config)
    assert start_steps(folder) == [0, NEWEST]
    assert_same_run(reference_run, folder)


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        ("half", "model.pt"),
        ("one-byte", "DONE.json"),
        ("bit-flipped", "model.pt"),
        ("bit-flipped", "optim.pt"),
        ("bit-flipped", "state.json"),
        ("missing", "optim.pt"),
    ],
)
def test_c1_c2_c3_a_damaged_newest_checkpoint_costs_one_interval_and_no_bit(
    stopped, reference_run, damage, file
):
    config, folder = stopped
    DAMAGE[damage](folder.checkpoints / step_name(NEWEST) / file)
    told = rf"a damaged checkpoint is in bad/ now \({step_name(NEWEST)}: .*; going on from step 21"
    with pytest.warns(UserWarning, match=told):
        run_here(config)
    assert start_steps(folder) == [0, PREVIOUS]
    assert file in quarantined(folder, NEWEST)
    assert_same_run(reference_run, folder)


@pytest.mark.parametrize("damage", TRUNCATIONS)
def test_c1_control_without_going_back_a_truncated_checkpoint_ends_the_run(
    stopped, monkeypatch, damage
):
    config, folder = stopped
    TRUNCATIONS[damage](folder.checkpoints / step_name(NEWEST) / "model.pt")
    monkeypatch.setattr(checkpoint, "DAMAGE", ())
    with pytest.raises((ValueError, RuntimeError, EOFError)):
        run_here(config)
    assert folder.state() == "failed"


@pytest.mark.parametrize("file", ["model.pt", "optim.pt"])
def test_c2_control_without_hashes_a_flipped_bit_is_trained_on(
    stopped, reference_run, monkeypatch, file
):
    config, folder = stopped
    path = folder.checkpoints / step_name(NEWEST) / file
    flip_bit(path, byte=exponent_of_a_number(path))
    believe_every_hash(monkeypatch)
    with pytest.warns(UserWarning, match="rows that were computed twice differ"):  # too late
        run_here(config)
    assert start_steps(folder) == [0, NEWEST]  # torch noticed nothing
    assert folder.state() == "completed"
    with pytest.raises(AssertionError):
        assert_same_run(reference_run, folder)


def believe_every_hash(monkeypatch):
    def promised(path):
        done = path.with_name("DONE.json")
        return str(read_json(done)["files"][path.name]["sha256"]) if done.exists() else "unknown"

    monkeypatch.setattr(checkpoint, "file_sha256", promised)


def test_c2_no_bit_of_done_json_can_flip_unnoticed(tmp_path):
    """One in each byte, all in the schema's: it is found, or what comes back is right."""
    saved = checkpoint.save_checkpoint(
        tmp_path / "root", 7, model={"w": 1.5}, optimizer={"m": 2.5}, state={"s": 0.1}, keep=2
    )
    whole = (saved / "DONE.json").read_bytes()
    unnoticed = []
    schema = whole.index(str(checkpoint.SCHEMA).encode())
    for byte in range(len(whole)):
        for bit in range(8) if byte == schema else (byte % 7,):
            flip_bit(saved / "DONE.json", byte=byte, bit=bit)
            try:
                found = checkpoint._load(saved)
                values = (found.step, found.model, found.optimizer, found.state)
                if values != (7, {"w": 1.5}, {"m": 2.5}, {"s": 0.1}):
                    unnoticed.append((byte, bit))
            except checkpoint.DAMAGE:
                pass
            finally:
                (saved / "DONE.json").write_bytes(whole)
    assert unnoticed == []


def test_c3_remains_of_a_write_that_was_cut_short_are_cleaned_up(stopped, reference_run):
    config, folder = stopped
    stale = [f"{step_name(35)}.partial", f"{step_name(14)}.partial"]
    for name in stale:
        shutil.copytree(folder.checkpoints / step_name(NEWEST), folder.checkpoints / name)
        (folder.checkpoints / name / "DONE.json").unlink()
    run_here(config)
    assert start_steps(folder) == [0, NEWEST]
    assert names(folder.checkpoints) == [step_name(56), step_name(60)]
    assert_same_run(reference_run, folder)


def test_c3_control_a_name_that_does_not_tell_remains_from_checkpoints(stopped, monkeypatch):
    """Were a write to begin under its final name, its remains would be the newest checkpoint."""
    config, folder = stopped
    begun = folder.checkpoints / step_name(35)
    begun.mkdir()
    (begun / "model.pt").write_bytes(b"half")
    monkeypatch.setattr(checkpoint, "DAMAGE", ())
    with pytest.raises(StorageError, match=r"DONE\.json"):
        run_here(config)


def damage_all(folder):
    flip_bit(folder.checkpoints / step_name(NEWEST) / "model.pt")
    (folder.checkpoints / step_name(PREVIOUS) / "state.json").unlink()


def test_c4_without_a_sound_checkpoint_the_run_stops_and_says_why(stopped):
    config, folder = stopped
    damage_all(folder)
    saved = contents(folder.checkpoints)
    records = {path: path.read_bytes() for path in (folder.metrics, folder.evals, folder.run)}
    for _ in range(2):  # nor does the second start begin from zero
        outcome = run_child(config)
        assert outcome.exit_code == 4
        assert "no usable checkpoint" in outcome.stderr
        assert f"{step_name(NEWEST)}: model.pt is not what was written" in outcome.stderr
        assert f"{step_name(PREVIOUS)}: " in outcome.stderr
        assert "state.json" in outcome.stderr
        assert "restart=true" in outcome.stderr
        assert "Traceback" not in outcome.stderr
        bad = contents(folder.checkpoints / "bad")
        assert {name: bad[name] for name in saved} == saved
        assert {path: path.read_bytes() for path in records} == records
    assert (folder.state(), folder.read_status()["exit_code"]) == ("failed", 4)
    ends = [row["cause"] for row in read_jsonl(folder.attempts) if row["event"] == "end"]
    assert ends == ["checkpoint", "checkpoint"]


def test_c4_a_restart_archives_what_there_was_and_begins_at_zero(stopped, tiny, reference_run):
    config, folder = stopped
    damage_all(folder)
    with pytest.raises(CheckpointError):
        run_here(config)
    before = contents(folder.path)
    run_here(tiny(restart=True))
    assert start_steps(folder) == [0]
    assert_same_run(reference_run, folder)
    archived = contents(folder.path / "archive" / "1")
    for name in ("metrics.jsonl", "evals.jsonl", f"checkpoints/bad/{step_name(NEWEST)}/model.pt"):
        assert archived[name] == before[name]
    run_here(tiny(restart=True))  # a completed run is left alone, whatever is asked
    assert names(folder.path / "archive") == ["1"]


def test_c4_control_a_silent_start_from_zero_would_look_like_success(stopped, monkeypatch):
    config, folder = stopped
    damage_all(folder)

    def or_from_zero(root, *, at_most):
        try:
            return load_newest(root, at_most=at_most)
        except CheckpointError:
            return None

    monkeypatch.setattr(resume, "load_newest", or_from_zero)
    run_here(config)
    assert (folder.state(), start_steps(folder)) == ("completed", [0, 0])
