"""S5: a signal to the whole process group. The control has a process that reads data."""

import contextlib
import signal
import subprocess

from faults.conftest import CHECKPOINT_STEPS
from faults.patches import At, Hold
from faults.runner import run_folder, run_here, start_steps
from faults.same_run import assert_same_run
from train.engine import batches


def signal_the_group_while_reading(start, config, hold, *patches):
    """SIGTERM to the run and all that it started, while it reads the batch of step 11."""
    child = start(config, *patches, At("train.engine.batches:Batches.gather", Hold(hold), call=11))
    child.wait_for(hold.exists)
    child.send(signal.SIGTERM, whole_group=True)
    hold.unlink()
    return child


def test_s5_a_signal_to_the_whole_group_is_as_one_to_the_run(
    tiny, started, reference_run, tmp_path
):
    child = signal_the_group_while_reading(started, tiny(), tmp_path / "hold")
    assert child.wait().exit_code == 75
    assert child.folder.state() == "preempted"
    assert_same_run(reference_run, run_here(tiny()))
    assert start_steps(child.folder) == [0, 11]


def read_through_a_worker():
    """Batches come through a process of the group, as a loader with workers has them."""
    worker = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    read = batches.Batches.gather

    def gather(self, *windows):
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.write(b"next\n")
            worker.stdin.flush()
        if worker.stdout.readline() != b"next\n":
            raise RuntimeError("the worker that reads data exited unexpectedly")
        read(self, *windows)

    batches.Batches.gather = gather


def test_s5_control_a_reader_process_dies_of_the_groups_signal_and_takes_the_run_along(
    tiny, started, tmp_path
):
    child = signal_the_group_while_reading(
        started, tiny(), tmp_path / "hold", read_through_a_worker
    )
    outcome = child.wait()
    assert outcome.exit_code == 1
    assert "exited unexpectedly" in outcome.stderr
    assert child.folder.state() == "failed"
    run_here(tiny())
    assert start_steps(run_folder(tiny())) == [0, CHECKPOINT_STEPS]
