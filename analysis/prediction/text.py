"""What `python -m analysis.predict` prints: tables for a person, one line or JSON for a script."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.prediction.fits_file import FitsFile
from analysis.prediction.optimum import UNSUPPORTED_DECADES, Optimum, rises
from analysis.prediction.overhead import Overtrained, WrongSize
from analysis.prediction.quantity import extra_text, number, quantity_text
from analysis.words import say

COUNTS = {
    "standard": "all matrices with the head",
    "kaplan": "matrices of the blocks, no embedding and no head",
    "total": "every parameter",
    "attention": "all matrices with the head",
}
"""What N counts, by convention."""

AS_GIVEN = "as in the table that was fitted"
"""What N counts where the table does not say."""

WIDTH = 110
"""Columns of what is not a terminal."""


@dataclass(frozen=True)
class BudgetAnswer:
    """Everything about one budget."""

    flops: float
    decades_beyond: float
    """Decades above (positive) or below (negative) the measured range of C."""
    optima: list[Optimum]
    wrong: list[WrongSize]


@dataclass(frozen=True)
class SizeAnswer:
    """Everything about one model size."""

    n_params: float
    decades_beyond: float
    """Of the C at which the size is optimal, by the first approach."""
    optima: list[Optimum]
    overtrained: list[Overtrained]


@dataclass(frozen=True)
class Answers:
    """Everything that was asked."""

    fits: FitsFile
    budgets: list[BudgetAnswer]
    sizes: list[SizeAnswer]


def open_console() -> Console:
    """Return standard output, wide enough for every table where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def print_text(console: Console, answers: Answers) -> None:
    """Print tables and warnings, then one line an answer."""
    fits = answers.fits
    for note in file_notes(fits):
        say(console, note)
    for budget in answers.budgets:
        _print_optima(console, f"C = {number(budget.flops)} FLOPs", budget.optima, by_size=False)
        for line in budget_warnings(fits, budget):
            say(console, line)
        if budget.wrong:
            _print_wrong(console, budget)
    for size in answers.sizes:
        _print_optima(console, f"N = {number(size.n_params)}", size.optima, by_size=True)
        for line in size_warnings(fits, size):
            say(console, line)
        if size.overtrained:
            _print_overtrained(console, size)
    for line in answer_lines(answers):
        say(console, line)


def file_notes(fits: FitsFile) -> list[str]:
    """Say what N and C count, which approaches have no answer, and what the file lacks."""
    as_given = fits.flops_counting == "as given"
    counts = AS_GIVEN if as_given else COUNTS.get(fits.n_convention, AS_GIVEN)
    notes = [f"{fits.path}: N counts {counts} (convention={fits.n_convention})"]
    if fits.flops_range:
        low, high = fits.flops_range
        notes.append(f"Measured from C = {number(low)} to {number(high)} FLOPs")
    else:
        notes.append("The file does not say which C was measured: how far this reaches is unknown")
    if fits.cost_note:
        notes.append(fits.cost_note)
    notes += [f"{item.approach}: refused: {item.why}" for item in fits.refused]
    if not fits.has_draws:
        lacking = ", ".join(item.approach for item in fits.answers if item.draws is None)
        notes.append(
            f"No intervals for {lacking}: the file has no draws; run python -m analysis again to "
            "get them"
        )
    return notes


def budget_warnings(fits: FitsFile, budget: BudgetAnswer) -> list[str]:
    """Say how far beyond the runs a budget lies, and what its losses come from."""
    return [
        *_distance(fits, f"C = {number(budget.flops)}", budget.decades_beyond),
        *_loss_notes(budget.optima),
    ]


def size_warnings(fits: FitsFile, size: SizeAnswer) -> list[str]:
    """Say how far beyond the runs a size and its optimal budget lie."""
    lines = []
    if fits.n_range and not fits.n_range[0] <= size.n_params <= fits.n_range[1]:
        low, high = (number(end) for end in fits.n_range)
        lines.append(
            f"WARNING: N = {number(size.n_params)} is outside the measured sizes, {low} to {high}."
        )
    lines += [
        f"{answer.approach}: N does not rise with C, so no C makes a size optimal."
        for answer in fits.answers
        if not rises(answer)
    ]
    what = f"its optimal C, {number(size.optima[0].flops.value)},"
    return [*lines, *_distance(fits, what, size.decades_beyond), *_loss_notes(size.optima)]


