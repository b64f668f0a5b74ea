"""What a plan costs: bytes by hand, seconds by timing."""

from collections.abc import Callable

import pytest

from train.config.experiment import BudgetConfig, ModelConfig
from train.config.runtime import AttentionKernel, Dtype, MachineConfig
from train.config.schema import Config
from train.engine.compute_policy import DTYPES
from train.plan.planning import PlannedRun, plan_run
from train.plan.shape import ModelShape
from train.study import dry_run as pricing
from train.study.dry_run import disk_bytes, memory_bytes, seconds_per_run

MakeConfig = Callable[..., Config]

TOTAL = 2 * 12 * 32**2 + 2 * 64 * 32 + 2 * 96 + 32  # blocks, embedding and head, norms
WINDOW = 4 * 32 * (2 * (16 * 32 + 3 * 128) + 3 * 64)  # activations of 32 tokens
SCORES = 4 * 32 * 2 * (2 * 2 * 32)  # of plain attention


def planned(config: Config) -> PlannedRun:
    return PlannedRun(overrides=[], config=config, plan=plan_run(config))


def test_memory_is_four_floats_a_parameter_and_the_activations(make_config: MakeConfig) -> None:
    run = planned(make_config(machine=MachineConfig(attention=AttentionKernel.sdpa)))
    assert run.plan.params.total == TOTAL
    assert memory_bytes(run.config, run.plan) == 16 * TOTAL + 8 * WINDOW
    small = planned(
        make_config(machine=MachineConfig(attention=AttentionKernel.sdpa, micro_batch_seqs=2))
    )
    assert memory_bytes(small.config, small.plan) == 16 * TOTAL + 2 * WINDOW


@pytest.mark.parametrize("asked", [AttentionKernel.auto, AttentionKernel.plain])
def test_memory_holds_the_scores_of_attention_that_may_be_plain(
    make_config: MakeConfig, asked: AttentionKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(make_config(machine=MachineConfig(attention=asked)))
    assert memory_bytes(run.config, run.plan) == 16 * TOTAL + 8 * (WINDOW + SCORES)
    if asked is AttentionKernel.auto:
        monkeypatch.setattr(pricing, "LONGEST_PLAIN", 31)
        assert memory_bytes(run.config, run.plan) == 16 * TOTAL + 8 * WINDOW


def test_disk_is_three_floats_a_parameter_for_one_checkpoint_more_than_kept(
    make_config: MakeConfig,
) -> None:
    run = planned(make_config(machine=MachineConfig(checkpoint_keep=3)))
    assert disk_bytes(run.config, run.plan) == 12 * TOTAL * 4


def test_seconds_grow_with_the_steps_of_a_shape(make_config: MakeConfig) -> None:
    runs = [planned(make_config(budget=BudgetConfig(tokens=256 * n))) for n in (40, 400)]
    seconds = seconds_per_run(runs)
    short, long = (seconds[run.plan.run_id] for run in runs)
    assert 0 < short < 60
    # 3 evaluations of 1,024 tokens, forward only, are worth 4 steps of 256
    assert long == pytest.approx(404 / 44 * short)  # one shape is timed once


def test_every_shape_is_timed_once_smallest_first_and_long_ones_are_priced_by_rate(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []

    def fake(shape: ModelShape, *words: object, batch_seqs: int, schedule: object) -> float:
        timed.append(shape.d_model)
        assert batch_seqs == 8
        return 3.0

    monkeypatch.setattr(pricing, "seconds_per_step", fake)
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


def test_a_swept_rate_does_not_time_the_shape_again(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(
        pricing, "seconds_per_step", lambda *words, **more: calls.append(words) or 0.5
    )
    runs = [planned(make_config(seed=seed)) for seed in range(3)]
    assert set(seconds_per_run(runs).values()) == {22.0}
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [Dtype.fp32, Dtype.bf16])
def test_the_peak_that_prices_the_first_shape_is_of_the_dtype_that_it_computes_in(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, dtype: Dtype
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        pricing, "measure_peak_flops", lambda compute, dtype: asked.append(dtype) or 1.0
    )
    run = planned(make_config(machine=MachineConfig(dtype=dtype)))
    flops = run.plan.token_flops.train * 256
    # at 1 FLOP a second no step is taken
    assert seconds_per_run([run])[run.plan.run_id] == pytest.approx(44 * flops / 0.3)
    assert asked == [DTYPES[dtype]]
