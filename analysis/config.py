"""The choices of one analysis, and the rules across them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from analysis.errors import OptionError
from analysis.words import read_words

MAX_BOOTSTRAP = 1_000_000
"""Resamples at which the Monte Carlo error of an interval's end is 0.3 % of its width."""


class Method(Enum):
    """The curve whose minimum is a valley."""

    cubic = "cubic"
    parabola = "parabola"
    akima = "akima"


class Loss(Enum):
    """What the surface's residuals cost."""

    huber = "huber"
    lad = "lad"
    mse = "mse"


class Convention(Enum):
    """Which parameters and which FLOPs are counted; the columns are in table.CONVENTIONS."""

    standard = "standard"
    kaplan = "kaplan"
    total = "total"
    attention = "attention"


class Form(Enum):
    """The surface's formula; forms.py has them."""

    chinchilla = "chinchilla"
    kaplan = "kaplan"
    kaplan_e = "kaplan_e"
    skaling = "skaling"


@dataclass(kw_only=True)
class IsoflopOptions:
    """Choices of the IsoFLOP approach."""

    method: Method = Method.cubic
    """cubic, parabola or akima."""


@dataclass(kw_only=True)
class ParametricOptions:
    """Choices of the parametric approach."""

    loss: Loss = Loss.huber
    """huber and lad act on log residuals, mse on nats."""
    form: Form = Form.chinchilla
    """chinchilla: L = E + A / N**alpha + B / D**beta; kaplan: Kaplan et al.'s joint form, which has
    no E; kaplan_e: the same with one; skaling: L = E + A (N**-alpha + R D**-beta)**k."""
    delta: float = 1e-3
    """Nats of log loss at which huber turns from squares to absolute values."""


@dataclass(kw_only=True)
class Options:
    """One analysis. Exactly one of study, table and wandb says where the runs are."""

    study: str | None = None
    """A study's name: its run folders are in `runs`/study."""
    table: str | None = None
    """A CSV or parquet file with the columns n_params, tokens, flops, loss, and any others."""
    wandb: str | None = None
    """ENTITY/PROJECT/GROUP: runs mirrored to W&B, without their training curves; for when the run
    folders, which are the truth, are out of reach."""
    runs: str = "runs"
    """Folder of studies."""
    out: str | None = None
    """Output folder; by default runs/STUDY/analysis, analysis-STEM or analysis-GROUP."""
    flops_6nd: bool = False
    """Whether a table without the column flops counts C as 6 n_params tokens."""
    where: str | None = None
    """Row filter: comparisons of a column with a number or word, joined by `and`."""
    convention: Convention = Convention.standard
    """Counting of parameters and FLOPs."""
    isoflop: IsoflopOptions = field(default_factory=IsoflopOptions)
    """Choices of the IsoFLOP approach."""
    parametric: ParametricOptions = field(default_factory=ParametricOptions)
    """Choices of the parametric approach."""
    bootstrap: int = 4000
    """Resamples behind every interval."""
    seed: int = 0
    """Seeds the resampling."""
    allow_incomplete: bool = False
    """Whether to fit while runs of the study are missing; every figure is then stamped."""


def parse_options(words: Sequence[str]) -> Options:
    """Turn the command's words into checked options.

    Raises:
        OptionError: A word is not `key=value`, a key or value is not known, or a rule is broken.
    """
    options = read_words(Options, words, "study=quickstart")
    _check_rules(options)
    return options


def _check_rules(options: Options) -> None:
    sources = ("study", "table", "wandb")
    given = [f"{name}={value}" for name in sources if (value := getattr(options, name))]
    if len(given) != 1:
        what = " and ".join(given) if given else "none of them"
        raise OptionError(f"give exactly one of study=, table= and wandb=; got {what}")
    if options.bootstrap < 100:
        raise OptionError(
            f"bootstrap={options.bootstrap} is too few for a 95 % interval; use at least 100"
        )
    if options.bootstrap > MAX_BOOTSTRAP:
        raise OptionError(
            f"bootstrap={options.bootstrap} would take hours and change no digit; use at most "
            f"{MAX_BOOTSTRAP}, the default is 4000"
        )
    if options.seed < 0:
        raise OptionError(f"seed={options.seed} must not be negative; use 0 or above")
    if not 1e-8 <= options.parametric.delta <= 10:
        raise OptionError(
            f"parametric.delta={options.parametric.delta:g} is outside 1e-8..10; the usual is 1e-3"
        )
