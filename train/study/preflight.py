"""What can only be checked against this machine and this data, before any run's first update.

Whether paths.runs has room for the checkpoints that a launch will write.

A snapshot before the first update: what other programs write later is not known, and a disk that
fills up all the same stops a run at its checkpoint (machine.on_save_error). Records are left out:
they are small beside the checkpoints of any model that could fill a disk.
"""

import contextlib
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from train.config.runtime import OnSaveError
from train.data.prepare import prepare, prepared_folder
from train.data.shards import Dataset, open_dataset
from train.engine.device import select_device
from train.engine.memory import refuse_too_large
from train.errors import StorageError
from train.plan.planning import PlannedRun
from train.plan.validate import check_enough_tokens
from train.run_folder.checkpoint import STEP_FOLDER
from train.run_folder.run_folder import RunFolder, folder_of
from train.storage.records import FINISHED_STATES
from train.study.dry_run import checkpoint_bytes
from train.study.slots import job_slots
from train.tracking.tracker import require_tracker


def preflight(runs: Sequence[PlannedRun]) -> None:
    """Find the device, the mirror and room for checkpoints; prepare, verify and measure the data.

    Raises:
        MissingExtraError: The mirror's package is not installed.
        ConfigError: The device is not there or too small, or a run asks for more tokens than its
            data has.
        StorageError: The disk has no room for the checkpoints of the runs that are not done.
        DataError: Text cannot be fetched, its shards are damaged, or it is shorter than a window.
    """
    for machine in {run.config.machine.device: run.config.machine for run in runs}.values():
        select_device(machine)
    for tracker in {run.config.tracker.kind: run.config.tracker for run in runs}.values():
        require_tracker(tracker)
    refuse_too_large(runs)
    refuse_full_disk(runs)
    opened: dict[Path, Dataset] = {}
    for run in runs:
        data, root = run.config.data, Path(run.config.paths.data)
        folder = prepared_folder(data, root)
        if folder not in opened:
            opened[folder] = open_dataset(prepare(data, root, progress=True))
        opened[folder].refuse_shorter_than(data.seq_len + 1)
        check_enough_tokens(
            run.plan,
            n_tokens=opened[folder].n_tokens("train"),
            seq_len=data.seq_len,
            allow_repeat=data.allow_repeat,
            name=data.name,
        )


def refuse_full_disk(runs: Sequence[PlannedRun]) -> None:
    """Compare the free space with what the unfinished runs still have to write.

    Every run keeps machine.checkpoint_keep checkpoints for good, and one more exists of each run
    that is in flight while it is written. Runs that would go on without a checkpoint
    (machine.on_save_error=warn) need no room.

    Raises:
        StorageError: It does not suffice; says what is needed for what, and what is free.
    """
    by_disk: dict[Path, list[PlannedRun]] = defaultdict(list)
    for run in runs:
        if run.config.machine.on_save_error is OnSaveError.stop and _will_train(run):
            by_disk[_nearest_existing(Path(run.config.paths.runs))].append(run)
    for place, unfinished in by_disk.items():
        needed = bytes_to_write(unfinished)
        free = shutil.disk_usage(place).free
        if needed > free:
            raise StorageError(_refusal(unfinished, place, needed=needed, free=free))


def bytes_to_write(unfinished: Sequence[PlannedRun]) -> int:
    """Return the most bytes of checkpoints that will be added to the disk at any moment.

    Args:
        unfinished: Runs that will train, all of one launch; at most as many as it has slots train
            at a time, the largest ones at worst.
    """
    kept = 0
    for run in unfinished:
        whole = checkpoint_bytes(run.plan) * run.config.machine.checkpoint_keep
        kept += max(0, whole - _bytes_there(folder_of(run)))
    slots = len(job_slots(unfinished[0].config.machine))
    largest = sorted((checkpoint_bytes(run.plan) for run in unfinished), reverse=True)
    return kept + sum(largest[:slots])


def _will_train(run: PlannedRun) -> bool:
    state = folder_of(run).state()
    return state not in FINISHED_STATES or (run.config.restart and state == "diverged")


def _bytes_there(folder: RunFolder) -> int:
    """Bytes of the checkpoints that a run has; those of a run that starts anew are archived."""
    if folder.state() == "diverged":
        return 0
    total = 0
    for path in folder.checkpoints.glob("step_*/*"):
        with contextlib.suppress(FileNotFoundError):  # the run may be training, and pruning
            total += path.stat().st_size if STEP_FOLDER.fullmatch(path.parent.name) else 0
    return total


def _nearest_existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _refusal(unfinished: Sequence[PlannedRun], place: Path, *, needed: int, free: int) -> str:
    config = unfinished[0].config
    keep = config.machine.checkpoint_keep
    slots = min(len(job_slots(config.machine)), len(unfinished))
    count = sum(run.config.machine.checkpoint_keep for run in unfinished) + slots
    if len(unfinished) == 1:
        whose, each, spare = unfinished[0].plan.run_id, "", "one more while it is written"
    else:
        whose, each = f"{len(unfinished)} unfinished runs", " of each run"
        spare = f"one more of each of the {slots} at a time"
    there = sum(_bytes_there(folder_of(run)) for run in unfinished)
    besides = f", besides the {_size(there)} that are there" if there else ""
    return (
        f"paths.runs={config.paths.runs}: needs {_size(needed)} for {count} checkpoints of 12 "
        f"bytes a parameter of {whose} (machine.checkpoint_keep={keep}{each}, and {spare})"
        f"{besides}; {_size(free)} are free in {place}; free some, or use another paths.runs"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
