"""`python -m train [overrides]`: one job. `python -m train -m study=NAME`: a study."""

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from train.config.compose import (
    CONFIG_ROOT,
    explain,
    is_config_failure,
    known_keys,
    refuse_text_words,
    register_schema,
    to_config,
)
from train.config.hydra_node import guarded, refuse_hydra_options
from train.config.schema import Config
from train.distributed import join_world, this_world
from train.errors import DivergedError, StorageError, WindTunnelError, as_storage_error
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
from train.training.trainer import follow_rank_0, train_runs

_refused: list[WindTunnelError] = []
"""The job's own error, kept here: Hydra prints the whole command before it lets one through."""


@hydra.main(config_path=str(CONFIG_ROOT), config_name="train", version_base="1.3")
def job(tree: DictConfig) -> None:
    """Run one job; a user's mistake is kept for main."""
    try:
        run_job(tree)
    except WindTunnelError as error:
        _refused.append(error)
    except OSError as error:
        storage = as_storage_error(error)
        if storage is None:
            raise
        _refused.append(storage)


def run_job(tree: DictConfig) -> None:
    """Validate one job's config and train its runs, or print their plan.

    Raises:
        DivergedError: Any of the runs diverged; the others are done.
    """
    config = to_config(tree)
    first = PlannedRun(overrides=_own_words(), config=config, plan=validate(config))
    runs = [first, *plan_together(first)]
    for run in runs:
        check_batch_split(run.config, this_world().size)
    config.together = []  # a run's records are the same in whatever company it is trained
    if config.dry_run:
        print_plan(runs, plan_jobs(runs))
        refuse_over_max_flops(runs)
        return
    refuse_over_max_flops(runs)
    preflight(runs)
    register_runs(folder_of(first).path.parent, config.study.name, runs, extend=config.study.extend)
    if os.environ.get(STUDY_JOB):
        _write_to(folder_of(first).log)
        for run in runs[1:]:
            point_to_log(folder_of(run), of=folder_of(first))
    try:
        train_runs(runs, startup=process_seconds())
    except DivergedError:
        if len(runs) > 1:
            _say_how_they_ended(runs)
        raise
    _say_how_they_ended(runs)


def main() -> int:
    """Run the command; of several ranks, rank 0, and the others train what it plans."""
    try:
        world = join_world()
    except WindTunnelError as error:
        return _fail(error)
    if world.rank > 0:
        return follow_rank_0(world)
    exit_code = WindTunnelError.exit_code
    try:
        exit_code = command()
    finally:  # also where --help or a refused option ends the process
        world.shutdown(exit_code)
    return exit_code


def command() -> int:
    """Run Hydra and turn every user's mistake into a message and an exit code."""
    _refused.clear()
    register_schema()
    sys.path.insert(0, str(Path(__file__).parent / "plugins"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, instead of Hydra's exit 1
    try:
        refuse_words(sys.argv[1:])
        with stops_at_once(), guarded():
            job()
    except WindTunnelError as error:
        return _fail(error)
    except KeyboardInterrupt:  # before anything listens
        return 130
    except Exception as error:
        storage = as_storage_error(error) if isinstance(error, OSError) else None
        if storage is not None:
            return _fail(storage)
        if not is_config_failure(error):
            sys.stderr.write(mask(traceback.format_exc()))
            return WindTunnelError.exit_code
        return _fail(explain(error))
    return _fail(_refused[0]) if _refused else 0


def refuse_words(words: list[str]) -> None:
    """Refuse a command line before Hydra reads it: wandb and the manifest keep its words.

    Raises:
        ConfigError: A secret, an option that loads a pickle, or text for a number.
    """
    refuse_hydra_options(words)
    refuse_secret_words(words, set(known_keys(Config)))
    refuse_text_words(word for word in words if not word.startswith("-"))


def _fail(error: WindTunnelError) -> int:
    this_world().report(error)
    with contextlib.suppress(OSError):  # the terminal may be gone: the exit code tells it too
        sys.stderr.write(mask(f"error: {error}\n"))
    return error.exit_code


def _own_words() -> list[str]:
    """The overrides that describe the first run, whatever it is trained along with."""
    words = HydraConfig.get().overrides.task
    return [word for word in words if not word.startswith("together=")]


def _say_how_they_ended(runs: Sequence[PlannedRun]) -> None:
    for run in runs:
        _say_how_it_ended(folder_of(run))


def _say_how_it_ended(folder: RunFolder) -> None:
    """One line on standard output, also for a run that was finished before.

    Raises:
        StorageError: Its result is damaged.
    """
    line = f"{folder.path}: {folder.state()}"
    if folder.result.exists():
        try:
            row = read_json(folder.result)["row"]
            line += f", validation loss {row['loss']:.4f} nats per token"
            line += f" ({row['bits_per_byte']:.4f} bits per byte)"
        except (ValueError, LookupError, TypeError) as error:
            raise StorageError(
                f"{folder.result}: edited or damaged ({type(error).__name__}: {error}); delete it "
                f"and status.json, and the same command writes both anew from the last checkpoint"
            ) from None
    sys.stdout.write(line + "\n")


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
