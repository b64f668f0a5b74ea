"""K3 and K5: SIGKILL while a checkpoint is written or pruned leaves it or the one before."""

import pytest

from faults.conftest import CHECKPOINT_STEPS
from faults.patches import At, Kill, Replace
from faults.runner import killed, run_here, start_steps
from faults.same_run import assert_same_run
from faults.unsafe import load_unverified, save_in_place
from train.run_folder import checkpoint

FIRST, SECOND, THIRD = (CHECKPOINT_STEPS * n for n in (1, 2, 3))
PARTIAL = f"step_{SECOND:08d}.partial"


def steps_on_disk(folder):
    return sorted(int(path.name[5:]) for path in folder.checkpoints.glob("step_????????"))


WRITE_JSON = "train.run_folder.checkpoint:write_json"
KILLS = {
    "in-the-first": (At("torch:save", Kill(), mentions=f"{FIRST:08d}.partial/optim.pt"), 0),
    "after-model.pt": (At("torch:save", Kill(), 1, f"{PARTIAL}/model.pt", "after"), FIRST),
    "after-optim.pt": (At("torch:save", Kill(), 1, f"{PARTIAL}/optim.pt", "after"), FIRST),
    "before-DONE": (At(WRITE_JSON, Kill(), mentions=f"{PARTIAL}/DONE.json"), FIRST),
    "after-DONE": (At(WRITE_JSON, Kill(), 1, f"{PARTIAL}/DONE.json", "after"), FIRST),
    "before-rename": (At("pathlib:Path.replace", Kill(), mentions=f"{PARTIAL} "), FIRST),
    "after-rename": (At("pathlib:Path.replace", Kill(), 1, f"{PARTIAL} ", "after"), SECOND),
}
"""The fault, and the step that the run goes on from."""


@pytest.mark.parametrize("place", KILLS)
def test_k3_a_kill_inside_a_checkpoint_leaves_it_or_the_one_before(tiny, reference_run, place):
    fault, resumes_at = KILLS[place]
    folder = killed(tiny(), fault)
    assert steps_on_disk(folder) == [step for step in (FIRST, SECOND) if step <= resumes_at]
    assert_same_run(reference_run, run_here(tiny()))
    assert start_steps(folder) == [0, resumes_at]
    assert not list(folder.checkpoints.glob("*.partial"))
    assert not (folder.checkpoints / "bad").exists()


IN_PLACE = Replace("train.training.recording:save_checkpoint", save_in_place)


def test_k3_control_a_checkpoint_written_in_place_and_not_verified_is_a_mixture(
    tiny, reference_run, monkeypatch
):
    folder = killed(tiny(), IN_PLACE, At("torch:save", Kill(), call=2, mentions="optim.pt"))
    monkeypatch.setattr("train.training.resume.load_newest", load_unverified)
    with pytest.warns(UserWarning, match="computed twice differ, first at step 8"):
        run_here(tiny())  # the weights of step 14 with the moments of step 7, and no complaint
    assert start_steps(folder) == [0, FIRST]
    with pytest.raises(AssertionError, match="metrics of step 8"):
        assert_same_run(reference_run, folder)


def test_k3_control_a_first_checkpoint_written_in_place_cannot_be_read(tiny, monkeypatch):
    killed(tiny(), IN_PLACE, At("torch:save", Kill(), mentions="optim.pt"))
    monkeypatch.setattr("train.training.resume.load_newest", load_unverified)
    with pytest.raises(Exception, match=r"state\.json"):
        run_here(tiny())


@pytest.mark.parametrize(
    "fault",
    [
        At("pathlib:Path.replace", Kill(), mentions=f"step_{FIRST:08d}.old.partial", when="after"),
        At("os:unlink", Kill(), mentions="optim.pt", when="after"),
    ],
    ids=["nothing-deleted", "half-deleted"],
)
def test_k5_a_kill_during_pruning_leaves_two_and_the_rest_is_pruned_later(
    tiny, reference_run, fault
):
    folder = killed(tiny(), fault)
    assert steps_on_disk(folder) == [SECOND, THIRD]
    assert list(folder.checkpoints.glob("*.partial"))
    assert_same_run(reference_run, run_here(tiny()))
    assert start_steps(folder) == [0, THIRD]
    assert not list(folder.checkpoints.glob("*.partial"))


def prune_before_saving(root, step, **parts):
    for old in root.glob("step_*"):
        checkpoint._discard(old)
    if step == SECOND:
        Kill()()
    return checkpoint.save_checkpoint(root, step, **parts)


def test_k5_control_pruning_before_the_new_one_is_in_place_loses_all(tiny):
    folder = killed(
        tiny(), Replace("train.training.recording:save_checkpoint", prune_before_saving)
    )
    assert steps_on_disk(folder) == []
    run_here(tiny())
    assert start_steps(folder) == [0, 0]
