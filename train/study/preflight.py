"""Checks against this machine and its data, before any run's first update: device, disk, tokens.

The look at the disk is a snapshot. What other programs write later is not known, and a disk that
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
from train.plan.counting import CHECKPOINT_BYTES
from train.plan.planning import PlannedRun
from train.plan.validate import check_enough_tokens
from train.run_folder.checkpoint import STEP_FOLDER
from train.run_folder.run_folder import RunFolder, folder_of
from train.study.packing import runs_to_start
from train.study.slots import job_slots
from train.tracking.tracker import require_tracker


def preflight(runs: Sequence[PlannedRun]) -> None:
    """Check device, tracker and disk; prepare and verify the data and compare its length.

    Raises:
        MissingExtraError: The tracker's package is not installed.
        ConfigError: The device is not there or too small, or a run asks for more tokens than its
            data has.
        StorageError: The disk has no room for the checkpoints of the unfinished runs.
        DataError: Text cannot be fetched, its shards are damaged, or it is shorter than a window.
    """
    for machine in {run.config.machine.device: run.config.machine for run in runs}.values():
        select_device(machine)
    for tracker in {run.config.tracker.kind: run.config.tracker for run in runs}.values():
        require_tracker(tracker)
    refuse_too_large(runs)
    refuse_full_disk(runs)
    check_data(runs)


def check_data(runs: Sequence[PlannedRun], *, may_prepare: bool = True) -> list[str]:
    """Compare every run with the data it reads; return one line per dataset, longest run first.

    Args:
        runs: The runs.
        may_prepare: Whether to prepare missing data; else their length is not checked.

    Raises:
        ConfigError: A run asks for more tokens than its data has and may not repeat them.
        DataError: Text cannot be fetched, its shards are damaged, or it is shorter than a window.
    """
    opened: dict[Path, Dataset] = {}
    lines: dict[Path, str] = {}
    for run in sorted(runs, key=lambda run: -run.plan.tokens):
        data, root = run.config.data, Path(run.config.paths.data)
        folder = prepared_folder(data, root)
        if not (may_prepare or folder.exists()):
            line = f"data {data.name}: not prepared yet; its length is checked when it is"
            lines.setdefault(folder, line)
            continue
        if folder not in opened:
            opened[folder] = open_dataset(prepare(data, root, progress=may_prepare))
        opened[folder].refuse_shorter_than(data.seq_len + 1)
        n_tokens = opened[folder].n_tokens("train")
        epochs = check_enough_tokens(
            run.plan,
            n_tokens=n_tokens,
            seq_len=data.seq_len,
            allow_repeat=data.allow_repeat,
            name=data.name,
        )
        line = f"data {data.name}: {n_tokens} tokens; the longest run takes {epochs:.2f} epochs"
        lines.setdefault(folder, line)
    return list(lines.values())


def checkpoint_bytes(run: PlannedRun) -> int:
    """Size of one checkpoint of a run."""
    return CHECKPOINT_BYTES * run.plan.params.total


def refuse_full_disk(runs: Sequence[PlannedRun]) -> None:
    """Compare the free space with what the unfinished runs still have to write.

    Every run keeps machine.checkpoint_keep checkpoints for good, and has one more while it writes
    one. Runs that would continue without a checkpoint (machine.on_save_error=warn) need no room.

    Raises:
        StorageError: It does not suffice; says what is needed for what, and what is free.
    """
    by_disk: dict[Path, list[PlannedRun]] = defaultdict(list)
    for run in runs_to_start(runs):
        if run.config.machine.on_save_error is OnSaveError.stop:
            by_disk[_nearest_existing(Path(run.config.paths.runs))].append(run)
    for place, unfinished in by_disk.items():
        needed = bytes_to_write(unfinished)
        free = shutil.disk_usage(place).free
        if needed > free:
            raise StorageError(_refusal(unfinished, place, needed=needed, free=free))


def bytes_to_write(unfinished: Sequence[PlannedRun]) -> int:
    """Most bytes of checkpoints that will be added to the disk at any moment.

    Args:
        unfinished: Runs of one launch that will train: as many at once as it has slots, at worst
            the largest ones.
    """
    kept = 0
    for run in unfinished:
        whole = checkpoint_bytes(run) * run.config.machine.checkpoint_keep
        kept += max(0, whole - _bytes_there(folder_of(run)))
    slots = len(job_slots(unfinished[0].config.machine))
    return kept + sum(sorted(map(checkpoint_bytes, unfinished), reverse=True)[:slots])


def _bytes_there(folder: RunFolder) -> int:
    """Bytes of a run's checkpoints; 0 for a run that restarts, whose checkpoints are archived."""
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
    besides = f", besides the {byte_count(there)} that are there" if there else ""
    return (
        f"paths.runs={config.paths.runs}: needs {byte_count(needed)} for {count} checkpoints of "
        f"{CHECKPOINT_BYTES} bytes a parameter of {whose} (machine.checkpoint_keep={keep}{each}, "
        f"and {spare}){besides}; {byte_count(free)} are free in {place}; free some, or use another "
        f"paths.runs"
    )


def byte_count(count: float) -> str:
    """`7.25 GB`: three digits and a unit."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
