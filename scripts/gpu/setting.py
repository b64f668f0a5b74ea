"""Shared by the parts of the GPU check: the device, the model sizes, the timing of steps."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from bench.figures import Figure
from train.config.experiment import Cooldown, ModelConfig, OptimizerConfig, ScheduleShape
from train.config.runtime import Compile, Device, Dtype, MachineConfig
from train.engine.compile import can_compile
from train.engine.compute_policy import choose_policy
from train.engine.cuda_graph import STEPS_A_REPLAY
from train.engine.device import ComputeDevice, select_device
from train.engine.engine import Engine, Replica
from train.engine.peak_flops import CUDA_SIZE, measure_peak_flops
from train.engine.step_timing import RandomWindows
from train.plan.counting import count_token_flops
from train.plan.schedule import Schedule
from train.plan.shape import ModelShape, model_shape

VOCAB, SEQ_LEN = 8_192, 1_024
ROUNDS = 3
"""Number of timings; their median counts."""

Report = Callable[[Figure], None]
"""Called with each figure as soon as it is measured."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Device and folders of a part of the check."""

    compute: ComputeDevice
    is_tiny: bool
    """Whether this only checks that everything runs (--cpu); the figures mean nothing."""
    out: Path
    """Folder for results: run tables and figures."""
    work: Path
    """Temporary folder; the caller deletes it."""

    def machine(self, **choices: Compile | Dtype) -> MachineConfig:
        """Machine config of this device, with some fields set."""
        device = Device.cpu if self.is_tiny else Device.cuda
        return MachineConfig(device=device, **choices)  # type: ignore[arg-type]

    def shape(self, d_model: int, n_layers: int | None = None) -> ModelShape:
        """Model shape by the ladder's rule, with 8192 tokens in the vocabulary and windows of 1024.

        Args:
            d_model: Width.
            n_layers: Replaces the rule's number of layers.
        """
        if self.is_tiny:
            tiny = ModelConfig(d_model=16, n_layers=1, head_dim=8)
            return model_shape(tiny, vocab_size=32, seq_len=16)
        model = ModelConfig(d_model=d_model, n_layers=n_layers)
        return model_shape(model, vocab_size=VOCAB, seq_len=SEQ_LEN)

    def seqs(self, batch_tokens: int) -> int:
        """Windows per batch."""
        return 2 if self.is_tiny else batch_tokens // SEQ_LEN

    def seconds(self, seconds: float) -> float:
        """How long to time something: `seconds`, or a moment in a tiny check."""
        return 0.001 if self.is_tiny else seconds


def open_setting(*, out: Path, work: Path, is_tiny: bool) -> Setting:
    """Select the device: CUDA, or the CPU for a tiny check.

    Raises:
        ConfigError: There is no CUDA device.
    """
    machine = MachineConfig(device=Device.cpu if is_tiny else Device.cuda)
    return Setting(compute=select_device(machine), is_tiny=is_tiny, out=out, work=work)


def replicas(n: int) -> list[Replica]:
    """Return n replicas that differ in seed, learning rate and weight decay."""
    steps = 1_000_000
    constant = Schedule(
        shape=ScheduleShape.constant,
        total_steps=steps,
        warmup_steps=0,
        cooldown_steps=0,
        cooldown=Cooldown.linear,
        final_ratio=0.0,
        decay_end_step=steps,
    )
    return [
        Replica(
            seed=seed,
            lr=1e-3 * 1.2**seed,
            schedule=constant,
            optimizer=OptimizerConfig(weight_decay=0.1 / (1 + seed)),
        )
        for seed in range(n)
    ]


def timed_engine(
    shape: ModelShape,
    setting: Setting,
    *,
    batch_seqs: int,
    n_replicas: int = 1,
    micro_batch_seqs: int | None = None,
    is_compiled: bool = False,
    may_graph: bool = True,
) -> Engine:
    """Build a bfloat16 engine on random tokens in device memory; compiled where Triton works."""
    is_compiled = is_compiled and not setting.is_tiny and can_compile(setting.compute)
    machine = setting.machine(compile=Compile.always if is_compiled else Compile.never)
    machine.micro_batch_seqs = micro_batch_seqs or batch_seqs
    if not setting.is_tiny:
        machine.dtype = Dtype.bf16
    policy = choose_policy(
        shape,
        machine,
        setting.compute,
        n_replicas=n_replicas,
        batch_seqs=batch_seqs,
        flops=0.0,
    )
    windows = RandomWindows(shape, setting.compute, n_replicas=n_replicas, batch_seqs=batch_seqs)
    each = replicas(n_replicas)
    return Engine(shape, each, setting.compute, windows, policy, may_graph=may_graph)


def seconds_a_step(engine: Engine, seconds: float) -> float:
    """Time steps for about `seconds`, launch overhead included; return the median per step."""
    # compile, and record both CUDA graphs
    engine.advance(STEPS_A_REPLAY + 1)
    # after recording, the engine queues fewer steps at first
    engine.advance(STEPS_A_REPLAY)
    guess = _elapsed(engine, STEPS_A_REPLAY) / STEPS_A_REPLAY
    steps = STEPS_A_REPLAY * max(1, math.ceil(seconds / ROUNDS / guess / STEPS_A_REPLAY))
    return median(_elapsed(engine, steps) for _ in range(ROUNDS)) / steps


def _elapsed(engine: Engine, steps: int) -> float:
    """Time `steps` steps, in seconds: by CUDA events, on a CPU by wall clock."""
    if not engine.compute.is_cuda:
        began = time.perf_counter()
        engine.advance(steps)
        return time.perf_counter() - began
    return cuda_seconds(lambda: engine.advance(steps))


def cuda_seconds(work: Callable[[], object]) -> float:
    """Time one call by CUDA events, in seconds."""
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1_000


def matmul_peak(setting: Setting) -> float:
    """FLOP/s of a large bfloat16 matmul on this device now: the best of 25 by CUDA events."""
    if not setting.compute.is_cuda:
        return measure_peak_flops(setting.compute, torch.float32)
    size, device = CUDA_SIZE, setting.compute.device
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(size, size, device=device, generator=generator).bfloat16() for _ in range(2)
    )
    product = a @ b
    best = min(cuda_seconds(lambda: torch.mm(a, b, out=product)) for _ in range(25))
    return 2 * size**3 / best


def flops_a_step(engine: Engine) -> int:
    """Matmul FLOPs of one step of all replicas, with attention over the full window."""
    tokens = engine.n_replicas * engine.batches.batch_seqs * engine.shape.seq_len
    return count_token_flops(engine.shape).train * tokens
