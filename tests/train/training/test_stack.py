"""A job of several replicas: each run's record is, in every bit, that of the run trained alone."""

import dataclasses
import gc
import weakref

import pytest
from faults.runner import starts

from tests.builders import planned
from tests.train.shared_runs import (
    assert_same_records,
    stopped_at_save,
    train_alone,
    train_job,
    with_machine,
    with_optimizer,
    with_steps,
)
from train.config.experiment import EvalConfig
from train.config.runtime import Compile, Dtype
from train.run_folder.run_folder import folder_of
from train.storage.records import read_json, read_jsonl
from train.training.opening import load_engine


def replicas(config):
    second = with_optimizer(config, lr=0.02, beta2=0.9, weight_decay=0.0)
    third = with_optimizer(config, beta1=0.8, eps=1e-6, grad_clip=0.3)
    return [config, dataclasses.replace(second, seed=1), dataclasses.replace(third, seed=2)]


@pytest.mark.parametrize(("dtype", "steps"), [(Dtype.fp32, 50), (Dtype.bf16, 12)])
def test_each_run_of_a_stack_is_in_bits_the_run_trained_alone(tmp_path, make, dtype, steps):
    configs = [with_machine(config, dtype=dtype) for config in replicas(make(steps=steps))]
    together = train_job(configs)
    alone = train_alone(configs, tmp_path / "alone")
    assert_same_records(together, alone)
    names = [folder.path.name for folder in together]
    for folder, each in zip(together, alone, strict=True):
        ((start,), (start_alone,)) = starts(folder), starts(each)
        assert start["stacked_with"] == [name for name in names if name != folder.path.name]
        assert "stacked_with" not in start_alone
        assert start["arithmetic"] == start_alone["arithmetic"]
        assert read_json(folder.result)["cost"]["stack"] == 3
        assert read_json(each.result)["cost"]["stack"] == 1
    losses = {read_json(folder.result)["row"]["loss"] for folder in together}
    assert len(losses) == 3  # the comparison would hold of three equal runs, too


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what the compiler imports
def test_a_compiled_stack_is_within_1e_5_of_the_runs_trained_alone_and_not_compiled(tmp_path, make):
    """Compiled code sums in another order for another number of replicas: 2.4e-6 here."""
    configs = [with_machine(config, log_every=1) for config in replicas(make(steps=50))]
    together = train_job([with_machine(config, compile=Compile.always) for config in configs])
    alone = train_alone(
        [with_machine(config, compile=Compile.never) for config in configs], tmp_path / "alone"
    )
    assert starts(together[0])[0]["arithmetic"]["compiled"] is True
    for pair in zip(together, alone, strict=True):
        losses = [[row["loss"] for row in read_jsonl(folder.metrics)] for folder in pair]
        assert len(losses[0]) == 50
        assert losses[0] == pytest.approx(losses[1], rel=0, abs=1e-5)


def test_an_evaluation_in_several_parts_has_the_bits_of_a_run_alone(tmp_path, make, monkeypatch):
    monkeypatch.setattr("train.engine.compute_policy.EVAL_TOKENS_AT_ONCE", 3 * 16)
    configs = replicas(make(steps=8, eval=EvalConfig(points=2, tokens=1_024)))
    together = train_job(configs)
    assert starts(together[0])[0]["arithmetic"]["eval_seqs"] == 3
    assert_same_records(together, train_alone(configs, tmp_path / "alone"))


def test_control_another_order_of_sums_in_one_evaluation_is_seen(tmp_path, make, monkeypatch):
    config = make(steps=8)
    a = train_job([config])
    monkeypatch.setattr("train.engine.compute_policy.EVAL_TOKENS_AT_ONCE", 3 * 16)
    b = train_alone([config], tmp_path / "alone")
    with pytest.raises(AssertionError, match="evals differ"):
        assert_same_records(a, b)


def test_time_is_divided_among_the_runs_and_flops_are_each_one_s_own(make):
    configs = replicas(make())
    folders = train_job(configs)
    for folder, config in zip(folders, configs, strict=True):
        cost = read_json(folder.result)["cost"]
        assert cost["flops"] == cost["flops_charged"] == planned(config).plan.flops_exact
        assert (cost["forked_from"], cost["fork_step"]) == (None, None)
    costs = [read_json(folder.result)["cost"] for folder in folders]
    steps = [cost["spent"]["train"] + cost["spent"]["data"] for cost in costs]
    assert steps == [pytest.approx(steps[0], abs=0.001)] * 3  # milliseconds are what is written
    assert [cost["seconds"] for cost in costs] == [pytest.approx(3 * steps[0], abs=0.01)] * 3


def test_the_time_of_those_that_ended_early_falls_to_those_that_go_on(make):
    configs = [with_optimizer(make(), lr=lr) for lr in (0.01, 1e30, 1e28)]
    costs = [folder.read_status()["cost"] for folder in train_job(configs)]
    steps = [cost["spent"]["train"] + cost["spent"]["data"] for cost in costs]
    assert steps[0] > 2 * steps[1]
    assert sum(steps) == pytest.approx(costs[0]["seconds"], abs=0.01)


# Runs that end early


