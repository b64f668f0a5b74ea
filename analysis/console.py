"""What the command prints: valleys, exclusions, how far to trust it, and the answer last."""

from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from analysis.agreement import Answer
from analysis.config import Convention
from analysis.fits import Analysis, Fitted, Surveyed
from analysis.intake.table import RunsTable
from analysis.learning_rate.answer import learning_rate_lines
from analysis.learning_rate.fit import LearningRateFit
from analysis.learning_rate.rule import learning_rate_words
from analysis.refusal import Refusal, fitted
from analysis.words import say

SHOWN_EXCLUSIONS = 20
"""Exclusions listed by name; all of them are in fits.json."""


class WorkProgress:
    """What is being worked on, on a terminal's standard error; gone when it is done."""

    def __init__(self, resamples: int, console: Console) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._resamples = resamples
        self._task = self._bar.add_task("", total=None, count="")

    def __enter__(self) -> "WorkProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stage(self, name: str) -> None:
        """Show another piece of work; its length is not known."""
        self._bar.reset(self._task, total=None, description=name, count="")

    def refits(self, done: int) -> None:
        """Count the surface's bootstrap refits."""
        self._bar.update(self._task, total=self._resamples, advance=done)
        count = f"{self._bar.tasks[0].completed:.0f}/{self._resamples} refits"
        self._bar.update(self._task, count=count)


def print_inputs(console: Console, table: RunsTable) -> None:
    """Print how many rows are used and which are not."""
    say(console, f"{table.name}: {len(table.frame)} of {table.n_rows} runs used")
    if table.stamp:
        say(console, table.stamp)
    counted = Counter(item.reason for item in table.excluded)
    for reason, count in sorted(counted.items()):
        say(console, f"  excluded: {count} {reason}")
    named = [item for item in table.excluded if item.reason != "filtered"]
    for item in named[:SHOWN_EXCLUSIONS]:
        detail = f" ({item.detail})" if item.detail else ""
        say(console, f"    {item.run_id}: {item.reason}{detail}")
    if len(named) > SHOWN_EXCLUSIONS:
        say(console, f"    and {len(named) - SHOWN_EXCLUSIONS} more, all listed in fits.json")


def print_valleys(console: Console, surveyed: Surveyed) -> None:
    """Print one row a budget."""
    if not surveyed.valleys:
        return
    table = Table(title=f"IsoFLOP valleys ({surveyed.options.isoflop.method.name})")
    for name in ("C", "sizes", "N_opt", "D_opt", "D/N", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bracketed")
    for v in surveyed.valleys:
        table.add_row(
            f"{v.flops:.3g}",
            str(len(v.n_params)),
            f"{v.n_opt:.4g}",
            f"{v.d_opt:.4g}",
            f"{v.d_opt / v.n_opt:.3g}",
            f"{v.loss:.4f}",
            "yes" if v.bracketed else f"no: {v.why}",
        )
    console.print(table, markup=False)


def print_first_answers(console: Console, fits: Fitted) -> None:
    """Print what the approaches came to as soon as they are fitted."""
    for answer in fits.answers:
        low, high = answer.interval
        say(console, f"{answer.approach}: a = {answer.a:.3f} [{low:.3f}, {high:.3f}]")


def print_verdict(console: Console, analysis: Analysis, out: str) -> None:
    """Print how far to trust the answer, and where everything is."""
    say(console, "How far to trust this:")
    for note in analysis.verdict.notes:
        say(console, f"  - {note}")
    if (tuned := fitted(analysis.learning_rate)) is not None:
        say(console, "Tuned learning rates:")
        for line in [*learning_rate_lines(tuned), *_next_learning_rates(analysis, tuned)]:
            say(console, f"  - {line}")
    say(console, f"Report: {out}/report.html   Numbers: {out}/fits.json")


def _next_learning_rates(analysis: Analysis, tuned: LearningRateFit) -> list[str]:
    """Return the law as words for `python -m train`, which counts N in the standard convention."""
    if analysis.options.convention is not Convention.standard:
        return []
    ratio = float((analysis.best["tokens"] / analysis.best["n_params"]).median())
    words = learning_rate_words(tuned, tokens_per_param=float(f"{ratio:.2g}"))
    note = f" ({words.note})" if words.note else ""
    return [f"for training at D/N = {ratio:.2g}: {' '.join(words.words)}{note}"]


def print_answer(console: Console, analysis: Analysis) -> None:
    """Print the last lines, one an approach."""
    for line in answer_lines(analysis):
        say(console, line)


def answer_lines(analysis: Analysis) -> list[str]:
    """Return `N_opt ~ C^a [low, high]  (approach)` or `approach: refused: why`, one each."""
    fits = {
        "isoflop": analysis.isoflop,
        "parametric": analysis.parametric,
        "envelope": analysis.envelope,
    }
    have = {answer.approach: answer for answer in analysis.answers}
    return [
        f"{name}: refused: {fit.why}" if isinstance(fit, Refusal) else _answer(have[name])
        for name, fit in fits.items()
    ]


def _answer(answer: Answer) -> str:
    low, high = answer.interval
    return f"N_opt ~ C^{answer.a:.3f} [{low:.3f}, {high:.3f}]  ({answer.approach})"
