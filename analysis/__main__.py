"""`python -m analysis study=NAME` or `table=FILE`: every fit, figures, fits.json and the report."""

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from analysis import console as text
from analysis.config import Options, parse_options
from analysis.fits import Analysis, fit_approaches, question, survey
from analysis.fits_json import to_json
from analysis.intake.source import load_runs
from analysis.intake.table import in_table_order
from analysis.output import PAGE, make_folder, remove_page, write_whole
from analysis.refusal import Refusal
from analysis.words import EXIT_DONE, describe, run_command
from train.storage.records import write_json

EXIT_REFUSED = 2


def main(words: Sequence[str]) -> int:
    """Run one analysis and return its exit code."""
    return run_command(words, f"{__doc__}\n\n{describe(Options)}", partial(_run, words))


def _run(words: Sequence[str]) -> int:
    stdout, stderr = Console(), Console(stderr=True)
    options = parse_options(words)
    table = load_runs(options)
    out = _out_folder(options)
    make_folder(out)  # before the work, so that its answer has a place
    text.print_inputs(stdout, table)
    surveyed = survey(table, options)
    text.print_valleys(stdout, surveyed)
    with text.WorkProgress(options.bootstrap, stderr) as work:
        work.stage("fitting the surface")
        fits = fit_approaches(surveyed, work.refits)
        text.print_first_answers(stdout, fits)
        analysis = question(fits, lambda name: work.stage(f"questioning: {name}"))
    remove_page(out)
    write_json(out / "fits.json", to_json(analysis))
    text.print_verdict(stdout, analysis, str(out))
    text.print_answer(stdout, analysis)
    with stderr.status("drawing figures"):
        _write_report(analysis, out, "python -m analysis " + shlex.join(words))
    approaches = (analysis.isoflop, analysis.parametric, analysis.envelope)
    return EXIT_REFUSED if all(isinstance(fit, Refusal) for fit in approaches) else EXIT_DONE


def _out_folder(options: Options) -> Path:
    if options.out:
        return Path(options.out)
    if options.table:
        return Path(f"analysis-{Path(options.table).stem}")
    if options.wandb:
        return Path(f"analysis-{options.wandb.rsplit('/', 1)[-1]}")
    return Path(options.runs) / str(options.study) / "analysis"


def _write_report(analysis: Analysis, out: Path, command: str) -> None:
    """Write the runs table, the figures and the page: after the answer is on the screen."""
    # Imported here because Matplotlib takes a second.
    from analysis.figures import draw_figures
    from analysis.report import write_report

    runs = in_table_order(analysis.table.frame)
    write_whole(out / "runs.csv", lambda path: runs.to_csv(path, index=False))
    write_whole(out / "runs.parquet", lambda path: runs.to_parquet(path, index=False))
    figures = draw_figures(analysis, out / "figures")
    write_whole(out / PAGE, lambda path: write_report(analysis, figures, path, command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
