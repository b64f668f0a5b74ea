"""The part of fits.json that questions the answer: a key a part, refused ones with the reason."""

import dataclasses
from typing import Any

from analysis.learning_rate.answer import learning_rate_json
from analysis.parametric.form_comparison import FormComparison
from analysis.refusal import Refusal
from analysis.repetition.fit import RepetitionFit
from analysis.scrutiny.countings import CountedCurves
from analysis.scrutiny.influence import InfluenceTable
from analysis.scrutiny.local import LocalExponent
from analysis.scrutiny.multiverse import Multiverse
from analysis.scrutiny.parts import Scrutiny
from analysis.scrutiny.rollout import Rollout

THINNED = 10
"""Every so many points of a curve are written."""

TOP_RUNS = 20
"""Runs of the influence table that are written."""


def scrutiny_json(scrutiny: Scrutiny) -> dict[str, Any]:
    """Return every part by its key."""
    return {
        "by_convention": [
            {"convention": row.convention, "approach": row.approach, "refused": row.refused}
            if row.refused
            else {
                "convention": row.convention,
                "approach": row.approach,
                "a": row.a,
                "a_ci": list(row.interval),
            }
            for row in scrutiny.by_convention
        ],
        "multiverse": _multiverse_json(scrutiny.multiverse),
        "forms": _forms_json(scrutiny.forms),
        "rollout": _rollout_json(scrutiny.rollout),
        "local": {
            "surface": _local_json(scrutiny.local),
            "valleys": _local_json(scrutiny.local_valleys),
        },
        "counted": _counted_json(scrutiny.counted),
        "influence": _influence_json(scrutiny.influence),
        "learning_rate": {"refused": scrutiny.learning_rate.why}
        if isinstance(scrutiny.learning_rate, Refusal)
        else learning_rate_json(scrutiny.learning_rate),
        "repetition": _repetition_json(scrutiny.repetition),
    }


def _local_json(part: LocalExponent | Refusal) -> dict[str, Any]:
    if isinstance(part, Refusal):
        return {"refused": part.why}
    return {
        "windows": [
            {
                "flops": list(window.flops),
                "runs": window.n_runs,
                "a": window.a,
                "a_ci": list(window.interval),
            }
            for window in part.windows
        ],
        "drift_per_decade": part.drift,
        "drift_ci": list(part.interval),
        "p": part.p,
        "stable": part.stable,
        "decades": part.decades,
        "sentence": part.sentence,
    }


def _multiverse_json(part: Multiverse | Refusal) -> dict[str, Any]:
    if isinstance(part, Refusal):
        return {"refused": part.why}
    return {
        "universes": [
            {
                **universe.choices,
                **({"refused": universe.refused} if universe.refused else {"a": universe.a}),
            }
            for universe in part.universes
        ],
        "low": part.low,
        "high": part.high,
        "quartiles": list(part.quartiles),
        "outside_interval": part.outside,
        "effects": [
            {"choice": item.choice, "explained": item.explained, "span": item.span}
            for item in part.effects
        ],
        "sentence": part.sentence,
    }


def _forms_json(part: FormComparison | Refusal) -> dict[str, Any]:
    if isinstance(part, Refusal):
        return {"refused": part.why}
    return {
        "rows": [
            {"form": row.form.name, "refused": row.refused}
            if row.refused
            else {
                "form": row.form.name,
                "parameters": row.parameters,
                "objective": row.objective,
                "rms": row.rms,
                "held_out_rms": row.held_out_rms,
                "ahead_rms": row.ahead_rms,
                "a": row.a,
            }
            for row in part.rows
        ],
        "folds": part.folds,
        "ahead_from": part.ahead_from,
        "best": None if part.best is None else part.best.name,
    }


def _rollout_json(part: Rollout | Refusal) -> dict[str, Any]:
    if isinstance(part, Refusal):
        return {"refused": part.why}
    return {
        "holdouts": [dataclasses.asdict(item) for item in part.holdouts],
        "sentences": list(part.sentences),
    }


def _counted_json(part: CountedCurves | Refusal) -> dict[str, Any]:
    if isinstance(part, Refusal):
        return {"refused": part.why}
    return {
        "embedding": vars(part.embedding),
        "published": part.published,
        "curves": [
            {
                "counting": curve.counting.name,
                "flops": curve.flops[::THINNED].tolist(),
                "n_opt": curve.n_opt[::THINNED].tolist(),
                "a": curve.a[::THINNED].tolist(),
                "a_over_all": curve.chord,
            }
            for curve in part.curves
        ],
    }


def _influence_json(part: InfluenceTable | Refusal) -> dict[str, Any]:
    if isinstance(part, Refusal):
        return {"refused": part.why}
    return {
        "a": part.a,
        "rule": part.rule,
        "runs": [dataclasses.asdict(item) for item in part.runs[:TOP_RUNS]],
        "budgets": [dataclasses.asdict(item) for item in part.budgets],
        "sizes": [dataclasses.asdict(item) for item in part.sizes],
        "sentence": part.sentence,
    }


def _repetition_json(part: RepetitionFit | Refusal) -> dict[str, Any]:
    if isinstance(part, Refusal):
        return {"refused": part.why}
    return {
        **part.values,
        "objective": part.objective,
        "R_D_ci": list(part.intervals["R_D"]),
        "R_N_ci": list(part.intervals["R_N"]),
        "identified": part.identified,
        "runs": part.n_runs,
        "repeated_runs": part.n_repeated,
        "families": part.n_families,
        "worth_of_epochs": {str(epochs): list(ends) for epochs, ends in part.worth.items()},
        "sentence": part.sentence,
    }
