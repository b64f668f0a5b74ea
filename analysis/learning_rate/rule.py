"""The fitted learning-rate law as words of the next study's command.

`train` sets a run's learning rate by optimizer.lr_rule, a power law in N alone. Along a study's
grid D follows from N, so that lr = k N**p D**q becomes such a power law: at one D/N, D = r N; at
one budget, D = C / 6N; at one D as it is.
"""

from dataclasses import dataclass

import numpy as np

from analysis.errors import OptionError
from analysis.learning_rate.fit import LearningRateFit
from analysis.learning_rate.joint_power_law import JointLaw

HEADROOM = 2.0
"""The rule's upper bound over the learning rate of the smallest tuned size, at its grid's tokens:
a law is not trusted far below the sizes it was measured on."""

SIGNIFICANT = 4
"""Digits that a word carries: intervals are wider by far."""


@dataclass(frozen=True)
class LearningRateWords:
    """What to append to `python -m train -m study=NAME`."""

    words: tuple[str, ...]
    """Hydra overrides."""
    coefficient: float
    """Learning rate at the rule's reference size."""
    exponent: float
    """Of N along the grid."""
    note: str
    """Where the law is extrapolated; '' where it is not."""


def learning_rate_words(
    fit: LearningRateFit,
    *,
    tokens_per_param: float | None = None,
    flops: float | None = None,
    tokens: float | None = None,
    batch_tokens: float | None = None,
) -> LearningRateWords:
    """Return the overrides that make the next study's learning rates follow the law.

    Args:
        fit: The law, with n_params in the standard convention, as `train`'s rule reads it.
        tokens_per_param: D / N of the study's runs,
        flops: or C, counted as 6 N D,
        tokens: or D: one of the three, as in the study's budget.
        batch_tokens: The study's one batch. The law holds at the best batch of each run; where
            batches were tuned, the learning rate is moved along the valley to this one.

    Raises:
        OptionError: Not exactly one of the three is given, or it is not positive.
    """
    slope, log_d = _tokens_along(tokens_per_param, flops, tokens)
    sizes = np.array([group.n_params for group in fit.survey.groups])
    reference = float(f"{np.exp(np.log(sizes).mean()):.3g}")
    tokens_there = float(np.exp(log_d + slope * np.log(reference)))
    coefficient, _ = fit.lr_at(reference, tokens_there)
    exponent = _along(fit.lr_law, slope)
    if batch_tokens is not None and fit.batch_law is not None:
        coefficient *= (batch_tokens / fit.batch_at(tokens_there)[0]) ** fit.batch_slope
        exponent -= fit.batch_slope * _along(fit.batch_law, slope)
    most = HEADROOM * coefficient * (sizes.min() / reference) ** min(exponent, 0.0)
    rule = {
        "coefficient": coefficient,
        "reference_params": reference,
        "exponent": exponent,
        "maximum": most,
    }
    words = [f"optimizer.lr_rule.{name}={value:.{SIGNIFICANT}g}" for name, value in rule.items()]
    return LearningRateWords(
        tuple(words),
        coefficient,
        exponent,
        _extrapolation(fit, slope, log_d),
    )


def _along(law: JointLaw, slope: float) -> float:
    """Return the law's exponent of N where D ~ N**slope."""
    weights = np.array([{"n_params": 1.0, "tokens": slope}[name] for name in law.names])
    return float(law.exponents @ weights)


def _tokens_along(
    tokens_per_param: float | None, flops: float | None, tokens: float | None
) -> tuple[float, float]:
    """Return slope and offset of log D = offset + slope log N along the study's grid."""
    given = {"tokens_per_param": tokens_per_param, "flops": flops, "tokens": tokens}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        found = ", ".join(f"{name}={value:g}" for name, value in named.items()) or "none"
        raise OptionError(f"give exactly one of {', '.join(given)}; got {found}")
    ((name, value),) = named.items()
    if not 0 < value < float("inf"):
        raise OptionError(f"{name}={value:g}: must be positive and finite")
    slope = {"tokens_per_param": 1.0, "flops": -1.0, "tokens": 0.0}[name]
    return slope, float(np.log(value / 6.0 if name == "flops" else value))


def _extrapolation(fit: LearningRateFit, slope: float, log_d: float) -> str:
    """Say so when no tuned group was trained on nearly the grid's tokens for its size."""
    chosen = [g for g, use in zip(fit.survey.groups, fit.used, strict=True) if use]
    off = np.array([np.log(g.tokens) - log_d - slope * np.log(g.n_params) for g in chosen])
    factor = float(np.exp(np.abs(off).min()))
    if factor <= 2.0:
        return ""
    side = "more" if off.max() < 0 else "fewer" if off.min() > 0 else "other"
    return (
        f"the grid's runs train on {side} tokens than every tuned run of their size, by a factor "
        f"of {factor:.2g} or more: tune there too before trusting these learning rates"
    )
