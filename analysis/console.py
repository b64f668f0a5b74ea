"""What the command prints: valleys, exclusions, how far to trust it, and the answer last."""

import time
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from analysis.bootstrap import Interval
from analysis.fits import Analysis, Refusal, Surveyed
from analysis.table import RunsTable

SHOWN_EXCLUSIONS = 20
"""Exclusions listed by name; all of them are in fits.json."""

QUIET_SECONDS = 2.0
"""Work that takes less shows no progress."""


class BootstrapProgress:
    """A bar on a terminal's standard error, only when the refits take their time."""

    def __init__(self, total: int, console: Console) -> None:
        self._bar = Progress(
            TextColumn("bootstrap"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} refits"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("bootstrap", total=total)
        self._began = time.monotonic()
        self._shown = False

    def advance(self, done: int) -> None:
        """Count refits."""
        self._bar.update(self._task, advance=done)
        if not self._shown and time.monotonic() - self._began > QUIET_SECONDS:
            self._shown = True
            self._bar.start()

    def close(self) -> None:
        """Take the bar away."""
        if self._shown:
            self._bar.stop()


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


def print_verdict(console: Console, analysis: Analysis, out: str) -> None:
    """Print how far to trust the answer, and where everything is."""
    say(console, "How far to trust this:")
    for note in analysis.verdict.notes:
        say(console, f"  - {note}")
    say(console, f"Report: {out}/report.html   Numbers: {out}/fits.json")


def print_answer(console: Console, analysis: Analysis) -> None:
    """Print the last lines, one an approach."""
    for line in answer_lines(analysis):
        say(console, line)


def answer_lines(analysis: Analysis) -> list[str]:
    """Return `N_opt ~ C^a [low, high]  (approach)` or `approach: refused: why`, one each."""
    by_valleys, by_surface = analysis.isoflop, analysis.parametric
    return [
        f"isoflop: refused: {by_valleys.why}"
        if isinstance(by_valleys, Refusal)
        else _answer(by_valleys.n_law.fit.exponent, by_valleys.n_law.interval, "isoflop"),
        f"parametric: refused: {by_surface.why}"
        if isinstance(by_surface, Refusal)
        else _answer(by_surface.values["a"], by_surface.intervals["a"], "parametric"),
    ]


def _answer(a: float, interval: Interval, approach: str) -> str:
    return f"N_opt ~ C^{a:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]  ({approach})"


def say(console: Console, text: str) -> None:
    """Print one line as it is, whatever the width."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
