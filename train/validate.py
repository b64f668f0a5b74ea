"""Rules across fields, checked before anything is spent; errors name the nearest right value."""

import math
import os
import re
from collections.abc import Callable

from train.config import Config, PathsConfig, ScheduleConfig, ScheduleShape, Source
from train.data.prepare import check as check_data
from train.data.sampler import epochs, n_windows
from train.errors import ConfigError
from train.planning import RunPlan, plan_run

STUDY_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}")
TRACKER_NAME = re.compile(r"[^/\\#?%:]{1,128}")
MOST_STEPS = 2**53
"""Beyond it, whole steps cannot be told apart in the floats that budgets are given in."""

WARMUP_FORMS = ("warmup_steps", "warmup_tokens", "warmup_fraction")


def validate(config: Config) -> RunPlan:
    """Check every rule that needs no data and no device, and return the run's plan.

    Raises:
        ConfigError: The first rule that is broken, with the value and the nearest right one.
    """
    _check_names(config)
    _check_paths(config.paths)
    check_data(config.data)
    if config.data.files and config.data.source is not Source.files:
        raise ConfigError(
            f"data.files is given, and data.source={config.data.source.name} does not read it; "
            f"add data=files"
        )
    _check_ranges(config)
    _check_batch(config)
    _check_warmup_form(config.schedule)
    plan = plan_run(config)
    _check_plan(config, plan)
    _check_schedule(config, plan)
    return plan


def check_enough_tokens(
    plan: RunPlan, *, n_tokens: int, seq_len: int, allow_repeat: bool, name: str
) -> float:
    """Return the epochs a run needs; more than one must be allowed.

    Args:
        plan: The run.
        n_tokens: Tokens of the training split.
        seq_len: Tokens per window.
        allow_repeat: Whether more than one pass is meant.
        name: The data's name, for the message.

    Raises:
        DataError: Not even one window fits.
        ConfigError: The run reads more tokens than the data has and repetition is not allowed.
    """
    unique = n_windows(n_tokens, seq_len) * seq_len
    needed = epochs(plan.tokens, n_tokens, seq_len)
    if needed > 1.0 and not allow_repeat:
        raise ConfigError(
            f"run {plan.run_id} asks for {plan.tokens} tokens, and {name} has {unique} "
            f"in whole windows ({needed:.2f} epochs); ask for at most {unique}, "
            f"or allow repetition with data.allow_repeat=true"
        )
    return needed


def _check_names(config: Config) -> None:
    for key, value in (("study.name", config.study.name), ("data.name", config.data.name)):
        if not STUDY_NAME.fullmatch(value):
            raise ConfigError(
                f"{key}={value!r}: must start with a letter or digit and hold only letters, "
                f"digits, dots, dashes and underscores (at most 100)"
            )

    for key, name in (
        ("tracker.project", config.tracker.project),
        ("tracker.entity", config.tracker.entity),
    ):
        if name is not None and not TRACKER_NAME.fullmatch(name):
            raise ConfigError(
                f"{key}={name!r}: must be 1 to 128 characters without / \\ # ? % :, such as "
                f"windtunnel"
            )


def _check_paths(paths: PathsConfig) -> None:
    for key, folder in (("paths.runs", paths.runs), ("paths.data", paths.data)):
        if not folder.strip() or "\0" in folder:
            raise ConfigError(
                f"{key}={folder!r}: must name a folder, such as {key.rpartition('.')[2]}"
            )
    if os.path.abspath(paths.runs) == os.path.abspath(paths.data):  # noqa: PTH100  (links stay)
        raise ConfigError(
            f"paths.runs={paths.runs} is paths.data too; studies and prepared data need folders of "
            f"their own, such as paths.runs={paths.runs.rstrip('/')}/runs"
        )


def _check_ranges(config: Config) -> None:
    optimizer, schedule, machine = config.optimizer, config.schedule, config.machine
    _within("seed", config.seed, "0 .. 2^63 - 1", lambda v: 0 <= v < 2**63)
    if optimizer.lr is not None:
        _within("optimizer.lr", optimizer.lr, "positive and finite", lambda v: 0 < v < math.inf)
    positive = {
        "optimizer.lr_multiplier": optimizer.lr_multiplier,
        "optimizer.lr_rule.coefficient": optimizer.lr_rule.coefficient,
        "optimizer.lr_rule.reference_params": optimizer.lr_rule.reference_params,
        "optimizer.lr_rule.maximum": optimizer.lr_rule.maximum,
        "optimizer.eps": optimizer.eps,
        "optimizer.grad_clip": optimizer.grad_clip,
        "eval.tokens": config.eval.tokens,
        "data.seq_len": config.data.seq_len,
        "data.vocab_size": config.data.vocab_size,
        "data.validation_tokens": config.data.validation_tokens,
        "machine.log_every": machine.log_every,
        "machine.checkpoint_minutes": machine.checkpoint_minutes,
        "study.diverged_above": config.study.diverged_above,
    }
    for name, value in positive.items():
        _within(name, value, "positive and finite", lambda v: 0 < v < math.inf)
    if schedule.horizon_tokens is not None:
        horizon = schedule.horizon_tokens
        rule = "positive and finite"
        _within("schedule.horizon_tokens", horizon, rule, lambda v: 0 < v < math.inf)
    for name, beta in (("beta1", optimizer.beta1), ("beta2", optimizer.beta2)):
        _within(f"optimizer.{name}", beta, "in [0, 1)", lambda v: 0 <= v < 1)
    decay = optimizer.weight_decay
    _within("optimizer.weight_decay", decay, "at least 0 and finite", lambda v: 0 <= v < math.inf)
    _within("optimizer.lr_rule.exponent", optimizer.lr_rule.exponent, "finite", math.isfinite)
    for name, share in (
        ("final_lr_ratio", schedule.final_lr_ratio),
        ("cooldown_fraction", schedule.cooldown_fraction),
    ):
        _within(f"schedule.{name}", share, "in [0, 1]", lambda v: 0 <= v <= 1)
    _within("model.rotary_base", config.model.rotary_base, "above 1", lambda v: v > 1)
    _within("study.max_runs", config.study.max_runs, "at least 1", lambda v: v >= 1)
    if config.study.max_flops is not None:
        limit = config.study.max_flops
        _within(
            "study.max_flops", limit, "positive and finite, or null", lambda v: 0 < v < math.inf
        )
    _within("machine.threads", machine.threads, "1 .. 1024", lambda v: 1 <= v <= 1024)
    _within("eval.points", config.eval.points, "at least 0", lambda v: v >= 0)
    _within("machine.checkpoint_keep", machine.checkpoint_keep, "at least 2", lambda v: v >= 2)
    if machine.workers is not None:
        _within("machine.workers", machine.workers, "at least 1", lambda v: v >= 1)
    if machine.checkpoint_steps is not None:
        _within(
            "machine.checkpoint_steps", machine.checkpoint_steps, "at least 1", lambda v: v >= 1
        )


