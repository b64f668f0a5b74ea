"""`python -m analysis study=NAME` or `table=FILE`: every fit, figures, fits.json and the report."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis import console as text
from analysis.config import Options, parse_options
from analysis.errors import AnalysisError
from analysis.fits import Analysis, fit_approaches, question, survey
from analysis.fits_json import to_json
from analysis.intake.source import load_runs
from analysis.intake.table import in_table_order
from analysis.refusal import Refusal
from analysis.words import describe, wants_help
from train.records import write_json

EXIT_DONE, EXIT_REFUSED, EXIT_STORAGE, EXIT_INTERRUPTED = 0, 2, 3, 130


def main(words: Sequence[str]) -> int:
    """Run one analysis and return its exit code."""
    stdout, stderr = Console(), Console(stderr=True)
    if wants_help(words):
        text.say(stdout, f"{__doc__}\n\n{describe(Options)}")
        return EXIT_DONE
    try:
        return _run(words, stdout, stderr)
    except AnalysisError as error:
        text.say(stderr, f"error: {error}")
        return error.exit_code
    except OSError as error:
        text.say(stderr, f"error: storage: {error}")
        return EXIT_STORAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _run(words: Sequence[str], stdout: Console, stderr: Console) -> int:
    options = parse_options(words)
    table = load_runs(options)
    out = _out_folder(options)
    out.mkdir(parents=True, exist_ok=True)  # before the work, so that its answer has a place
    text.print_inputs(stdout, table)
    surveyed = survey(table, options)
    text.print_valleys(stdout, surveyed)
    with text.WorkProgress(options.bootstrap, stderr) as work:
        work.stage("fitting the surface")
        fits = fit_approaches(surveyed, work.refits)
        text.print_first_answers(stdout, fits)
        analysis = question(fits, lambda name: work.stage(f"questioning: {name}"))
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
    runs.to_csv(out / "runs.csv", index=False)
    runs.to_parquet(out / "runs.parquet", index=False)
    figures = draw_figures(analysis, out / "figures")
    write_report(analysis, figures, out / "report.html", command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
