"""How a device computes a run: what moves its rounding and its speed, and nothing else.

Chosen at a run's first start, recorded with every checkpoint, and kept by its restarts, so that a
stop changes no bit. Plumbing: none of it is in run_id, and the tests hold how little each moves.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

from train.config.runtime import AttentionKernel, Compile, Dtype, MachineConfig
from train.engine.attention_choice import faster_kernel
from train.engine.compile import can_compile
from train.engine.device import ComputeDevice, has_native_bf16
from train.engine.memory import choose_micro_batch
from train.plan.shape import ModelShape

COMPILE_FROM_FLOPS = {"cpu": 3e13, "cuda": 2e15}
"""FLOPs of a job from which compiling pays: some minutes of a CPU core, a quarter of a minute of an
H200, of which it saves a tenth and a half (ours); compiling takes 10 to 40 seconds the first
time."""

EVAL_TOKENS_AT_ONCE = 8_192
"""Tokens per forward pass of an evaluation, of one replica: enough to fill a small model's matrix
products, and 1 GB of float32 logits at a vocabulary of 32 thousand. No other size depends on it, so
that a loss has the same bits in any stack."""

DTYPES = {Dtype.bf16: torch.bfloat16, Dtype.fp32: torch.float32}


@dataclass(frozen=True, kw_only=True)
class ComputePolicy:
    """One device's way to compute one shape."""

    dtype: Dtype
    attention: AttentionKernel
    compiled: bool
    micro_batch_seqs: int
    """Windows of a replica per forward and backward pass."""
    eval_seqs: int
    """Windows of a replica per forward pass of an evaluation."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """What matrix products compute in."""
        return DTYPES[self.dtype]

    def allows(self, machine: MachineConfig, batch_seqs: int) -> bool:
        """Whether it is what `machine` asks for, where that asks for anything."""
        is_compiled = {Compile.always: True, Compile.never: False}.get(
            machine.compile, self.compiled
        )
        return (
            machine.dtype in (Dtype.auto, self.dtype)
            and machine.attention in (AttentionKernel.auto, self.attention)
            and self.compiled is is_compiled
            and machine.micro_batch_seqs in (None, self.micro_batch_seqs)
            and batch_seqs % self.micro_batch_seqs == 0
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "dtype": self.dtype.name, "attention": self.attention.name}

    @classmethod
    def from_json(cls, facts: Any) -> Self | None:  # noqa: ANN401
        """What `to_json` returned; None when it is anything else."""
        try:
            dtype, attention = Dtype[facts["dtype"]], AttentionKernel[facts["attention"]]
            sizes = [facts["micro_batch_seqs"], facts["eval_seqs"]]
            is_chosen = dtype is not Dtype.auto and attention is not AttentionKernel.auto
            if not is_chosen or not all(type(size) is int and size > 0 for size in sizes):
                return None
            return cls(
                dtype=dtype,
                attention=attention,
                compiled=facts["compiled"] is True,
                micro_batch_seqs=sizes[0],
                eval_seqs=sizes[1],
            )
        except (LookupError, TypeError):
            return None


def choose_policy(
    shape: ModelShape,
    machine: MachineConfig,
    compute: ComputeDevice,
    *,
    n_replicas: int,
    batch_seqs: int,
    flops: float,
    max_micro_batch_seqs: int | None = None,
) -> ComputePolicy:
    """Take what the config asks for, and choose the rest for this device.

    Args:
        shape: The model's.
        machine: What was asked.
        compute: The device.
        n_replicas: Runs in the stack.
        batch_seqs: Windows of a replica per step.
        flops: Training FLOPs of the job, which decide whether compiling pays.
        max_micro_batch_seqs: Windows per forward pass that are known to fit, after a larger number
            did not; null when nothing is known.
    """
    dtype = resolve_dtype(machine, compute)
    attention = machine.attention
    if attention is AttentionKernel.auto:
        attention = faster_kernel(shape, compute, DTYPES[dtype])
    pays = flops >= COMPILE_FROM_FLOPS[compute.device.type] and can_compile(compute)
    compiled = machine.compile is Compile.always or (machine.compile is Compile.auto and pays)
    micro_batch_seqs = max_micro_batch_seqs or choose_micro_batch(
        shape,
        compute,
        n_replicas=n_replicas,
        batch_seqs=batch_seqs,
        asked=machine.micro_batch_seqs,
        is_plain=attention is AttentionKernel.plain,
    )
    at_once = EVAL_TOKENS_AT_ONCE // shape.seq_len
    return ComputePolicy(
        dtype=dtype,
        attention=attention,
        compiled=compiled,
        micro_batch_seqs=micro_batch_seqs,
        eval_seqs=max_micro_batch_seqs or max(1, at_once),
    )


def resolve_dtype(machine: MachineConfig, compute: ComputeDevice) -> Dtype:
    """What matrix products compute in on this device."""
    if machine.dtype is not Dtype.auto:
        return machine.dtype
    return Dtype.bf16 if has_native_bf16(compute) else Dtype.fp32
