"""What can only be checked against this machine and this data, before any run's first update."""

from collections.abc import Sequence
from pathlib import Path

from train.data.prepare import prepare, prepared_folder
from train.data.shards import open_dataset
from train.device import select_device
from train.manifest import PlannedRun
from train.validate import check_enough_tokens


def preflight(runs: Sequence[PlannedRun]) -> None:
    """Find the device, prepare and verify every dataset, and check that no run outruns its data.

    Raises:
        ConfigError: The device is not there, or a run asks for more tokens than its data has.
        DataError: Text cannot be fetched, or its shards are damaged.
    """
    select_device(runs[0].config.machine)
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
