"""`python -m train [overrides]`: one job. `python -m train -m study=NAME`: a study."""

import contextlib
import logging
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from train.config.compose import (
    CONFIG_ROOT,
    explain,
    is_config_failure,
    known_keys,
    register_schema,
    to_config,
)
from train.config.schema import Config
from train.distributed import join_world, this_world
from train.errors import (
    DivergedError,
    InterruptedByUserError,
    PreemptedError,
    StorageError,
    WindTunnelError,
    as_storage_error,
)
from train.plan.planning import PlannedRun
from train.plan.validate import check_batch_split, validate
from train.run_folder.accounting import process_seconds
from train.run_folder.manifest import register_runs
from train.run_folder.run_folder import RunFolder, folder_of
from train.secrets import mask, refuse_secret_words
from train.signals import stops_at_once
from train.storage.records import read_json
from train.study.dry_run import print_plan
from train.study.job_members import plan_together, point_to_log
from train.study.launch import STUDY_JOB
from train.study.packing import plan_jobs
from train.study.preflight import preflight
from train.study.study import refuse_over_max_flops
from train.training.ranks import follow_rank_0
from train.training.trainer import train_runs

_errors: list[WindTunnelError] = []
"""Error of the one job of a plain run: Hydra would print all overrides before it raised it."""

OURS = {"hydra/sweeper": "study", "hydra/launcher": "local"}
"""The plugins that configs/train.yaml chooses."""


@hydra.main(config_path=str(CONFIG_ROOT), config_name="train", version_base="1.3")
def job(tree: DictConfig) -> float | None:
    """Run one job of the command, or of a sweep whose jobs share this process.

    Returns:
        Validation loss of the job's first run, nats per token, which a sweeper can minimise; inf
        where it diverged.
    """
    node = HydraConfig.get()
    if node.mode is RunMode.MULTIRUN:
        return _sweep_job(tree, node)
    try:
        return run_job(tree, startup=process_seconds)
    except (WindTunnelError, OSError) as problem:
        error = as_storage_error(problem) if isinstance(problem, OSError) else problem
        # a callback is told that the job failed if the error passes through Hydra
        if error is None or node.callbacks:
            raise
        _errors.append(error)
        return None


def _sweep_job(tree: DictConfig, node: HydraConf) -> float | None:
    """Run one job of another launcher's sweep, in the command's process or in a worker's."""
    if node.job.num == 0:
        _note_other_plugins(node)
    began = time.monotonic()
    try:
        return run_job(tree, startup=lambda: time.monotonic() - began)
    except DivergedError as error:
        # a result, which does not end the sweep
        sys.stderr.write(f"{error}\n")
        return math.inf
    except (InterruptedByUserError, PreemptedError) as error:
        # a launcher takes an Exception for the failure of this job alone and starts the next one
        raise SystemExit(_fail(error)) from None
    except Exception as error:
        # the launcher keeps it, and its frames would keep the engine's memory
        traceback.clear_frames(error.__traceback__)
        raise


def _note_other_plugins(node: HydraConf) -> None:
    """Say on stderr what another sweeper or launcher leaves out."""
    others = [
        f"{group}={node.runtime.choices[group]}"
        for group, name in OURS.items()
        if node.runtime.choices[group] != name
    ]
    if others:
        sys.stderr.write(
            f"note: {' '.join(others)} starts each job once; the defaults, hydra/sweeper=study and "
            f"hydra/launcher=local, also check the whole grid first, stack runs, retry jobs that "
            f"are killed and show progress\n"
        )


