"""What the learning-rate laws came to, as content of fits.json and as lines of the console."""

from typing import Any

from analysis.learning_rate.fit import LearningRateFit
from analysis.learning_rate.joint_power_law import JointLaw
from analysis.learning_rate.optima import TunedGroup

SYMBOLS = {"n_params": "N", "tokens": "D"}


def learning_rate_json(fit: LearningRateFit) -> dict[str, Any]:
    """Return the content of fits.json's `learning_rate`."""
    return {
        "lr": _law_json(fit.lr_law),
        "batch": {"refused": fit.batch_refused}
        if fit.batch_law is None
        else _law_json(fit.batch_law),
        "loss_column": fit.survey.column,
        "penalty_2x": fit.penalty,
        "penalty_2x_range": list(fit.penalty_range),
        **({} if fit.batch_law is None else {"batch_slope": fit.batch_slope}),
        "windows": [{"rise": rise, **exponents} for rise, exponents in fit.windows],
        "groups": [_group_json(group) for group in fit.survey.groups],
        "notes": list(fit.notes),
    }


def learning_rate_lines(fit: LearningRateFit) -> list[str]:
    """Return the laws as `lr ~ N^p [low, high] D^q [low, high]  (9 optima)`, one a line."""
    lines = [f"{_law_line('lr', fit.lr_law)}  ({fit.lr_law.n_points} optima)"]
    if fit.batch_law is not None:
        lines.append(f"{_law_line('batch', fit.batch_law)}  ({fit.batch_law.n_points} optima)")
    low, high = fit.penalty_range
    lines.append(
        f"a learning rate off by a factor of 2 costs {fit.penalty:.2%} of the loss "
        f"({low:.2%} to {high:.2%})"
    )
    return lines


def _law_line(name: str, law: JointLaw) -> str:
    terms = []
    for variable in law.names:
        low, high = law.interval(variable)
        exponent = law.exponent(variable)
        terms.append(f"{SYMBOLS[variable]}^{exponent:.3f} [{low:.3f}, {high:.3f}]")
    return f"{name} ~ {' '.join(terms)}"


def _law_json(law: JointLaw) -> dict[str, Any]:
    exponents = {name: law.exponent(name) for name in law.names}
    intervals = {f"{name}_ci": list(law.interval(name)) for name in law.names}
    return {
        "coefficient": law.coefficient,
        "coefficient_ci": list(law.coefficient_ci),
        **exponents,
        **intervals,
        "optima": law.n_points,
    }


def _group_json(group: TunedGroup) -> dict[str, Any]:
    return {
        "n_params": group.n_params,
        "tokens": group.tokens,
        "settings": len(group.grid.loss),
        "lr_opt": group.lr_opt,
        **({"lr_ci": list(group.lr_ci)} if group.lr_ci else {}),
        **({"batch_tokens": group.batch_opt} if group.batch_opt > 0 else {}),
        **({"batch_ci": list(group.batch_ci)} if group.batch_ci else {}),
        "loss": group.loss,
        "interior": group.interior,
        **({"why": group.why} if group.why else {}),
    }
