"""A study's ladder of shapes: the sizes between and beyond its rungs, and the words to train them.

N of a rung that was not run follows from those that were: N = v d + c l d**2, the head (and
embedding, by convention) and the blocks, for width d and l layers. It is close, not exact; the
training command counts again.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from train.storage.records import read_json

Floats = NDArray[np.float64]

RUNG = re.compile(r"d(\d+)l(\d+)")

MIN_LAYERS, ASPECT = 2, 64
"""The default rule for layers (train/plan/shape.py); other rules are noticed and not used."""

STEPS = (4, 5, 6)
"""Widths are these times powers of two: for a head width that is a power of two, the ladder's rule
then always finds heads of even width."""

GROUPS = (4, 6)
"""Widths that configs/model has a file for are these times powers of two, in GROUP_RANGE."""

GROUP_RANGE = (16, 1024)

CLOSE = 0.02
"""Share by which the formula may miss the rungs that were run."""

MANY_STEPS = 101
"""From here whole steps move a budget by less than the half per cent that training allows."""

SIZE_KEYS = ("model.d_model", "model")
BUDGET_KEYS = ("budget.flops", "budget.tokens", "budget.tokens_per_param")
OWN_KEYS = (*SIZE_KEYS, *BUDGET_KEYS, "seed", "study.extend", "dry_run")
"""Words that a proposal sets itself."""


@dataclass(frozen=True)
class Rung:
    """One shape of the ladder."""

    width: int
    n_params: float


@dataclass(frozen=True)
class Ladder:
    """The rungs around those that were run, ascending, and how runs of them are started."""

    rungs: tuple[Rung, ...]
    size_key: str
    """The word that the study sets sizes by: model or model.d_model."""
    words: tuple[str, ...]
    """Overrides that every run of the study shares; empty where the manifest has none."""
    varied: tuple[str, ...]
    """Keys that the study varies besides size, budget and seed."""
    budgets: tuple[float, ...]
    """FLOP budgets that its runs were given."""
    batch_tokens: float | None = None
    """Tokens of a step; None where runs differ in it or the table does not say."""

    @property
    def sizes(self) -> Floats:
        """N of every rung, ascending."""
        return np.array([rung.n_params for rung in self.rungs])

    def nearest(self, n_params: float) -> Rung:
        """Return the rung whose N is nearest in log."""
        return min(self.rungs, key=lambda rung: abs(math.log(rung.n_params / n_params)))

    def size_word(self, width: int) -> str:
        """Return the value of size_key for a width."""
        return f"d{width}" if self.size_key == "model" else str(width)


def read_ladder(frame: pd.DataFrame, folder: Path | None) -> Ladder | None:
    """Return the ladder that a study's runs are on.

    Args:
        frame: The runs, n_params in the convention asked for; `rung` such as d64l2.
        folder: The study's folder; None for a table.

    Returns:
        None where rungs are not known or do not follow the ladder's rule.
    """
    if "rung" not in frame:
        return None
    known: dict[int, float] = {}
    for name, size in zip(frame["rung"].astype(str), frame["n_params"], strict=True):
        match = RUNG.fullmatch(name)
        if match is None or int(match[2]) != layers_of(int(match[1])):
            return None
        known[int(match[1])] = float(size)
    terms = _fit_counts(known)
    if terms is None:
        return None
    entries = _read_overrides(folder)
    size_key, words, varied = _shared_words(entries)
    budgets = _budgets(entries)
    steps = GROUPS if size_key == "model" else STEPS
    low, high = min(known) / 2, max(known) * 2
    if size_key == "model":
        low, high = max(low, GROUP_RANGE[0]), min(high, GROUP_RANGE[1])
    powers = (step * 2**power for step in steps for power in range(12))
    widths = sorted({*known, *(w for w in powers if low <= w <= high and w % 4 == 0)})
    rungs = tuple(Rung(width, known.get(width, _count(width, terms))) for width in widths)
    return Ladder(rungs, size_key, words, varied, budgets, _batch(frame))


def _batch(frame: pd.DataFrame) -> float | None:
    """Return the batch that all runs share."""
    if "batch_tokens" not in frame or frame["batch_tokens"].nunique(dropna=False) != 1:
        return None
    batch = float(frame["batch_tokens"].iloc[0])
    return batch if batch >= 1 else None


def layers_of(width: int) -> int:
    """Return the layers that the default rule gives a width."""
    return max(MIN_LAYERS, round(width / ASPECT))


def _fit_counts(known: dict[int, float]) -> tuple[float, float] | None:
    """Return v and c of N = v d + c l d**2 by least relative squares, or None if it misses."""
    if len(known) < 2:
        return None
    widths = np.array(list(known), dtype=np.float64)
    layers = np.array([layers_of(width) for width in known], dtype=np.float64)
    sizes = np.array(list(known.values()))
    design = np.stack([widths, layers * widths**2], axis=1) / sizes[:, None]
    terms = np.linalg.pinv(design) @ np.ones(len(sizes))
    if np.abs(design @ terms - 1.0).max() > CLOSE:
        return None
    return float(terms[0]), float(terms[1])


def _count(width: int, terms: tuple[float, float]) -> float:
    return round(terms[0] * width + terms[1] * layers_of(width) * width**2)


def _read_overrides(folder: Path | None) -> list[list[str]]:
    """Return the overrides of every run of the manifest that has any."""
    if folder is None:
        return []
    try:
        runs = read_json(folder / "manifest.json").get("runs", [])
    except (ValueError, OSError):
        return []
    return [
        [str(word) for word in entry["overrides"]]
        for entry in runs
        if isinstance(entry, dict) and isinstance(entry.get("overrides"), list)
    ]


def _shared_words(entries: list[list[str]]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return the size's key, the words that all runs share, and other keys that vary."""
    counted = Counter(word for entry in entries for word in entry)
    keys = {word.partition("=")[0].lstrip("+") for word in counted}
    by_group = "model" in keys and "model.d_model" not in keys
    has_own_grid = "study" in keys
    size_key = "model" if by_group and has_own_grid else "model.d_model"
    shared = [word for word in counted if counted[word] == len(entries)]
    words = tuple(word for word in shared if _key(word) not in OWN_KEYS)
    varied = {_key(word) for word in counted if word not in shared} - set(OWN_KEYS)
    return size_key, words, tuple(sorted(varied))