def run_job(tree: DictConfig, *, startup: Callable[[], float]) -> float | None:
    """Validate one job's config and train its runs, or print their plan.

    Args:
        tree: The composed config.
        startup: Returns the seconds since the job began, which the first step waits for.

    Returns:
        Validation loss of the job's first run, nats per token.

    Raises:
        DivergedError: Any of the runs diverged; the others are done.
    """
    config = to_config(tree)
    first = PlannedRun(overrides=_own_words(), config=config, plan=validate(config))
    runs = [first, *plan_together(first)]
    for run in runs:
        check_batch_split(run.config, this_world().size)
    # records must not depend on which runs share the job
    config.together = []
    if config.dry_run:
        print_plan(runs, plan_jobs(runs))
        refuse_over_max_flops(runs)
        return None
    refuse_over_max_flops(runs)
    preflight(runs)
    # another sweeper starts jobs of a study that was never planned as one grid
    may_extend = config.study.extend or HydraConfig.get().mode is RunMode.MULTIRUN
    register_runs(folder_of(first).path.parent, config.study.name, runs, extend=may_extend)
    if os.environ.get(STUDY_JOB):
        _write_to(folder_of(first).log)
        for run in runs[1:]:
            point_to_log(folder_of(run), of=folder_of(first))
    try:
        train_runs(runs, startup=startup())
    except DivergedError:
        if len(runs) > 1:
            _print_ends(runs)
        raise
    return _print_ends(runs)[0]


def main() -> int:
    """Run the command; of several ranks, rank 0, and the others train what it plans."""
    try:
        world = join_world()
    except WindTunnelError as error:
        return _fail(error)
    if world.rank > 0:
        return follow_rank_0(world, lambda: train_runs(()))
    exit_code = WindTunnelError.exit_code
    try:
        exit_code = command()
    finally:  # also where --help or a refused option ends the process
        world.shutdown(exit_code)
    return exit_code


def command() -> int:
    """Run Hydra and turn every user's mistake into a message and an exit code."""
    _errors.clear()
    register_schema()
    sys.path.insert(0, str(Path(__file__).parent / "plugins"))
    # errors come here, instead of Hydra's exit 1
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # a log line that nobody reads, such as of `--info | head`, is no error
    logging.raiseExceptions = False
    try:
        # before Hydra, because W&B and the manifest keep the command's words
        refuse_secret_words(sys.argv[1:], set(known_keys(Config)))
        with stops_at_once():
            job()
            sys.stdout.flush()
    except WindTunnelError as error:
        return _fail(error)
    except KeyboardInterrupt:
        # before a handler is installed
        return InterruptedByUserError.exit_code
    except BrokenPipeError:
        # such as `--help | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(_errors[0]) if _errors else 0
    except Exception as error:
        storage = as_storage_error(error) if isinstance(error, OSError) else None
        if storage is not None:
            return _fail(storage)
        if not is_config_failure(error):
            sys.stderr.write(mask(traceback.format_exc()))
            return WindTunnelError.exit_code
        return _fail(explain(error))
    return _fail(_errors[0]) if _errors else 0


def _fail(error: WindTunnelError) -> int:
    this_world().report(error)
    with contextlib.suppress(OSError):  # the terminal may be gone: the exit code tells it too
        sys.stderr.write(mask(f"error: {error}\n"))
    return error.exit_code


def _own_words() -> list[str]:
    """The overrides that describe the first run, whatever it is trained along with."""
    words = HydraConfig.get().overrides.task
    return [word for word in words if not word.startswith("together=")]


def _print_ends(runs: Sequence[PlannedRun]) -> list[float | None]:
    return [_print_end(folder_of(run)) for run in runs]


def _print_end(folder: RunFolder) -> float | None:
    """Print one line, also for a run that was finished before; return its validation loss.

    Raises:
        StorageError: Its result is damaged.
    """
    line, loss = f"{folder.path}: {folder.state()}", None
    if folder.result.exists():
        try:
            row = read_json(folder.result)["row"]
            loss = float(row["loss"])
            line += f", validation loss {loss:.4f} nats per token"
            line += f" ({row['bits_per_byte']:.4f} bits per byte)"
        except (ValueError, LookupError, TypeError) as error:
            raise StorageError(
                f"{folder.result}: edited or damaged ({type(error).__name__}: {error}); delete it "
                f"and status.json, and the same command writes both anew from the last checkpoint"
            ) from None
    sys.stdout.write(line + "\n")
    return loss


def _write_to(log: Path) -> None:
    """Send this process's output to the run's job.log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
    warnings.simplefilter("default")


if __name__ == "__main__":
    sys.exit(main())
