"""Causal attention by one of two kernels, the faster one as measured on the device at hand.

`plain` is matrix products with a softmax between them, `sdpa` PyTorch's fused kernel. Which one is
faster depends on the device, the dtype and the window: on a CPU with bfloat16 instructions the
fused one took 2 to 3 times as long at windows of up to 256 tokens (ours), and on GPUs it is made
for long windows.

Shapes: B windows of all replicas, H n_heads, T time, K head_dim.
"""

import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from statistics import median
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from train.cache import cache_folder
from train.config import AttentionKernel
from train.device import ComputeDevice
from train.errors import WindTunnelError
from train.lock import hold
from train.records import read_json, write_json
from train.shape import ModelShape

LONGEST_PLAIN = 1_024
"""Tokens of a window beyond which plain attention is not tried: it keeps T x T scores a head."""

CLEARLY_FASTER = 0.9
"""Share of the fused kernel's time below which plain attention is taken: near ties go one way."""

MEASURED_TOKENS = 2_048
ROUNDS = 5

PATIENCE_SECONDS = 10.0
"""How long a process waits for others that keep their verdicts."""


def plain_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """Softmax(q k / sqrt(K)) v over earlier positions, in three operations."""
    scores_BHTT = (q_BHTK * q_BHTK.shape[-1] ** -0.5) @ k_BHTK.mT
    later_TT = _later(q_BHTK.shape[-2], q_BHTK.dtype, q_BHTK.device)
    y_BHTK: Tensor = (scores_BHTT + later_TT).softmax(-1) @ v_BHTK
    return y_BHTK


def fused_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention, causal."""
    y_BHTK: Tensor = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
    return y_BHTK


KERNELS: Mapping[AttentionKernel, Callable[[Tensor, Tensor, Tensor], Tensor]] = MappingProxyType(
    {AttentionKernel.plain: plain_attention, AttentionKernel.sdpa: fused_attention}
)


def _later(time: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Minus infinity where a position would see a later one, else 0: (T, T).

    Compiled code compares two positions instead of reading a table.
    """
    make = _make_later if torch.compiler.is_compiling() else _kept_later
    return make(time, dtype, device)


def _make_later(time: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((time, time), float("-inf"), dtype=dtype, device=device).triu(1)


_kept_later = cache(_make_later)


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
