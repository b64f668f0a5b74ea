"""Where the runs are: a study's folders, a table, or a W&B project."""

from pathlib import Path

from analysis.config import Options
from analysis.intake.load import load_table
from analysis.intake.study import load_study
from analysis.intake.table import RunsTable
from analysis.intake.wandb_table import load_wandb


def load_runs(options: Options) -> RunsTable:
    """Read the runs from wherever the options say they are.

    Raises:
        InputError: They cannot be read as runs.
        OptionError: The row filter cannot be read, or an extra is not installed.
    """
    where, allow = options.where, options.allow_incomplete
    if options.table:
        path = Path(options.table)
        return load_table(path, where=where, allow_incomplete=allow, flops_6nd=options.flops_6nd)
    if options.wandb:
        return load_wandb(
            options.wandb, where=where, allow_incomplete=allow, flops_6nd=options.flops_6nd
        )
    assert options.study is not None
    return load_study(Path(options.runs), options.study, where=where, allow_incomplete=allow)
