"""How a device computes a run: dtype, attention kernel, compilation and micro-batch.

These settings change speed and rounding only, so run_id does not hash them. The policy is chosen
at a run's first start, recorded with every checkpoint and kept by restarts, so that a stopped run
continues in the same bits. Tests bound how far each setting moves the loss.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import torch

from train.config.runtime import AttentionKernel, Compile, Dtype, MachineConfig
from train.engine.compile import cache_folder, can_compile
from train.engine.device import ComputeDevice, has_native_bf16
from train.engine.memory import choose_micro_batch
from train.errors import WindTunnelError
from train.model.attention import KERNELS, fused_attention, plain_attention
from train.plan.shape import ModelShape
from train.storage.lock import hold
from train.storage.records import read_json, write_json

COMPILE_FROM_FLOPS = {"cpu": 3e13, "cuda": 2e15}
"""FLOPs of a job from which machine.compile=auto compiles (ours).

A few minutes of one CPU core, of which compiled steps save a tenth; 15 s of an H200, of which they
save half. Compiling takes 10 to 40 s the first time.
"""

EVAL_TOKENS_AT_ONCE = 8_192
"""Tokens of one replica per forward pass of an evaluation.

Enough to fill the matmuls of a small model; float32 logits take 1 GB at a vocabulary of 32
thousand. Fixed, so that a validation loss has the same bits in any stack.
"""

LONGEST_PLAIN = 1_024
"""Longest window, in tokens, for which plain attention is timed: it stores T x T scores a head."""

CLEARLY_FASTER = 0.9
"""Plain attention is taken below this fraction of the fused kernel's time, so near ties always go
to the fused kernel."""

ATTENTION_TIMING_TOKENS = 2_048
ATTENTION_TIMING_ROUNDS = 5

LOCK_TIMEOUT_SECONDS = 10.0
"""Timeout for the lock of attention.json, which other processes hold for milliseconds."""

DTYPES = {Dtype.bf16: torch.bfloat16, Dtype.fp32: torch.float32}


@dataclass(frozen=True, kw_only=True)
class ComputePolicy:
    """How one device computes the runs of one shape."""

    dtype: Dtype
    attention: AttentionKernel
    compiled: bool
    micro_batch_seqs: int
    """Windows of a replica per forward and backward pass."""
    eval_seqs: int
    """Windows of a replica per forward pass of an evaluation."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """Dtype of the matmuls."""
        return DTYPES[self.dtype]

    def allows(self, machine: MachineConfig, batch_seqs: int) -> bool:
        """Whether this policy is consistent with what `machine` sets explicitly."""
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
        """JSON values: the key `arithmetic` of attempts.jsonl and of checkpoints."""
        return {**asdict(self), "dtype": self.dtype.name, "attention": self.attention.name}

    @classmethod
    def from_json(cls, recorded: Any) -> Self | None:  # noqa: ANN401
        """Inverse of `to_json`; None for anything else."""
        try:
            dtype, attention = Dtype[recorded["dtype"]], AttentionKernel[recorded["attention"]]
            sizes = [recorded["micro_batch_seqs"], recorded["eval_seqs"]]
            is_chosen = dtype is not Dtype.auto and attention is not AttentionKernel.auto
            if not is_chosen or not all(type(size) is int and size > 0 for size in sizes):
                return None
            return cls(
                dtype=dtype,
                attention=attention,
                compiled=recorded["compiled"] is True,
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
    """Take the settings of the config, and choose those it leaves open for this device.

    Args:
        shape: Shape of the model.
        machine: Settings of the config.
        compute: Device.
        n_replicas: Runs in the stack.
        batch_seqs: Windows of a replica per step.
        flops: Training FLOPs of the job; they decide whether compiling pays.
        max_micro_batch_seqs: Windows per forward pass after a larger number ran out of memory;
            None before that.
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
    return ComputePolicy(
        dtype=dtype,
        attention=attention,
        compiled=compiled,
        micro_batch_seqs=micro_batch_seqs,
        eval_seqs=max_micro_batch_seqs or max(1, EVAL_TOKENS_AT_ONCE // shape.seq_len),
    )


def resolve_dtype(machine: MachineConfig, compute: ComputeDevice) -> Dtype:
    """Dtype of the matmuls: as set, else bfloat16 where the device has instructions for it."""
    if machine.dtype is not Dtype.auto:
        return machine.dtype
    return Dtype.bf16 if has_native_bf16(compute) else Dtype.fp32


def faster_kernel(shape: ModelShape, compute: ComputeDevice, dtype: torch.dtype) -> AttentionKernel:
    """Choose the faster attention kernel by timing both, once per device, dtype, T and head_dim.

    The choice is saved in attention.json of the cache folder, so that all processes of a machine
    make the same one.
    """
    if shape.seq_len > LONGEST_PLAIN:
        return AttentionKernel.sdpa
    path = cache_folder() / "attention.json"
    key = f"{compute.name}, torch {torch.__version__}, {dtype}, {shape.seq_len}x{shape.head_dim}"
    if (saved := _saved_choice(path, key)) is not None:
        return saved
    plain, fused = _time_kernels(shape, compute, dtype)
    kernel = AttentionKernel.plain if plain < CLEARLY_FASTER * fused else AttentionKernel.sdpa
    try:
        return _save_choice(path, key, kernel)
    except (OSError, WindTunnelError):
        # a cache folder that is not writable: the next process times the kernels again
        return kernel


def _save_choice(path: Path, key: str, kernel: AttentionKernel) -> AttentionKernel:
    """Save a choice and return it; a choice that another process saved first is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold(path.with_suffix(".lock"), task="is keeping a timing", patience=LOCK_TIMEOUT_SECONDS):
        if (saved := _saved_choice(path, key)) is not None:
            return saved
        write_json(path, {**_read_choices(path), key: kernel.name})
        return kernel


def _saved_choice(path: Path, key: str) -> AttentionKernel | None:
    name = _read_choices(path).get(key)
    return next((kernel for kernel in KERNELS if kernel.name == name), None)


def _read_choices(path: Path) -> dict[str, str]:
    """Choices so far; empty when the file is missing or damaged."""
    try:
        return {key: str(value) for key, value in read_json(path).items()}
    except (OSError, ValueError):
        return {}


def _time_kernels(shape: ModelShape, compute: ComputeDevice, dtype: torch.dtype) -> list[float]:
    """Median seconds of a forward and backward pass of [plain, fused], in alternation."""
    batch = max(1, ATTENTION_TIMING_TOKENS // shape.seq_len)
    size = (batch, shape.n_heads, shape.seq_len, shape.head_dim)
    # a generator of its own, so that the random state of training does not move
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(size, generator=generator).to(compute.device, dtype).requires_grad_()
        for _ in range(3)
    )
    times: list[list[float]] = [[], []]
    for _ in range(ATTENTION_TIMING_ROUNDS + 1):
        for measured, kernel in zip(times, (plain_attention, fused_attention), strict=True):
            compute.synchronize()
            began = time.perf_counter()
            torch.autograd.grad(kernel(q, k, v), (q, k, v), v.detach())
            compute.synchronize()
            measured.append(time.perf_counter() - began)
    # the first round warms up
    return [median(measured[1:]) for measured in times]
