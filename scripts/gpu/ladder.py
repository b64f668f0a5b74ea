"""Runs per GPU-hour of a whole ladder (6 sizes, 5 horizons, 8 learning rates), extrapolated.

Ours: one job per size, with 8 stacked learning rates and one trunk for all horizons, CUDA graphs,
compiled where the automatic choice is to compile. The baseline trains the same 240 runs one by one
with the same engine, eager: no stack, no trunk, no graph, nothing compiled. For each, a sample of
steps and an evaluation are timed and multiplied by the counts in the runs' plans. Ours is also
charged, per size, with the start of a process (as measured for this one) and the time to the
engine's first steps with compiled code in the cache. The baseline's start-up is free. Neither
includes checkpoints or data.
"""

import csv
import time
from dataclasses import dataclass

import torch

from bench.figures import Figure
from gpu.setting import SEQ_LEN, VOCAB, Report, Setting, seconds_a_step, timed_engine
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
"""d_model and n_layers: 98 thousand to 4.9 M non-embedding parameters."""
HORIZONS = (2, 4, 8, 16, 32)
"""Tokens per parameter, the head's included."""
LEARNING_RATES = 8
BATCH_TOKENS = 8_192
EVAL_TOKENS = 262_144
EVALUATIONS = 1
"""Number of evaluations per run, at its end."""
SAMPLE_SECONDS = 2.0

RATE_GOAL = 800.0
GAIN_GOAL = 5.0


@dataclass(frozen=True, kw_only=True)
class Rung:
    """The GPU seconds that one size costs."""

    d_model: int
    n_layers: int
    params: int
    """Non-embedding parameters."""
    stacked_steps: int
    """Steps of the stack: the trunk's and every horizon's cooldown."""
    single_steps: int
    """Steps of all runs, one by one."""
    is_compiled: bool
    stacked_step: float
    """Seconds per step of the stack."""
    single_step: float
    """Seconds per step of a run alone."""
    first_steps: float
    """Seconds from building the stack to the end of its first STEPS_A_REPLAY + 1 steps."""
    stacked_evaluation: float
    """Seconds per evaluation of the stack."""
    single_evaluation: float
    """Seconds per evaluation of a run alone."""

    def ours(self, start: float) -> float:
        """Seconds of the stacked job, of which `start` to start the process."""
        evaluations = len(HORIZONS) * EVALUATIONS * self.stacked_evaluation
        return start + self.first_steps + self.stacked_steps * self.stacked_step + evaluations

    def one_by_one(self) -> float:
        """Seconds of the same runs one by one."""
        runs = len(HORIZONS) * LEARNING_RATES
        evaluations = runs * EVALUATIONS * self.single_evaluation
        return self.single_steps * self.single_step + evaluations


def take_ladder(setting: Setting, report: Report) -> None:
    """Sample every size, write ladder.csv and report the rates."""
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
    title = f"ladder of {runs} runs, extrapolated"

    report(Figure(f"{title}: ours", ours, "s"))
    report(Figure(f"{title}: eager, one by one", others, "s"))
    report(Figure("ladder: start of a process", start, "s"))
    report(Figure("ladder: runs per GPU-hour", 3600 * runs / ours, "runs/h", RATE_GOAL))
    report(Figure("ladder: times the eager one-by-one protocol", others / ours, "ratio", GAIN_GOAL))


def plans(d_model: int, n_layers: int) -> list[RunPlan]:
    """Plan one run per horizon."""
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
    """Whether the automatic choice compiles this size's stack."""
    flops = LEARNING_RATES * max(plan.flops_exact for plan in plans(d_model, n_layers))
    return flops >= COMPILE_FROM_FLOPS["cuda"]


def stack_of(d_model: int, n_layers: int, setting: Setting) -> Engine:
    """Build the stack of a size's learning rates, as a job does."""
    return timed_engine(
        setting.shape(d_model, n_layers),
        setting,
        batch_seqs=setting.seqs(BATCH_TOKENS),
        n_replicas=LEARNING_RATES,
        is_compiled=is_compiled(d_model, n_layers),
    )


def sample(d_model: int, n_layers: int, setting: Setting) -> Rung:
    """Time a size's stack, and one of its runs alone."""
    each = plans(d_model, n_layers)
    longest = max(plan.steps for plan in each)
    cooldowns = sum(plan.schedule.cooldown_steps for plan in each if plan.steps < longest)
    # torch keeps compiled code for only a few shapes per process
    torch.compiler.reset()
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
    """Time one evaluation of every replica on EVAL_TOKENS tokens, as the training loop does it."""
    seqs = engine.policy.eval_seqs
    starts_RB = torch.arange(seqs, device=setting.compute.device)[None]
    windows_BT = engine.batches.resident_windows(starts_RB)[0]
    batches = [windows_BT] * (1 if setting.is_tiny else EVAL_TOKENS // (seqs * SEQ_LEN))
    engine.batches.validation, engine.batches.bytes_per_token = batches[:1], 1.0
    evaluate(engine)
    engine.batches.validation = batches
    began = time.perf_counter()
    evaluate(engine)
    return time.perf_counter() - began
