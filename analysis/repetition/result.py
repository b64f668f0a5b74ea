"""What a repetition fit came to, and its answer in words."""

from dataclasses import dataclass

import numpy as np

from analysis.bootstrap import Interval
from analysis.repetition.effective import R_BOX
from analysis.repetition.profile import Profile

FAR = 10.0
"""Epochs over the least R_D that the runs allow, where repeats are worth nothing more."""


@dataclass(frozen=True)
class RepetitionFit:
    """What repeated tokens and excess parameters are worth."""

    values: dict[str, float]
    """E, A, B, alpha, beta, R_D, R_N; an R is 0 or infinite where the fit has it at its limit."""
    objective: float
    """Sum over runs of Huber terms of log residuals."""
    delta: float
    intervals: dict[str, Interval]
    """R_D and R_N: the profile's and the bootstrap's together; open ends are 0 or infinity."""
    bootstrap: dict[str, Interval]
    """R_D and R_N: 95 % percentiles over resampled families of runs; open ends the same."""
    profiles: dict[str, Profile]
    """R_D and R_N."""
    reasons: dict[str, tuple[str, ...]]
    """Why R_D or R_N is not identified; empty where it is."""
    worth: dict[int, tuple[float, float, float]]
    """Epochs -> their worth as a share of as many fresh tokens: value, low, high."""
    gradient: float
    """Largest cosine between the runs' scores and a parameter's tangent: 0 at an optimum."""
    n_starts: int
    starts_reached: int
    """Starts that ended at this objective."""
    n_runs: int
    n_repeated: int
    n_families: int
    """What the bootstrap draws: runs of one size on the same repeated tokens count as one."""
    n_failed: int
    """Resamples whose refit did not converge; they are in no interval."""
    max_epochs: float
    notes: tuple[str, ...]

    @property
    def identified(self) -> dict[str, bool]:
        """Whether the runs determine R_D and R_N."""
        return {name: not why for name, why in self.reasons.items()}

    @property
    def sentence(self) -> str:
        """The answer in words."""
        value, (low, high) = self.values["R_D"], self.intervals["R_D"]
        _, worth_low, worth_high = self.worth[4]
        four = f"four epochs are worth {worth_low:.2f} to {worth_high:.2f} of as many fresh tokens"
        shown = f"R_D = {say_r(value)}, 95 % {say_r(low)} to {say_r(high)}"
        if self.identified["R_D"]:
            return f"{shown}: a repeat loses 63 % of its worth after that many, and {four}."
        return (
            f"R_D is not identified by these {self.n_repeated} repeated runs ({shown}): "
            f"{'; '.join(self.reasons['R_D'])}. All that can be said is that {four}; {self.to_add}."
        )

    @property
    def to_add(self) -> str:
        """Which runs would say more, in words; empty when R_D is identified."""
        if self.identified["R_D"]:
            return ""
        low, high = self.intervals["R_D"]
        if low <= 0.0:
            return "add runs of 2 and 4 epochs, where repeats still have some of their worth"
        if np.isinf(high) and self.max_epochs < FAR * low:
            far = 3.0 * max(low, self.max_epochs)
            return f"add runs of {_epochs(far)} epochs, where repeats must have lost their worth"
        high = min(high, FAR * low)
        return (
            f"add runs of {_epochs(0.5 * low)} to {_epochs(2.0 * high)} epochs at other sizes and "
            "other numbers of unique tokens"
        )


def _epochs(number: float) -> str:
    return f"{max(2.0, float(f'{number:.1g}')):,.0f}"


def say_r(r: float) -> str:
    """Return R in words: at its limits repeats are worth nothing, or as much as fresh tokens."""
    if r <= 1.01 * R_BOX[0]:
        return "0"
    return "infinity" if r >= 0.99 * R_BOX[1] else f"{r:.3g}"
