"""State of one run while a job trains it. Its weights are a replica of the engine."""

import math
from dataclasses import dataclass, field
from typing import Any, Self

from train.config.schema import Config
from train.data.shards import Dataset
from train.errors import WindTunnelError
from train.plan.planning import PlannedRun, RunPlan
from train.plan.schedule import evaluation_steps
from train.run_folder.checkpoint import Checkpoint
from train.run_folder.run_folder import RunFolder, folder_of
from train.tracking.tracker import NullTracker, Tracker
from train.training.divergence import LossWatch


@dataclass(kw_only=True, eq=False)
class Branch:
    """A shorter run whose first steps are its trunk's; at its fork step it gets a checkpoint."""

    planned: PlannedRun
    losses: LossWatch
    """Its own, because its last tenth of steps is not the trunk's."""
    evals: list[dict[str, Any]] = field(default_factory=list)
    """Rows of its evals.jsonl up to now, measured on the trunk."""
    error: WindTunnelError | None = None
    """Another process took it over before it forked."""

    @classmethod
    def new(cls, planned: PlannedRun) -> Self:
        """A branch at step 0."""
        return cls(planned=planned, losses=LossWatch(total_steps=planned.plan.steps))

    @property
    def run_id(self) -> str:
        """The run_id of the branch itself."""
        return self.planned.plan.run_id

    @property
    def fork_step(self) -> int:
        """First step of its own cooldown, or its end."""
        return self.planned.plan.schedule.fork_step or 0


@dataclass(kw_only=True, eq=False)
class RunState:
    """A run between its checkpoints: what its records need."""

    planned: PlannedRun
    dataset: Dataset
    attempt: int = 0
    """Number of this start; 0 on ranks that write nothing."""
    epochs: float = 0.0
    """How often the run reads the training split."""
    losses: LossWatch
    facts: dict[str, Any] = field(default_factory=dict)
    """Content of run.json."""
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """What differs from the last attempt's run.json: old and new."""
    checkpoint: Checkpoint | None = None
    """Where it resumes, until its tensors are in the engine."""
    replica: int = 0
    """Its index in the engine."""
    tracker: Tracker = field(default_factory=NullTracker)
    step: int = 0
    """Updates applied."""
    seconds: float = 0.0
    """Training time of all attempts, without evaluation and checkpoints, its trunk's included."""
    spent: dict[str, float] = field(default_factory=dict)
    """Wall seconds of earlier attempts by TimeKind, charged to this run."""
    window: list[tuple[float, float]] = field(default_factory=list)
    """(loss, gradient norm) of the steps since the last row."""
    loss_train: float = math.nan
    """Mean training loss of the last row."""
    val_loss: float = math.nan
    bits_per_byte: float = math.nan
    branches: list[Branch] = field(default_factory=list)
    """Runs that fork from this one, before and after they did."""
    forked_from: str | None = None
    """run_id of the trunk that trained its first steps."""
    fork_step: int | None = None
    """Steps that the trunk trained."""
    error: WindTunnelError | None = None
    """What ended it before its last step; the other runs of the job go on."""

    @property
    def config(self) -> Config:
        """Its config."""
        return self.planned.config

    @property
    def plan(self) -> RunPlan:
        """Its plan."""
        return self.planned.plan

    @property
    def folder(self) -> RunFolder:
        """Its records."""
        return folder_of(self.planned)

    @property
    def run_id(self) -> str:
        """Its name."""
        return self.plan.run_id

    @property
    def is_active(self) -> bool:
        """Whether nothing has ended it."""
        return self.error is None

    def pending(self, step: int) -> list[Branch]:
        """Branches that still share their trunk at `step`, their fork step included."""
        return [branch for branch in self.branches if branch.fork_step >= step]

    def evaluates_at(self, step: int) -> bool:
        """Whether a validation loss is due at `step`, for itself or for a branch."""
        sharing = [self.planned, *(branch.planned for branch in self.pending(step))]
        return any(step in evaluation_steps_of(planned) for planned in sharing)

    def next_due(self, after: int) -> int:
        """The next step at which it is evaluated or a branch forks."""
        due = [*evaluation_steps_of(self.planned)]
        for branch in self.pending(after + 1):
            due += [*evaluation_steps_of(branch.planned), branch.fork_step]
        return min((step for step in due if step > after), default=self.plan.steps)

    def fork_facts(self) -> dict[str, Any]:
        """Where it left its trunk; empty for a run without one."""
        if self.forked_from is None:
            return {}
        return {"forked_from": self.forked_from, "fork_step": self.fork_step}


def evaluation_steps_of(planned: PlannedRun) -> tuple[int, ...]:
    """Steps at which a run's validation loss is measured."""
    return evaluation_steps(planned.plan.steps, planned.config.eval.points)


def active(runs: list[RunState]) -> list[RunState]:
    """The runs that nothing has ended."""
    return [run for run in runs if run.is_active]
