"""What can only be checked against this machine and this data, before any run's first update."""

from collections.abc import Sequence
from pathlib import Path

from train.data.prepare import prepare, prepared_folder
from train.data.shards import Dataset, open_dataset
from train.device import select_device
from train.disk_space import refuse_full_disk
from train.manifest import PlannedRun
from train.memory_room import refuse_too_large
from train.tracker import require_tracker
from train.validate import check_enough_tokens


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
