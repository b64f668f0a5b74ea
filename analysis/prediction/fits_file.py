"""fits.json read back: each approach's answer in a form that can be evaluated, or its refusal.

The file may be written by hand or by an older version: draws, ranges and coefficients that it
lacks cost intervals and warnings, not the answer. What is there is checked.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.config import Form
from analysis.errors import InputError, near_names
from analysis.parametric.frontier import SIX_ND, TAIL, CostLaw, Surfaces
from analysis.powerlaw import PowerLaw
from analysis.prediction.checked_json import (
    interval_at,
    mapping_at,
    number_at,
    range_at,
    rows_of,
)
from analysis.prediction.draws import LAW_NAMES, fit_cost_law
from train.storage.records import SCHEMA_VERSION, read_json

Floats = NDArray[np.float64]

APPROACHES = ("isoflop", "parametric", "envelope")

FORM_NAMES = {
    Form.chinchilla: ("E", "A", "B", "alpha", "beta"),
    Form.kaplan: ("A", "B", "alpha", "beta"),
    Form.kaplan_e: ("E", "A", "B", "alpha", "beta"),
    Form.skaling: ("E", "A", "R", "alpha", "beta", "k"),
}
"""Parameters that a surface of each form must have in the file."""


@dataclass(frozen=True)
class Refused:
    """An approach without an answer, and why."""

    approach: str
    why: str


@dataclass(frozen=True)
class LawDraws:
    """A bootstrap's power laws; shape (draws,) each."""

    a: Floats
    log_n: Floats
    b: Floats
    log_d: Floats
    log_flops: float
    """Where the heights log_n and log_d are."""
    tail: float


@dataclass(frozen=True)
class LawAnswer:
    """Power laws of N_opt and D_opt in C, from valleys or from the envelope."""

    approach: str
    n_law: PowerLaw
    d_law: PowerLaw
    draws: LawDraws | None
    floors: Floats
    """Shape (bracketed valleys, 2), ascending: C and the loss measured there."""


@dataclass(frozen=True)
class SurfaceAnswer:
    """A fitted surface."""

    approach: str
    form: Form
    a_ci: Interval | None
    surface: Surfaces
    draws: Surfaces | None
    tail: float


Answer = LawAnswer | SurfaceAnswer


@dataclass(frozen=True)
class FitsFile:
    """What one fits.json says."""

    path: Path
    n_convention: str
    flops_counting: str
    cost: CostLaw
    """C as a function of N and D, in the file's own counting."""
    cost_note: str
    """What is assumed about C; '' where it is 6 N D."""
    flops_range: Interval | None
    """Smallest and largest C that was run; None where the file does not say."""
    n_range: Interval | None
    answers: tuple[Answer, ...]
    refused: tuple[Refused, ...]

    @property
    def surface(self) -> SurfaceAnswer | None:
        """The surface, where there is one."""
        return next((item for item in self.answers if isinstance(item, SurfaceAnswer)), None)

    @property
    def has_draws(self) -> bool:
        """Whether every answer can have an interval."""
        return all(item.draws is not None for item in self.answers)


def read_fits(path: Path) -> FitsFile:
    """Read and check a fits.json.

    Raises:
        InputError: There is no such file, it is no fits.json, or a number in it cannot be one.
    """
    content = _read_content(path)
    try:
        return _parse(path, content)
    except InputError as error:
        raise InputError(f"{path}: {error}; write it again with python -m analysis") from None


def _read_content(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the file: fits={path / 'fits.json'}")
    if not path.exists():
        there = [p.name for p in path.parent.glob("*.json")] if path.parent.is_dir() else []
        raise InputError(f"no file {path}{near_names(path.name, there)}")
    try:
        content = read_json(path)
    except ValueError as error:
        raise InputError(str(error)) from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply to be a fits.json") from None
    if not any(name in content for name in APPROACHES):
        have = ", ".join(list(content)[:8]) or "none"
        raise InputError(
            f"{path} is no fits.json: none of {', '.join(APPROACHES)} is among its keys ({have}); "
            "give the file that python -m analysis wrote"
        )
    schema = content.get("schema", SCHEMA_VERSION)
    if schema != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema {schema}, this version reads {SCHEMA_VERSION}; fit the runs again"
        )
    return content


def _parse(path: Path, content: dict[str, Any]) -> FitsFile:
    conventions = mapping_at(content, "conventions")
    measured = mapping_at(content, "measured")
    draws = mapping_at(content, "draws")
    answers: list[Answer] = []
    refused: list[Refused] = []
    for name in APPROACHES:
        part = mapping_at(content, name)
        if not part:
            refused.append(Refused(name, "not in the file"))
        elif "refused" in part:
            refused.append(Refused(name, str(part["refused"])))
        elif name == "parametric":
            answers.append(_surface(part, mapping_at(draws, name)))
        elif "valleys" not in part and not {"k_n", "k_d"} <= part.keys():
            refused.append(Refused(name, "the file has its exponents without their coefficients"))
        else:
            answers.append(_law(name, part, mapping_at(draws, name)))
    valleys = _valleys(mapping_at(content, "isoflop"))
    counting = str(conventions.get("flops", "6nd"))
    cost = _cost(measured, counting, valleys)
    return FitsFile(
        path=path,
        n_convention=str(conventions.get("n_params", "standard")),
        flops_counting=counting,
        cost=cost,
        cost_note=_cost_note(cost, counting, bool(measured) or len(valleys) > 1),
        flops_range=range_at(measured, "measured", "flops") or _span(valleys[:, 0]),
        n_range=range_at(measured, "measured", "n_params"),
        answers=tuple(answers),
        refused=tuple(refused),
    )


