"""L1: a run folder deleted under the process that trains it, and a second start in its place.

A flock lives in a file, and whoever deletes the file makes room for another. The first process must
then not write a single byte into what has become the second one's run.
"""

import shutil

from faults.patches import Hold, Replace, at_step
from faults.runner import Train, run_here
from faults.same_run import assert_same_run
from train.storage.records import read_jsonl


def test_l1_a_run_that_was_deleted_and_started_anew_is_left_to_the_second_process(
    tiny, started, tmp_path, reference_run
):
    outcome = replaced(tiny, started, tmp_path / "gate")
    assert outcome.exit_code != 0
    assert "LockedError" in outcome.stderr
    assert "its lock was deleted while this process trained the run" in outcome.stderr
    assert_same_run(outcome.folder, reference_run)
    assert [row["event"] for row in read_jsonl(outcome.folder.attempts)] == ["start", "end"]


def test_l1_control_a_process_that_does_not_look_writes_into_the_second_one_s_run(
    tiny, started, tmp_path
):
    blind = Replace("train.run_folder.run_folder:RunFolder.refuse_other_holder", _look_away)
    outcome = replaced(tiny, started, tmp_path / "gate", blind)
    steps = [row["step"] for row in read_jsonl(outcome.folder.metrics)]
    assert len(steps) > len(set(steps))


def replaced(tiny, started, gate, *patches):
    config = tiny()
    held = at_step(21, Hold(gate))
    child = started(config, *patches, held, command=Train(config))
    child.wait_for(gate.exists)
    shutil.rmtree(child.folder.path)
    run_here(config)
    gate.unlink()
    return child.wait()


def _look_away(folder):
    del folder