@pytest.mark.parametrize("n_bad", [1, 3])
def test_a_replica_that_diverges_ends_for_its_own_reason_and_touches_no_neighbour(
    tmp_path, make, n_bad
):
    config = with_machine(make(eval=EvalConfig(points=0, tokens=1_024)), log_every=1)
    rates = {1: (0.01, 1e30, 0.02), 3: (1e25, 1e30, 1e28)}[n_bad]
    configs = [with_optimizer(config, lr=lr) for lr in rates]
    together = train_job(configs)
    assert [folder.state() for folder in together].count("diverged") == n_bad
    assert_same_records(together, train_alone(configs, tmp_path / "alone"))
    reason = together[1].read_status()["reason"]
    assert "(learning rate 1e+30, last finite loss" in reason
    assert together[1].read_status()["exit_code"] == 5
    (end,) = [row for row in read_jsonl(together[1].attempts) if row["event"] == "end"]
    assert (end["state"], end["cause"]) == ("diverged", "diverged")


def test_a_replica_that_ends_above_its_start_is_diverged_and_its_neighbours_completed(
    tmp_path, make
):
    configs = [with_optimizer(make(), lr=lr) for lr in (0.01, 3.0, 0.02)]
    together = train_job(configs)
    assert [each.state() for each in together] == ["completed", "diverged", "completed"]
    assert "above study.diverged_above=" in together[1].read_status()["reason"]
    assert_same_records(together, train_alone(configs, tmp_path / "alone"))


def test_a_run_that_diverged_keeps_no_memory_of_its_stack(make, monkeypatch):
    engines = []
    alive = []

    def load(*words, **more):
        gc.collect()
        alive.append(sum(engine() is not None for engine in engines))
        engine = load_engine(*words, **more)
        engines.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr("train.training.trainer.load_engine", load)
    longer = [with_optimizer(make(), lr=lr) for lr in (0.01, 1e30)]
    train_job([*longer, with_optimizer(with_steps(make(), 8), lr=0.02)])
    assert alive == [0, 0]


def test_a_diverged_run_starts_again_when_asked_and_the_completed_are_left_alone(make):
    configs = [with_optimizer(make(steps=8), lr=lr) for lr in (0.01, 1e30)]
    done, diverged = train_job(configs)
    before = done.result.read_bytes()
    train_job([dataclasses.replace(config, restart=True) for config in configs])
    assert done.result.read_bytes() == before
    assert len(starts(done)) == 1
    assert [row["attempt"] for row in starts(diverged)] == [2]
    assert diverged.state() == "diverged"
    assert (diverged.path / "archive" / "1" / "status.json").exists()


# How runs come together


def test_runs_that_stopped_at_unlike_steps_go_on_from_the_last_that_all_have(tmp_path, make):
    configs = replicas(make())
    for config, step in zip(configs, (14, 7, 14), strict=True):
        with stopped_at_save(config, step):
            train_job([config])
    together = train_job(configs)
    assert [starts(folder)[-1]["start_step"] for folder in together] == [7] * 3
    assert all("stacked_with" in starts(folder)[-1] for folder in together)
    alone = train_alone(configs, tmp_path / "alone")
    assert_same_records(together, alone)
    assert [read_json(folder.result)["attempts"] for folder in together] == [2] * 3
    replayed = [read_json(folder.result)["replayed"] for folder in together]
    assert [(each["rows"] > 0, each["differing"]) for each in replayed] == [
        (True, 0),
        (False, 0),
        (True, 0),
    ]


def test_a_run_that_cannot_go_back_to_the_others_goes_on_apart_and_loses_nothing(tmp_path, make):
    configs = replicas(make())[:2]
    for config, step in zip(configs, (14, 7), strict=True):
        with stopped_at_save(config, step):
            train_job([config])
    (folder_of(planned(configs[0])).checkpoints / "step_00000007" / "model.pt").unlink()
    with pytest.warns(UserWarning, match=r"from step 14, apart from its stack: no usable checkpoi"):
        together = train_job(configs)
    assert [starts(folder)[-1]["start_step"] for folder in together] == [14, 7]
    assert not any("stacked_with" in starts(folder)[-1] for folder in together)
    assert_same_records(together, train_alone(configs, tmp_path / "alone"))


def test_a_run_without_a_checkpoint_is_trained_in_a_stack_of_its_own(tmp_path, make):
    configs = replicas(make())
    for config in configs[:2]:
        with stopped_at_save(config, 7):
            train_job([config])
    together = train_job(configs)
    assert [starts(folder)[-1]["start_step"] for folder in together] == [7, 7, 0]
    assert [len(starts(folder)[-1].get("stacked_with", [])) for folder in together] == [1, 1, 0]
    assert_same_records(together, train_alone(configs, tmp_path / "alone"))


def test_runs_that_began_in_unlike_ways_go_on_each_in_its_own(tmp_path, make):
    """As a stack computes in one way, they are two; a stop changes no bit."""
    configs = replicas(make())[:2]
    begun = [with_machine(configs[0], micro_batch_seqs=4), configs[1]]
    for config in begun:
        with stopped_at_save(config, 7):
            train_job([config])
    together = train_job(configs)
    assert_same_records(together, train_alone(begun, tmp_path / "alone"))
    sizes = [starts(folder)[-1]["arithmetic"]["micro_batch_seqs"] for folder in together]
    assert sizes == [4, 8]
    assert not any("stacked_with" in starts(folder)[-1] for folder in together)


def test_runs_of_one_job_may_have_horizons_that_share_nothing(tmp_path, make):
    """Another seed at another horizon: no trunk of it is in the job."""
    config = with_machine(make(), trunks=True)
    configs = [config, with_steps(dataclasses.replace(config, seed=1), 12)]
    together = train_job(configs)
    assert "forked_from" not in starts(together[1])[0]
    assert_same_records(together, train_alone(configs, tmp_path / "alone"))
