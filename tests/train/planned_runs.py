"""Planned runs that no test trains."""

from hypothesis import HealthCheck, settings

from train.config.experiment import BudgetConfig, OptimizerConfig, ScheduleConfig, ScheduleShape
from train.plan.planning import PlannedRun, plan_run
from train.study.run_status import RunStatus

WSD = ScheduleConfig(shape=ScheduleShape.wsd, warmup_steps=5, cooldown_fraction=0.2)

few_examples = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    # examples share a test's folder, and write nothing to it
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def planned(config, *overrides):
    return PlannedRun(overrides=list(overrides), config=config, plan=plan_run(config))


def wsd_run(make_config, steps=40, *, lr=0.01, seed=0, **groups):
    """A run of `steps` steps of 256 tokens, by WSD unless said otherwise."""
    fields = {
        "optimizer": OptimizerConfig(lr=lr, batch_tokens=256),
        "budget": BudgetConfig(tokens=steps * 256.0),
        "schedule": WSD,
    }
    return planned(make_config(seed=seed, **{**fields, **groups}), f"seed={seed}")


def status_row(state, step=0, **facts):
    """A row of train.status for a run of 100 steps."""
    fields = {
        "run_id": "r",
        "reason": "",
        "total_steps": 100,
        "flops": 1_000,
        "seconds": 0.0,
        "loss": None,
        "exit_code": None,
    }
    return RunStatus(**{**fields, "state": state, "step": step, **facts})
