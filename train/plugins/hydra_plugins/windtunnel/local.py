"""hydra/launcher=local: Hydra's interface to train/study/launch.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from train.errors import ConfigError
from train.study.job import Job, JobEnd
from train.study.launch import launch_local


@dataclass
class LocalLauncherConf:
    """Node of hydra/launcher=local."""

    _target_: str = "hydra_plugins.windtunnel.local.LocalLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf)


class LocalLauncher(Launcher):
    """One process per job, a few at once; how they ended is read from the run folders."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Remember the config."""
        self.config = config

    def launch_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobEnd]:
        """Run `python -m train <words>` for each job."""
        return launch_local(jobs, self.config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Refuse the jobs of another sweeper, which are overrides without their planned runs.

        Raises:
            ConfigError: Always; names launchers that take them.
        """
        raise ConfigError(
            "hydra/launcher=local: takes jobs from hydra/sweeper=study only; with another sweeper "
            "use hydra/launcher=basic, or hydra/launcher=joblib for several jobs at once"
        )
