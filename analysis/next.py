"""`python -m analysis.next study=NAME` or `table=FILE`: the runs that narrow the interval of a."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from rich import box
from rich.console import Console
from rich.table import Table

from analysis.config import Convention, IsoflopOptions, Options, ParametricOptions, parse_options
from analysis.design.candidates import By
from analysis.design.ladder import Job, train_commands
from analysis.design.proposal import Limits, Proposal, make_proposal
from analysis.errors import OptionError
from analysis.fits import Surveyed, survey
from analysis.intake.source import load_runs
from analysis.parametric.result import ParametricFit
from analysis.prediction.quantity import number
from analysis.prediction.text import open_console
from analysis.refusal import Refusal
from analysis.words import EXIT_DONE, describe, read_words, run_command, say

LOOSE = 2.0
"""Factor between the bootstrap's interval and the linearised one from which that is said."""


@dataclass(kw_only=True)
class NextOptions:
    """One proposal. Exactly one of study, table and wandb says where the runs are."""

    study: str | None = None
    """A study's name: its run folders are in `runs`/study."""
    table: str | None = None
    """A CSV or parquet file with the columns n_params, tokens, flops, loss, and any others."""
    wandb: str | None = None
    """ENTITY/PROJECT/GROUP of runs mirrored to W&B."""
    runs: str = "runs"
    """Folder of studies."""
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
    bootstrap: int = 1000
    """Resamples behind the interval now."""
    seed: int = 0
    """Seeds the resampling."""
    allow_incomplete: bool = False
    """Whether to go on while runs of the study are missing."""
    add: int = 8
    """Most runs to propose."""
    flops: float | None = None
    """Training FLOPs for all proposed runs, as the runs count them; by default a quarter of what
    was spent, and what the study lacks on top."""
    by: By = By.flops
    """What a run costs: flops, or seconds as measured in the column `seconds`."""
    seconds: float | None = None
    """With by=seconds, the device seconds for all proposed runs."""


OWN = ("add", "flops", "by", "seconds")
"""Keys that the analysis itself does not have."""


def main(words: Sequence[str]) -> int:
    """Print the proposal and return the exit code."""
    return run_command(words, f"{__doc__}\n\n{describe(NextOptions)}", partial(_run, words))


def _run(words: Sequence[str]) -> int:
    own, options = parse(words)
    surveyed = survey(load_runs(options), options)
    total = own.seconds if own.by is By.seconds else own.flops
    proposal = make_proposal(surveyed, Limits(own.add, total, own.by))
    print_proposal(open_console(), surveyed, proposal)
    return EXIT_DONE


def parse(words: Sequence[str]) -> tuple[NextOptions, Options]:
    """Return the command's own options and those of the analysis.

    Raises:
        OptionError: A word is not `key=value`, a key or value is not known, or a rule is broken.
    """
    own = read_words(NextOptions, words, "study=quickstart")
    shared = [word for word in words if word.partition("=")[0] not in OWN]
    if not any(word.startswith("bootstrap=") for word in shared):
        shared.append(f"bootstrap={own.bootstrap}")
    if own.add < 1:
        raise OptionError(f"add={own.add} proposes no run; use 1 or more")
    for name in ("flops", "seconds"):
        value = getattr(own, name)
        if value is not None and not 0 < value < float("inf"):
            raise OptionError(f"{name}={value:g} must be positive")
    other = own.seconds if own.by is By.flops else own.flops
    if other is not None:
        wrong, right = ("seconds", "flops") if own.by is By.flops else ("flops", "seconds")
        raise OptionError(
            f"{wrong}={other:g} with by={own.by.name}: give {right}=TOTAL, or by={wrong}"
        )
    return own, parse_options(shared)


