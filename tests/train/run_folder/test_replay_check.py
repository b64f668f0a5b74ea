"""Rows after a checkpoint are set aside, and compared with the rows that take their place."""

import json

import pytest

from train.errors import RecordsError
from train.run_folder.replay_check import ReplayReport, compare, set_aside
from train.run_folder.run_folder import RunFolder
from train.storage.records import append_jsonl, read_jsonl


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path)
    append_jsonl(run.metrics, [metric(step) for step in (1, 2, 3, 4)])
    append_jsonl(run.evals, [evaluation(step) for step in (1, 4)])
    return run


def metric(step, **changed):
    return {"step": step, "loss": 5.0 - step / 3, "lr": 0.1, "seconds": 0.5 * step, **changed}


def evaluation(step, **changed):
    return {"step": step, "split": "validation", "loss": 6.0 - step / 7, **changed}


def sizes_at(folder, step):
    return {
        path.name: sum(
            len(line)
            for line in path.read_bytes().splitlines(True)
            if json.loads(line)["step"] <= step
        )
        for path in (folder.metrics, folder.evals)
    }


def steps(path):
    return [row["step"] for row in read_jsonl(path)]


def test_rows_beyond_the_checkpoint_are_moved(folder):
    assert set_aside(folder, sizes_at(folder, 2)) == 3
    assert steps(folder.metrics) == [1, 2]
    assert steps(folder.evals) == [1]
    assert [(row["file"], row["step"]) for row in read_jsonl(folder.replayed)] == [
        ("metrics.jsonl", 3),
        ("metrics.jsonl", 4),
        ("evals.jsonl", 4),
    ]


def test_without_a_checkpoint_all_rows_are_moved(folder):
    assert set_aside(folder, {}) == 6
    assert steps(folder.metrics) == steps(folder.evals) == []


def test_nothing_is_written_when_nothing_is_late(folder):
    before = folder.metrics.read_bytes()
    assert set_aside(folder, sizes_at(folder, 4)) == 0
    assert folder.metrics.read_bytes() == before
    assert not folder.replayed.exists()


def test_a_run_without_records_has_none_to_move(tmp_path):
    assert set_aside(RunFolder(tmp_path), {}) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_dropped(folder):
    committed = sizes_at(folder, 4)
    with folder.metrics.open("ab") as file:
        file.write(b'{"step": 5, "lo')
    assert set_aside(folder, committed) == 0
    assert steps(folder.metrics) == [1, 2, 3, 4]
    assert folder.metrics.stat().st_size == committed["metrics.jsonl"]


@pytest.mark.parametrize("garbage", [b"\0\0\0\n", b"[1]\n", b'{"loss": 1}\n', b'{"step": "x"}\n'])
def test_a_late_line_that_is_no_row_is_dropped_with_a_word(folder, garbage):
    committed = sizes_at(folder, 4)
    with folder.metrics.open("ab") as file:
        file.write(garbage + json.dumps(metric(5)).encode() + b"\n")
    with pytest.warns(UserWarning, match=r"metrics.jsonl: a torn row after the checkpoint"):
        assert set_aside(folder, committed) == 1
    assert steps(folder.replayed) == [5]


def test_a_record_shorter_than_its_checkpoint_vouches_for_is_refused(folder):
    committed = sizes_at(folder, 4)
    folder.metrics.write_bytes(folder.metrics.read_bytes()[:-9])
    with pytest.raises(RecordsError, match=r"metrics.jsonl: holds \d+ bytes, and \d+ were on disk"):
        set_aside(folder, committed)
    folder.metrics.unlink()
    with pytest.raises(RecordsError, match=r"holds 0 bytes.*restart=true"):
        set_aside(folder, committed)


def test_damage_before_the_checkpoint_is_refused_by_line(folder):
    committed = sizes_at(folder, 4)
    content = folder.metrics.read_bytes()
    folder.metrics.write_bytes(content.replace(b"{", b"x", 1))
    with pytest.raises(RecordsError, match=r"metrics.jsonl:1: not JSON .*restart=true"):
        set_aside(folder, committed)


def test_equal_rows_compare_as_equal_whatever_the_clock_said(folder):
    set_aside(folder, sizes_at(folder, 2))
    append_jsonl(
        folder.metrics, [metric(3, seconds=9.0, mfu_datasheet=0.3), metric(4, seconds=9.5)]
    )
    append_jsonl(folder.evals, [evaluation(4)])
    report = compare(folder)
    assert report == ReplayReport(rows=3, differing=0, largest=0.0, first_step=None)
    assert str(report) == "3 rows were computed twice, with equal results"


def test_a_difference_is_found_measured_and_placed(folder):
    set_aside(folder, {})
    append_jsonl(folder.metrics, [metric(1), metric(2, loss=5.0), metric(3, lr=0.35), metric(4)])
    report = compare(folder)
    assert (report.rows, report.differing, report.first_step) == (4, 2, 2)
    assert report.largest == pytest.approx(2 / 3)
    assert "2 of 4 rows that were computed twice differ, first at step 2, at most by 0.667" in str(
        report
    )


def test_a_value_that_is_not_a_number_any_more_differs(folder):
    set_aside(folder, sizes_at(folder, 3))
    append_jsonl(folder.metrics, [metric(4, loss=None)])
    report = compare(folder)
    assert (report.rows, report.differing, report.largest) == (1, 1, 0.0)


def test_rows_that_were_not_computed_again_are_not_compared(folder):
    set_aside(folder, sizes_at(folder, 1))
    append_jsonl(folder.metrics, [metric(2)])
    assert compare(folder).rows == 1
    assert compare(folder).to_json() == {
        "rows": 1,
        "differing": 0,
        "largest": 0.0,
        "first_step": None,
    }


def test_a_row_set_aside_twice_is_compared_twice(folder):
    set_aside(folder, sizes_at(folder, 3))
    append_jsonl(folder.metrics, [metric(4)])
    set_aside(folder, sizes_at(folder, 3))
    append_jsonl(folder.metrics, [metric(4)])
    assert compare(folder).rows == 2


def test_rows_set_aside_that_cannot_be_read_are_not_compared(folder):
    set_aside(folder, sizes_at(folder, 2))
    append_jsonl(folder.metrics, [metric(step) for step in (3, 4)])
    with folder.replayed.open("ab") as file:
        file.write(b'{torn\n[3]\n{"step": 3}\n{"file": "metrics.jsonl", "step": [4]}\n')
    assert compare(folder).rows == 2
    assert compare(folder).differing == 0


def test_a_record_that_is_damaged_while_the_run_trains_is_named(folder):
    with folder.metrics.open("ab") as file:
        file.write(b"{torn\n")
    with pytest.raises(RecordsError, match=r"metrics.jsonl:5: not JSON .* with restart=true"):
        compare(folder)
