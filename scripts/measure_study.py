"""A whole study by the real command, against the reference step training its runs one by one.

Ours: `python -m train -m` on two cores, 6 rungs x 5 horizons x 4 learning rates, GPT-2's block,
WSD schedules, from the start of the command to its end; data prepared before, the cache of
compiled code empty. The reference trains the same runs to the same horizons, each with its own
cosine, and evaluates each once at its end on as many tokens as ours do. It is not run to the end:
of every rung a sample of steps and of evaluation batches is timed by the clock on the wall, before
our study and after it, with one thread and with two, of which the faster counts, and multiplied by
the steps of the runs. Its process start, its import of torch and its logging cost it nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from benchmark_figures import Figure
from engine_sizes import TINY
from measurement import Effort, Measurement
from our_step import shard
from paired_timing import Work, repeated, step_seconds, steps_for
from reference_step import Cosine, RandomWindows, ReferenceStep
from train_command import Spent, train

from train.config.experiment import ModelConfig, Norm, Positions
from train.plan.shape import ModelShape, model_shape
from train.run_folder.manifest import read_manifest

SEQ_LEN = 128
BATCH_TOKENS = 512
EVAL_TOKENS = 131_072
EVAL_BATCH_TOKENS = 8_192
HEAD_DIM = 16

THREADS = (1, 2)
"""Of the reference: it may take both cores for its one run."""

GOAL = 3.0
STRETCH = 5.0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The study's axes, of which every run has a whole number of steps."""

    widths: Sequence[int] = (16, 24, 32, 40, 48, 64)
    tokens_per_param: Sequence[float] = (2, 4, 8, 16, 32)
    lr_multipliers: Sequence[float] = (0.5, 1, 2, 4)
    eval_tokens: int = EVAL_TOKENS
    sample_seconds: float = 4.0
    """Of the reference's steps, for each rung, number of threads and time of measuring."""


def plan_study(effort: Effort) -> list[Measurement]:
    """The whole study, or a tiny one."""
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
    spent, steps = run_ours(grid, effort)
    again = {width: sample_reference(width, grid, effort) for width in grid.widths}
    reference = sum(
        (first[width].seconds(steps[width]) + again[width].seconds(steps[width])) / 2
        for width in grid.widths
    )
    speedup = reference / spent.wall
    runs = sum(len(counts) for counts in steps.values())
    goal, stretch = (0.0, 0.0) if effort.is_tiny else (GOAL, STRETCH)
    return [
        Figure(f"study of {runs} runs: ours, wall time", spent.wall, "s"),
        Figure(f"study of {runs} runs: ours, CPU time", spent.cpu, "s"),
        Figure(f"study of {runs} runs: reference, extrapolated", reference, "s"),
        Figure(f"study of {runs} runs: times the reference", speedup, "ratio", goal),
        Figure(f"study of {runs} runs: times the reference, stretch", speedup, "ratio", stretch),
    ]


def run_ours(grid: Grid, effort: Effort) -> tuple[Spent, dict[int, list[int]]]:
    """Run the study; return what it took, and by width the steps of its runs."""
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
    spent = train([*common, *words, "study.name=whole"], folder=folder, cache=folder / "compiled")
    manifest = read_manifest(folder / "runs" / "whole")
    assert manifest is not None
    steps: dict[int, list[int]] = {width: [] for width in grid.widths}
    for run in manifest["runs"]:
        steps[run["science"]["model"]["d_model"]].append(run["plan"]["steps"])
    return spent, steps


@dataclass(frozen=True)
class Sampled:
    """What the reference takes at one rung, by the clock on the wall."""

    step: float
    """Seconds a step."""
    evaluation: float
    """Seconds an evaluation."""

    def seconds(self, steps: Sequence[int]) -> float:
        """Of runs of so many steps, one after the other."""
        return sum(steps) * self.step + len(steps) * self.evaluation


def sample_reference(width: int, grid: Grid, effort: Effort) -> Sampled:
    """Time the reference at one rung with one thread and with two; the faster counts."""
    sampled = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        try:
            sampled.append(_sample(gpt2_rung(width), grid, effort))
        finally:
            torch.set_num_threads(1)
    return Sampled(min(s.step for s in sampled), min(s.evaluation for s in sampled))


def _sample(shape: ModelShape, grid: Grid, effort: Effort) -> Sampled:
    tokens = shard(TINY.gpt2(), effort.data)  # the text of every size
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
    """The study's shape of this width."""
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
    """Wall seconds a step, over about so many seconds, after a few steps that warm up."""
    work(3)
    steps = steps_for(seconds, work, time.perf_counter)
    return step_seconds(work, steps, time.perf_counter)
