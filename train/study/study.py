"""A study, from its grid to its report: plan every run, launch the unfinished ones."""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from train.config.compose import Compose, explain, is_config_failure, to_config
from train.config.runtime import SCRATCH
from train.distributed import this_world
from train.errors import ConfigError, InterruptedByUserError, PreemptedError, WindTunnelError
from train.plan.grid import Parser, expand_grid
from train.plan.planning import PlannedRun
from train.plan.validate import validate
from train.run_folder.manifest import (
    manifest_entry,
    read_manifest,
    refuse_another_grid,
    register_runs,
)
from train.storage.lock import hold, refuse_if_held
from train.storage.records import FINISHED_STATES
from train.study.dry_run import print_plan
from train.study.job import Job, JobEnd, job_of
from train.study.packing import plan_jobs
from train.study.preflight import preflight
from train.study.run_status import RunStatus, name_stops, run_status

Launch = Callable[[Sequence[Job]], Mapping[str, JobEnd]]

TASK = "is running this study"
"""What the holder of a study's lock does, for the message to others."""


def run_study(
    arguments: list[str],
    *,
    study: DictConfig,
    compose: Compose,
    launch: Launch,
    parser: Parser | None = None,
) -> None:
    """Plan the study's grid and launch its unfinished runs.

    Args:
        arguments: Overrides of the command line, comma sweeps included.
        study: The composed `study` node.
        compose: Composes the config of one run from its overrides.
        launch: Runs jobs to their ends; returns how they ended, by run_id.
        parser: Hydra's, which knows the configs that a `glob()` can name.

    Raises:
        ConfigError, DataError: A run of the grid is refused, or this is one of several ranks;
            nothing was trained.
        LockedError: Another process runs this study; scratch is never locked.
        StudyIncompleteError: Some runs are neither completed nor diverged.
    """
    if this_world().size > 1:
        raise ConfigError(
            f"a study is launched by one process, not {this_world().size}: start it without "
            f"torchrun; torchrun trains one job"
        )
    blocks = OmegaConf.to_container(study.grid, resolve=True)
    assert isinstance(blocks, list)
    grid = expand_grid(arguments, blocks, parser=parser)
    if len(grid) > study.max_runs:
        raise ConfigError(
            f"the grid has {len(grid)} runs, more than study.max_runs={study.max_runs}"
        )
    config = plan_grid(grid[:1], compose)[0].config
    folder = Path(config.paths.runs) / config.study.name
    lock = folder / "study.lock"
    is_named = config.study.name != SCRATCH
    if is_named and not config.dry_run:
        # before planning and preparing data, which may take long
        refuse_if_held(lock, task=TASK)
    runs = plan_grid(grid, compose)
    _refuse_two_studies(runs)
    _refuse_together(runs)
    if config.dry_run:
        print_plan(runs, plan_jobs(runs))
        # a plan that would be refused says so
        refuse_over_max_flops(runs)
        manifest, extend = read_manifest(folder), config.study.extend
        refuse_another_grid(manifest, folder, config.study.name, runs, extend=extend)
        return
    refuse_over_max_flops(runs)
    preflight(runs)
    with hold(lock, task=TASK) if is_named else contextlib.nullcontext():
        register_runs(folder, config.study.name, runs, extend=config.study.extend)
        ends = launch([job_of(group) for group in plan_jobs(runs)])
        report_unfinished(folder, runs, ends)


def _refuse_two_studies(runs: Sequence[PlannedRun]) -> None:
    """Refuse runs of several studies: a launch writes one manifest.

    Raises:
        ConfigError: The runs differ in study.name or paths.runs.
    """
    for key in ("study.name", "paths.runs"):
        group, name = key.split(".")
        values = {getattr(getattr(run.config, group), name) for run in runs}
        if len(values) > 1:
            raise ConfigError(
                f"{key}={','.join(sorted(values))}: one launch is one study; launch each by itself"
            )


def _refuse_together(runs: Sequence[PlannedRun]) -> None:
    """Refuse together=, which is for one job: a launch groups its runs itself.

    Raises:
        ConfigError: A run has it.
    """
    if any(run.config.together for run in runs):
        raise ConfigError(
            "together: is for one job, not for a study, which groups its runs by itself; leave it "
            "out (machine.stack and machine.trunks say what may be grouped)"
        )


def refuse_over_max_flops(runs: Sequence[PlannedRun]) -> None:
    """Refuse runs of more training FLOPs in all than study.max_flops.

    Raises:
        ConfigError: Names the limit, the sum and the number of runs.
    """
    limit = runs[0].config.study.max_flops
    total = sum(6 * run.plan.params.standard * run.plan.tokens for run in runs)
    if limit is not None and total > limit:
        raise ConfigError(
            f"study.max_flops={limit:g}: {len(runs)} run{'s' if len(runs) > 1 else ''} of "
            f"{total:.6g} FLOPs together (6 N D) are planned; shrink the grid or its budgets, or "
            f"use study.max_flops={total * 1.001:.4g}"
        )


def plan_grid(grid: list[list[str]], compose: Compose) -> list[PlannedRun]:
    """Compose, validate and plan every run.

    Raises:
        ConfigError: A run is refused, with its overrides; or two points are the same run.
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


def report_unfinished(folder: Path, runs: Sequence[PlannedRun], ends: Mapping[str, JobEnd]) -> None:
    """Print how many runs are in which state; raise for unfinished ones, with their reasons.

    Args:
        folder: The study's.
        runs: The runs of this launch.
        ends: How a run's last process ended, where the launcher knows: the reason of a run whose
            folder gives none.

    Raises:
        StudyIncompleteError: Some runs are neither completed nor diverged.
    """
    statuses = [run_status(folder, manifest_entry(run)) for run in runs]
    counts = Counter(status.state for status in statuses)
    line = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    stops: Counter[str] = Counter()
    for status in statuses:
        stops.update(status.stops)
    if stops:
        line += f"; attempts cut short: {name_stops(stops)}"
    Console(stderr=True).print(f"{folder}: {line}", highlight=False, soft_wrap=True)
    unfinished = [
        _with_end(status, ends.get(status.run_id))
        for status in statuses
        if status.state not in FINISHED_STATES
    ]
    if unfinished:
        raise StudyIncompleteError(unfinished)


def _with_end(status: RunStatus, end: JobEnd | None) -> RunStatus:
    """A run's status, its reason from the job's end where the job died before it wrote one."""
    if end is None or end.cause is None or (status.state == "failed" and status.reason):
        return status
    exit_code = end.exit_code if status.exit_code is None else status.exit_code
    return replace(status, reason=status.reason or str(end), exit_code=exit_code)


AGAIN = (PreemptedError.exit_code, InterruptedByUserError.exit_code)
"""Exit codes after which the same command continues, with nothing to repair."""


class StudyIncompleteError(WindTunnelError):
    """Some runs are unfinished; the same command continues them."""

    def __init__(self, unfinished: list[RunStatus]) -> None:
        lines = [f"  {run.run_id}: {run.state} {run.reason}".rstrip() for run in unfinished[:20]]
        more = [f"  and {len(unfinished) - 20} more"] if len(unfinished) > 20 else []
        super().__init__(
            "\n".join(["unfinished runs (the same command continues):", *lines, *more])
        )
        codes = [run.exit_code for run in unfinished if run.exit_code and run.exit_code > 0]
        failures = [code for code in codes if code not in AGAIN]
        self.exit_code = failures[0] if failures else PreemptedError.exit_code
