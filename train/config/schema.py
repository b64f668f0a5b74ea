"""The config of one job: experiment.py says what is measured, runtime.py how it runs.

Ranges of single values are in ranges.py, rules across settings in plan/validate.py.

OmegaConf 2.3 refuses overrides of frozen dataclasses and the type `Literal`, so the dataclasses are
not frozen and choices are Enums. Nothing writes to a config after validation.
"""

from dataclasses import dataclass, field

from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from train.config.runtime import MachineConfig, PathsConfig, StudyConfig, TrackerConfig


@dataclass(kw_only=True)
class Config:
    """Config of one job; the fields named in SCIENCE are hashed into run_id (plan/identity.py)."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: int = 0
    """Seed of the weights and the data order."""

    study: StudyConfig = field(default_factory=StudyConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    together: list[str] = field(default_factory=list)
    """Further runs of this job: run_ids in the manifest of the same study."""
    dry_run: bool = False
    """Print the priced plan and stop."""
    restart: bool = False
    """Start runs that diverged or have no usable checkpoint from zero; old files go to archive/."""


SCIENCE = ("model", "data", "optimizer", "schedule", "budget", "eval", "seed")
"""Fields of Config that decide what is measured."""
