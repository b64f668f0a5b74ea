"""Tiny runs to their end, and in a child that stops itself on the way."""

import subprocess
import sys
from pathlib import Path

from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    Source,
    SyntheticConfig,
)
from train.config.runtime import MachineConfig, PathsConfig, StudyConfig
from train.config.schema import Config
from train.plan.validate import validate
from train.run_folder.replay_check import CLOCK_COLUMNS
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_json, read_jsonl
from train.training.trainer import train_run

STEPS = 60


def tiny_config(root, **overrides):
    """60 steps of a 2-layer model of width 16 on synthetic text: about a second."""
    fields = {
        "model": ModelConfig(d_model=16),
        "data": DataConfig(
            name="tiny",
            source=Source.synthetic,
            seq_len=32,
            validation_tokens=4_000,
            synthetic=SyntheticConfig(tokens=40_000, document_tokens=500),
        ),
        "optimizer": OptimizerConfig(lr=0.01, batch_tokens=256),
        "schedule": ScheduleConfig(warmup_steps=5),
        "budget": BudgetConfig(tokens=STEPS * 256),
        "eval": EvalConfig(points=3, tokens=2_048),
        "study": StudyConfig(name="tiny"),
        "machine": MachineConfig(log_every=7, checkpoint_minutes=60.0),
        "paths": PathsConfig(runs=str(root / "runs"), data=str(root / "data")),
    }
    return Config(**{**fields, **overrides})


def run_to_end(config):
    plan = validate(config)
    train_run(config, plan)
    return RunFolder(Path(config.paths.runs) / config.study.name / plan.run_id)


def without_times(rows):
    """The rows less what a clock wrote; empty rows would compare nothing."""
    assert rows
    return [{key: row[key] for key in row if key not in (*CLOCK_COLUMNS, "study")} for row in rows]


def assert_same_record(a, b):
    for name in ("metrics", "evals"):
        rows_a, rows_b = read_jsonl(getattr(a, name)), read_jsonl(getattr(b, name))
        assert without_times(rows_a) == without_times(rows_b)
    row_a, row_b = read_json(a.result)["row"], read_json(b.result)["row"]
    assert without_times([row_a]) == without_times([row_b])


CHILD = """
import os, sys, signal
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.train.tiny_runs import tiny_config
from train.training import trainer
from train.config.runtime import MachineConfig, StudyConfig
from train.engine.engine import Engine
from train.plan.validate import validate
config = tiny_config(Path({root!r}), study=StudyConfig(name="killed"),
                     machine=MachineConfig(log_every=7, checkpoint_steps={every}))
real = Engine._step
calls = 0
def step(engine):
    global calls
    calls += 1
    if calls == {step}:
        os.kill(os.getpid(), signal.{name})
    real(engine)
Engine._step = step
try:
    trainer.train_run(config, validate(config))
except Exception as error:
    sys.exit(error.exit_code)
"""


def stop_child_at(step, name, root, *, every=None):
    """Train in a child that sends itself a signal at its `step`-th update; return its exit code."""
    code = CHILD.format(
        tests=str(Path(__file__).parent), root=str(root), step=step, name=name, every=every
    )
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode
