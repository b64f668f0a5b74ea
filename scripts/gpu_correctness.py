"""Whether a GPU's shortcuts change a result: graphs, stacks, bfloat16, an accident, sent windows.

In deterministic mode, so that equal means equal in every bit.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

import torch
from benchmark_figures import Figure
from gpu_setting import Setting, Tell, replicas

from train.config.experiment import DataConfig, ModelConfig, Source, SyntheticConfig
from train.config.runtime import AttentionKernel, Dtype
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.engine import batches as batches_module
from train.engine.batches import Batches
from train.engine.compute_policy import ComputePolicy
from train.engine.engine import Engine, Replica, Segment
from train.engine.evaluate import evaluate
from train.plan.schedule import ScheduleShape
from train.plan.shape import model_shape

BATCH_SEQS = 16
STACKED_GOAL = 1e-5
"""Nats, at 50 steps in float32."""
PARITY_GOAL = 0.1
"""Of the standard deviation over seeds."""


class Bench:
    """Engines on one small synthetic text."""

    def __init__(self, setting: Setting) -> None:
        self.setting, tiny = setting, setting.is_tiny
        data = DataConfig(
            name="check",
            source=Source.synthetic,
            vocab_size=256,
            seq_len=16 if tiny else 256,
            validation_tokens=4_000 if tiny else 100_000,
            synthetic=SyntheticConfig(tokens=20_000 if tiny else 2_000_000),
        )
        self.dataset = open_dataset(prepare(data, setting.work / "data"))
        self.seq_len = data.seq_len
        model = ModelConfig(d_model=16 if tiny else 64, n_layers=1 if tiny else 2)
        self.shape = model_shape(model, vocab_size=256, seq_len=data.seq_len)

    def engine(
        self,
        runs: Sequence[Replica],
        *,
        dtype: Dtype = Dtype.fp32,
        is_compiled: bool = False,
        may_graph: bool = True,
        is_resident: bool = True,
    ) -> Engine:
        """Those replicas at step 0."""
        share = batches_module.RESIDENT_SHARE
        batches_module.RESIDENT_SHARE = share if is_resident else 0.0
        try:
            batches = self._batches(runs)
        finally:
            batches_module.RESIDENT_SHARE = share
        policy = ComputePolicy(
            dtype=dtype,
            attention=AttentionKernel.sdpa,
            compiled=is_compiled and not self.setting.is_tiny,
            micro_batch_seqs=BATCH_SEQS,
            eval_seqs=BATCH_SEQS,
        )
        return Engine(self.shape, runs, self.setting.compute, batches, policy, may_graph=may_graph)

    def _batches(self, runs: Sequence[Replica]) -> Batches:
        return Batches(
            self.dataset,
            self.setting.compute,
            seeds=[run.seed for run in runs],
            batch_seqs=BATCH_SEQS,
            seq_len=self.seq_len,
        )

    def steps(self, steps: int) -> int:
        """So many, or enough to run everything."""
        return 11 if self.setting.is_tiny else steps


def take_correctness(setting: Setting, tell: Tell) -> None:
    """Every check; each is told as it is done."""
    bench = Bench(setting)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(mode=True)
        _compare_graphs(bench, tell, is_compiled=False)
        _compare_alone(bench, tell)
        _compare_beside_an_accident(bench, tell)
        _compare_sent_windows(bench, tell)
        torch.use_deterministic_algorithms(mode=False)
        _compare_bf16(bench, tell)
        torch.use_deterministic_algorithms(mode=True)
        _compare_graphs(bench, tell, is_compiled=True)
    lost = [str(warning.message) for warning in caught if "CUDA graph" in str(warning.message)]
    for message in lost:
        warnings.warn(message, stacklevel=1)  # to the log
    tell(Figure("graphs: steps that could not be recorded", len(lost), "engines", 0.0, "max"))


def _compare_graphs(bench: Bench, tell: Tell, *, is_compiled: bool) -> None:
    for n in (1, 3):
        ours, eager = (
            bench.engine(
                replicas(n), dtype=Dtype.bf16, is_compiled=is_compiled, may_graph=may_graph
            )
            for may_graph in (True, False)
        )
        apart = _apart(ours, eager, bench.steps(43))
        words = f"graph against eager, {n} stacked{', compiled' if is_compiled else ''}"
        tell(Figure(f"{words}: apart after 43 steps", apart, "nats or weights", 0.0, "max"))


def _compare_alone(bench: Bench, tell: Tell) -> None:
    for dtype, goal in ((Dtype.fp32, STACKED_GOAL), (Dtype.bf16, math.inf)):
        runs, steps = replicas(4), bench.steps(50)
        stacked = bench.engine(runs, dtype=dtype).advance(steps)
        apart = max(
            abs(row[0] - all_rows[place])
            for place, run in enumerate(runs)
            for row, all_rows in zip(
                bench.engine([run], dtype=dtype).advance(steps).losses_SR,
                stacked.losses_SR,
                strict=True,
            )
        )
        name = f"stacked against alone, {dtype.name}: loss apart within 50 steps"
        tell(Figure(name, apart, "nats", goal, "max") if goal < 1 else Figure(name, apart, "nats"))


def _compare_beside_an_accident(bench: Bench, tell: Tell) -> None:
    sound = replicas(3)
    broken = [sound[0], replace(sound[1], lr=1e30), sound[2]]
    steps = bench.steps(20)
    with_it, without = bench.engine(broken).advance(steps), bench.engine(sound).advance(steps)
    if all(math.isfinite(row[1]) for row in with_it.losses_SR):
        raise AssertionError("a learning rate of 1e30 did not diverge")
    apart = max(_loss_apart(with_it, without, place) for place in (0, 2))
    tell(Figure("beside a diverged replica: loss apart", apart, "nats", 0.0, "max"))


def _compare_sent_windows(bench: Bench, tell: Tell) -> None:
    there, sent = (bench.engine(replicas(2), is_resident=here) for here in (True, False))
    apart = _apart(there, sent, bench.steps(30))
    tell(Figure("windows sent, not resident: apart", apart, "nats or weights", 0.0, "max"))


def _compare_bf16(bench: Bench, tell: Tell) -> None:
    steps = bench.steps(600)
    runs = [_with_cosine(replace(run, lr=2e-3), steps) for run in replicas(4)]
    final = {}
    for dtype in (Dtype.fp32, Dtype.bf16):
        engine = bench.engine(runs, dtype=dtype)
        engine.advance(steps)
        tokens = bench.dataset.n_tokens("validation")
        windows = engine.batches.validation(tokens, max_seqs=64)  # type: ignore[attr-defined]
        final[dtype] = [one.loss for one in evaluate(engine, windows, bytes_per_token=1.0)]
    moved = abs(fmean(final[Dtype.bf16]) - fmean(final[Dtype.fp32]))
    spread = stdev(final[Dtype.fp32])
    tell(Figure("bf16 against fp32, 600 steps, 4 seeds: moved", moved, "nats"))
    tell(Figure("bf16 against fp32: standard deviation over seeds", spread, "nats"))
    name = "bf16 against fp32: moved, of that deviation"
    tell(Figure(name, moved / spread, "ratio", PARITY_GOAL, "max"))


def _with_cosine(run: Replica, steps: int) -> Replica:
    schedule = replace(
        run.schedule,
        shape=ScheduleShape.cosine,
        total_steps=steps,
        warmup_steps=steps // 10,
        decay_end_step=steps,
    )
    return replace(run, schedule=schedule, optimizer=replace(run.optimizer, weight_decay=0.1))


def _apart(one: Engine, other: Engine, steps: int) -> float:
    """The largest difference of any loss on the way, and of any weight at the end."""
    first, second = one.advance(steps), other.advance(steps)
    losses = [_loss_apart(first, second, place) for place in range(one.n_replicas)]
    return max(*losses, (one.rows_RP - other.rows_RP).abs().max().item())


def _loss_apart(one: Segment, other: Segment, place: int) -> float:
    pairs = zip(one.losses_SR, other.losses_SR, strict=True)
    return max(abs(a[place] - b[place]) for a, b in pairs)
