"""Jobs of several tiny runs, the same runs trained alone, and whether two records are equal."""

import dataclasses
import json
import warnings
from collections.abc import Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    ScheduleShape,
    Source,
    SyntheticConfig,
)
from train.config.runtime import Device, Dtype, MachineConfig, PathsConfig, StudyConfig
from train.config.schema import Config
from train.errors import DivergedError
from train.plan.planning import PlannedRun
from train.plan.validate import validate
from train.run_folder.checkpoint import load_newest, save_checkpoint
from train.run_folder.replay_check import CLOCK_COLUMNS
from train.run_folder.run_folder import folder_of
from train.storage.records import read_json, read_jsonl
from train.training.trainer import train_runs

BATCH_TOKENS = 128
SEQ_LEN = 16


def shared_config(root, *, steps=24, **groups):
    """A run of `steps` steps by WSD: 2 layers of width 16, windows of 16, batches of 8.

    Rows every 5 steps and checkpoints every 7 divide neither each other nor where branches fork.
    """
    fields = {
        "model": ModelConfig(d_model=16, head_dim=8),
        "data": DataConfig(
            name="shared",
            source=Source.synthetic,
            vocab_size=64,
            seq_len=SEQ_LEN,
            validation_tokens=4_000,
            synthetic=SyntheticConfig(tokens=40_000, document_tokens=500),
        ),
        "optimizer": OptimizerConfig(lr=0.01, batch_tokens=BATCH_TOKENS),
        "schedule": ScheduleConfig(shape=ScheduleShape.wsd, warmup_steps=3, cooldown_fraction=0.25),
        "budget": BudgetConfig(tokens=float(steps * BATCH_TOKENS)),
        "eval": EvalConfig(points=4, tokens=1_024),
        "study": StudyConfig(name="shared"),
        "machine": MachineConfig(
            device=Device.cpu,
            dtype=Dtype.fp32,
            log_every=5,
            checkpoint_steps=7,
            checkpoint_minutes=1_000.0,
        ),
        "paths": PathsConfig(runs=str(root / "runs"), data=str(root / "data")),
    }
    return Config(**{**fields, **groups})


def with_steps(config, steps):
    """The same run to another horizon."""
    tokens = float(steps * config_batch(config))
    return dataclasses.replace(config, budget=dataclasses.replace(config.budget, tokens=tokens))


def config_batch(config):
    """Tokens of a step."""
    return config.optimizer.batch_tokens or BATCH_TOKENS


def with_optimizer(config, **changes):
    """The same run with other settings of its optimizer."""
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **changes))


def with_machine(config, **changes):
    """The same run in another way."""
    return dataclasses.replace(config, machine=dataclasses.replace(config.machine, **changes))


def elsewhere(config, runs):
    """The same run in another folder of runs, with the same data."""
    return dataclasses.replace(config, paths=dataclasses.replace(config.paths, runs=str(runs)))


def planned(config):
    """The run that a config asks for."""
    return PlannedRun(overrides=[], config=config, plan=validate(config))


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
    """Train each of the runs in a job of its own, in another folder of runs."""
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
    """Each pair ended with one record."""
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
        rows_a, rows_b = (_plain(read_jsonl(getattr(each, name))) for each in (a, b))
        assert rows_a == rows_b, f"{a.path.name}: {name} differ"
        places = [(row["step"], row.get("split")) for row in rows_a]
        assert len(set(places)) == len(places), f"{a.path.name}: {name} hold rows twice: {places}"
        assert places == sorted(places)
    assert _status(a) == _status(b)
    assert _result(a) == _result(b)
    if not left_out:
        assert_same_weights(a, b)


def assert_same_weights(a, b):
    """The newest checkpoints are of one step and equal in every bit; or both have none."""
    end_a, end_b = load_newest(a.checkpoints), load_newest(b.checkpoints)
    if end_a is None or end_b is None:
        assert end_a is end_b
        return
    assert end_a.step == end_b.step
    tensors_a, tensors_b = (
        tensors(end_a.model, end_a.optimizer),
        tensors(end_b.model, end_b.optimizer),
    )
    assert len(tensors_a) == len(tensors_b) > 10
    for tensor_a, tensor_b in zip(tensors_a, tensors_b, strict=True):
        assert torch.equal(tensor_a, tensor_b)
    for name in ("losses", "window", "loss_train", "val_loss", "bits_per_byte"):
        assert end_a.state[name] == end_b.state[name], name


def tensors(*values):
    """All tensors of nested state dicts."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            found += tensors(*value.values())
        elif isinstance(value, list | tuple):
            found += tensors(*value)
    return found


def _ended_on_a_trunk(folder):
    start = read_jsonl(folder.attempts)[0]
    return folder.state() == "diverged" and "fork_step" in start and not folder.checkpoints.exists()


def _files(folder):
    names = {path.name for path in folder.path.iterdir()}
    return names - {"replayed.jsonl", "job.log"}


def _plain(rows):
    return [{key: row[key] for key in row if key not in (*CLOCK_COLUMNS, "study")} for row in rows]


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
    (row,) = _plain([result["row"]])
    told = ("schema", "run_id", "state", "data_sha256", "divergence", "epochs")
    return json.loads(json.dumps({**{key: result[key] for key in told}, "row": row}))
