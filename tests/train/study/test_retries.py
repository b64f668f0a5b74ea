"""The table of retries, what ended a job, and how attempts that were cut short are counted."""

import pytest

from train import errors
from train.study.retries import RETRIES, cause_of_end, describe_end, name_stops, stops_by_cause


def row(event: str, cause: str | None = None) -> dict[str, object]:
    return {"event": event} if event == "start" else {"event": event, "cause": cause}


START = row("start")


def test_only_what_may_pass_by_itself_is_tried_again_and_only_twice() -> None:
    assert {cause: limit for cause, limit in RETRIES.items() if limit} == {
        "killed": 2,
        "infrastructure": 2,
    }


def test_every_cause_of_an_error_has_its_line_in_the_table() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    causes = {
        kind.cause
        for kind in classes
        if issubclass(kind, errors.WindTunnelError) and kind is not errors.WindTunnelError
    }
    assert causes - {"locked"} | {"killed", "bug"} == set(RETRIES)


@pytest.mark.parametrize(
    ("rows", "exit_code", "cause"),
    [
        ([START, row("end")], 0, None),
        ([], 0, None),  # it was finished before
        ([START, row("end", "infrastructure")], 75, "infrastructure"),
        ([START, row("end", "preempted")], 75, "preempted"),
        ([START, row("end", "bug")], 0, "bug"),  # SystemExit(0) in the middle
        ([START, row("end", "out_of_memory"), START, row("end", "storage")], 3, "storage"),
        ([START, row("end", "out_of_memory"), START], -9, "killed"),
        ([START, row("end", "out_of_memory")], -9, "killed"),  # while it started anew
        ([START], -9, "killed"),
        ([START], -11, "killed"),
        ([], -9, "killed"),  # before its first row
        ([START], 137, "killed"),  # a start without an end
        ([START], 3, "storage"),  # the disk that was full took no row
        ([START, row("end", "AnUnknownWord")], 1, "bug"),
        ([], 1, "bug"),
        ([], 2, "config"),
        ([], 4, "checkpoint"),
        ([], 5, "diverged"),
        ([], 73, "locked"),
        ([], 75, "preempted"),
        ([], 130, "interrupted"),
        ([{"event": "end", "cause": ["list"]}], 1, "bug"),
    ],
)
def test_the_end_is_judged_by_the_rows_and_by_the_exit_code_without_them(
    rows: list[dict[str, object]], exit_code: int, cause: str | None
) -> None:
    assert cause_of_end(rows, exit_code) == cause


@pytest.mark.parametrize(
    ("cause", "exit_code", "words"),
    [
        ("killed", -9, "killed by SIGKILL"),
        ("killed", -50, "killed by signal 50"),
        ("bug", 1, "bug (exit 1)"),
    ],
)
def test_an_end_in_words(cause: str, exit_code: int, words: str) -> None:
    assert describe_end(cause, exit_code) == words


def test_stops_are_counted_by_cause_and_a_start_without_an_end_was_killed() -> None:
    rows = [START, START, row("end", "preempted"), START, row("end", "preempted"), START]
    assert stops_by_cause(rows, is_running=True) == {"killed": 1, "preempted": 2}
    assert stops_by_cause(rows, is_running=False) == {"killed": 2, "preempted": 2}
    assert stops_by_cause([*rows, row("end")], is_running=False) == {"killed": 1, "preempted": 2}
    assert stops_by_cause([], is_running=False) == {}
    assert stops_by_cause([START, row("end")], is_running=False) == {}


def test_rows_that_are_no_attempts_count_for_nothing() -> None:
    assert stops_by_cause([{"event": "other"}, {}, {"cause": "killed"}], is_running=False) == {}


def test_a_cause_that_is_no_word_is_unknown() -> None:
    """Whatever was written there, it goes to a terminal."""
    rows = [{"event": "end", "cause": cause} for cause in ("\x1b[31m", ["list"], 7)]
    assert stops_by_cause(rows, is_running=False) == {"unknown": 3}


def test_the_most_frequent_stop_is_named_first() -> None:
    assert name_stops({"bug": 1, "killed": 3, "data": 1}) == "3 killed, 1 bug, 1 data"
    assert name_stops({}) == ""
