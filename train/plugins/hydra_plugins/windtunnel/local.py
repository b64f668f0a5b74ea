"""Hydra's door to train.launch: jobs as processes of this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from train.launch import launch_local


@dataclass
class LocalLauncherConf:
    """Node of hydra/launcher=local."""

    _target_: str = "hydra_plugins.windtunnel.local.LocalLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf)


class LocalLauncher(Launcher):
    """One process per job, a few at once; the truth is read from run folders afterwards."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Remember the config."""
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run `python -m train <overrides>` for each job."""
        launch_local([list(job) for job in job_overrides], self.config)
        return []
