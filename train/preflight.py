"""What can only be checked against this machine and this data, before any run's first update."""

from collections.abc import Sequence
from pathlib import Path

from train.data.prepare import prepare, prepared_folder
from train.data.shards import open_dataset
from train.device import select_device
from train.manifest import PlannedRun
from train.tracker import require_tracker
from train.validate import check_enough_tokens


def preflight(runs: Sequence[PlannedRun]) -> None:
    """Find the device and the mirror, prepare and verify the data, and check that it is enough.

    Raises:
        MissingExtraError: The mirror's package is not installed.
        ConfigError: The device is not there, or a run asks for more tokens than its data has.
        DataError: Text cannot be fetched, or its shards are damaged.
    """
    for machine in {run.config.machine.device: run.config.machine for run in runs}.values():
        select_device(machine)
    for tracker in {run.config.tracker.kind: run.config.tracker for run in runs}.values():
        require_tracker(tracker)
    n_tokens: dict[Path, int] = {}
    for run in runs:
        data, root = run.config.data, Path(run.config.paths.data)
        folder = prepared_folder(data, root)
        if folder not in n_tokens:
            n_tokens[folder] = open_dataset(prepare(data, root, progress=True)).n_tokens("train")
        check_enough_tokens(
            run.plan,
            n_tokens=n_tokens[folder],
            seq_len=data.seq_len,
            allow_repeat=data.allow_repeat,
            name=data.name,
        )
