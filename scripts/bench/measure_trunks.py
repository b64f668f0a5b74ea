"""A trunk with branches against separate runs: FLOPs from the plan, and measured time."""

from collections.abc import Sequence
from functools import partial

from bench.figures import Figure
from bench.measurement import Effort, Measurement
from bench.train_command import Cost, train
from train.config.experiment import BudgetConfig, OptimizerConfig, ScheduleConfig, ScheduleShape
from train.config.schema import Config
from train.plan.grouping import group_runs
from train.plan.planning import PlannedRun
from train.plan.validate import validate

STEP_TOKENS = 512

HORIZONS = {
    "5 horizons x2 apart": ([256, 512, 1024, 2048, 4096], 0.62),
    "9 horizons x1.41 apart": ([256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096], 0.46),
}
"""Steps of each run, and the upper goal for FLOPs relative to separate runs."""


def plan_trunks(effort: Effort) -> list[Measurement]:
    """Plan the FLOP count, then the training."""
    longest = 256 if effort.is_tiny else 5120
    steps = [longest // 2**k for k in range(5)]
    return [
        Measurement("trunk, FLOPs", 1.0, count_all),
        Measurement("trunk, time", 40.0 + longest / 50, partial(measure_trunk, steps, effort)),
    ]


def count_all() -> list[Figure]:
    """FLOPs of a study with each set of horizons, relative to separate runs."""
    return [
        Figure(f"{name}: FLOPs, times separate runs", flops_ratio(steps), "ratio", goal, "max")
        for name, (steps, goal) in HORIZONS.items()
    ]


def flops_ratio(steps: Sequence[int]) -> float:
    """FLOPs of runs that share a trunk, divided by those of the same runs one by one."""
    groups = group_runs([_planned(count) for count in steps], best_stack=lambda run, count: 1)
    return sum(g.shared_flops for g in groups) / sum(g.own_flops for g in groups)


def _planned(steps: int) -> PlannedRun:
    """A WSD run of `steps` steps, whose last fifth is the cooldown."""
    config = Config(
        optimizer=OptimizerConfig(lr=1e-3, batch_tokens=STEP_TOKENS),
        schedule=ScheduleConfig(shape=ScheduleShape.wsd, warmup_steps=10),
        budget=BudgetConfig(tokens=steps * STEP_TOKENS),
    )
    return PlannedRun(overrides=[], config=config, plan=validate(config))


def measure_trunk(steps: Sequence[int], effort: Effort) -> list[Figure]:
    """Train a small study twice, with and without a shared trunk, in one process each."""
    folder = effort.folder / "trunks"
    budgets = ",".join(str(STEP_TOKENS * count) for count in steps)
    words = [
        "-m",
        "schedule=wsd",
        "schedule.warmup_tokens_per_param=null",
        "schedule.warmup_steps=10",
        "model=d32",
        "data.seq_len=128",
        "data.allow_repeat=true",
        f"optimizer.batch_tokens={STEP_TOKENS}",
        "eval.points=0",
        "eval.tokens=16384",
        "machine.workers=1",
        "machine.stack=1",
    ]

    def study(name: str, *own: str) -> Cost:
        return train([*words, f"study.name={name}", *own], folder=folder, cache=folder / "compiled")

    # prepares the data and fills the cache of compiled code
    study("warm", f"budget.tokens={20 * STEP_TOKENS}")

    alone = study("alone", f"budget.tokens={budgets}", "machine.trunks=false")
    shared = study("shared", f"budget.tokens={budgets}", "machine.trunks=true")
    name = f"5 horizons x2 apart, the longest of {max(steps)} steps"
    goal = 0.0 if effort.is_tiny else HORIZONS["5 horizons x2 apart"][1]
    sense = "min" if effort.is_tiny else "max"
    return [
        Figure(
            f"{name}: wall time, times separate runs",
            shared.wall / alone.wall,
            "ratio",
            goal,
            sense,
        ),
        Figure(
            f"{name}: CPU time, times separate runs", shared.cpu / alone.cpu, "ratio", goal, sense
        ),
        Figure(f"{name}: separate runs", alone.wall, "s"),
    ]
