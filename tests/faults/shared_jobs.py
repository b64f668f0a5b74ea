"""Jobs of several runs in children that can be killed: two replicas, each with three horizons."""

import dataclasses
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.overrides import as_overrides
from faults.runner import Outcome, Patch, run_child, start_child
from tests.train.shared_runs import planned, shared_config, with_machine, with_optimizer, with_steps
from train.config.schema import Config
from train.run_folder.manifest import register_runs
from train.run_folder.run_folder import RunFolder, folder_of
from train.storage.records import read_jsonl
from train.training.trainer import train_runs

HORIZONS = (16, 12, 7)
FORKS = {12: 9, 7: 5}
"""First steps of the cooldowns, by horizon."""
CHECKPOINT_STEPS = 4


def two_by_three(root: Path, **machine: Any) -> list[Config]:
    """Runs by horizon, longest first, two replicas of each."""
    plumbing = {"checkpoint_steps": CHECKPOINT_STEPS, "log_every": 3, **machine}
    config = with_machine(shared_config(root), **plumbing)
    second = dataclasses.replace(with_optimizer(config, lr=0.02, beta2=0.9), seed=1)
    return [with_steps(each, steps) for steps in HORIZONS for each in (config, second)]


@dataclass(frozen=True)
class TrainJob:
    """What `python -m train ... together=[...]` comes to, without composing its config."""

    configs: tuple[Config, ...]

    def __call__(self) -> int:
        """Train all runs to their ends."""
        train_runs([planned(config) for config in self.configs])
        return 0


def kill_job(configs: Sequence[Config], *faults: Patch) -> None:
    """Train the runs in a child until one of `faults` kills it; any other end is a failure."""
    child = start_child(configs[0], *faults, command=TrainJob(tuple(configs)))
    try:
        outcome = child.wait()
    finally:
        child.close()
    assert outcome.exit_code == -signal.SIGKILL, outcome


def plan_study(configs: Sequence[Config]) -> list[RunFolder]:
    """Write the manifest of a study of these runs, and return their folders."""
    runs = [planned(config) for config in configs]
    folder = runs[0].path.parent
    folder.mkdir(parents=True, exist_ok=True)
    register_runs(folder, folder.name, runs, extend=True)
    return [folder_of(run) for run in runs]


def command_together(configs: Sequence[Config], *faults: Patch) -> Outcome:
    """The real command on runs of a planned study."""
    return run_child(configs[0], *faults, arguments=words_together(configs))


def words_together(configs: Sequence[Config]) -> list[str]:
    """The command line of a job of these runs."""
    first, *others = configs
    ids = ",".join(f"'{planned(config).plan.run_id}'" for config in others)
    return [*as_overrides(first), *([f"together=[{ids}]"] if others else [])]


def starts(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of attempts.jsonl that say where attempts began."""
    return [row for row in read_jsonl(folder.attempts) if row["event"] == "start"]


def ends(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows that say how they ended."""
    return [row for row in read_jsonl(folder.attempts) if row["event"] == "end"]
