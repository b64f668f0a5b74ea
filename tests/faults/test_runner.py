"""The harness itself: what it injects strikes, and what it compares is really compared."""

import json
import re
import shutil
import signal
from math import nextafter
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from faults.overrides import as_overrides
from faults.patches import Fail, Hold, Kill, Replace, at_step, kill_after_step
from faults.runner import run_child
from faults.same_run import assert_equal_state, assert_same_run
from train.config.runtime import Compile
from train.errors import StorageError
from train.run_folder.checkpoint import load_newest, save_checkpoint
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_jsonl


@pytest.fixture
def copy(reference_run, tmp_path):
    shutil.copytree(reference_run.path, tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


def edited(path, change):
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(change(lines)), encoding="utf-8")


def other_bit(column):
    """The next number after the one in the row of step 42."""

    def change(lines):
        value = json.loads(lines[41])[column]
        new = lines[41].replace(f'"{column}": {value!r}', f'"{column}": {nextafter(value, 9e9)!r}')
        assert new != lines[41]
        return [*lines[:41], new, *lines[42:]]

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("metrics.jsonl", lambda lines: [], "is empty"),
        # also when both lack it
        ("metrics.jsonl", lambda lines: lines[:30] + lines[31:], "holds steps"),
        ("metrics.jsonl", other_bit("loss"), "metrics of step 42"),
        ("metrics.jsonl", other_bit("grad_norm"), "metrics of step 42"),
        ("evals.jsonl", lambda lines: lines[1:], "evals: "),
        ("evals.jsonl", lambda lines: lines[:1] + lines, "repeats"),
        (
            "status.json",
            lambda lines: [line.replace("completed", "preempted") for line in lines],
            "is preempted",
        ),
        (
            "result.json",
            lambda lines: [line.replace('"loss_train": ', '"loss_train": 1') for line in lines],
            "result: ",
        ),
    ],
)
def test_every_difference_is_noticed(reference_run, copy, name, change, message):
    assert_same_run(reference_run, copy)
    edited(copy.path / name, change)
    with pytest.raises(AssertionError, match=message):
        assert_same_run(copy if message == "holds steps" else reference_run, copy)


def test_a_clock_may_differ(reference_run, copy):
    edited(
        copy.metrics, lambda lines: [re.sub(r'(per_second": )[^,]+', r"\g<1>1", x) for x in lines]
    )
    assert_same_run(reference_run, copy)


@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_one_changed_weight_or_moment_is_noticed(reference_run, copy, part):
    end = load_newest(copy.checkpoints)
    tensors = getattr(end, part)
    name = next(key for key, value in tensors.items() if value.dim() > 0)
    tensors[name].view(-1)[0] += 1e-6
    parts = {"model": end.model, "optimizer": end.optimizer, "state": end.state}
    save_checkpoint(copy.checkpoints, end.step, **parts, keep=2)
    with pytest.raises(AssertionError, match=rf"{part}\..* differs"):
        assert_same_run(reference_run, copy)


def test_equal_numbers_of_other_types_are_not_equal_state():
    with pytest.raises(AssertionError):
        assert_equal_state("x", torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(AssertionError):
        assert_equal_state("x", torch.zeros(1), -torch.zeros(1))  # equal, not in bits
    nan = torch.tensor([float("nan")])
    assert_equal_state("x", nan, nan.clone())


def test_every_setting_survives_the_command_line(tiny):
    question = "it's 50%, {a: b} = [c]"
    config = tiny(study__question=question, data__files=["a b.txt", "c,d"], optimizer__eps=1e-9)
    parser = OverridesParser.create()
    read = {word.partition("=")[0]: parser.parse_override(word) for word in as_overrides(config)}
    assert read["study.question"].value() == question
    assert read["data.files"].value() == ["a b.txt", "c,d"]
    assert read["optimizer.eps"].value() == 1e-9
    assert read["data.source"].value() == "synthetic"
    assert read["schedule.warmup_fraction"].value() is None  # 0.05 in configs/schedule/cosine.yaml


def test_a_child_trains_the_very_config(tiny):
    config = tiny(study__question="why?", machine__compile=Compile.always, optimizer__eps=1e-9)
    outcome = run_child(config, Replace("train.__main__:train_runs", print_config))
    assert outcome.stdout.splitlines()[0] == str(config)


def print_config(runs, *, startup):
    del startup
    print(runs[0].config)  # noqa: T201


def test_faults_strike_where_they_are_told(tiny):
    killed = run_child(tiny(), kill_after_step(3))
    assert killed.exit_code == -signal.SIGKILL
    assert [row["step"] for row in read_jsonl(killed.folder.metrics)] == [1, 2, 3]
    refused = run_child(tiny(), at_step(1, Fail(StorageError("no disk"))))
    assert (refused.exit_code, refused.stderr.splitlines()[-1]) == (3, "error: no disk")
    mentioned = at_step(1, Kill(), mentions="nobody says this")
    assert run_child(tiny(), mentioned).exit_code == 0


def test_waiting_for_what_never_comes_fails(tiny, started):
    child = started(tiny(), at_step(1, Kill()))
    with pytest.raises(AssertionError, match="the child ended first"):
        child.wait_for(lambda: False)
    hung = started(tiny(), at_step(1, Hold(Path("/dev/null"))))
    with pytest.raises(AssertionError, match="hung"):
        hung.wait(seconds=0.5)
