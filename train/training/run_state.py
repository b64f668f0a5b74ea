"""One run while a process trains it: what its records need, beside the engine that it shares."""

import math
from dataclasses import dataclass, field
from typing import Any

from train.config.schema import Config
from train.data.shards import Dataset
from train.plan.planning import RunPlan
from train.run_folder.checkpoint import Checkpoint
from train.run_folder.run_folder import RunFolder
from train.tracking.tracker import NullTracker, Tracker
from train.training.divergence import LossWatch


@dataclass(kw_only=True, eq=False)
class Run:
    """What a run has come to. Its weights are a replica of its stack's engine."""

    config: Config
    plan: RunPlan
    folder: RunFolder
    attempt: int
    dataset: Dataset
    epochs: float
    """How often the run reads the training split."""
    losses: LossWatch
    facts: dict[str, Any] = field(default_factory=dict)
    """Content of run.json."""
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """What differs from the last attempt's: old and new."""
    checkpoint: Checkpoint | None = None
    """Where it goes on, until its weights are in an engine."""
    replica: int = 0
    """Its place in the engine."""
    tracker: Tracker = field(default_factory=NullTracker)
    step: int = 0
    """Updates applied."""
    seconds: float = 0.0
    """Training time of all attempts, without evaluation and checkpoints, its trunk's included."""
    spent: dict[str, float] = field(default_factory=dict)
    """Wall seconds of earlier attempts by the names of TimeKind, charged to this run."""
    window: list[tuple[float, float]] = field(default_factory=list)
    """(loss, gradient norm) of the steps since the last row."""
    loss_train: float = math.nan
    """Mean training loss of the last row."""
    val_loss: float = math.nan
    bits_per_byte: float = math.nan
    rides_to: int = 0
    """For one that rides along: the step at which it leaves, the first of its own cooldown."""
    forked_from: str | None = None
    """The run whose trunk it shares, or once did."""
    fork_step: int | None = None
    """Steps of that trunk, once it left."""

    @property
    def run_id(self) -> str:
        """Its name."""
        return self.plan.run_id

    def facts_of_fork(self) -> dict[str, Any]:
        """Where it left a trunk; nothing for a run that never shared one."""
        if self.forked_from is None:
            return {}
        return {"forked_from": self.forked_from, "fork_step": self.fork_step}
