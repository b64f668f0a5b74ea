"""Back to the newest checkpoint: verified, of this very run, and its records cut to match."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from train.checkpoint import Checkpoint, load_newest
from train.divergence import LossWatch
from train.errors import CheckpointError
from train.identity import NUMERICS_VERSION, science
from train.records import sound_rows
from train.replay import set_aside
from train.run import Run


def identity_facts(run: Run) -> dict[str, Any]:
    """What a checkpoint must agree with its run on."""
    return {
        "science": science(run.config),
        "numerics_version": NUMERICS_VERSION,
        "n_params": run.plan.params.total,
        "data_sha256": run.dataset.sha256,
        "tokenizer_sha256": run.dataset.manifest.tokenizer_sha256,
    }


def checkpoint_state(run: Run) -> dict[str, Any]:
    """The loop's own state, beside the weights and the optimiser's: JSON values.

    The data's position and the schedule's are the step. The records' sizes tell a resume which rows
    this checkpoint vouches for; the caller has put those on disk.
    """
    return {
        "identity": identity_facts(run),
        "seconds": run.seconds,
        "window": run.window,
        "losses": run.losses.to_state(),
        "loss_train": _or_none(run.loss_train),
        "val_loss": _or_none(run.val_loss),
        "bits_per_byte": _or_none(run.bits_per_byte),
        "micro_batch_seqs": run.micro_batch_seqs,
        "eval_seqs": run.eval_seqs,
        "records": {
            path.name: path.stat().st_size
            for path in (run.folder.metrics, run.folder.evals)
            if path.exists()
        },
        "rng": {
            "cpu": bytes(torch.get_rng_state().tolist()).hex(),
            "cuda": _cuda_rng(run),
        },
        "tracker": {"attempt_id": run.tracker.attempt_id, "step": run.step},
    }


def find_checkpoint(run: Run) -> Checkpoint | None:
    """The newest sound checkpoint of the run, or None before its first.

    Raises:
        CheckpointError: None is sound, or it is of another config, data, tokenizer or numerics.
    """
    found = load_newest(run.folder.checkpoints)
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


def restore(run: Run, checkpoint: Checkpoint | None, *, may_choose_micro_batch: bool) -> None:
    """Put the run where `checkpoint` left it, or at its start, and set later rows aside.

    Args:
        run: A run that was just built.
        checkpoint: What `find_checkpoint` found.
        may_choose_micro_batch: Whether the micro-batches of the checkpoint, or before the first one
            those of the last start, are taken over: their size moves the rounding, and what is
            free on a device at a start must not decide that.
    """
    records: Mapping[str, int] = {}
    if checkpoint is not None:
        state = checkpoint.state
        run.step = checkpoint.step
        run.model.load_state_dict(checkpoint.model)
        run.optimizer.load_state_dict(checkpoint.optimizer)
        run.seconds = state["seconds"]
        run.window = [(loss, grad_norm) for loss, grad_norm in state["window"]]
        run.losses = LossWatch.from_state(state["losses"], total_steps=run.plan.steps)
        run.loss_train = _or_nan(state["loss_train"])
        run.val_loss = _or_nan(state["val_loss"])
        run.bits_per_byte = _or_nan(state["bits_per_byte"])
        torch.set_rng_state(
            torch.tensor(list(bytes.fromhex(state["rng"]["cpu"])), dtype=torch.uint8)
        )
        if run.compute.is_cuda and state["rng"]["cuda"]:
            cuda = torch.tensor(list(bytes.fromhex(state["rng"]["cuda"])), dtype=torch.uint8)
            torch.cuda.set_rng_state(cuda, run.compute.device)
        if may_choose_micro_batch:
            _use_sizes(run, state["micro_batch_seqs"], state["eval_seqs"])
        records = state["records"]
    elif may_choose_micro_batch:
        _use_sizes_of_last_start(run)
    set_aside(run.folder, records)


def _use_sizes_of_last_start(run: Run) -> None:
    """Before the first checkpoint, cut batches as the last attempt on this device did."""
    for row in reversed(list(sound_rows(run.folder.attempts))):
        if row.get("event") != "start":
            continue
        sizes = [row.get("micro_batch_seqs"), row.get("eval_seqs")]
        are_sizes = all(type(size) is int and size > 0 for size in sizes)
        is_same_device = row.get("device") == run.compute.name
        if are_sizes and is_same_device and run.batches.batch_seqs % sizes[0] == 0:
            _use_sizes(run, *sizes)
        return


def _use_sizes(run: Run, micro_batch_seqs: int, eval_seqs: int) -> None:
    run.micro_batch_seqs, run.eval_seqs = micro_batch_seqs, eval_seqs
    run.validation = run.batches.validation(run.config.eval.tokens, max_seqs=eval_seqs)


def _cuda_rng(run: Run) -> str | None:
    if not run.compute.is_cuda:
        return None
    return bytes(torch.cuda.get_rng_state(run.compute.device).tolist()).hex()


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
