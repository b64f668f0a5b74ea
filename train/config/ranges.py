"""The rule of each single setting: the values that it may have by itself.

Rules across settings are in validate.py. NaN is in no range.
"""

import math
from collections.abc import Callable

from train.config.experiment import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from train.config.runtime import MachineConfig, StudyConfig
from train.config.schema import Config
from train.errors import ConfigError

WARMUP_FORMS = ("warmup_steps", "warmup_tokens", "warmup_tokens_per_param", "warmup_fraction")
"""The ways of giving a warm-up, of which one may be used."""


def check_ranges(config: Config) -> None:
    """Check every setting by itself.

    Raises:
        ConfigError: Names the first setting that is out of its range, its value and the range.
    """
    within("seed", config.seed, "0 .. 2^63 - 1", lambda v: 0 <= v < 2**63)
    _check_optimizer(config.optimizer)
    _check_data(config.data, config.eval)
    _check_schedule(config.schedule)
    _check_model(config.model)
    _check_study(config.study)
    _check_machine(config.machine)


def within(name: str, value: float | None, rule: str, holds: Callable[[float], bool]) -> None:
    """Refuse a value that breaks its rule; null, where a setting may be left open, breaks none.

    Raises:
        ConfigError: Says the name, the value and the rule.
    """
    if value is not None and not holds(value):
        raise ConfigError(f"{name}={value}: must be {rule}")


def _check_optimizer(optimizer: OptimizerConfig) -> None:
    _positive("optimizer.lr", optimizer.lr)
    _positive("optimizer.lr_multiplier", optimizer.lr_multiplier)
    for name in ("coefficient", "reference_params", "maximum"):
        _positive(f"optimizer.lr_rule.{name}", getattr(optimizer.lr_rule, name))
    within("optimizer.lr_rule.exponent", optimizer.lr_rule.exponent, "finite", math.isfinite)
    _positive("optimizer.eps", optimizer.eps)
    _positive("optimizer.grad_clip", optimizer.grad_clip)
    for name, beta in (("beta1", optimizer.beta1), ("beta2", optimizer.beta2)):
        within(f"optimizer.{name}", beta, "in [0, 1)", lambda v: 0 <= v < 1)
    _at_least_0("optimizer.weight_decay", optimizer.weight_decay)


def _check_data(data: DataConfig, evaluation: EvalConfig) -> None:
    for name in ("seq_len", "vocab_size", "validation_tokens"):
        _positive(f"data.{name}", getattr(data, name))
    _positive("eval.tokens", evaluation.tokens)
    within("eval.points", evaluation.points, "at least 0", lambda v: v >= 0)


def _check_schedule(schedule: ScheduleConfig) -> None:
    for form in WARMUP_FORMS:
        _at_least_0(f"schedule.{form}", getattr(schedule, form))
    for name in ("final_lr_ratio", "cooldown_fraction"):
        share = getattr(schedule, name)
        within(f"schedule.{name}", share, "in [0, 1]", lambda v: 0 <= v <= 1)
    _positive("schedule.horizon_tokens", schedule.horizon_tokens)


def _check_model(model: ModelConfig) -> None:
    """What no shape depends on; shape.py checks the sizes."""
    within("model.rotary_base", model.rotary_base, "above 1", lambda v: v > 1)


def _check_study(study: StudyConfig) -> None:
    _at_least_1("study.max_runs", study.max_runs)
    limit = "positive and finite, or null"
    within("study.max_flops", study.max_flops, limit, lambda v: 0 < v < math.inf)
    _positive("study.diverged_above", study.diverged_above)


def _check_machine(machine: MachineConfig) -> None:
    within("machine.threads", machine.threads, "1 .. 1024", lambda v: 1 <= v <= 1024)
    _at_least_1("machine.workers", machine.workers)
    _at_least_1("machine.stack", machine.stack)
    _positive("machine.log_every", machine.log_every)
    _positive("machine.checkpoint_minutes", machine.checkpoint_minutes)
    _at_least_1("machine.checkpoint_steps", machine.checkpoint_steps)
    keep = machine.checkpoint_keep
    within("machine.checkpoint_keep", keep, "at least 2", lambda v: v >= 2)


def _positive(name: str, value: float | None) -> None:
    within(name, value, "positive and finite", lambda v: 0 < v < math.inf)


def _at_least_0(name: str, value: float | None) -> None:
    within(name, value, "at least 0 and finite", lambda v: 0 <= v < math.inf)


def _at_least_1(name: str, value: float | None) -> None:
    within(name, value, "at least 1", lambda v: v >= 1)
