"""N4 to N6: runs whose losses stay finite, and a diverged run that is started again.

At a learning rate of 3, a thousand times the rule's, the run recovers; at 30 it does not.
"""

import pytest

from faults.damage import contents, names, step_name
from faults.runner import run_child, run_folder, run_here, start_steps
from faults.same_run import assert_same_run
from faults.spoil import SpoiltStep, gradient_times, loss_times, replace_step
from train.errors import DivergedError
from train.storage.records import read_json, read_jsonl
from train.training.divergence import LossWatch


def test_n4_a_spike_that_recovers_is_kept_and_its_height_is_on_record(tiny):
    folder = run_here(tiny(optimizer__lr=3.0))
    result = read_json(folder.result)
    losses = [row["loss"] for row in read_jsonl(folder.metrics)]
    assert result["state"] == folder.state() == "completed"
    assert max(losses) > 10 * losses[0]  # a spike indeed
    ratios = [loss / min(losses[:i]) for i, loss in enumerate(losses) if i]
    assert result["divergence"]["max_loss_ratio"] == max(ratios)
    assert result["divergence"]["loss_end"] < losses[0]


def test_n4_one_high_batch_is_on_record_and_not_taken_for_divergence(tiny, monkeypatch):
    replace_step(monkeypatch, SpoiltStep(45, loss_times(3.0)))
    folder = run_here(tiny())
    assert folder.state() == "completed"
    assert read_json(folder.result)["divergence"]["max_loss_ratio"] > 3.0


def test_n4_control_were_the_highest_loss_judged_the_run_would_be_lost(tiny, monkeypatch):
    monkeypatch.setattr(LossWatch, "has_diverged", lambda watch, above: watch.max_ratio > above)
    with pytest.raises(DivergedError):
        run_here(tiny(optimizer__lr=3.0))


def test_n5_a_run_that_ends_above_its_start_is_diverged_by_the_stated_rule(tiny):
    config = tiny(optimizer__lr=30.0)
    with pytest.raises(DivergedError) as diverged:
        run_here(config)
    folder = run_folder(config)
    losses = [row["loss"] for row in read_jsonl(folder.metrics)]
    end = sum(losses[-6:]) / 6
    assert str(diverged.value) == folder.read_status()["reason"]
    assert str(diverged.value).startswith(
        f"step 60: the training loss ends at {end:.6g}, the mean of the last tenth, above "
        f"study.diverged_above=1.01 times its start of {losses[0]:.6g} (learning rate 30)"
    )
    assert folder.state() == "diverged"
    assert not folder.result.exists()


@pytest.mark.parametrize(("above", "state"), [(0.8, "diverged"), (0.9, "completed")])
def test_n5_the_threshold_is_the_study_s_and_is_in_the_result(tiny, reference_run, above, state):
    """The undisturbed run ends at 0.854 of its start."""
    config = tiny(study__diverged_above=above)
    if state == "diverged":
        with pytest.raises(DivergedError, match=rf"above study\.diverged_above={above} times"):
            run_here(config)
        assert run_folder(config).state() == "diverged"
    else:
        folder = run_here(config)
        assert read_json(folder.result)["divergence"]["diverged_above"] == above
        assert_same_run(reference_run, folder)  # plumbing: it judges, and changes nothing


def test_n5_control_without_the_rule_the_analysis_gets_a_loss_of_hundreds(tiny, monkeypatch):
    monkeypatch.setattr("train.training.loop.refuse_diverged_end", lambda run: None)
    folder = run_here(tiny(optimizer__lr=30.0))
    assert folder.state() == "completed"
    assert read_json(folder.result)["row"]["loss"] > 100


def diverged_at_30(config, monkeypatch):
    """By a fault that does not come again, so that another start would run through."""
    with monkeypatch.context() as patched:
        replace_step(patched, SpoiltStep(30, gradient_times(float("inf"))))
        try:
            run_here(config)
        except DivergedError:
            return run_folder(config)
    raise AssertionError("the run did not diverge")


def test_n6_a_diverged_run_is_left_alone_until_a_restart_is_asked_for(
    tiny, monkeypatch, reference_run
):
    config = tiny()
    folder = diverged_at_30(config, monkeypatch)
    before = contents(folder.path)
    outcome = run_child(config)
    assert outcome.exit_code == 0
    assert "diverged" in outcome.stdout
    assert contents(folder.path) | {"run.lock": b""} == before | {"run.lock": b""}
    run_here(tiny(restart=True))
    assert start_steps(folder) == [0]
    assert_same_run(reference_run, folder)
    archived = contents(folder.path / "archive" / "1")
    for name in ("status.json", "metrics.jsonl", f"checkpoints/{step_name(28)}/model.pt"):
        assert archived[name] == before[name]
    assert names(folder.path / "archive") == ["1"]


def test_n6_control_taken_for_a_failure_it_would_be_trained_again(tiny, monkeypatch):
    config = tiny()
    folder = diverged_at_30(config, monkeypatch)
    monkeypatch.setattr("train.training.trainer.FINISHED_STATES", ("completed",))
    run_here(config)
    assert start_steps(folder) == [0, 28]
    assert folder.state() == "completed"  # and what diverged is among the losses of a fit
