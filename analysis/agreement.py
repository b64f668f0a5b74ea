"""The approaches' exponents side by side, and whether they agree."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis.bootstrap import Interval
from analysis.envelope.fit import EnvelopeFit
from analysis.isoflop.fit import IsoflopFit
from analysis.parametric.result import ParametricFit
from analysis.powerlaw import Law

AGREE_SIGMAS = 1.96
"""Approaches agree when their exponents differ by less, in joint standard errors."""

WIDE = 0.08
"""Half-width of an interval of a that would agree with almost anything."""


_BY = {"isoflop": "valleys", "parametric": "the surface", "envelope": "the envelope"}


@dataclass(frozen=True)
class Answer:
    """One approach's exponent."""

    approach: str
    a: float
    interval: Interval

    @property
    def half(self) -> float:
        """Half-width of the interval."""
        return 0.5 * (self.interval[1] - self.interval[0])


@dataclass(frozen=True)
class Comparison:
    """Two approaches on the same runs."""

    approaches: tuple[str, str]
    difference: float
    """First minus second."""
    sigmas: float
    """The difference in joint standard errors; their errors are taken as independent."""
    agree: bool


def answers_of(
    isoflop: IsoflopFit | None, parametric: ParametricFit | None, envelope: EnvelopeFit | None
) -> list[Answer]:
    """Return the exponents that there are, in the order of trust."""
    return [
        *([_law_answer("isoflop", isoflop.n_law)] if isoflop else []),
        *(
            [Answer("parametric", parametric.values["a"], parametric.intervals["a"])]
            if parametric
            else []
        ),
        *([_law_answer("envelope", envelope.n_law)] if envelope else []),
    ]


def _law_answer(approach: str, law: Law) -> Answer:
    return Answer(approach, law.fit.exponent, law.interval)


def compare_all(answers: list[Answer]) -> tuple[Comparison, ...]:
    """Compare every pair."""
    return tuple(_compare(*pair) for pair in combinations(answers, 2))


def agree_at_all(comparisons: tuple[Comparison, ...], envelope: EnvelopeFit | None) -> bool | None:
    """Return whether all pairs agree, a biased envelope's not counted; None without a pair."""
    biased = envelope is not None and envelope.biased
    counted = [item for item in comparisons if not biased or _without(item)]
    return all(item.agree for item in counted) if counted else None


def _compare(one: Answer, other: Answer) -> Comparison:
    error = np.hypot(one.half, other.half) / 1.96
    difference = one.a - other.a
    sigmas = float(abs(difference) / error) if error > 0 else float("inf")
    names = (one.approach, other.approach)
    return Comparison(names, difference, sigmas, sigmas <= AGREE_SIGMAS)


def _without(item: Comparison) -> bool:
    return "envelope" not in item.approaches


def agreement_notes(
    answers: list[Answer],
    comparisons: tuple[Comparison, ...],
    agree: bool | None,
    envelope: EnvelopeFit | None,
) -> list[str]:
    """Say what the comparison comes to."""
    if len(answers) < 2:
        return ["Only one approach could be fitted, so none checks it."] if answers else []
    values = ", ".join(f"{answer.a:.3f} by {_BY[answer.approach]}" for answer in answers)
    notes = []
    apart = [item for item in comparisons if not item.agree and _without(item)]
    if agree is False:
        notes.append(
            f"The approaches DISAGREE (a = {values}): at least one is biased, report none alone."
        )
    elif agree is None:
        notes.append(f"Nothing checks the answer but a biased envelope (a = {values}).")
    elif sorted(answer.half for answer in answers)[1] > WIDE:  # the second best checks the best
        notes.append(
            f"The approaches do not contradict each other, within wide intervals ({values})."
        )
    else:
        notes.append(f"The approaches agree (a = {values}).")
    if envelope and envelope.biased and any(not item.agree for item in comparisons) and not apart:
        notes.append(
            "The envelope differs from the others and is not counted against them: its curves' "
            "learning rates decay, so losses on the way are above those of runs that end there."
        )
    return notes
