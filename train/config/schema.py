"""The whole config of a job: experiment.py is what is measured, runtime.py how it runs.

Rules of single values are in ranges.py, rules across them in plan/validate.py.

The dataclasses are not frozen and choices are Enums because OmegaConf 2.3 makes frozen dataclasses
read-only for overrides and refuses `Literal`. They are read-only by habit: nothing writes to them
after validation.
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
from train.config.runtime import (
    MachineConfig,
    PathsConfig,
    StudyConfig,
    TrackerConfig,
)


@dataclass(kw_only=True)
class Config:
    """One job. The groups of SCIENCE are hashed into run_id (plan/identity.py), others are not."""

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