def _budgets(entries: list[list[str]]) -> tuple[float, ...]:
    """Return the FLOP budgets among the overrides."""
    found = {word.partition("=")[2] for entry in entries for word in entry if _is_flops(word)}
    values = []
    for text in found:
        try:
            values.append(float(text))
        except ValueError:
            continue
    return tuple(sorted(values))


def _is_flops(word: str) -> bool:
    return _key(word) == "budget.flops"


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


@dataclass(frozen=True)
class Job:
    """One run to start."""

    width: int
    flops: float
    tokens: float
    seed: int | None
    """None for the study's own."""


def train_commands(ladder: Ladder, jobs: Sequence[Job], *, by_flops: bool) -> list[str]:
    """Return command lines, one for the sizes that share a budget and seed.

    Args:
        ladder: The study's; commands need its words.
        jobs: What to run.
        by_flops: Whether the study's budgets are FLOPs as counted here; tokens are given if not,
            and for short runs, which must be whole steps.
    """
    if not ladder.words:
        return []
    groups: dict[tuple[str, int | None], list[int]] = {}
    for job in jobs:
        budget = f"budget.tokens={_whole_steps(job.tokens, ladder.batch_tokens)}"
        if by_flops and job.tokens >= MANY_STEPS * (ladder.batch_tokens or 0.0):
            # The budget that was asked for, where runs came out a little off it by whole steps.
            asked = [flops for flops in ladder.budgets if abs(flops / job.flops - 1) < CLOSE]
            budget = f"budget.flops={_short(asked[0], 6) if asked else _short(job.flops, 4)}"
        widths = groups.setdefault((budget, job.seed), [])
        if job.width not in widths:
            widths.append(job.width)
    start = " ".join(["python -m train -m", *ladder.words, "study.extend=true"])
    lines = []
    for (budget, seed), widths in groups.items():
        sizes = ",".join(ladder.size_word(width) for width in sorted(widths))
        own_seed = "" if seed is None else f" seed={seed}"
        lines.append(f"{start} {ladder.size_key}={sizes} {budget}{own_seed}")
    return lines


def _whole_steps(tokens: float, batch: float | None) -> str:
    """Write tokens as whole steps; as they are where the batch is not known."""
    return _short(tokens, 5) if batch is None else f"{batch * max(1, round(tokens / batch)):.0f}"


def _short(value: float, digits: int) -> str:
    mantissa, separator, power = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(power)}" if separator else mantissa
