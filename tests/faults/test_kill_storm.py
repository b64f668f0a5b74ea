"""K2: a run that is killed again and again at random moments ends as if it had not been."""

import functools
import random
import signal

import pytest

from faults.patches import EVERY, Replace, Sleep, at_step
from faults.runner import run_folder, start_steps
from faults.same_run import assert_same_run
from train.storage.records import read_json, read_jsonl

LEAST_KILLS = 8
CHECKPOINT_STEPS = 3
SLOWLY = at_step(EVERY, Sleep(0.08))


def storm(start, config, seed, *patches):
    """Kill the run at random moments until it ends by itself; return the steps each kill cost."""
    moments = random.Random(seed)
    lost = []
    for attempt in range(100):
        folder = run_folder(config)
        begun, reached = len(start_steps(folder)), last_step(folder)
        child = start(config, SLOWLY, *patches)
        if moments.random() < 0.8:  # else it is killed while it starts, most likely
            child.wait_for(functools.partial(has_begun, folder, begun))
        # at first within 7 of the 60 steps; later with more time, for a machine that is busy
        if not child.ends_within(moments.uniform(0.0, 0.6 + 0.1 * max(0, attempt - 12))):
            child.kill()
        outcome = child.wait()
        if outcome.exit_code == 0:
            return lost
        assert outcome.exit_code == -signal.SIGKILL, outcome
        if len(start_steps(folder)) > begun > 0:
            lost.append(reached - start_steps(folder)[-1])
    raise AssertionError(f"no end after 100 kills; the run is at step {last_step(folder)}")


def has_begun(folder, starts):
    return len(start_steps(folder)) > starts or folder.result.exists()


def last_step(folder):
    return max((row["step"] for row in read_jsonl(folder.metrics)), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_k2_a_kill_storm_loses_nothing(tiny, started, reference_run, seed):
    lost = storm(started, tiny(machine__checkpoint_steps=CHECKPOINT_STEPS), seed)
    folder = run_folder(tiny())
    assert len(start_steps(folder)) > LEAST_KILLS
    assert max(lost) <= CHECKPOINT_STEPS
    assert read_json(folder.result)["replayed"]["differing"] == 0
    assert read_json(folder.result)["replayed"]["rows"] > 0
    assert not list(folder.path.rglob("*.partial"))
    assert_same_run(reference_run, folder)


def keep_all_rows(folder, sizes):
    del folder, sizes
    return 0


@pytest.mark.slow
def test_k2_control_without_the_rewind_a_storm_doubles_rows(tiny, started, reference_run):
    config = tiny(machine__checkpoint_steps=CHECKPOINT_STEPS)
    storm(started, config, 0, Replace("train.training.resume:set_aside", keep_all_rows))
    with pytest.raises(AssertionError, match="holds steps"):
        assert_same_run(reference_run, run_folder(tiny()))
