"""A plan's price: bytes by hand, seconds by timing, and which runs share a job."""

from functools import partial

import pytest

from tests.train.planned_runs import planned, wsd_run
from train.config.experiment import BudgetConfig, ModelConfig
from train.config.runtime import AttentionKernel, Dtype, MachineConfig
from train.engine.compute_policy import DTYPES
from train.plan.grouping import group_runs
from train.study import dry_run
from train.study.dry_run import disk_bytes, job_lines, memory_bytes, print_plan, seconds_per_run

TOTAL = 2 * 12 * 32**2 + 2 * 64 * 32 + 2 * 96 + 32  # blocks, embedding and head, norms
WINDOW = 4 * 32 * (2 * (16 * 32 + 3 * 128) + 3 * 64)  # activations of 32 tokens
SCORES = 4 * 32 * 2 * (2 * 2 * 32)  # of plain attention


@pytest.fixture
def run_with(make_config):
    """Return a maker of a run of 40 steps by settings of its machine."""
    return lambda **machine: planned(make_config(machine=MachineConfig(**machine)))


@pytest.fixture
def runs(make_config):
    """Two replicas of two horizons, 100 and 50 steps, and one run of 10 steps."""
    run_of = partial(wsd_run, make_config, machine=MachineConfig(stack=2, workers=1))
    pairs = ((0, 100), (1, 100), (0, 50), (1, 50), (5, 10))
    return [run_of(steps, seed=seed) for seed, steps in pairs]


def groups_of(runs):
    return group_runs(runs, best_stack=lambda run, n: n)


def test_memory_is_four_floats_a_parameter_and_the_activations(run_with):
    run = run_with(attention=AttentionKernel.sdpa)
    assert run.plan.params.total == TOTAL
    assert memory_bytes(run) == 16 * TOTAL + 8 * WINDOW
    small = run_with(attention=AttentionKernel.sdpa, micro_batch_seqs=2)
    assert memory_bytes(small) == 16 * TOTAL + 2 * WINDOW


@pytest.mark.parametrize("asked", [AttentionKernel.auto, AttentionKernel.plain])
def test_memory_holds_the_scores_of_attention_that_may_be_plain(run_with, asked, monkeypatch):
    run = run_with(attention=asked)
    assert memory_bytes(run) == 16 * TOTAL + 8 * (WINDOW + SCORES)
    if asked is AttentionKernel.auto:
        monkeypatch.setattr(dry_run, "LONGEST_PLAIN", 31)
        assert memory_bytes(run) == 16 * TOTAL + 8 * WINDOW


def test_disk_is_three_floats_a_parameter_for_one_checkpoint_more_than_kept(run_with):
    assert disk_bytes(run_with(checkpoint_keep=3)) == 12 * TOTAL * 4


def test_seconds_grow_with_the_steps_of_a_shape(make_config):
    runs = [planned(make_config(budget=BudgetConfig(tokens=256 * n))) for n in (40, 400)]
    seconds = seconds_per_run(runs)
    short, long = (seconds[run.plan.run_id] for run in runs)
    assert 0 < short < 60
    # 3 evaluations of 1,024 tokens, forward only, are worth 4 steps of 256
    assert long == pytest.approx(404 / 44 * short)  # one shape is timed once


def test_every_shape_is_timed_once_smallest_first_and_long_ones_are_priced_by_rate(
    make_config, monkeypatch
):
    timed = []

    def fake(shape, *words, batch_seqs, schedule):
        timed.append(shape.d_model)
        assert batch_seqs == 8
        return 3.0

    monkeypatch.setattr(dry_run, "seconds_per_step", fake)
    runs = [
        planned(make_config(model=ModelConfig(d_model=width), seed=seed))
        for width in (128, 32)
        for seed in (0, 1)
    ]
    seconds = seconds_per_run(runs)
    assert timed == [32]
    assert len(seconds) == 4
    large, small = runs[0].plan, runs[2].plan
    assert seconds[small.run_id] == 3.0 * 44
    # more than 2 s a step by the small one's rate, so it is not timed
    ratio = large.token_flops.train / small.token_flops.train
    assert seconds[large.run_id] == pytest.approx(3.0 * ratio * 44)


@pytest.mark.parametrize("dtype", [Dtype.fp32, Dtype.bf16])
def test_the_peak_that_prices_the_first_shape_is_of_the_dtype_that_it_computes_in(
    run_with, monkeypatch, dtype
):
    asked = []
    monkeypatch.setattr(
        dry_run, "measure_peak_flops", lambda compute, dtype: asked.append(dtype) or 1.0
    )
    run = run_with(dtype=dtype)
    flops = run.plan.token_flops.train * 256
    # at 1 FLOP a second no step is taken
    assert seconds_per_run([run])[run.plan.run_id] == pytest.approx(44 * flops / 0.3)
    assert asked == [DTYPES[dtype]]


def test_jobs_of_several_runs_are_listed_with_what_they_compute(runs):
    per_step = runs[0].plan.flops_exact // 100
    assert job_lines(groups_of(runs)) == [
        f"to train: jobs 2, runs 5; C of all runs {310 * per_step:.4g} FLOPs exact, computed "
        f"{230 * per_step:.4g} (74.2%; what runs share counts once)",
        f"  2 x 2 horizons: {runs[0].plan.run_id} and 3 more, computed {220 * per_step:.4g} FLOPs "
        f"of {300 * per_step:.4g}",
    ]
    (line,) = job_lines(groups_of(runs[4:]))
    assert line.startswith("to train: jobs 1, runs 1; C of all runs ")
    assert line.endswith("(100.0%; what runs share counts once)")
    assert job_lines([]) == []


def test_the_plan_s_time_counts_shared_steps_once(runs, monkeypatch, capsys):
    monkeypatch.setattr(
        dry_run,
        "seconds_per_run",
        lambda runs: {run.plan.run_id: float(run.plan.steps) for run in runs},
    )
    for groups, left in ((groups_of(runs), "4 min"), ([], "0 s")):
        print_plan(runs, groups)
        printed = capsys.readouterr().out
        line = f"; {left} of work to do (5 min for all, each alone), at least {left} on the clock;"
        assert line in printed
        assert ("to train: jobs 2, runs 5;" in printed) == bool(groups)
        assert all(run.plan.run_id in printed for run in runs)
        assert "data tiny: not prepared yet; its length is checked when it is" in printed
