"""Which attention kernel a device runs faster, by timing both once; the verdict is kept.

`plain` is matrix products with a softmax between them, `sdpa` PyTorch's fused kernel. Which one is
faster depends on the device, the dtype and the window: on a CPU with bfloat16 instructions the
fused one took 2 to 3 times as long at windows of up to 256 tokens (ours), and on GPUs it is made
for long windows.
"""

import time
from pathlib import Path
from statistics import median

import torch

from train.config.runtime import AttentionKernel
from train.engine.compile import cache_folder
from train.engine.device import ComputeDevice
from train.errors import WindTunnelError
from train.model.attention import KERNELS, fused_attention, plain_attention
from train.plan.shape import ModelShape
from train.storage.lock import hold
from train.storage.records import read_json, write_json

LONGEST_PLAIN = 1_024
"""Tokens of a window beyond which plain attention is not tried: it keeps T x T scores a head."""

CLEARLY_FASTER = 0.9
"""Share of the fused kernel's time below which plain attention is taken: near ties go one way."""

MEASURED_TOKENS = 2_048
ROUNDS = 5

PATIENCE_SECONDS = 10.0
"""How long a process waits for others that keep their verdicts."""


def faster_kernel(shape: ModelShape, compute: ComputeDevice, dtype: torch.dtype) -> AttentionKernel:
    """The kernel to use, by timing both once per device, dtype, window and head width.

    The verdict is kept in the cache folder, so that every process of this machine takes the same.
    """
    if shape.seq_len > LONGEST_PLAIN:
        return AttentionKernel.sdpa
    path = cache_folder() / "attention.json"
    key = f"{compute.name}, torch {torch.__version__}, {dtype}, {shape.seq_len}x{shape.head_dim}"
    known = _known(path)
    for kernel in KERNELS:
        if known.get(key) == kernel.name:
            return kernel
    plain, fused = _seconds(shape, compute, dtype)
    kernel = AttentionKernel.plain if plain < CLEARLY_FASTER * fused else AttentionKernel.sdpa
    try:
        return _agree(path, key, kernel)
    except (OSError, WindTunnelError):  # a home that cannot be written to: measured again next time
        return kernel


def _agree(path: Path, key: str, kernel: AttentionKernel) -> AttentionKernel:
    """Keep a verdict, unless another process came first, whose verdict then holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold(path.with_suffix(".lock"), task="is keeping a timing", patience=PATIENCE_SECONDS):
        known = _known(path)
        if known.get(key, "") not in {other.name for other in KERNELS}:
            write_json(path, {**known, key: kernel.name})
            return kernel
        return AttentionKernel[known[key]]


def _known(path: Path) -> dict[str, str]:
    """Verdicts so far; none when the file is not there or damaged."""
    try:
        return {key: str(value) for key, value in read_json(path).items()}
    except (OSError, ValueError):
        return {}


def _seconds(shape: ModelShape, compute: ComputeDevice, dtype: torch.dtype) -> list[float]:
    """Median seconds of a forward and backward pass by the plain and the fused kernel, in turn."""
    batch = max(1, MEASURED_TOKENS // shape.seq_len)
    size = (batch, shape.n_heads, shape.seq_len, shape.head_dim)
    generator = torch.Generator().manual_seed(0)  # the training's own random state is left alone
    q, k, v = (
        torch.randn(size, generator=generator).to(compute.device, dtype).requires_grad_()
        for _ in range(3)
    )
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS + 1):
        for measured, kernel in zip(times, (plain_attention, fused_attention), strict=True):
            compute.synchronize()
            began = time.perf_counter()
            torch.autograd.grad(kernel(q, k, v), (q, k, v), v.detach())
            compute.synchronize()
            measured.append(time.perf_counter() - began)
    return [median(measured[1:]) for measured in times]
