"""Back to a checkpoint: verified, of this very run, and its records cut to match."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from train.engine.engine import Engine
from train.errors import CheckpointError
from train.plan.identity import NUMERICS_VERSION, science
from train.run_folder.accounting import cost_number, undone
from train.run_folder.checkpoint import Checkpoint, load_newest
from train.run_folder.replay_check import set_aside
from train.training.divergence import LossWatch
from train.training.run_state import Run


def identity_facts(run: Run) -> dict[str, Any]:
    """What a checkpoint must agree with its run on."""
    return {
        "science": science(run.config),
        "numerics_version": NUMERICS_VERSION,
        "n_params": run.plan.params.total,
        "data_sha256": run.dataset.sha256,
        "tokenizer_sha256": run.dataset.manifest.tokenizer_sha256,
    }


def checkpoint_state(
    run: Run, engine: Engine, *, spent: Mapping[str, float], riders: Sequence[Run] = ()
) -> dict[str, Any]:
    """The loop's own state, beside the weights and the optimiser's: JSON values.

    The data's position and the schedule's are the step, and nothing draws random numbers. The
    records' sizes tell a resume which rows this checkpoint vouches for; the caller has put those on
    disk.

    Args:
        run: The run.
        engine: What trains it.
        spent: Wall seconds that it answers for by now.
        riders: Runs that share its trunk from here on, and have no checkpoint of their own.
    """
    return {
        "identity": identity_facts(run),
        "arithmetic": engine.arithmetic.facts(),
        "device": engine.compute.name,
        "spent": dict(spent),
        "tracker": {"attempt_id": run.tracker.attempt_id, "step": run.step},
        "riders": {rider.run_id: _records_state(rider) for rider in riders},
        **run.facts_of_fork(),
        **_records_state(run),
    }


def _records_state(run: Run) -> dict[str, Any]:
    """What a run's rows so far come to, and their sizes on disk."""
    return {
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


def find_checkpoint(run: Run, *, at_most: int | None = None) -> Checkpoint | None:
    """The newest sound checkpoint of the run, or None before its first.

    Args:
        run: The run.
        at_most: Steps beyond which checkpoints are passed over.

    Raises:
        CheckpointError: None is sound, or it is of another config, data, tokenizer or numerics.
    """
    found = load_newest(run.folder.checkpoints, at_most=at_most)
    if found is not None:
        for damaged in found.set_aside:
            warnings.warn(
                f"{run.folder.checkpoints}: a damaged checkpoint is in bad/ now ({damaged}); going "
                f"on from step {found.step}",
                stacklevel=2,
            )
        here, there = identity_facts(run), found.state["identity"]
        differences = list(_differences("", there, here))
        if differences:
            raise CheckpointError(
                f"{run.folder.checkpoints}: the checkpoint of step {found.step} is of another run:"
                f"\n  " + "\n  ".join(differences) + "\nmove it away, or start the run again from "
                "zero with restart=true"
            )
    return found


def restore_records(run: Run, step: int, state: Mapping[str, Any] | None) -> None:
    """Put what a run's rows come to where it was at `step`, and set later rows aside.

    Args:
        run: A run that was just made.
        step: Of the checkpoint.
        state: Its own part of the checkpoint's state; None at the start.

    Raises:
        RecordsError: Rows that the checkpoint vouches for are gone or damaged.
    """
    run.spent = undone(state.get("spent", {}) if state is not None else {}, _told(run))
    if state is not None:
        run.step = step
        run.forked_from, run.fork_step = state.get("forked_from"), state.get("fork_step")
        run.seconds = state["seconds"]
        run.window = [(loss, grad_norm) for loss, grad_norm in state["window"]]
        run.losses = LossWatch.from_state(state["losses"], total_steps=run.plan.steps)
        run.loss_train = _or_nan(state["loss_train"])
        run.val_loss = _or_nan(state["val_loss"])
        run.bits_per_byte = _or_nan(state["bits_per_byte"])
    set_aside(run.folder, state["records"] if state is not None else {})


def _told(run: Run) -> dict[str, float]:
    """Seconds by TimeKind in its last status, which may be from before a restart."""
    status = run.folder.read_status()
    archived = run.folder.newest_archive()
    if not status and archived is not None:
        status = archived.read_status()
    cost = status.get("cost")
    spent = cost.get("spent") if isinstance(cost, dict) else None
    told = spent if isinstance(spent, dict) else {}
    return {what: cost_number(seconds) for what, seconds in told.items()}


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
