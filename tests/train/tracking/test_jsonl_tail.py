"""Rows of growing files: only complete lines, merged into one sequence by step."""

import json
from contextlib import ExitStack, closing

import pytest

from train.storage.records import append_jsonl
from train.tracking.jsonl_tail import RunTail, Tail


@pytest.fixture
def opened():
    with ExitStack() as stack:
        yield lambda tail: stack.enter_context(closing(tail))


def steps(rows):
    return [(name.removesuffix(".jsonl"), row["step"]) for name, row in rows]


def grow(folder, *, metrics=(), evals=()):
    append_jsonl(folder / "metrics.jsonl", [{"step": step} for step in metrics])
    append_jsonl(folder / "evals.jsonl", [{"step": step} for step in evals])


def test_a_row_is_read_once_and_as_soon_as_its_line_is_whole(tmp_path, opened):
    path = tmp_path / "rows.jsonl"
    tail = opened(Tail(path))
    assert tail.rows() == []  # no file yet
    with path.open("ab", buffering=0) as file:
        file.write(b'{"step": 1}\n{"step": 2}\n{"st')
        assert tail.rows() == [{"step": 1}, {"step": 2}]
        assert tail.rows() == []
        file.write(b'ep": 3}\n')
    assert tail.rows() == [{"step": 3}]


def test_a_torn_line_that_is_cut_off_and_written_again_is_one_row(tmp_path, opened):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    tail = opened(Tail(path))
    assert tail.rows() == [{"step": 1}]
    append_jsonl(path, [{"step": 2}])  # cuts the torn line off
    assert tail.rows() == [{"step": 2}]


def test_a_line_that_is_not_json_is_an_error(tmp_path, opened):
    (tmp_path / "rows.jsonl").write_bytes(b"nonsense\n")
    with pytest.raises(json.JSONDecodeError):
        opened(Tail(tmp_path / "rows.jsonl")).rows()


def test_rows_of_a_later_attempt_are_not_seen(tmp_path, opened):
    """A resumed run puts a shorter file in the place of the old one."""
    grow(tmp_path, metrics=(1, 2))
    tail = opened(RunTail(tmp_path, start_step=0))
    assert steps(tail.rows(is_over=False)) == [("metrics", 1), ("metrics", 2)]
    append_jsonl(tmp_path / "shorter", [{"step": 1}])
    (tmp_path / "shorter").replace(tmp_path / "metrics.jsonl")
    grow(tmp_path, metrics=(2, 3))
    assert tail.rows(is_over=True) == []
    new = opened(RunTail(tmp_path, start_step=1))
    assert steps(new.rows(is_over=True)) == [("metrics", 2), ("metrics", 3)]


def test_rows_up_to_the_start_are_another_attempt_s(tmp_path, opened):
    grow(tmp_path, metrics=(1, 2, 3), evals=(2, 3))
    rows = opened(RunTail(tmp_path, start_step=2)).rows(is_over=True)
    assert steps(rows) == [("metrics", 3), ("evals", 3)]


def test_an_evaluation_comes_after_its_row_and_before_the_next(tmp_path, opened):
    grow(tmp_path, metrics=(1, 2, 3), evals=(1, 2))
    rows = opened(RunTail(tmp_path, start_step=0)).rows(is_over=False)
    assert steps(rows) == [
        ("metrics", 1),
        ("evals", 1),
        ("metrics", 2),
        ("evals", 2),
        ("metrics", 3),
    ]


def test_an_evaluation_ahead_of_the_rows_waits_for_them_or_for_the_end(tmp_path, opened):
    """Between the reading of one file and the other the trainer may write to both."""
    tail = opened(RunTail(tmp_path, start_step=0))
    grow(tmp_path, metrics=(5,), evals=(5, 7))
    assert steps(tail.rows(is_over=False)) == [("metrics", 5), ("evals", 5)]
    assert tail.rows(is_over=False) == []
    grow(tmp_path, metrics=(6, 8), evals=(9,))
    assert steps(tail.rows(is_over=False)) == [("metrics", 6), ("evals", 7), ("metrics", 8)]
    assert steps(tail.rows(is_over=True)) == [("evals", 9)]
