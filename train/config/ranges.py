"""Ranges of single settings; rules across settings are in plan/validate.py."""

import math
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import NamedTuple

from train.config.schema import Config
from train.errors import ConfigError

WARMUP_FORMS = ("warmup_steps", "warmup_tokens", "warmup_tokens_per_param", "warmup_fraction")
"""Alternative settings of the warm-up; at most one may be used."""


class Rule(NamedTuple):
    """A range: its text in messages and its test, which NaN fails."""

    text: str
    holds: Callable[[float], bool]


POSITIVE = Rule("positive and finite", lambda v: 0 < v < math.inf)
AT_LEAST_0 = Rule("at least 0 and finite", lambda v: 0 <= v < math.inf)
AT_LEAST_1 = Rule("at least 1", lambda v: v >= 1)
BETA = Rule("in [0, 1)", lambda v: 0 <= v < 1)
FRACTION = Rule("in [0, 1]", lambda v: 0 <= v <= 1)

RULES: Mapping[str, Rule] = {
    "seed": Rule("0 .. 2^63 - 1", lambda v: 0 <= v < 2**63),
    "optimizer.lr": POSITIVE,
    "optimizer.lr_multiplier": POSITIVE,
    "optimizer.lr_rule.coefficient": POSITIVE,
    "optimizer.lr_rule.reference_params": POSITIVE,
    "optimizer.lr_rule.maximum": POSITIVE,
    "optimizer.lr_rule.exponent": Rule("finite", math.isfinite),
    "optimizer.eps": POSITIVE,
    "optimizer.grad_clip": POSITIVE,
    "optimizer.beta1": BETA,
    "optimizer.beta2": BETA,
    "optimizer.weight_decay": AT_LEAST_0,
    "data.seq_len": POSITIVE,
    "data.vocab_size": POSITIVE,
    "data.validation_tokens": POSITIVE,
    "eval.tokens": POSITIVE,
    "eval.points": Rule("at least 0", lambda v: v >= 0),
    **{f"schedule.{form}": AT_LEAST_0 for form in WARMUP_FORMS},
    "schedule.final_lr_ratio": FRACTION,
    "schedule.cooldown_fraction": FRACTION,
    "schedule.horizon_tokens": POSITIVE,
    "model.rotary_base": Rule("above 1", lambda v: v > 1),
    "study.max_runs": AT_LEAST_1,
    "study.max_flops": Rule("positive and finite, or null", lambda v: 0 < v < math.inf),
    "study.diverged_above": POSITIVE,
    "machine.threads": Rule("1 .. 1024", lambda v: 1 <= v <= 1024),
    "machine.workers": AT_LEAST_1,
    "machine.stack": AT_LEAST_1,
    "machine.log_every": POSITIVE,
    "machine.checkpoint_minutes": POSITIVE,
    "machine.checkpoint_steps": AT_LEAST_1,
    "machine.checkpoint_keep": Rule("at least 2", lambda v: v >= 2),
}
"""Range by key. plan/shape.py checks sizes of the model, plan/validate.py the batch."""


def check_ranges(config: Config) -> None:
    """Check every setting against its range; null is in every range.

    Raises:
        ConfigError: Names the first setting out of range, its value and the range.
    """
    for key, rule in RULES.items():
        value = attrgetter(key)(config)
        if value is not None and not rule.holds(value):
            raise ConfigError(f"{key}={value}: must be {rule.text}")