def _surface(part: dict[str, Any], draws: dict[str, Any]) -> SurfaceAnswer:
    word = str(part.get("form", Form.chinchilla.name))
    if word not in Form.__members__:
        raise InputError(
            f"parametric.form is '{word}', not a form this version knows"
            f"{near_names(word, Form.__members__)}"
        )
    form = Form[word]
    values = {name: number_at(part, "parametric", name) for name in FORM_NAMES[form]}
    for name, value in values.items():
        if value < 0 or (value == 0 and name != "E"):
            raise InputError(f"parametric.{name} = {value:g} must be positive")
    surface = Surfaces.of(form, values)
    drawn = None
    if draws:
        names, rows = rows_of(draws, "parametric", FORM_NAMES[form])
        drawn = Surfaces.of_draws(form, names, rows)
    return SurfaceAnswer(
        approach="parametric",
        form=form,
        a_ci=interval_at(part, "parametric", "a_ci"),
        surface=surface,
        draws=drawn if drawn is not None and len(drawn) else None,
        tail=_tail(draws, "parametric"),
    )


def _law(name: str, part: dict[str, Any], draws: dict[str, Any]) -> LawAnswer:
    a, b = number_at(part, name, "a"), number_at(part, name, "b")
    valleys = _valleys(part)
    laws = []
    for exponent, key, column in ((a, "k_n", 1), (b, "k_d", 2)):
        if key in part:
            coefficient = number_at(part, name, key)
            if coefficient <= 0:
                raise InputError(f"{name}.{key} = {coefficient:g} must be positive")
            laws.append(PowerLaw(exponent, 0.0, math.log(coefficient), math.nan))
        elif len(valleys):
            at, height = np.log(valleys[:, [0, column]]).mean(axis=0)
            laws.append(PowerLaw(exponent, float(at), float(height), math.nan))
        else:
            raise InputError(f"{name} has neither {key} nor a bracketed valley to place the law")
    drawn = None
    if draws:
        names, rows = rows_of(draws, name, LAW_NAMES)
        columns = {key: rows[:, names.index(key)] for key in LAW_NAMES}
        pivot = number_at(draws, f"draws.{name}", "log_flops")
        drawn = LawDraws(**columns, log_flops=pivot, tail=_tail(draws, name)) if len(rows) else None
    interval_at(part, name, "a_ci")  # checked, not used: the draws have it
    return LawAnswer(name, laws[0], laws[1], drawn, valleys[:, [0, 3]])


def _valleys(part: dict[str, Any]) -> Floats:
    """Return C, N, D and loss of the bracketed valleys, ascending in C, shape (valleys, 4)."""
    listed = part.get("valleys", [])
    if not isinstance(listed, list) or not all(isinstance(v, dict) for v in listed):
        raise InputError("isoflop.valleys is not a list of valleys")
    keys = ("flops", "n_opt", "d_opt", "loss")
    rows = [
        [number_at(valley, "isoflop.valleys", key) for key in keys]
        for valley in listed
        if valley.get("bracketed")
    ]
    table = np.array(sorted(rows), dtype=np.float64).reshape(len(rows), len(keys))
    if (table <= 0).any():
        raise InputError("isoflop.valleys holds a number that is not positive")
    return table


def _cost(measured: dict[str, Any], counting: str, valleys: Floats) -> CostLaw:
    """Return how C is counted: as the file says, 6 N D, or as its valleys show."""
    law = mapping_at(measured, "flops_law")
    if law:
        cost = CostLaw(*(number_at(law, "flops_law", key) for key in ("coefficient", "power")))
        if cost.coefficient <= 0 or cost.power <= 0:
            raise InputError(f"measured.flops_law has coefficient and power {cost}; both exceed 0")
        return cost
    if counting == "6nd" or len(valleys) < 2:
        return SIX_ND
    return fit_cost_law(valleys[:, 1], valleys[:, 2], valleys[:, 0])


def _cost_note(cost: CostLaw, counting: str, known: bool) -> str:
    if not cost.is_6nd:
        return (
            f"C counts {counting} FLOPs: these runs spend C = {cost.coefficient:.4g} "
            f"N^{cost.power:.4g} D, which is carried on beyond them."
        )
    if counting in ("6nd", "as given") or known:
        return ""
    return f"C counts {counting} FLOPs, but the file does not say how: it is taken for 6 N D."


def _span(values: Floats) -> Interval | None:
    return (float(values.min()), float(values.max())) if len(values) else None


def _tail(draws: Mapping[str, Any], name: str) -> float:
    """Return the share of draws beyond each end of an interval, 2.5 % where the file says none."""
    if "tail" not in draws:
        return TAIL
    tail = number_at(draws, f"draws.{name}", "tail")
    if not 0 <= tail < 0.5:
        raise InputError(f"draws.{name}.tail = {tail:g} is no share below one half")
    return tail
