"""Every setting of a job: science.py says what is measured, plumbing.py how it runs.

Import settings from here. Rules are in validate.py and ranges.py, arithmetic in planning.py.

The dataclasses are not frozen and choices are Enums because OmegaConf 2.3 makes frozen dataclasses
read-only for overrides and refuses `Literal`. They are read-only by habit: nothing writes to them
after validation.
"""

from dataclasses import dataclass, field

from train.config.experiment import (
    Activation,
    BudgetConfig,
    Cooldown,
    DataConfig,
    EvalConfig,
    FlopConvention,
    LearningRateRule,
    ModelConfig,
    Norm,
    OptimizerConfig,
    Positions,
    ScheduleConfig,
    ScheduleShape,
    Source,
    SyntheticConfig,
    TokenizerKind,
)
from train.config.runtime import (
    SCRATCH,
    AttentionKernel,
    Compile,
    Device,
    Dtype,
    MachineConfig,
    OnSaveError,
    PathsConfig,
    StudyConfig,
    TrackerConfig,
    TrackerKind,
    WandbMode,
)

__all__ = [
    "SCIENCE",
    "SCRATCH",
    "Activation",
    "AttentionKernel",
    "BudgetConfig",
    "Compile",
    "Config",
    "Cooldown",
    "DataConfig",
    "Device",
    "Dtype",
    "EvalConfig",
    "FlopConvention",
    "LearningRateRule",
    "MachineConfig",
    "ModelConfig",
    "Norm",
    "OnSaveError",
    "OptimizerConfig",
    "PathsConfig",
    "Positions",
    "ScheduleConfig",
    "ScheduleShape",
    "Source",
    "StudyConfig",
    "SyntheticConfig",
    "TokenizerKind",
    "TrackerConfig",
    "TrackerKind",
    "WandbMode",
]


@dataclass(kw_only=True)
class Config:
    """One job. `science` is hashed into run_id, `plumbing` is not (identity.py)."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: int = 0
    """Seeds the weights and the data order."""

    study: StudyConfig = field(default_factory=StudyConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    together: list[str] = field(default_factory=list)
    """run_ids of the same study, as its manifest.json has them, that this job trains along with its
    own run."""
    dry_run: bool = False
    """Print the priced plan and stop."""
    restart: bool = False
    """Whether a run that diverged, or has no usable checkpoint, starts again from zero; what it
    left is moved to its folder's archive/."""


SCIENCE = ("model", "data", "optimizer", "schedule", "budget", "eval", "seed")
"""The fields of Config that decide what is measured."""
