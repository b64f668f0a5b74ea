"""Tiny configs: one base, and what each suite changes of it."""

import dataclasses

from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleShape,
    Source,
    SyntheticConfig,
)
from train.config.runtime import (
    AttentionKernel,
    Compile,
    Device,
    Dtype,
    MachineConfig,
    PathsConfig,
    StudyConfig,
)
from train.config.schema import Config
from train.plan.planning import PlannedRun
from train.plan.validate import validate

FAULTS = {
    "data.name": "faults",
    "data.vocab_size": 97,
    "schedule.warmup_steps": 5,
    "budget.tokens": 60 * 256.0,
    "eval.points": 3,
    "study.name": "faults",
    "machine.device": Device.cpu,
    "machine.log_every": 1,
    "machine.checkpoint_steps": 7,
    "machine.checkpoint_minutes": 1_000.0,
    # as the golden curve was made, on any processor
    "machine.dtype": Dtype.fp32,
    "machine.attention": AttentionKernel.sdpa,
    "machine.compile": Compile.never,
}
"""60 steps, 97 token ids, a row at each step and a checkpoint at each seventh."""

SHARED = {
    "model.d_model": 16,
    "model.head_dim": 8,
    "data.name": "shared",
    "data.seq_len": 16,
    "optimizer.batch_tokens": 128,
    "schedule.shape": ScheduleShape.wsd,
    "schedule.warmup_steps": 3,
    "schedule.cooldown_fraction": 0.25,
    "budget.tokens": 24 * 128.0,
    "eval.points": 4,
    "study.name": "shared",
    "machine.device": Device.cpu,
    "machine.dtype": Dtype.fp32,
    "machine.log_every": 5,
    "machine.checkpoint_steps": 7,
    "machine.checkpoint_minutes": 1_000.0,
}
"""24 steps of 8 windows of 16, by WSD, 2 layers of width 16.

Rows every 5 steps and checkpoints every 7 divide neither each other nor where branches fork.
"""

TRAINED = {
    "model.d_model": 16,
    "model.head_dim": 64,
    "data.vocab_size": 256,
    "schedule.warmup_steps": 5,
    "budget.tokens": 60 * 256.0,
    "eval.points": 3,
    "eval.tokens": 2_048,
    "machine.log_every": 7,
    "machine.checkpoint_minutes": 60.0,
}
"""60 steps, 2 layers of width 16, a row at each seventh step."""


def tiny_config(root, preset=None, /, **changes):
    """A run of 40 steps of 8 windows of 32: 2 layers of width 32, 64 ids, synthetic text.

    Args:
        root: Folder of its data and runs.
        preset: FAULTS, SHARED or TRAINED.
        changes: Groups, or settings as group__name; `steps` is the run's length.
    """
    base = Config(
        model=ModelConfig(d_model=32, head_dim=16),
        data=DataConfig(
            name="tiny",
            source=Source.synthetic,
            vocab_size=64,
            seq_len=32,
            validation_tokens=4_000,
            synthetic=SyntheticConfig(tokens=40_000, document_tokens=500),
        ),
        optimizer=OptimizerConfig(lr=0.01, batch_tokens=256),
        budget=BudgetConfig(tokens=40 * 256),
        eval=EvalConfig(points=2, tokens=1_024),
        study=StudyConfig(name="tiny"),
        machine=MachineConfig(log_every=10),
        paths=PathsConfig(runs=str(root / "runs"), data=str(root / "data")),
    )
    return changed(changed(base, preset or {}), changes)


def planned(config, *overrides):
    """The run that a config asks for."""
    return PlannedRun(overrides=list(overrides), config=config, plan=validate(config))


def changed(config, changes):
    """A copy of `config` with settings replaced, such as {"machine.log_every": 5, "steps": 9}."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    steps = changes.pop("steps", None)
    for key, value in changes.items():
        config = _replaced(config, key.split("."), value)
    if steps is None:
        return config
    return _replaced(config, ["budget", "tokens"], float(steps * config.optimizer.batch_tokens))


def _replaced(node, path, value):
    name, *rest = path
    new = _replaced(getattr(node, name), rest, value) if rest else value
    return dataclasses.replace(node, **{name: new})
