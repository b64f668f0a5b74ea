"""Jobs of several tiny runs, the same runs trained alone, and whether two records are equal."""

import json
import warnings
from contextlib import contextmanager

import pytest
from faults.same_run import assert_same_weights, without_clock

from tests.builders import SHARED, changed, planned, tiny_config
from train.errors import DivergedError
from train.run_folder.checkpoint import save_checkpoint
from train.run_folder.run_folder import folder_of
from train.storage.records import read_json, read_jsonl
from train.training.trainer import train_runs


def shared_config(root, **changes):
    return tiny_config(root, SHARED, **changes)


def with_steps(config, steps):
    return changed(config, {"steps": steps})


def with_optimizer(config, **changes):
    return changed(config, {f"optimizer.{key}": value for key, value in changes.items()})


def with_machine(config, **changes):
    return changed(config, {f"machine.{key}": value for key, value in changes.items()})


def elsewhere(config, runs):
    """The same run in another folder of runs, with the same data."""
    return changed(config, {"paths.runs": str(runs)})


def train_job(configs):
    """Train runs in one job; return their folders. A run that diverged is in its record."""
    runs = [planned(config) for config in configs]
    try:
        with warnings.catch_warnings():  # someone who commits while the tests run is no fault
            warnings.filterwarnings("ignore", r"[^:]*: changed since its last attempt: git [^,]*$")
            train_runs(runs)
    except DivergedError:
        assert any(folder_of(run).state() == "diverged" for run in runs)
    return [folder_of(run) for run in runs]


def train_alone(configs, runs):
    return [train_job([elsewhere(config, runs)])[0] for config in configs]


class Stopped(Exception):
    """What stands in for a kill."""


@contextmanager
def stopped_at_save(config, step, *, after=True):
    """What is in this block stops at a run's checkpoint at `step`, as by a kill.

    Before it is begun, or after it is complete.
    """
    target = folder_of(planned(config)).checkpoints

    def save(root, at, **parts):
        if (root, at) == (target, step) and not after:
            raise Stopped
        path = save_checkpoint(root, at, **parts)
        if (root, at) == (target, step):
            raise Stopped
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.training.recording.save_checkpoint", save)
        with pytest.raises(Stopped):
            yield


def assert_same_records(a, b):
    for one, other in zip(a, b, strict=True):
        assert_same_record(one, other)


def assert_same_record(a, b):
    """Two folders of one run tell the same: clocks, costs and their own names apart.

    Compared are the names of files, facts, every row, how the run ended, its result, and in bits
    the weights and moments of its last checkpoint; a run that ended on another's trunk has none.
    """
    assert a.path.name == b.path.name
    left_out = {"checkpoints"} if _ended_on_a_trunk(a) or _ended_on_a_trunk(b) else set()
    assert _files(a) - left_out == _files(b) - left_out
    assert _facts(a) == _facts(b)
    for name in ("metrics", "evals"):
        rows_a, rows_b = (without_clock(read_jsonl(getattr(each, name))) for each in (a, b))
        assert rows_a == rows_b, f"{a.path.name}: {name} differ"
        places = [(row["step"], row.get("split")) for row in rows_a]
        assert len(set(places)) == len(places), f"{a.path.name}: {name} hold rows twice: {places}"
        assert places == sorted(places)
    assert _status(a) == _status(b)
    assert _result(a) == _result(b)
    if left_out or not (a.checkpoints.exists() or b.checkpoints.exists()):
        return
    assert_same_weights(a, b)


def _ended_on_a_trunk(folder):
    start = read_jsonl(folder.attempts)[0]
    return folder.state() == "diverged" and "fork_step" in start and not folder.checkpoints.exists()


def _files(folder):
    names = {path.name for path in folder.path.iterdir()}
    return names - {"replayed.jsonl", "job.log"}


def _facts(folder):
    facts = read_json(folder.run)
    facts.pop("git", None)  # someone may commit while the tests run
    return facts


def _status(folder):
    status = folder.read_status()
    return {key: status[key] for key in status if key not in ("heartbeat", "seconds", "cost")}


def _result(folder):
    if not folder.result.exists():
        return None
    result = read_json(folder.result)
    (row,) = without_clock([result["row"]])
    told = ("schema", "run_id", "state", "data_sha256", "divergence", "epochs")
    return json.loads(json.dumps({**{key: result[key] for key in told}, "row": row}))