def _within(name: str, value: float, rule: str, holds: Callable[[float], bool]) -> None:
    if not holds(value):  # NaN holds nowhere
        raise ConfigError(f"{name}={value}: must be {rule}")


def _check_batch(config: Config) -> None:
    seq_len, batch_tokens = config.data.seq_len, config.optimizer.batch_tokens
    if batch_tokens <= 0 or batch_tokens % seq_len:
        below = max(0, batch_tokens // seq_len * seq_len)
        near = " or ".join(str(v) for v in (below, below + seq_len) if v > 0)
        raise ConfigError(
            f"optimizer.batch_tokens={batch_tokens} is not a positive multiple of "
            f"data.seq_len={seq_len}; use {near}"
        )
    micro = config.machine.micro_batch_seqs
    batch_seqs = batch_tokens // seq_len
    if micro is not None and (micro <= 0 or batch_seqs % micro):
        divisors = [d for d in range(1, batch_seqs + 1) if batch_seqs % d == 0]
        nearest = min(divisors, key=lambda d: abs(d - micro))
        raise ConfigError(
            f"machine.micro_batch_seqs={micro} does not divide the batch of {batch_seqs} windows; "
            f"use {nearest}"
        )


def _check_plan(config: Config, plan: RunPlan) -> None:
    """What only the whole plan shows."""
    if plan.steps >= MOST_STEPS:
        raise ConfigError(
            f"the budget asks for {plan.asked_tokens:.6g} tokens = {plan.steps:.6g} steps; a run "
            f"has less than 2^53 = {MOST_STEPS} steps"
        )
    if not 0 < plan.lr < math.inf:
        raise ConfigError(
            f"optimizer.lr_multiplier={config.optimizer.lr_multiplier:g}: makes the learning rate "
            f"{plan.lr:g}, which must be positive and finite; 1 is the rule's own"
        )
    if config.eval.points > plan.steps:
        raise ConfigError(
            f"eval.points={config.eval.points}: more evaluations than the run's {plan.steps} "
            f"steps; use at most {plan.steps}"
        )
    if config.eval.tokens < config.data.seq_len:
        raise ConfigError(
            f"eval.tokens={config.eval.tokens}: fewer than one window of "
            f"data.seq_len={config.data.seq_len}; use at least {config.data.seq_len}"
        )


def _check_warmup_form(schedule: ScheduleConfig) -> None:
    given = [form for form in WARMUP_FORMS if getattr(schedule, form) is not None]
    if len(given) > 1:
        raise ConfigError(
            f"schedule: at most one of {', '.join(WARMUP_FORMS)} may be given, "
            f"got {' and '.join(given)}; set the others to null"
        )
    for form in given:
        value = getattr(schedule, form)
        _within(f"schedule.{form}", value, "at least 0 and finite", lambda v: 0 <= v < math.inf)


def _check_schedule(config: Config, plan: RunPlan) -> None:
    warmup, cooldown = plan.schedule.warmup_steps, plan.schedule.cooldown_steps
    if warmup >= plan.steps:
        given = next(form for form in WARMUP_FORMS if getattr(config.schedule, form) is not None)
        raise ConfigError(
            f"schedule.{given}={getattr(config.schedule, given)}: a warm-up of {warmup} steps is "
            f"not shorter than the run of {plan.steps} steps; use at most {plan.steps - 1} steps"
        )
    if warmup + cooldown > plan.steps:
        raise ConfigError(
            f"a warm-up of {warmup} and a cooldown of {cooldown} steps are longer than the run of "
            f"{plan.steps} steps; use schedule.cooldown_fraction of at most "
            f"{(plan.steps - warmup) / plan.steps:.3f}"
        )
    _check_kaplan_horizon(config, plan)


def _check_kaplan_horizon(config: Config, plan: RunPlan) -> None:
    horizon = config.schedule.horizon_tokens
    is_kaplan = config.schedule.shape is ScheduleShape.kaplan
    if is_kaplan and horizon is None:
        raise ConfigError(
            "schedule.horizon_tokens=null: schedule=kaplan needs the tokens of its one long "
            f"cosine, for example {4 * plan.tokens}"
        )
    if not is_kaplan and horizon is not None:
        raise ConfigError(
            f"schedule.horizon_tokens={horizon:g}: only schedule=kaplan has a horizon that is not "
            f"the run's; set it to null"
        )
    if is_kaplan and horizon is not None and horizon < plan.tokens:
        raise ConfigError(
            f"schedule.horizon_tokens={horizon:g}: must be at least the run's {plan.tokens} tokens"
        )
