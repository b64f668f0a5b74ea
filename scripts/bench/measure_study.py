"""A whole study by the real command, against the reference training its runs one by one.

Ours: wall time of `python -m train -m` on two cores: 6 rungs x 5 horizons x 4 learning rates,
GPT-2's block, WSD schedules, data prepared before, cache of compiled code empty. The reference
trains the same runs to the same horizons, each with its own cosine, and evaluates each once at its
end on as many tokens. Its time is extrapolated: a sample of steps and evaluation batches of each
rung is timed (wall clock) before and after our study, with one thread and with two, of which the
faster counts, and multiplied by the number of steps. It is not charged for starting a process,
importing torch or logging.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from bench.figures import Figure
from bench.measurement import Effort, Measurement
from bench.our_step import shard
from bench.paired_timing import Work, repeated, step_seconds, steps_for
from bench.reference_step import Cosine, RandomWindows, ReferenceStep
from bench.sizes import TINY
from bench.train_command import Cost, train
from train.config.experiment import ModelConfig, Norm, Positions
from train.plan.shape import ModelShape, model_shape
from train.run_folder.manifest import read_manifest

SEQ_LEN = 128
BATCH_TOKENS = 512
EVAL_TOKENS = 131_072
EVAL_BATCH_TOKENS = 8_192
HEAD_DIM = 16

THREADS = (1, 2)
"""Numbers of threads that the reference is tried with."""

GOAL = 3.0
STRETCH = 5.0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Axes of the study, chosen so that every run has a whole number of steps."""

    widths: Sequence[int] = (16, 24, 32, 40, 48, 64)
    tokens_per_param: Sequence[float] = (2, 4, 8, 16, 32)
    lr_multipliers: Sequence[float] = (0.5, 1, 2, 4)
    eval_tokens: int = EVAL_TOKENS
    sample_seconds: float = 4.0
    """Seconds of the reference's steps to time, per rung, threads and pass."""


def plan_study(effort: Effort) -> list[Measurement]:
    """Plan the whole study, or a tiny one."""
    tiny = Grid(
        widths=(16,),
        tokens_per_param=(2, 4),
        lr_multipliers=(1, 2),
        eval_tokens=1024,
        sample_seconds=0.01,
    )
    grid, seconds = (tiny, 20.0) if effort.is_tiny else (Grid(), 600.0)
    return [Measurement("study", seconds, partial(measure, grid, effort))]


def measure(grid: Grid, effort: Effort) -> list[Figure]:
    """Sample the reference, run our study, sample the reference again."""
    first = {width: sample_reference(width, grid, effort) for width in grid.widths}
    cost, steps = run_ours(grid, effort)
    again = {width: sample_reference(width, grid, effort) for width in grid.widths}
    reference = sum(
        (first[width].seconds(steps[width]) + again[width].seconds(steps[width])) / 2
        for width in grid.widths
    )
    speedup = reference / cost.wall
    runs = sum(len(counts) for counts in steps.values())
    goal, stretch = (0.0, 0.0) if effort.is_tiny else (GOAL, STRETCH)
    return [
        Figure(f"study of {runs} runs: ours, wall time", cost.wall, "s"),
        Figure(f"study of {runs} runs: ours, CPU time", cost.cpu, "s"),
        Figure(f"study of {runs} runs: reference, extrapolated", reference, "s"),
        Figure(f"study of {runs} runs: times the reference", speedup, "ratio", goal),
        Figure(f"study of {runs} runs: times the reference, stretch", speedup, "ratio", stretch),
    ]


def run_ours(grid: Grid, effort: Effort) -> tuple[Cost, dict[int, list[int]]]:
    """Run the study; return its cost and, by width, the number of steps of each run."""
    folder = effort.folder / "study"
    common = [
        "-m",
        "schedule=wsd",
        "model.norm=layer",
        "model.positions=learned",
        "model.qk_norm=false",
        "model.tie_head=true",
        f"model.head_dim={HEAD_DIM}",
        f"data.seq_len={SEQ_LEN}",
        "data.allow_repeat=true",
        f"optimizer.batch_tokens={BATCH_TOKENS}",
        "eval.points=0",
        f"eval.tokens={grid.eval_tokens}",
    ]
    prepare = [*common, "study.name=prepare", "model.d_model=16", f"budget.tokens={BATCH_TOKENS}"]
    prepare += ["machine.compile=never", "schedule=constant"]
    train(prepare, folder=folder, cache=folder / "prepared")
    axes = {
        "model.d_model": grid.widths,
        "budget.tokens_per_param": grid.tokens_per_param,
        "optimizer.lr_multiplier": grid.lr_multipliers,
    }
    words = [f"{key}={','.join(map(str, values))}" for key, values in axes.items()]
    cost = train([*common, *words, "study.name=whole"], folder=folder, cache=folder / "compiled")
    manifest = read_manifest(folder / "runs" / "whole")
    assert manifest is not None
    steps: dict[int, list[int]] = {width: [] for width in grid.widths}
    for run in manifest["runs"]:
        steps[run["science"]["model"]["d_model"]].append(run["plan"]["steps"])
    return cost, steps


@dataclass(frozen=True)
class Sampled:
    """Wall-clock seconds of the reference at one rung."""

    step: float
    """Seconds per step."""
    evaluation: float
    """Seconds per evaluation."""

    def seconds(self, steps: Sequence[int]) -> float:
        """Seconds of runs with these numbers of steps, one after the other."""
        return sum(steps) * self.step + len(steps) * self.evaluation


def sample_reference(width: int, grid: Grid, effort: Effort) -> Sampled:
    """Time the reference at one rung with each number of threads; the fastest counts."""
    sampled = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        try:
            sampled.append(_sample(gpt2_rung(width), grid, effort))
        finally:
            torch.set_num_threads(1)
    return Sampled(min(s.step for s in sampled), min(s.evaluation for s in sampled))


def _sample(shape: ModelShape, grid: Grid, effort: Effort) -> Sampled:
    # every size reads the same text
    tokens = shard(TINY.gpt2(), effort.data)
    step = ReferenceStep(shape, tokens, batch_tokens=BATCH_TOKENS, schedule=Cosine())
    batches = RandomWindows(tokens, batch_seqs=EVAL_BATCH_TOKENS // SEQ_LEN, seq_len=SEQ_LEN)

    @torch.no_grad()
    def evaluate() -> None:
        step.model(*batches()).item()

    evaluation_batches = grid.eval_tokens / EVAL_BATCH_TOKENS
    return Sampled(
        step=wall_seconds(step, grid.sample_seconds),
        evaluation=wall_seconds(repeated(evaluate), grid.sample_seconds / 8) * evaluation_batches,
    )


def gpt2_rung(width: int) -> ModelShape:
    """Model shape of the study's rung of this width."""
    model = ModelConfig(
        d_model=width,
        head_dim=HEAD_DIM,
        norm=Norm.layer,
        positions=Positions.learned,
        qk_norm=False,
        tie_head=True,
    )
    return model_shape(model, vocab_size=256, seq_len=SEQ_LEN)


def wall_seconds(work: Work, seconds: float) -> float:
    """Wall-clock seconds per step, timed for about `seconds` after three warm-up steps."""
    work(3)
    steps = steps_for(seconds, work, time.perf_counter)
    return step_seconds(work, steps, time.perf_counter)
