"""A study from its grid to its finished runs: plan everything, then launch what is not done."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from train.compose import explain, is_config_failure, to_config
from train.errors import ConfigError, PreemptedError, WindTunnelError
from train.grid import expand_grid
from train.manifest import PlannedRun, register_runs
from train.plan_report import print_plan
from train.preflight import preflight
from train.records import FINISHED_STATES
from train.rundir import RunFolder
from train.status import RunStatus, study_status
from train.validate import validate

Compose = Callable[[list[str]], DictConfig]
Launch = Callable[[list[list[str]]], object]


def run_study(arguments: list[str], *, study: DictConfig, compose: Compose, launch: Launch) -> None:
    """Plan the study's grid and run what is not done.

    Args:
        arguments: Overrides of the command line, sweeps included.
        study: The composed `study` node.
        compose: Composes one run's tree from its overrides.
        launch: Runs jobs, each a list of overrides, to their ends.

    Raises:
        ConfigError, DataError: Any run of the grid is refused; nothing has been trained.
        StudyIncompleteError: Some runs are neither completed nor diverged.
    """
    blocks = OmegaConf.to_container(study.grid, resolve=True)
    assert isinstance(blocks, list)
    grid = expand_grid(arguments, blocks)
    if len(grid) > study.max_runs:
        raise ConfigError(
            f"the grid has {len(grid)} runs, more than study.max_runs={study.max_runs}"
        )
    runs = plan_grid(grid, compose)
    config = runs[0].config
    folder = Path(config.paths.runs) / config.study.name
    if config.dry_run:
        print_plan(runs)
        return
    preflight(runs)
    register_runs(folder, config.study.name, runs, extend=config.study.extend)
    todo = [run for run in runs if _state(run) not in FINISHED_STATES]
    todo.sort(key=lambda run: run.plan.flops_exact, reverse=True)  # longest first packs best
    launch([run.overrides for run in todo])
    report_unfinished(folder, runs)


def plan_grid(grid: list[list[str]], compose: Compose) -> list[PlannedRun]:
    """Compose, check and plan every run.

    Raises:
        ConfigError: A run is refused, named by its overrides; or two of them are the same run.
    """
    planned: dict[str, PlannedRun] = {}
    for overrides in grid:
        try:
            config = to_config(compose(overrides))
            run = PlannedRun(overrides=overrides, config=config, plan=validate(config))
        except ConfigError as error:
            raise ConfigError(f"{error}\n  in the run {' '.join(overrides)}") from None
        except Exception as error:
            if not is_config_failure(error):
                raise
            raise ConfigError(f"{explain(error)}\n  in the run {' '.join(overrides)}") from None
        twin = planned.setdefault(run.plan.run_id, run)
        if twin is not run:
            raise ConfigError(
                f"two points of the grid are the same run {run.plan.run_id}:\n"
                f"  {' '.join(twin.overrides)}\n  {' '.join(overrides)}"
            )
    return list(planned.values())


def report_unfinished(folder: Path, runs: list[PlannedRun]) -> None:
    """Say how many runs ended how; raise for those that did not end, with their reasons."""
    statuses = {status.run_id: status for status in study_status(folder)}
    mine = [statuses[run.plan.run_id] for run in runs]
    counts = Counter(status.state for status in mine)
    done = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    Console(stderr=True).print(f"{folder}: {done}", highlight=False, soft_wrap=True)
    unfinished = [status for status in mine if status.state not in FINISHED_STATES]
    if unfinished:
        raise StudyIncompleteError(unfinished)


class StudyIncompleteError(WindTunnelError):
    """Some runs did not end; the same command continues."""

    def __init__(self, unfinished: list[RunStatus]) -> None:
        lines = [f"  {run.run_id}: {run.state} {run.reason}".rstrip() for run in unfinished[:20]]
        more = [f"  and {len(unfinished) - 20} more"] if len(unfinished) > 20 else []
        super().__init__(
            "\n".join(["unfinished runs (the same command continues):", *lines, *more])
        )
        codes = [run.exit_code for run in unfinished if run.state == "failed" and run.exit_code]
        self.exit_code = codes[0] if codes else PreemptedError.exit_code


def _state(run: PlannedRun) -> str:
    config = run.config
    return RunFolder(Path(config.paths.runs) / config.study.name / run.plan.run_id).state()
