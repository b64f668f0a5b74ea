"""The plan of a run, from its config: shape, counts, tokens, steps, FLOPs, lr. No torch."""

from dataclasses import dataclass
from pathlib import Path

from train.config.experiment import BudgetConfig, OptimizerConfig
from train.config.schema import Config
from train.errors import ConfigError
from train.plan.counting import (
    ParamCounts,
    TokenFlops,
    count_params,
    count_token_flops,
    flops_per_token,
)
from train.plan.identity import run_id
from train.plan.schedule import Schedule, resolve_schedule
from train.plan.shape import ModelShape, model_shape

LARGEST_ROUNDING = 0.005
"""Largest relative change of a budget by rounding it to whole steps; more is refused."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a config comes to, in numbers."""

    run_id: str
    shape: ModelShape
    params: ParamCounts
    token_flops: TokenFlops
    batch_tokens: int
    steps: int
    asked_tokens: float
    """Tokens the budget asks for, before rounding to whole steps."""
    lr: float
    """Peak learning rate."""
    schedule: Schedule
    flops_per_token: int
    """Training FLOPs per token in the budget's convention."""

    @property
    def tokens(self) -> int:
        """Tokens that enter the loss."""
        return self.steps * self.batch_tokens

    @property
    def flops(self) -> int:
        """C of the run in the budget's convention."""
        return self.flops_per_token * self.tokens

    @property
    def flops_exact(self) -> int:
        """Every FLOP of the matrix products, attention included."""
        return self.token_flops.train * self.tokens

    @property
    def rounding(self) -> float:
        """Relative change of the tokens by rounding to whole steps."""
        return self.tokens / self.asked_tokens - 1.0


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run: its overrides, its config, and its plan."""

    overrides: list[str]
    config: Config
    plan: RunPlan

    @property
    def path(self) -> Path:
        """The run's folder."""
        config = self.config
        return Path(config.paths.runs) / config.study.name / self.plan.run_id


def plan_run(config: Config) -> RunPlan:
    """Plan one run, by itself or from validate.py.

    Raises:
        ConfigError: The shape, the budget or the batch is impossible.
    """
    data, optimizer = config.data, config.optimizer
    shape = model_shape(config.model, vocab_size=data.vocab_size, seq_len=data.seq_len)
    params = count_params(shape)
    per_token = flops_per_token(shape, config.budget.convention)
    asked_tokens = budget_tokens(config.budget, params=params, flops_per_token=per_token)
    steps = whole_steps(asked_tokens, optimizer.batch_tokens, budget=_given(config.budget))
    lr = peak_lr(optimizer, n_params_standard=params.standard)
    return RunPlan(
        run_id=run_id(config, rung=shape.rung, tokens=steps * optimizer.batch_tokens, lr=lr),
        shape=shape,
        params=params,
        token_flops=count_token_flops(shape),
        batch_tokens=optimizer.batch_tokens,
        steps=steps,
        asked_tokens=asked_tokens,
        lr=lr,
        schedule=resolve_schedule(
            config.schedule,
            total_steps=steps,
            batch_tokens=optimizer.batch_tokens,
            n_params_standard=params.standard,
        ),
        flops_per_token=per_token,
    )


def budget_tokens(budget: BudgetConfig, *, params: ParamCounts, flops_per_token: int) -> float:
    """Tokens that the budget asks for, whichever form it is given in.

    Raises:
        ConfigError: None or several forms are given, or the value is not positive or overflows.
    """
    name, value = _given(budget)
    if not 0 < value < float("inf"):
        raise ConfigError(f"budget.{name}={value:g}: must be positive and finite")
    tokens: float = {
        "tokens": value,
        "flops": value / flops_per_token,
        "tokens_per_param": value * params.standard,
    }[name]
    if tokens == float("inf"):
        raise ConfigError(f"budget.{name}={value:g}: asks for more tokens than can be counted")
    return tokens


def _given(budget: BudgetConfig) -> tuple[str, float]:
    """Name and value of the only form of the budget that is given."""
    forms = {
        "tokens": budget.tokens,
        "flops": budget.flops,
        "tokens_per_param": budget.tokens_per_param,
    }
    given = {name: value for name, value in forms.items() if value is not None}
    if len(given) != 1:
        found = ", ".join(f"budget.{name}={value:g}" for name, value in given.items()) or "none"
        remedy = "; set the others to null" if given else ", for example budget.flops=1e13"
        raise ConfigError(
            f"budget: exactly one of budget.tokens, budget.flops, budget.tokens_per_param "
            f"must be given, got {found}{remedy}"
        )
    ((name, value),) = given.items()
    return name, value


def whole_steps(
    asked_tokens: float, batch_tokens: int, *, budget: tuple[str, float] | None = None
) -> int:
    """Round the asked tokens to whole optimizer steps.

    Args:
        asked_tokens: Tokens of the budget.
        batch_tokens: Tokens per step.
        budget: Form and value as the user gave them, for the message; tokens when left out.

    Raises:
        ConfigError: Fewer tokens than one batch, or rounding changes them by over 0.5 %.
    """
    if batch_tokens <= 0:
        raise ConfigError(f"optimizer.batch_tokens={batch_tokens}: must be positive")
    if asked_tokens < batch_tokens:
        raise ConfigError(
            f"the budget asks for {asked_tokens:.6g} tokens, fewer than one batch of "
            f"optimizer.batch_tokens={batch_tokens}; ask for at least {batch_tokens} tokens "
            f"or lower the batch"
        )
    steps = round(asked_tokens / batch_tokens)
    rounding = steps * batch_tokens / asked_tokens - 1.0
    if abs(rounding) > LARGEST_ROUNDING:
        form, value = budget or ("tokens", asked_tokens)
        nearest = steps * batch_tokens if form == "tokens" else f"{value * (1 + rounding):.6g}"
        raise ConfigError(
            f"the budget asks for {asked_tokens:.6g} tokens = {asked_tokens / batch_tokens:.3f} "
            f"steps of {batch_tokens}; whole steps would change it by {rounding:+.2%} "
            f"(at most 0.5 %); use a smaller optimizer.batch_tokens or budget.{form}={nearest}"
        )
    return steps


def even_micro_batches(batch_seqs: int) -> list[int]:
    """Micro-batch sizes, in windows, that divide a batch evenly; ascending."""
    return [size for size in range(1, batch_seqs + 1) if batch_seqs % size == 0]


def peak_lr(optimizer: OptimizerConfig, *, n_params_standard: int) -> float:
    """The given learning rate, or that of config.LearningRateRule, times lr_multiplier."""
    if optimizer.lr is not None:
        return optimizer.lr * optimizer.lr_multiplier
    rule = optimizer.lr_rule
    by_size: float = rule.coefficient * (n_params_standard / rule.reference_params) ** rule.exponent
    return min(rule.maximum, by_size) * optimizer.lr_multiplier
