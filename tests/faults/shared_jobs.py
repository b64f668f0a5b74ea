"""Jobs of several runs in children that can be killed: two replicas, each with three horizons."""

import dataclasses
import signal
from dataclasses import dataclass

from faults.overrides import as_overrides
from faults.runner import run_child, start_child
from tests.builders import planned
from tests.train.shared_runs import shared_config, with_machine, with_optimizer, with_steps
from train.config.schema import Config
from train.run_folder.manifest import register_runs
from train.run_folder.run_folder import folder_of
from train.training.trainer import train_runs

HORIZONS = (16, 12, 7)
FORKS = {12: 9, 7: 5}
"""First steps of the cooldowns, by horizon."""
CHECKPOINT_STEPS = 4
LONG, OTHER_LONG, MIDDLE, OTHER_MIDDLE, SHORT, OTHER_SHORT = range(6)
"""Places of the runs in their job."""


def two_by_three(root, **machine):
    """Runs by horizon, longest first, two replicas of each."""
    plumbing = {"checkpoint_steps": CHECKPOINT_STEPS, "log_every": 3, **machine}
    config = with_machine(shared_config(root), **plumbing)
    second = dataclasses.replace(with_optimizer(config, lr=0.02, beta2=0.9), seed=1)
    return [with_steps(each, steps) for steps in HORIZONS for each in (config, second)]


@dataclass(frozen=True)
class TrainJob:
    """What `python -m train ... together=[...]` comes to, without composing its config."""

    configs: tuple[Config, ...]

    def __call__(self):
        train_runs([planned(config) for config in self.configs])
        return 0


def kill_job(configs, *faults):
    """Train the runs in a child until one of `faults` kills it; any other end is a failure."""
    child = start_child(configs[0], *faults, command=TrainJob(tuple(configs)))
    try:
        outcome = child.wait()
    finally:
        child.close()
    assert outcome.exit_code == -signal.SIGKILL, outcome


def plan_study(configs):
    """Write the manifest of a study of these runs, and return their folders."""
    runs = [planned(config) for config in configs]
    folder = runs[0].path.parent
    folder.mkdir(parents=True, exist_ok=True)
    register_runs(folder, folder.name, runs, extend=True)
    return [folder_of(run) for run in runs]


def command_together(configs, *faults):
    return run_child(configs[0], *faults, arguments=words_together(configs))


def words_together(configs):
    first, *others = configs
    ids = ",".join(f"'{planned(config).plan.run_id}'" for config in others)
    return [*as_overrides(first), *([f"together=[{ids}]"] if others else [])]
