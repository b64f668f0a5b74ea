"""Back to a checkpoint: verified, of this very run, and its records cut back to it.

Runs are stacked when they resume from one step. A kill between the checkpoints of two runs leaves
one of them a checkpoint ahead; it goes back to the newest one that all of them have.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.data.prepare import prepare
from train.data.shards import Dataset, open_dataset
from train.engine.compute_policy import ComputePolicy
from train.engine.device import ComputeDevice
from train.engine.engine import Engine
from train.errors import CheckpointError
from train.plan.identity import NUMERICS_VERSION, science
from train.plan.planning import PlannedRun
from train.plan.validate import check_enough_tokens
from train.run_folder.checkpoint import Checkpoint, committed_steps, load_newest
from train.run_folder.replay_check import set_aside
from train.run_folder.run_folder import folder_of
from train.storage.records import sound_rows
from train.training.divergence import LossWatch
from train.training.run_state import RunState


def new_run(planned: PlannedRun) -> RunState:
    """The run at its start, whatever its folder holds; nothing is written.

    Raises:
        ConfigError: The data has too few tokens.
        DataError: The data is missing or damaged.
    """
    dataset = open_data(planned)
    return RunState(
        planned=planned,
        dataset=dataset,
        attempt=folder_of(planned).attempt_number() + 1,
        epochs=check_enough_tokens(
            planned.plan,
            n_tokens=dataset.n_tokens("train"),
            seq_len=planned.config.data.seq_len,
            allow_repeat=planned.config.data.allow_repeat,
            name=planned.config.data.name,
        ),
        losses=LossWatch(total_steps=planned.plan.steps),
    )


def open_data(planned: PlannedRun) -> Dataset:
    """The run's prepared data.

    Raises:
        DataError: It is missing or damaged.
    """
    data, paths = planned.config.data, planned.config.paths
    return open_dataset(prepare(data, Path(paths.data), progress=True))


def align(runs: Sequence[RunState]) -> list[list[RunState]]:
    """Group opened runs by the step that they resume from, brought to a common one where possible.

    Runs whose checkpoints were computed under different policies are not stacked; nor is a run
    whose checkpoint of the common step is damaged, which resumes from where it is.

    Raises:
        RecordsError: As open_run.
    """
    if len({run.step for run in runs}) > 1:
        steps = [set(committed_steps(run.folder.checkpoints)) for run in runs]
        common = max(set.intersection(*steps), default=None)
        for run in runs:
            if common is not None and run.step != common:
                _try_to_go_back(run, common)
    groups: dict[tuple[int, str], list[RunState]] = {}
    for run in runs:
        policy = run.checkpoint.state.get("arithmetic") if run.checkpoint is not None else None
        groups.setdefault((run.step, repr(policy)), []).append(run)
    return list(groups.values())


def _try_to_go_back(run: RunState, step: int) -> None:
    try:
        restore(run, find_checkpoint(run, at_most=step))
    except CheckpointError as error:  # the later checkpoints are left as they were
        warnings.warn(
            f"{run.run_id} resumes from step {run.step}, apart from its stack: {error}",
            stacklevel=2,
        )


def recorded_policy(run: RunState, compute: ComputeDevice) -> ComputePolicy | None:
    """Policy of the checkpoint, before the first one of the last start; None on another device.

    Another device has other memory and instructions, so the policy is chosen anew there.
    """
    rows: Iterable[Mapping[str, Any]] = reversed(list(sound_rows(run.folder.attempts)))
    if run.checkpoint is not None:
        rows = [{"event": "start", **run.checkpoint.state}]
    for row in rows:
        if row.get("event") == "start":
            is_same_device = row.get("device") == compute.name
            return ComputePolicy.from_json(row.get("arithmetic")) if is_same_device else None
    return None


def identity_facts(run: RunState) -> dict[str, Any]:
    """What a checkpoint must have in common with its run."""
    return {
        "science": science(run.config),
        "numerics_version": NUMERICS_VERSION,
        "n_params": run.plan.params.total,
        "data_sha256": run.dataset.sha256,
        "tokenizer_sha256": run.dataset.manifest.tokenizer_sha256,
    }


def checkpoint_state(
    run: RunState, engine: Engine, *, spent: Mapping[str, float]
) -> dict[str, Any]:
    """State of a checkpoint beside weights and moments: JSON values.

    The data's position and the schedule's are the step, and nothing draws random numbers. The sizes
    of the records tell which rows the checkpoint vouches for; the caller has synced them to disk.

    Args:
        run: The run.
        engine: Its engine.
        spent: Wall seconds by TimeKind that are charged to it by now.
    """
    return {
        "identity": identity_facts(run),
        "arithmetic": engine.policy.to_json(),
        "device": engine.compute.name,
        "spent": dict(spent),
        "tracker": {"attempt_id": run.tracker.attempt_id, "step": run.step},
        "branches": {
            branch.run_id: {"losses": branch.losses.to_state(), "evals": branch.evals}
            for branch in run.pending(run.step)
        },
        **run.fork_facts(),
        "seconds": run.seconds,
        "window": run.window,
        "losses": run.losses.to_state(),
        "loss_train": _or_none(run.loss_train),
        "val_loss": _or_none(run.val_loss),
        "bits_per_byte": _or_none(run.bits_per_byte),
        "records": {
            path.name: path.stat().st_size
            for path in (run.folder.metrics, run.folder.evals)
            if path.exists()
        },
    }


def find_checkpoint(run: RunState, *, at_most: int | None = None) -> Checkpoint | None:
    """The newest sound checkpoint of the run, or None before its first.

    Args:
        run: The run.
        at_most: Steps beyond which checkpoints are passed over.

    Raises:
        CheckpointError: None is sound, or it is of another config, data, tokenizer or numerics.
    """
    found = load_newest(run.folder.checkpoints, at_most=at_most)
    if found is None:
        return None
    for damaged in found.set_aside:
        warnings.warn(
            f"{run.folder.checkpoints}: a damaged checkpoint is in bad/ now ({damaged}); going "
            f"on from step {found.step}",
            stacklevel=2,
        )
    differences = list(_differences("", found.state["identity"], identity_facts(run)))
    if differences:
        raise CheckpointError(
            f"{run.folder.checkpoints}: the checkpoint of step {found.step} is of another run:"
            f"\n  " + "\n  ".join(differences) + "\nmove it away, or start the run again from "
            "zero with restart=true"
        )
    return found


def restore(run: RunState, checkpoint: Checkpoint | None) -> None:
    """Put a run's state where the checkpoint has it, and set later rows of its records aside.

    Raises:
        RecordsError: Rows that the checkpoint vouches for are gone or damaged.
    """
    run.checkpoint = checkpoint
    if checkpoint is None:
        set_aside(run.folder, {})
        return
    state = checkpoint.state
    run.step, run.spent = checkpoint.step, dict(state.get("spent", {}))
    run.forked_from, run.fork_step = state.get("forked_from"), state.get("fork_step")
    run.seconds = state["seconds"]
    run.window = [(loss, grad_norm) for loss, grad_norm in state["window"]]
    run.losses = LossWatch.from_state(state["losses"], total_steps=run.plan.steps)
    run.loss_train = _or_nan(state["loss_train"])
    run.val_loss = _or_nan(state["val_loss"])
    run.bits_per_byte = _or_nan(state["bits_per_byte"])
    set_aside(run.folder, state["records"])


def _differences(name: str, there: Any, here: Any) -> Iterator[str]:  # noqa: ANN401
    """A line per field that differs, with both values."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(f"{name}.{key}" if name else key, there.get(key), here.get(key))
    elif there != here:
        yield f"{name.removeprefix('science.')}: {there!r} in the checkpoint, {here!r} asked for"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
