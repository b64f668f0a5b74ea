"""Runs per GPU-hour of a whole ladder: 6 sizes, 5 horizons, 8 learning rates, from samples.

Ours: for every size one job of 8 stacked learning rates and one trunk for all horizons, compiled
where the choice is to, replayed as graphs. The protocol that it is held against trains the same 240
runs one by one with the same engine, eagerly: no stack, no trunk, no graph, nothing compiled. Of
each a sample of steps and an evaluation are timed and multiplied by the counts that the runs' plans
tell. Ours is charged besides with the start of a process for every size, as this one started, and
with what its engine took to its first steps, compiled code coming from the cache; the others start
for nothing, and write no checkpoint. The data has no share in either.
"""

import csv
import time
from dataclasses import dataclass

import torch
from benchmark_figures import Figure
from gpu_setting import SEQ_LEN, VOCAB, Setting, Tell, seconds_a_step, timed_engine

from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    ScheduleShape,
    Source,
)
from train.config.schema import Config
from train.engine.compute_policy import COMPILE_FROM_FLOPS
from train.engine.cuda_graph import STEPS_A_REPLAY
from train.engine.engine import Engine
from train.engine.evaluate import evaluate
from train.plan.planning import RunPlan, plan_run
from train.run_folder.accounting import process_seconds

SIZES = ((64, 2), (96, 2), (128, 2), (192, 3), (256, 4), (320, 4))
"""Widths and layers: 98 thousand to 4.9 M parameters in the blocks."""
HORIZONS = (2, 4, 8, 16, 32)
"""Tokens per parameter, the head counted."""
LEARNING_RATES = 8
BATCH_TOKENS = 8_192
EVAL_TOKENS = 262_144
EVALUATIONS = 1
"""Of each run, at its end."""
SAMPLE_SECONDS = 2.0

RATE_GOAL = 800.0
GAIN_GOAL = 5.0


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What a size costs, in seconds of a GPU."""

    d_model: int
    n_layers: int
    params: int
    """Of the blocks."""
    stacked_steps: int
    """Of the stack of learning rates: the trunk, and the cooldown of every horizon."""
    single_steps: int
    """Of all runs, one by one."""
    is_compiled: bool
    stacked_step: float
    single_step: float
    first_steps: float
    """From building the stack to its ninth step."""
    stacked_evaluation: float
    single_evaluation: float

    def ours(self, start: float) -> float:
        """Seconds of the stack."""
        evaluations = len(HORIZONS) * EVALUATIONS * self.stacked_evaluation
        return start + self.first_steps + self.stacked_steps * self.stacked_step + evaluations

    def one_by_one(self) -> float:
        """Seconds of its runs alone."""
        runs = len(HORIZONS) * LEARNING_RATES
        evaluations = runs * EVALUATIONS * self.single_evaluation
        return self.single_steps * self.single_step + evaluations


def take_ladder(setting: Setting, tell: Tell) -> None:
    """Sample every size, write ladder.csv, and tell the rates."""
    start = process_seconds()
    sizes = SIZES[:1] if setting.is_tiny else SIZES
    rungs = [sample(d_model, n_layers, setting) for d_model, n_layers in sizes]
    with (setting.out / "ladder.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*rungs[0].__dict__, "seconds_ours", "seconds_one_by_one"])
        for rung in rungs:
            writer.writerow([*rung.__dict__.values(), rung.ours(start), rung.one_by_one()])
    runs = len(rungs) * len(HORIZONS) * LEARNING_RATES
    ours = sum(rung.ours(start) for rung in rungs)
    others = sum(rung.one_by_one() for rung in rungs)
    say = f"ladder of {runs} runs, extrapolated"
    tell(Figure(f"{say}: ours", ours, "s"))
    tell(Figure(f"{say}: eager, one by one", others, "s"))
    tell(Figure("ladder: start of a process", start, "s"))
    tell(Figure("ladder: runs per GPU-hour", 3600 * runs / ours, "runs/h", RATE_GOAL))
    tell(Figure("ladder: times the eager one-by-one protocol", others / ours, "ratio", GAIN_GOAL))


def plans(d_model: int, n_layers: int) -> list[RunPlan]:
    """A run of each horizon."""
    return [
        plan_run(
            Config(
                model=ModelConfig(d_model=d_model, n_layers=n_layers),
                data=DataConfig(source=Source.synthetic, vocab_size=VOCAB, seq_len=SEQ_LEN),
                optimizer=OptimizerConfig(lr=1e-3, batch_tokens=BATCH_TOKENS),
                schedule=ScheduleConfig(shape=ScheduleShape.wsd),
                budget=BudgetConfig(tokens_per_param=horizon),
            )
        )
        for horizon in HORIZONS
    ]


def is_compiled(d_model: int, n_layers: int) -> bool:
    """What the automatic choice is for this size's stack."""
    flops = LEARNING_RATES * max(plan.flops_exact for plan in plans(d_model, n_layers))
    return flops >= COMPILE_FROM_FLOPS["cuda"]


def stack_of(d_model: int, n_layers: int, setting: Setting) -> Engine:
    """A size's learning rates, as a job would train them."""
    return timed_engine(
        setting.shape(d_model, n_layers),
        setting,
        batch_seqs=setting.seqs(BATCH_TOKENS),
        n_replicas=LEARNING_RATES,
        is_compiled=is_compiled(d_model, n_layers),
    )


def sample(d_model: int, n_layers: int, setting: Setting) -> Rung:
    """Time a size's stack and one of its runs alone."""
    each = plans(d_model, n_layers)
    longest = max(plan.steps for plan in each)
    cooldowns = sum(plan.schedule.cooldown_steps for plan in each if plan.steps < longest)
    torch.compiler.reset()  # a process keeps code for a few shapes only
    began = time.perf_counter()
    stack = stack_of(d_model, n_layers, setting)
    stack.advance(STEPS_A_REPLAY + 1)
    first_steps = time.perf_counter() - began
    alone = timed_engine(
        setting.shape(d_model, n_layers),
        setting,
        batch_seqs=setting.seqs(BATCH_TOKENS),
        may_graph=False,
    )
    return Rung(
        d_model=d_model,
        n_layers=n_layers,
        params=each[0].params.kaplan,
        stacked_steps=longest + cooldowns,
        single_steps=LEARNING_RATES * sum(plan.steps for plan in each),
        is_compiled=stack.policy.compiled,
        stacked_step=seconds_a_step(stack, setting.seconds(SAMPLE_SECONDS)),
        single_step=seconds_a_step(alone, setting.seconds(SAMPLE_SECONDS)),
        first_steps=first_steps,
        stacked_evaluation=_evaluation_seconds(stack, setting),
        single_evaluation=_evaluation_seconds(alone, setting),
    )


def _evaluation_seconds(engine: Engine, setting: Setting) -> float:
    """Seconds of an evaluation of every replica on EVAL_TOKENS, as the loop makes it."""
    seqs = engine.policy.eval_seqs
    starts_RB = torch.arange(seqs, device=setting.compute.device)[None]
    windows_BT = engine.batches.resident_windows(starts_RB)[0]
    batches = [windows_BT] * (1 if setting.is_tiny else EVAL_TOKENS // (seqs * SEQ_LEN))
    evaluate(engine, batches[:1], bytes_per_token=1.0)
    began = time.perf_counter()
    evaluate(engine, batches, bytes_per_token=1.0)
    return time.perf_counter() - began
