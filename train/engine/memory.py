"""Memory of training: the micro-batch that fits a device, and models that fit none.

Both rest on estimates by counting, made before any weight is allocated.
"""

import os
from collections.abc import Sequence

import torch

from train.engine.device import ComputeDevice, select_device
from train.errors import ConfigError
from train.plan.counting import STATE_BYTES
from train.plan.planning import PlannedRun, RunPlan, even_micro_batches
from train.plan.shape import ModelShape

ACTIVATION_SHARE = 0.4
"""Fraction of the job's memory that the activations of a micro-batch may take."""


def half_micro_batch(micro_batch_seqs: int, *, batch_seqs: int) -> int | None:
    """Largest divisor of the batch that is at most half of `micro_batch_seqs`; None below 1."""
    even = even_micro_batches(batch_seqs)
    return max((size for size in even if size <= micro_batch_seqs // 2), default=None)


def choose_micro_batch(
    shape: ModelShape,
    compute: ComputeDevice,
    *,
    n_replicas: int,
    batch_seqs: int,
    asked: int | None,
    is_plain: bool,
) -> int:
    """Windows of a replica per forward pass: as set, else the largest divisor that fits.

    Args:
        shape: Shape of the model.
        compute: Device, of whose memory budget activations may take ACTIVATION_SHARE.
        n_replicas: Runs in the stack, which share each forward pass.
        batch_seqs: Windows of a replica per step.
        asked: machine.micro_batch_seqs.
        is_plain: Whether plain attention keeps its T x T scores.
    """
    if asked is not None:
        return asked
    one = n_replicas * activation_bytes(shape, seqs=1, is_plain=is_plain)
    fits = ACTIVATION_SHARE * compute.memory_budget() / one
    return max((size for size in even_micro_batches(batch_seqs) if size <= fits), default=1)


def activation_bytes(shape: ModelShape, *, seqs: int, is_plain: bool = False) -> int:
    """Upper estimate of the bytes that autograd keeps for `seqs` windows (ours).

    Per token and layer about 16 values of width d_model and 3 of d_ff (5 when gated), with plain
    attention two rows of scores per head; per token the logits in the compute dtype, in float32 and
    their gradient. Four bytes each. Tests compare it with what autograd keeps.
    """
    per_layer = 16 * shape.d_model + (5 if shape.gated else 3) * shape.d_ff
    if is_plain:
        per_layer += 2 * shape.n_heads * shape.seq_len
    per_token = shape.n_layers * per_layer + 3 * shape.vocab_size
    return 4 * seqs * shape.seq_len * per_token


SURE_SHARE = 0.5
"""Fraction of the upper estimate that activations take in any case (ours)."""


def refuse_too_large(runs: Sequence[PlannedRun]) -> None:
    """Refuse runs of which not even one window at a time fits the whole memory of the device.

    Raises:
        ConfigError: Names the largest run, the bytes it needs and has, and what would fit.
    """
    largest = max(runs, key=lambda run: least_bytes(run.plan))
    need = least_bytes(largest.plan)
    compute = select_device(largest.config.machine)
    total = total_bytes(compute)
    if need <= total:
        return
    shape, params = largest.plan.shape, largest.plan.params.total
    raise ConfigError(
        f"model.d_model={shape.d_model} with {shape.n_layers} layers: {params:.3g} parameters and "
        f"windows of data.seq_len={shape.seq_len} need at least {need / 1e9:.4g} GB, and "
        f"{compute.name} has {total / 1e9:.4g} GB; use at most "
        f"{total // STATE_BYTES:.3g} parameters, and shorter windows where those are the reason"
    )


def least_bytes(plan: RunPlan) -> int:
    """Lower estimate: weights, gradients, moments, and the activations of one window."""
    activations = activation_bytes(plan.shape, seqs=1)
    return STATE_BYTES * plan.params.total + int(SURE_SHARE * activations)


def total_bytes(compute: ComputeDevice) -> int:
    """Whole memory of the device, free or not."""
    if compute.is_cuda:
        return torch.cuda.get_device_properties(compute.device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
