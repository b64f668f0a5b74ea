"""hydra/sweeper=study: Hydra's interface to train/study/study.py."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from train.config.compose import composed_once
from train.errors import WindTunnelError
from train.secrets import mask
from train.study.job import Job, JobEnd, JobLauncher
from train.study.study import run_study


@dataclass
class StudySweeperConf:
    """Node of hydra/sweeper=study."""

    _target_: str = "hydra_plugins.windtunnel.sweeper.StudySweeper"
    params: dict[str, str] = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="study", node=StudySweeperConf)


class StudySweeper(Sweeper):
    """A study's blocks and plain sweeps, as one planned grid."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Remember what composes configs, and make the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the study that `arguments` and the composed config describe."""
        context, master, launcher = self.hydra_context, self.config, self.launcher
        assert context is not None
        assert master is not None
        assert launcher is not None

        def compose(overrides: list[str]) -> DictConfig:
            tree: DictConfig = context.config_loader.load_sweep_config(master, overrides)
            return tree

        def launch(jobs: Sequence[Job]) -> Mapping[str, JobEnd]:
            if isinstance(launcher, JobLauncher):
                return launcher.launch_jobs(jobs)
            returns = launcher.launch([job.words for job in jobs], initial_job_idx=0)
            return ends_of_failed(jobs, returns)

        run_study(
            [f"{key}={value}" for key, value in self.params.items()] + list(arguments),
            study=master.study,
            compose=composed_once(compose),
            launch=launch,
            parser=OverridesParser.create(config_loader=context.config_loader),
        )


def ends_of_failed(jobs: Sequence[Job], returns: Sequence[JobReturn]) -> dict[str, JobEnd]:
    """Print the errors of another launcher's jobs; return how their runs ended, by run_id."""
    ends = {}
    for job, job_return in zip(jobs, returns, strict=True):
        try:
            # Hydra prints the overrides of a failed job and raises its error
            _ = job_return.return_value
        except WindTunnelError as error:
            sys.stderr.write(mask(f"error: {error}\n"))
            end = JobEnd(cause=error.cause, exit_code=error.exit_code)
            ends.update({run.run_id: end for run in job.runs})
    return ends
