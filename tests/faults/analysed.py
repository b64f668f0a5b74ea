"""Tables of runs through the analysis: what the command is told, and the two exponents it finds."""

from analysis.config import parse_options
from analysis.fits import fit_approaches, survey
from analysis.intake.source import load_runs
from analysis.refusal import Refusal
from tests.analysis.study_folders import TRUTH

A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
FAR = 0.02
"""Difference of an exponent that a reader would act on."""


def save(folder, table, *words):
    """Write a table, and return the command's words for it."""
    table.to_csv(folder / "runs.csv", index=False)
    return [f"table={folder / 'runs.csv'}", f"out={folder}/out", "bootstrap=100", *words]


def loaded(words):
    options = parse_options(words)
    return load_runs(options), options


def fits_of(words):
    table, options = loaded(words)
    return fit_approaches(survey(table, options), lambda done: None)


def by_valleys(fits):
    assert not isinstance(fits.isoflop, Refusal), fits.isoflop.why
    return fits.isoflop.n_law.fit.exponent


def by_surface(fits):
    assert not isinstance(fits.parametric, Refusal), fits.parametric.why
    return fits.parametric.values["a"]