def _distance(fits: FitsFile, what: str, decades: float) -> list[str]:
    if decades == 0 or fits.flops_range is None:
        return []
    low, high = fits.flops_range
    end = (
        f"above the largest measured C, {number(high)}"
        if decades > 0
        else (f"below the smallest measured C, {number(low)}")
    )
    line = f"WARNING: {what} is {abs(decades):.1f} decades {end}: extrapolated"
    if abs(decades) > UNSUPPORTED_DECADES:
        return [
            f"{line}. NOT SUPPORTED BY DATA: nothing this far was measured, and the intervals hold "
            "only if the same law does."
        ]
    return [f"{line}; the intervals hold only if the same law does."]


def _loss_notes(optima: list[Optimum]) -> list[str]:
    return [f"Loss ({item.approach}): {item.loss_source}." for item in optima if item.loss_source]


def _print_optima(console: Console, title: str, optima: list[Optimum], *, by_size: bool) -> None:
    first = [("C", "flops")] if by_size else [("N", "n_params")]
    columns = [*first, ("D", "tokens"), ("D/N", "tokens_per_param"), ("loss", "loss")]
    table = Table(title=f"{title}: compute-optimal, 95 %", box=box.SIMPLE_HEAD)
    table.add_column("approach", no_wrap=True)
    for name, _ in columns:
        table.add_column(name, justify="right")
    for item in optima:
        cells = [quantity_text(getattr(item, key), key == "loss", "\n") for _, key in columns]
        table.add_row(item.approach, *cells)
    console.print(table, markup=False)


def _print_wrong(console: Console, budget: BudgetAnswer) -> None:
    table = Table(
        title=f"Cost of another exponent at C = {number(budget.flops)}, by the surface",
        box=box.SIMPLE_HEAD,
    )
    for name in ("a", "N", "over optimal N", "extra compute"):
        table.add_column(name, justify="right")
    table.add_column("", no_wrap=True)
    for item in budget.wrong:
        table.add_row(
            f"{item.rule.exponent:.3f}",
            number(item.n_params.value),
            f"x{item.ratio.value:.3g}",
            extra_text(item.overhead),
            item.rule.label,
        )
    console.print(table, markup=False)


def _print_overtrained(console: Console, size: SizeAnswer) -> None:
    table = Table(
        title=f"N = {number(size.n_params)} trained further, by the surface", box=box.SIMPLE_HEAD
    )
    for name in ("D / optimal D", "D", "C", "loss", "lower by", "extra compute"):
        table.add_column(name, justify="right", no_wrap=name in ("D", "C"))
    for row in size.overtrained:
        table.add_row(
            f"x{row.multiple:g}",
            number(row.tokens),
            number(row.flops),
            quantity_text(row.loss, True, "\n"),
            f"{row.fall.value:.4f}",
            extra_text(row.overhead),
        )
    console.print(table, markup=False)


def answer_lines(answers: Answers) -> list[str]:
    """Return `N = .. [..]  D = ..  D/N = ..  loss = ..  (approach, C = ..)`, one an answer."""
    return [
        *(
            _line(item, f"{item.approach}, C = {number(budget.flops)}{_reach(budget)}")
            for budget in answers.budgets
            for item in budget.optima
        ),
        *(
            f"C = {quantity_text(item.flops)}  {_line(item, item.approach)}"
            for size in answers.sizes
            for item in size.optima
        ),
    ]


def _reach(budget: BudgetAnswer) -> str:
    beyond = abs(budget.decades_beyond)
    return f", {beyond:.1f} decades extrapolated" if beyond else ""


def _line(item: Optimum, where: str) -> str:
    parts = [
        f"N = {quantity_text(item.n_params)}",
        f"D = {quantity_text(item.tokens)}",
        f"D/N = {quantity_text(item.tokens_per_param)}",
        *([f"loss = {quantity_text(item.loss, True)}"] if item.loss else []),
    ]
    return f"{'  '.join(parts)}  ({where})"


def print_json(console: Console, answers: Answers) -> None:
    """Print everything as one JSON object."""
    fits = answers.fits
    content: dict[str, Any] = {
        "fits": str(fits.path),
        "conventions": {"n_params": fits.n_convention, "flops": fits.flops_counting},
        "flops_law": asdict(fits.cost),
        "measured_flops": fits.flops_range,
        "notes": file_notes(fits),
        "budgets": [
            {**asdict(item), "warnings": budget_warnings(fits, item)} for item in answers.budgets
        ],
        "sizes": [
            {**asdict(item), "warnings": size_warnings(fits, item)} for item in answers.sizes
        ],
        "refused": [asdict(item) for item in fits.refused],
    }
    say(console, json.dumps(_finite(content), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:  # noqa: ANN401
    """Replace an end of an interval that has no bound by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if value == np.inf else value
