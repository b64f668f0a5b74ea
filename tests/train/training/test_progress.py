"""The line of a job: what goes on before the first step, and time left from there on."""

import pytest

from train.training import progress
from train.training.progress import LOG_SECONDS, RunProgress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("train.training.progress.time.monotonic", lambda: now[0])
    return now


ROW = {"loss": 3.25, "tokens_per_second": 12_000.0, "mfu": 0.25}


def test_time_left_is_reckoned_from_the_first_step_not_from_what_came_before(clock, capsys):
    with RunProgress("d8l2-run", total_steps=100, start_step=20) as shown:
        shown.prepare("compiling")
        clock[0] += 600.0
        shown.begin()
        clock[0] += LOG_SECONDS + 10.0
        shown.update(80, ROW)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "d8l2-run  compiling"
    facts = "train loss 3.2500  12k tokens/s  mfu 25%"
    assert second == f"d8l2-run  step 80/100  {facts}  10 s left"  # 60 steps took 30 s


def test_lines_come_now_and_then_and_at_the_end(clock, capsys):
    with RunProgress("run", total_steps=3, start_step=0) as shown:
        shown.begin()
        for step in (1, 2, 3):
            clock[0] += 1.0
            shown.update(step, ROW)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("run  step 3/3  ")


def test_on_a_narrow_terminal_names_give_way_before_numbers(monkeypatch, capsys):
    monkeypatch.setattr(
        progress, "Console", lambda file, quiet: _Narrow(file=file, width=80, force_terminal=True)
    )
    with RunProgress("d24l2-109k-lr1.34e-02-s0-15a17493", total_steps=213, start_step=0) as shown:
        shown.begin()
        shown.update(120, ROW)
    printed = capsys.readouterr().err
    assert "120/213" in printed
    assert "d24l2-" in printed


class _Narrow(progress.Console):
    """A terminal of 80 columns."""
