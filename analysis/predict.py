"""`python -m analysis.predict fits=FILE flops=1e21`: what to train with a budget, and how sure."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np

from analysis.errors import OptionError, RefusedError
from analysis.prediction.fits_file import FitsFile, read_fits
from analysis.prediction.optimum import decades_beyond, predict_budget, predict_size
from analysis.prediction.overhead import SizeRule, overtrain, pivot_of, wrong_size
from analysis.prediction.text import (
    Answers,
    BudgetAnswer,
    SizeAnswer,
    open_console,
    print_json,
    print_text,
)
from analysis.words import EXIT_DONE, describe, read_words, run_command

FLOPS = (1e6, 1e32)
"""Budgets outside are a mistake of units: the first update of the smallest model costs more than
the lower end, and the upper is a million times the largest run there has been."""

PARAMS = (100.0, 1e16)
"""Sizes outside are a mistake of units."""

PUBLISHED = {0.73: "Kaplan et al. 2020", 0.50: "Hoffmann et al. 2022"}
"""Exponents of N_opt that plans have been made by."""


class Format(Enum):
    """How the answer is written."""

    text = "text"
    json = "json"


@dataclass(kw_only=True)
class PredictOptions:
    """One prediction."""

    fits: str | None = None
    """The fits.json that python -m analysis wrote."""
    flops: str | None = None
    """Training FLOPs to plan for, one number or several with commas, counted as the fits count."""
    n_params: str | None = None
    """Model sizes to plan for, one number or several with commas: what each should be trained on,
    and what training it further gives."""
    wrong_a: str = "0.73,0.50"
    """Other exponents of N_opt ~ C^a, whose cost is shown; sizes agree in the middle of the
    measured range of C."""
    format: Format = Format.text
    """text or json."""


def main(words: Sequence[str]) -> int:
    """Print the prediction and return the exit code."""
    usage = f"python -m analysis.predict fits=FILE flops=1e21\n\n{describe(PredictOptions)}"
    return run_command(words, usage, partial(_run, words))


def _run(words: Sequence[str]) -> int:
    options = read_words(PredictOptions, words, "fits=runs/NAME/analysis/fits.json")
    write = print_json if options.format is Format.json else print_text
    write(open_console(), predict(options))
    return EXIT_DONE


def predict(options: PredictOptions) -> Answers:
    """Answer every budget and size asked for.

    Raises:
        OptionError: A value cannot be meant, or nothing is asked.
        InputError: The file is no fits.json.
        RefusedError: No approach has an answer.
    """
    if not options.fits:
        raise OptionError("give fits=FILE, the fits.json that python -m analysis wrote")
    budgets = _numbers("flops", options.flops, FLOPS, "training FLOPs, such as 1e21")
    sizes = _numbers("n_params", options.n_params, PARAMS, "parameters, such as 7e9")
    if not budgets and not sizes:
        raise OptionError("give flops=1e21 or n_params=7e9: what should be planned for")
    wrong = _numbers("wrong_a", options.wrong_a, (0.01, 2.0), "exponents of N_opt, such as 0.73")
    fits = read_fits(Path(options.fits))
    if not fits.answers:
        reasons = "; ".join(f"{item.approach}: {item.why}" for item in fits.refused)
        raise RefusedError(f"{fits.path}: no approach has an answer ({reasons})")
    by = fits.surface
    rules = _rules(by.a_ci if by else None, wrong, pivot_of(fits))
    # What overflows is capped or named by quantity().
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return Answers(
            fits=fits,
            budgets=[_about_budget(fits, flops, rules) for flops in budgets],
            sizes=[_about_size(fits, n) for n in sizes],
        )


def _about_budget(fits: FitsFile, flops: float, rules: list[SizeRule]) -> BudgetAnswer:
    by = fits.surface
    wrong = [wrong_size(fits, by, flops, rule) for rule in rules] if by else []
    return BudgetAnswer(flops, decades_beyond(fits, flops), predict_budget(fits, flops), wrong)


def _about_size(fits: FitsFile, n_params: float) -> SizeAnswer:
    optima = predict_size(fits, n_params)
    if not optima:
        raise RefusedError(
            f"n_params={n_params:g}: N does not rise with C by {fits.answers[0].approach}, so no C "
            "makes a size optimal; add runs at further budgets, or ask with flops="
        )
    further = overtrain(fits, fits.surface, n_params) if fits.surface else []
    return SizeAnswer(n_params, decades_beyond(fits, optima[0].flops.value), optima, further)


def _rules(
    interval: tuple[float, float] | None, wrong: list[float], pivot: float | None
) -> list[SizeRule]:
    """Return the exponents whose cost is shown; none where no range says where they agree."""
    if pivot is None:
        return []
    ends = zip(interval, ("its low end", "its high end"), strict=True) if interval else ()
    return [
        *(SizeRule(a, pivot, PUBLISHED.get(a, "")) for a in wrong),
        *(SizeRule(a, pivot, label) for a, label in ends),
    ]


def _numbers(key: str, text: str | None, within: tuple[float, float], what: str) -> list[float]:
    """Read a comma list of numbers inside their plausible range."""
    if not text:
        return []
    values = []
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            raise OptionError(f"{key}={word} is not a number; give {what}") from None
        low, high = within
        if not low <= value <= high:
            raise OptionError(f"{key}={word} is outside {low:g}..{high:g}; give {what}")
        values.append(value)
    return list(dict.fromkeys(values))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
