"""What the command shows while it works, and how long lists end."""

import io

from rich.console import Console
from study_folders import isoflop_table

from analysis.console import SHOWN_EXCLUSIONS, WorkProgress, print_inputs
from analysis.intake.table import Excluded, RunsTable


def test_on_a_terminal_the_work_and_its_refits_are_shown():
    out = io.StringIO()
    with WorkProgress(400, Console(file=out, force_terminal=True, width=100)) as work:
        work.stage("fitting the surface")
        work.refits(100)
        work.refits(150)
        work._bar.refresh()
        shown = out.getvalue()
        assert "fitting the surface" in shown
        assert "250/400 refits" in shown
        work.stage("questioning: windows of compute")
        work._bar.refresh()
        latest = out.getvalue()[len(shown) :]
        assert "questioning: windows of compute" in latest
        assert "refits" not in latest


def test_elsewhere_nothing_is_shown():
    out = io.StringIO()
    with WorkProgress(400, Console(file=out)) as work:
        work.stage("fitting the surface")
        work.refits(400)
    assert out.getvalue().strip() == ""


def test_a_long_list_of_exclusions_ends_with_a_count():
    out = io.StringIO()
    excluded = tuple(Excluded(f"run {k}", "diverged", "loss 11") for k in range(23))
    excluded = (*excluded, Excluded("run z", "filtered", "flops<1"))
    table = RunsTable(isoflop_table(), excluded, "t", "t.csv", "00")
    print_inputs(Console(file=out, width=80), table)
    lines = out.getvalue().splitlines()
    assert lines[1:3] == ["  excluded: 23 diverged", "  excluded: 1 filtered"]
    assert lines[3] == "    run 0: diverged (loss 11)"
    assert lines[-1] == "    and 3 more, all listed in fits.json"
    assert len(lines) == 4 + SHOWN_EXCLUSIONS
    assert "run z" not in out.getvalue()
