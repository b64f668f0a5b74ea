"""What the parts of the GPU check share: the device, the sizes, and the steps' time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from benchmark_figures import Figure

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
"""Of timing; the median counts."""

Tell = Callable[[Figure], None]
"""Takes each figure as soon as it is known."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a part of the check computes and writes."""

    compute: ComputeDevice
    is_tiny: bool
    """Whether the figures mean nothing, only that everything runs."""
    out: Path
    """For run tables and figures."""
    work: Path
    """For everything else; emptied by whoever made it."""

    def machine(self, **choices: Compile | Dtype) -> MachineConfig:
        """How this machine is used, with some choices made."""
        device = Device.cpu if self.is_tiny else Device.cuda
        return MachineConfig(device=device, **choices)  # type: ignore[arg-type]

    def shape(self, d_model: int, n_layers: int | None = None) -> ModelShape:
        """The ladder's rule at V 8192 and T 1024; explicit layers win over it."""
        if self.is_tiny:
            tiny = ModelConfig(d_model=16, n_layers=1, head_dim=8)
            return model_shape(tiny, vocab_size=32, seq_len=16)
        model = ModelConfig(d_model=d_model, n_layers=n_layers)
        return model_shape(model, vocab_size=VOCAB, seq_len=SEQ_LEN)

    def seqs(self, batch_tokens: int) -> int:
        """Windows of a batch."""
        return 2 if self.is_tiny else batch_tokens // SEQ_LEN

    def seconds(self, seconds: float) -> float:
        """How long to time something."""
        return 0.001 if self.is_tiny else seconds


def open_setting(*, out: Path, work: Path, is_tiny: bool) -> Setting:
    """Take the device; the whole check is on CUDA, or tiny and on a CPU."""
    machine = MachineConfig(device=Device.cpu if is_tiny else Device.cuda)
    return Setting(compute=select_device(machine), is_tiny=is_tiny, out=out, work=work)


def replicas(n: int) -> list[Replica]:
    """Runs that differ in seed, learning rate and weight decay."""
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
    """Replicas on random tokens that lie on the device, in bfloat16; compiled where that can be."""
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
    """Median of ROUNDS timings of about so many seconds, the host's part included."""
    engine.advance(STEPS_A_REPLAY + 1)  # compiles, and records both graphs
    engine.advance(STEPS_A_REPLAY)  # after which it queues fewer steps at first
    guess = _elapsed(engine, STEPS_A_REPLAY) / STEPS_A_REPLAY
    steps = STEPS_A_REPLAY * max(1, math.ceil(seconds / ROUNDS / guess / STEPS_A_REPLAY))
    return median(_elapsed(engine, steps) for _ in range(ROUNDS)) / steps


def _elapsed(engine: Engine, steps: int) -> float:
    """Seconds of so many steps by CUDA events; on a CPU by the clock on the wall."""
    if not engine.compute.is_cuda:
        began = time.perf_counter()
        engine.advance(steps)
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    engine.advance(steps)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1_000


def product_peak(setting: Setting) -> float:
    """FLOP/s of a large bfloat16 matrix product in this process, now: the best of 20, by events."""
    if not setting.compute.is_cuda:
        return measure_peak_flops(setting.compute, torch.float32)
    size, device = CUDA_SIZE, setting.compute.device
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(size, size, device=device, generator=generator).bfloat16() for _ in range(2)
    )
    best, product = math.inf, a @ b
    for _ in range(25):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.mm(a, b, out=product)
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1_000)
    return 2 * size**3 / best


def flops_a_step(engine: Engine) -> int:
    """Matrix products of a step of all replicas, attention over the full window included."""
    tokens = engine.n_replicas * engine.batches.batch_seqs * engine.shape.seq_len
    return count_token_flops(engine.shape).train * tokens
