"""Whether a run can fit its device at all, reckoned before its weights are made."""

import os
from collections.abc import Sequence

import torch

from train.device import ComputeDevice, select_device
from train.errors import ConfigError
from train.manifest import PlannedRun
from train.micro_batch import activation_bytes
from train.planning import RunPlan

STATE_BYTES = 16
"""Per parameter: the weight, its gradient and two moments, in float32."""

SURE_SHARE = 0.5
"""Of the activations' upper estimate, what they take in any case (ours)."""


def refuse_too_large(runs: Sequence[PlannedRun]) -> None:
    """Refuse runs of which not even one window at a time fits the device's whole memory.

    Raises:
        ConfigError: Names the largest run, what it needs, what there is, and what would fit.
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
    """Weights, gradients, moments, and what one window surely keeps for its backward pass."""
    activations = activation_bytes(plan.shape, seqs=1)
    return STATE_BYTES * plan.params.total + int(SURE_SHARE * activations)


def total_bytes(compute: ComputeDevice) -> int:
    """The device's whole memory, free or not."""
    if compute.is_cuda:
        return torch.cuda.get_device_properties(compute.device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
