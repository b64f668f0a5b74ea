"""K4: SIGKILL between a row, its evaluation and its checkpoint, or in a row, loses none of them."""

import json

import pytest

from faults.conftest import STEPS
from faults.patches import At, Kill, kill_after_step
from faults.runner import killed, run_here, start_steps
from faults.same_run import assert_same_run
from train.errors import RecordsError
from train.storage.records import read_jsonl
from train.training import loop, recording


def test_k4_an_evaluation_whose_checkpoint_was_lost_comes_once(tiny, reference_run):
    config = tiny(machine__checkpoint_steps=5)  # step 15 is evaluated, logged and saved
    folder = killed(config, At("train.training.recording:save_checkpoint", Kill(), call=3))
    assert read_jsonl(folder.evals)[-1]["step"] == 15
    assert_same_run(reference_run, run_here(config))
    assert start_steps(folder) == [0, 10]


def test_k4_a_row_whose_evaluation_was_lost_comes_once(tiny, reference_run):
    config = tiny(machine__checkpoint_steps=5)
    folder = killed(config, At("train.training.loop:log_evaluation", Kill(), call=3))
    assert read_jsonl(folder.metrics)[-1]["step"] == 15
    assert read_jsonl(folder.evals)[-1]["step"] == 4
    assert_same_run(reference_run, run_here(config))


def save_then_evaluate():
    real = loop._evaluate

    def evaluate(runs, engine, clock):
        recording.save(runs[0], engine, clock)
        if engine.step == 15:
            Kill()()
        real(runs, engine, clock)

    loop._evaluate = evaluate


def test_k4_control_a_checkpoint_before_its_evaluation_loses_it_for_ever(tiny, reference_run):
    folder = killed(tiny(), save_then_evaluate)
    run_here(tiny())
    assert start_steps(folder) == [0, 15]
    assert [row["step"] for row in read_jsonl(folder.evals)] == [1, 4, STEPS]
    with pytest.raises(AssertionError, match="evals: 4 rows against 3"):
        assert_same_run(reference_run, folder)


def tear_last_row(path):
    *_, last = path.read_bytes().splitlines(keepends=True)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - len(last) // 2)


@pytest.mark.parametrize("name", ["metrics", "evals"])
def test_k4_a_torn_row_is_written_again(tiny, reference_run, name):
    folder = killed(tiny(), kill_after_step(15))  # the evaluation of 15 is beyond checkpoint 14
    tear_last_row(getattr(folder, name))
    assert_same_run(reference_run, run_here(tiny()))


def append_blindly(path, rows, *, sync=False):
    del sync
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_k4_control_a_row_appended_to_a_torn_one_spoils_the_record(tiny, monkeypatch):
    folder = killed(tiny(), kill_after_step(10))
    tear_last_row(folder.metrics)
    monkeypatch.setattr("train.training.resume.set_aside", lambda folder, sizes: 0)
    monkeypatch.setattr("train.training.recording.append_jsonl", append_blindly)
    with pytest.raises(RecordsError, match=r"metrics\.jsonl"):
        run_here(tiny())
