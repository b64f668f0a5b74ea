"""The harness itself: what it injects strikes, and what it compares is really compared."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from faults.overrides import as_overrides
from faults.patches import At, Fail, Hold, Kill, Replace, Send, kill_after_step
from faults.runner import run_child
from faults.same_run import assert_equal_state, assert_same_run
from train.config.runtime import Compile
from train.errors import StorageError
from train.run_folder.checkpoint import load_newest, save_checkpoint
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_json, read_jsonl, write_json


@pytest.fixture
def copy(reference_run, tmp_path):
    """The reference run's folder, to be altered."""
    shutil.copytree(reference_run.path, tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_run_is_the_same_as_its_copy(reference_run, copy):
    assert_same_run(reference_run, copy)


def test_an_empty_run_is_not_the_same_as_itself(copy):
    copy.metrics.write_text("")
    with pytest.raises(AssertionError, match="is empty"):
        assert_same_run(copy, copy)


def test_a_missing_row_is_noticed_even_when_both_lack_it(copy):
    lines = copy.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    copy.metrics.write_text("".join(lines[:30] + lines[31:]), encoding="utf-8")
    with pytest.raises(AssertionError, match="holds steps"):
        assert_same_run(copy, copy)


def test_a_missing_or_repeated_evaluation_is_noticed(reference_run, copy):
    lines = copy.evals.read_text(encoding="utf-8").splitlines(keepends=True)
    copy.evals.write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(AssertionError, match="evals: "):
        assert_same_run(reference_run, copy)
    copy.evals.write_text("".join(lines[:1] + lines), encoding="utf-8")
    with pytest.raises(AssertionError, match="repeats"):
        assert_same_run(copy, copy)


@pytest.mark.parametrize("column", ["loss", "grad_norm"])
def test_one_differing_bit_is_noticed(reference_run, copy, column):
    value = read_jsonl(copy.metrics)[41][column]
    nearest = torch.nextafter(torch.tensor(value, dtype=torch.float64), torch.tensor(9e9).double())
    edit(copy.metrics, f'"{column}": {value!r}', f'"{column}": {nearest.item()!r}')
    with pytest.raises(AssertionError, match="metrics of step 42"):
        assert_same_run(reference_run, copy)


def test_a_clock_may_differ(reference_run, copy):
    value = read_jsonl(copy.metrics)[41]["tokens_per_second"]
    edit(copy.metrics, f'"tokens_per_second": {value!r}', '"tokens_per_second": 1.0')
    assert_same_run(reference_run, copy)


@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_one_changed_weight_or_moment_is_noticed(reference_run, copy, part):
    end = load_newest(copy.checkpoints)
    assert end is not None
    tensors = end.model if part == "model" else end.optimizer
    name = next(key for key, value in tensors.items() if value.dim() > 0)
    tensors[name].view(-1)[0] += 1e-6
    save_checkpoint(
        copy.checkpoints,
        end.step,
        model=end.model,
        optimizer=end.optimizer,
        state=end.state,
        keep=2,
    )
    with pytest.raises(AssertionError, match=rf"{part}\..* differs"):
        assert_same_run(reference_run, copy)


def test_a_run_that_is_not_completed_is_noticed(copy):
    copy.write_status("preempted", step=60)
    with pytest.raises(AssertionError, match="is preempted"):
        assert_same_run(copy, copy)


def test_a_differing_result_is_noticed(reference_run, copy):
    result = read_json(copy.result)
    result["row"]["loss_train"] += 1.0
    write_json(copy.result, result)
    with pytest.raises(AssertionError, match="result: "):
        assert_same_run(reference_run, copy)


def test_equal_numbers_of_other_types_are_not_equal_state():
    with pytest.raises(AssertionError):
        assert_equal_state("x", torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(AssertionError):
        assert_equal_state("x", torch.zeros(1), -torch.zeros(1))  # equal, not in bits
    nan = torch.tensor([float("nan")])
    assert_equal_state("x", nan, nan.clone())


def test_a_child_is_the_command_and_trains_the_same_bits(tiny, reference_run):
    outcome = run_child(tiny())
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout.startswith(f"{outcome.folder.path}: completed, validation loss ")
    assert outcome.folder.path.name == reference_run.path.name
    assert_same_run(reference_run, outcome.folder)


def test_a_users_mistake_ends_a_child_as_it_ends_the_command(tiny):
    config = tiny()
    words = [*as_overrides(config), "model.d_modle=32"]
    outcome = run_child(config, arguments=words)
    assert outcome.exit_code == 2
    assert "did you mean model.d_model" in outcome.stderr
    assert "Traceback" not in outcome.stderr


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
    refused = run_child(
        tiny(), At("train.engine.engine:Engine.advance", Fail(StorageError("no disk")))
    )
    assert (refused.exit_code, refused.stderr.splitlines()[-1]) == (3, "error: no disk")
    mentioned = At("train.engine.engine:Engine.advance", Kill(), mentions="nobody says this")
    assert run_child(tiny(), mentioned).exit_code == 0


def test_a_bug_in_a_child_is_not_taken_for_a_fault(tiny):
    outcome = run_child(tiny(), At("train.training.loop:no_such_function", Kill()))
    assert outcome.exit_code == 1
    assert "no_such_function" in outcome.stderr


def test_a_running_child_can_be_watched_and_signalled(tiny, tmp_path, started):
    hold = tmp_path / "hold"
    child = started(tiny(), At("train.engine.engine:Engine.advance", Hold(hold), call=5))
    child.wait_for(hold.exists)
    assert child.pid != os.getpid()
    assert os.getpgid(child.pid) == child.pid
    assert len(read_jsonl(child.folder.metrics)) == 4
    child.send(signal.SIGKILL)
    assert child.wait().exit_code == -signal.SIGKILL


def test_waiting_for_what_never_comes_fails(tiny, started):
    child = started(tiny(), At("train.engine.engine:Engine.advance", Kill()))
    with pytest.raises(AssertionError, match="the child ended first"):
        child.wait_for(lambda: False)
    hung = started(tiny(), At("train.engine.engine:Engine.advance", Hold(Path("/dev/null"))))
    with pytest.raises(AssertionError, match="hung"):
        hung.wait(seconds=0.5)


def test_a_child_sees_the_environment_of_its_test(tiny, monkeypatch):
    monkeypatch.setenv("WINDTUNNEL_A_TEST", "here")
    outcome = run_child(tiny(), _print_variable)
    assert outcome.stdout.splitlines()[0] == "here"


def _print_variable():
    print(os.environ["WINDTUNNEL_A_TEST"])  # noqa: T201


def test_a_signal_that_a_process_sends_itself_is_handled_at_once():
    caught = []
    before = signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
    try:
        Send(signal.SIGUSR1)()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught == [1]
