"""A trunk with branches against separate runs: FLOPs by the planner, and time by the clock."""

from collections.abc import Sequence
from functools import partial

from benchmark_figures import Figure
from measurement import Effort, Measurement
from train_command import Spent, train

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
"""Steps of each run, and the most FLOPs against those of separate runs."""


def plan_trunks(effort: Effort) -> list[Measurement]:
    """Count, then train."""
    longest = 256 if effort.is_tiny else 5120
    steps = [longest // 2**k for k in range(5)]
    return [
        Measurement("trunk, FLOPs", 1.0, count_all),
        Measurement("trunk, time", 40.0 + longest / 50, partial(measure_trunk, steps, effort)),
    ]


def count_all() -> list[Figure]:
    """Ask the planner what a study of each set of horizons computes."""
    return [
        Figure(f"{name}: FLOPs, times separate runs", flops_ratio(steps), "ratio", goal, "max")
        for name, (steps, goal) in HORIZONS.items()
    ]


def flops_ratio(steps: Sequence[int]) -> float:
    """FLOPs of runs that share a trunk over those of the same runs one by one."""
    groups = group_runs([_planned(count) for count in steps], best_stack=lambda run, count: 1)
    own, shared = (sum(getattr(g, f"{kind}_flops") for g in groups) for kind in ("own", "shared"))
    return shared / own


def _planned(steps: int) -> PlannedRun:
    """A run of so many steps with a cooldown of its last fifth."""
    config = Config(
        optimizer=OptimizerConfig(lr=1e-3, batch_tokens=STEP_TOKENS),
        schedule=ScheduleConfig(shape=ScheduleShape.wsd, warmup_steps=10),
        budget=BudgetConfig(tokens=steps * STEP_TOKENS),
    )
    return PlannedRun(overrides=[], config=config, plan=validate(config))


def measure_trunk(steps: Sequence[int], effort: Effort) -> list[Figure]:
    """Train a small study twice, its horizons with a trunk and one by one, in one process each."""
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

    def study(name: str, *own: str) -> Spent:
        return train([*words, f"study.name={name}", *own], folder=folder, cache=folder / "compiled")

    study("warm", f"budget.tokens={20 * STEP_TOKENS}")  # the data are made and the code is compiled
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
