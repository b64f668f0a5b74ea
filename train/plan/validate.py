"""Rules across config fields; errors name the value, the rule and the nearest right value."""

import math
import os
import re

from train.config.experiment import ModelConfig, Positions, ScheduleConfig, ScheduleShape, Source
from train.config.ranges import WARMUP_FORMS, check_ranges
from train.config.runtime import PathsConfig
from train.config.schema import Config
from train.data.prepare import check as check_data
from train.data.sampler import epochs, n_windows
from train.errors import ConfigError
from train.plan.planning import RunPlan, even_micro_batches, plan_run
from train.storage.records import RUN_ID

STUDY_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}")
TRACKER_NAME = re.compile(r"[^/\\#?%:]{1,128}")
MOST_STEPS = 2**53
"""Above it, floats do not hold every integer, and budgets are floats."""


def validate(config: Config) -> RunPlan:
    """Check every rule that needs neither data nor device; return the run's plan.

    Raises:
        ConfigError: The first broken rule, with the value and the nearest right one.
    """
    _check_names(config)
    _check_paths(config.paths)
    check_data(config.data)
    if config.data.files and config.data.source is not Source.files:
        raise ConfigError(
            f"data.files is given, and data.source={config.data.source.name} does not read it; "
            f"add data=files"
        )
    check_ranges(config)
    _check_positions(config.model)
    _check_batch(config)
    _check_warmup_form(config.schedule)
    plan = plan_run(config)
    _check_plan(config, plan)
    _check_schedule(config, plan)
    _check_together(config.together, plan)
    return plan


def check_enough_tokens(
    plan: RunPlan, *, n_tokens: int, seq_len: int, allow_repeat: bool, name: str
) -> float:
    """Epochs of the training split that a run reads; more than one must be allowed.

    Args:
        plan: The run.
        n_tokens: Tokens of the training split.
        seq_len: Tokens per window.
        allow_repeat: data.allow_repeat.
        name: data.name, for the message.

    Raises:
        DataError: The split is shorter than one window.
        ConfigError: The run reads more tokens than the data has and may not repeat them.
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


def check_batch_split(config: Config, n_ranks: int) -> None:
    """Refuse a batch that does not split evenly among ranks, or into a rank's micro-batches.

    Raises:
        ConfigError: Names the batch and the nearest ones that do.
    """
    seq_len, batch_tokens = config.data.seq_len, config.optimizer.batch_tokens
    batch_seqs, unit = batch_tokens // seq_len, seq_len * n_ranks
    if batch_seqs % n_ranks:
        divisor = math.gcd(batch_seqs, n_ranks)
        raise ConfigError(
            f"optimizer.batch_tokens={batch_tokens}: its {batch_seqs} windows of {seq_len} "
            f"tokens cannot be shared evenly by {n_ranks} processes; use "
            f"{_nearest_multiples(batch_tokens, unit)}, or "
            f"{divisor} process{'es' if divisor > 1 else ''}"
        )
    _check_micro_batch(config.machine.micro_batch_seqs, batch_seqs // n_ranks, n_ranks)


def _check_micro_batch(micro: int | None, seqs: int, n_ranks: int = 1) -> None:
    if micro is None or (micro > 0 and seqs % micro == 0):
        return
    nearest = min(even_micro_batches(seqs), key=lambda size: abs(size - micro))
    what = f"the batch of {seqs} windows"
    if n_ranks > 1:
        what = f"the {seqs} windows that each of {n_ranks} processes takes of the batch"
    raise ConfigError(f"machine.micro_batch_seqs={micro} does not divide {what}; use {nearest}")


def _nearest_multiples(value: int, unit: int) -> str:
    """`96 or 128`: the positive multiples of `unit` around a value that is none."""
    below = max(0, value // unit * unit)
    return " or ".join(str(multiple) for multiple in (below, below + unit) if multiple > 0)


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
    # abspath, unlike Path.resolve, leaves links as they are
    if os.path.abspath(paths.runs) == os.path.abspath(paths.data):  # noqa: PTH100
        raise ConfigError(
            f"paths.runs={paths.runs} is paths.data too; studies and prepared data need folders of "
            f"their own, such as paths.runs={paths.runs.rstrip('/')}/runs"
        )


def _check_positions(model: ModelConfig) -> None:
    """Refuse a base that nothing reads: it would give the same run a second run_id."""
    default = ModelConfig.rotary_base
    if model.positions is Positions.learned and model.rotary_base != default:
        raise ConfigError(
            f"model.rotary_base={model.rotary_base:g}: only model.positions=rotary reads it; leave "
            f"it {default:g}"
        )


def _check_batch(config: Config) -> None:
    seq_len, batch_tokens = config.data.seq_len, config.optimizer.batch_tokens
    if batch_tokens <= 0 or batch_tokens % seq_len:
        raise ConfigError(
            f"optimizer.batch_tokens={batch_tokens} is not a positive multiple of "
            f"data.seq_len={seq_len}; use {_nearest_multiples(batch_tokens, seq_len)}"
        )
    _check_micro_batch(config.machine.micro_batch_seqs, batch_tokens // seq_len)


def _check_plan(config: Config, plan: RunPlan) -> None:
    """Rules on numbers of the plan."""
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
            f"got {' and '.join(given)}; set the others to null: "
            + " or ".join(f"schedule.{form}=null" for form in given)
        )


def _check_schedule(config: Config, plan: RunPlan) -> None:
    warmup, cooldown = plan.schedule.warmup_steps, plan.schedule.cooldown_steps
    forms = (form for form in WARMUP_FORMS if getattr(config.schedule, form) is not None)
    given = next(forms, "warmup_steps")
    if warmup >= plan.steps:
        raise ConfigError(
            f"schedule.{given}={getattr(config.schedule, given)}: a warm-up of {warmup} steps is "
            f"not shorter than the run of {plan.steps} steps; use at most "
            f"{_warmup_of(plan.steps - 1, given, plan)}"
        )
    if warmup + cooldown > plan.steps:
        raise ConfigError(
            f"a warm-up of {warmup} and a cooldown of {cooldown} steps are longer than the run of "
            f"{plan.steps} steps; use schedule.cooldown_fraction of at most "
            f"{(plan.steps - warmup) / plan.steps:.3f}, or a warm-up of at most "
            f"{_warmup_of(plan.steps - cooldown, given, plan)}"
        )
    _check_kaplan_horizon(config, plan)


def _warmup_of(steps: int, form: str, plan: RunPlan) -> str:
    """`39 steps`, and the value in tokens per parameter where the user gave that form."""
    if form != "warmup_tokens_per_param":
        return f"{steps} steps"
    # rounded to three digits it must not exceed the limit
    per_param = 0.995 * steps * plan.batch_tokens / plan.params.standard
    return f"{steps} steps, schedule.{form}={per_param:.3g}"


def _check_together(together: list[str], plan: RunPlan) -> None:
    """Check the form of the names; job_members.py looks them up in the manifest."""
    for number, entry in enumerate(together):
        if not RUN_ID.fullmatch(entry):
            raise ConfigError(
                f"together: {entry!r} is no run_id, such as {plan.run_id}; the study's "
                f"manifest.json lists them"
            )
        if entry == plan.run_id:
            raise ConfigError(f"together: {entry} is the job's own run; leave it out")
        if entry in together[:number]:
            raise ConfigError(f"together: {entry} is there twice; leave one out")


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