def print_proposal(console: Console, surveyed: Surveyed, proposal: Proposal) -> None:
    """Print where the study stands, the runs, how to start them, and one line for a script."""
    for line in standing_lines(surveyed, proposal):
        say(console, line)
    _print_steps(console, proposal)
    if proposal.left_out:
        say(console, f"{proposal.left_out} further runs that the study lacks are beyond the limits")
    for line in start_lines(surveyed, proposal):
        say(console, line)
    say(console, last_line(proposal))


def standing_lines(surveyed: Surveyed, proposal: Proposal) -> list[str]:
    """Say what the runs give now, and how far the prediction of intervals can be trusted."""
    lines = [f"{surveyed.table.name}: {len(surveyed.table.frame)} runs"]
    if isinstance(surveyed.isoflop, Refusal):
        lines.append(f"isoflop: refused: {surveyed.isoflop.why}")
    fit, half = proposal.surface, proposal.half_width
    if isinstance(fit, Refusal):
        return [*lines, f"parametric: refused: {fit.why}"]
    assert half is not None
    assert proposal.linearised is not None
    low, high = fit.intervals["a"]
    lines.append(f"a = {fit.values['a']:.3f} [{low:.3f}, {high:.3f}]  (parametric)")
    if not 1 / LOOSE <= half / proposal.linearised <= LOOSE:
        lines.append(
            f"The bootstrap's half-width, {half:.3f}, is not what curvature and residuals give, "
            f"{proposal.linearised:.3f}: read the widths below as an order, not as numbers"
        )
    return lines


def _print_steps(console: Console, proposal: Proposal) -> None:
    table = Table(title="Runs to add, in this order", box=box.SIMPLE_HEAD)
    steps = proposal.steps
    table.add_column("N", justify="right", no_wrap=True)
    if proposal.ladder:
        table.add_column("d_model", justify="right", no_wrap=True)
    for name in ("D", "C"):
        table.add_column(name, justify="right", no_wrap=True)
    if proposal.time:
        table.add_column("seconds", justify="right", no_wrap=True)
    if isinstance(proposal.surface, ParametricFit):
        table.add_column("a +-", justify="right", no_wrap=True)
    table.add_column("why")
    for step in steps:
        cells = [number(step.n_params)]
        cells += [str(step.width)] if proposal.ladder else []
        cells += [number(step.tokens), number(step.flops)]
        cells += [number(step.seconds or 0.0)] if proposal.time else []
        cells += [f"{step.half_width:.3f}"] if step.half_width is not None else []
        table.add_row(*cells, step.why)
    console.print(table, markup=False)


def start_lines(surveyed: Surveyed, proposal: Proposal) -> list[str]:
    """Return the commands that train the runs, or nothing for a table of unknown shapes."""
    ladder = proposal.ladder
    if ladder is None:
        return []
    standard = surveyed.options.convention is Convention.standard
    counted = not any(word.startswith("budget.convention") for word in ladder.words)
    jobs = [
        Job(step.width, step.flops, step.tokens, step.seed)
        for step in proposal.steps
        if step.width is not None
    ]
    commands = train_commands(ladder, jobs, by_flops=standard and counted)
    if not commands:
        return []
    varied = ", ".join(ladder.varied)
    note = f"The study also varies {varied}: add what these runs should use" if varied else ""
    return ["To run them:", *(f"  {line}" for line in commands), *([note] if note else [])]


def last_line(proposal: Proposal) -> str:
    """Return `a +-NOW -> +-THEN with K runs, C FLOPs  (parametric)`, or why there is no width."""
    steps = proposal.steps
    seconds = [step.seconds for step in steps if step.seconds is not None]
    cost = f"{len(steps)} runs, {number(sum(step.flops for step in steps))} FLOPs" + (
        f", {number(sum(seconds))} s" if seconds else ""
    )
    then = steps[-1].half_width
    if proposal.half_width is None or then is None:
        return f"{cost}  (parametric: refused until they are there)"
    return f"a +-{proposal.half_width:.3f} -> +-{then:.3f} with {cost}  (parametric)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
