"""O1 and O2: out of memory, at the first step or later.

The test raises the allocator's error above a number of windows; on CUDA the allocator does.
"""

import dataclasses
import itertools
import warnings

import pytest
import torch

from faults.damage import names, step_name
from faults.runner import ends, run_folder, run_here, start_steps, starts
from faults.same_run import assert_same_run
from faults.small_memory import CPU_FULL, CUDA_FULL, Memory
from faults.spoil import replace_step
from train.engine.evaluate import evaluate
from train.errors import DeviceMemoryError
from train.storage.records import read_json, read_jsonl

TOLERANCE = 1e-5
"""Between the losses of micro-batches and of whole ones, over all 60 steps."""


def micro_batches(folder):
    return [row["arithmetic"]["micro_batch_seqs"] for row in starts(folder)]


def causes(folder):
    return [row["cause"] for row in ends(folder)]


def losses(folder):
    return [row["loss"] for row in read_jsonl(folder.metrics)]


def run_halving(config):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = run_here(config)
    return folder, "\n".join(str(warning.message) for warning in caught)


def test_o1_a_micro_batch_that_does_not_fit_is_halved_and_the_batch_is_not(
    tiny, monkeypatch, reference_run
):
    tried, memory = [8, 4, 2], Memory({1: 3})
    replace_step(monkeypatch, memory)
    folder, messages = run_halving(tiny())
    for windows, half in itertools.pairwise(tried):
        assert f"{windows} windows at a time do not fit the memory" in messages
        assert f"going on from the last checkpoint with {half}, the batch unchanged" in messages
    assert micro_batches(folder) == tried
    assert causes(folder) == ["out_of_memory"] * (len(tried) - 1) + [None]
    assert set(map(tuple, memory.batches[len(tried) - 1 :])) == {(tried[-1],) * (8 // tried[-1])}
    row, whole = (read_json(x.result)["row"] for x in (folder, reference_run))
    assert (row["batch_tokens"], row["tokens"]) == (whole["batch_tokens"], whole["tokens"])
    assert losses(folder) == pytest.approx(losses(reference_run), abs=TOLERANCE)
    assert row["loss"] == pytest.approx(whole["loss"], abs=TOLERANCE)


@pytest.mark.parametrize("error", [CPU_FULL, MemoryError()])
def test_o1_the_cpu_s_allocator_is_understood_as_well(tiny, monkeypatch, error):
    replace_step(monkeypatch, Memory({1: 4}, error=error))
    folder, _ = run_halving(tiny(budget__tokens=7 * 256))
    assert micro_batches(folder) == [8, 4]


def test_o1_control_another_error_of_torch_is_not_taken_for_it(tiny, monkeypatch):
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    replace_step(monkeypatch, Memory({1: 4}, error=error))
    config = tiny()
    with pytest.raises(RuntimeError, match="shapes"):
        run_here(config)
    assert causes(run_folder(config)) == ["bug"]


def test_o2_the_run_goes_on_from_its_checkpoint_as_if_nothing_had_failed(tiny, monkeypatch):
    """In bits what a run gives that was stopped there and went on with half by request."""
    for windows in (4, 2):
        clean = tiny(study__name="clean", machine__micro_batch_seqs=windows)
        monkeypatch.setattr("train.engine.compute_policy.EVAL_TOKENS_AT_ONCE", windows * 32)
        if windows == 4:
            interrupt(clean, monkeypatch, Memory({1: 8}))
        else:
            run_halving(clean)
    # 4 of 8 from the start; at step 30 the second of two micro-batches fails, and 2 of 8 fit
    replace_step(monkeypatch, Memory({1: 4, 30: 2}))
    folder, messages = run_halving(tiny())
    assert "4 windows at a time do not fit the memory" in messages
    assert "going on from the last checkpoint with 2, the batch unchanged" in messages
    assert micro_batches(folder) == [8, 4, 2]
    assert start_steps(folder) == [0, 0, 28]
    assert_same_run(run_folder(clean), folder)


def test_o2_an_evaluation_that_does_not_fit_is_done_in_smaller_parts(
    tiny, monkeypatch, reference_run
):
    def limited(engine):
        if max(len(windows_BT) for windows_BT in engine.batches.validation) > 4:
            raise CUDA_FULL
        return evaluate(engine)

    monkeypatch.setattr("train.training.loop.evaluate", limited)
    folder, _ = run_halving(tiny())
    assert micro_batches(folder) == [8, 4]
    row, whole = (read_json(x.result)["row"] for x in (folder, reference_run))
    assert row["loss"] == pytest.approx(whole["loss"], abs=TOLERANCE)


class RetriedInPlace(Memory):
    """What is tempting: try the same step again with half, upon the gradients that are there."""

    def __call__(self, engine):
        try:
            super().__call__(engine)
        except torch.OutOfMemoryError:
            half = engine.policy.micro_batch_seqs // 2
            engine.policy = dataclasses.replace(engine.policy, micro_batch_seqs=half)
            copy, torch._foreach_copy_ = torch._foreach_copy_, torch._foreach_add_
            super().__call__(engine)
            torch._foreach_copy_ = copy


def test_o2_control_tried_again_in_place_a_partial_gradient_poisons_the_update(
    tiny, monkeypatch, reference_run
):
    replace_step(monkeypatch, RetriedInPlace({1: 4, 30: 2}))
    folder = run_here(tiny(machine__micro_batch_seqs=4))
    assert folder.state() == "completed"
    assert losses(folder)[:29] == pytest.approx(losses(reference_run)[:29], abs=TOLERANCE)
    assert losses(folder)[30:] != pytest.approx(losses(reference_run)[30:], abs=100 * TOLERANCE)


def test_o2_below_one_window_the_run_fails_with_advice(tiny, monkeypatch, reference_run):
    config = tiny()
    with monkeypatch.context() as patched:
        replace_step(patched, Memory({1: 8, 23: 0}))
        with pytest.raises(DeviceMemoryError) as refused:
            run_halving(config)
    assert refused.value.exit_code == 2
    for advice in ("one window of 32 tokens", "Tried to allocate", "a smaller model", "workers"):
        assert advice in str(refused.value)
    folder = run_folder(config)
    assert micro_batches(folder) == [8, 4, 2, 1]
    assert causes(folder) == ["out_of_memory"] * 4
    assert folder.state() == "failed"
    assert names(folder.checkpoints) == [step_name(14), step_name(21)]
    run_here(config)  # on a device with more room, as a start that was never tried before
    assert start_steps(folder)[-1] == 21
    assert_same_run(reference_run, folder)


def test_o2_a_later_start_keeps_the_micro_batch_that_fitted(tiny, monkeypatch):
    """What a device has free at a start must not decide how a run's sums are rounded."""
    config = tiny()
    interrupt(config, monkeypatch, Memory({1: 4}))
    folder = run_here(config)
    assert micro_batches(folder) == [8, 4, 4]
    replace_step(monkeypatch, Memory({1: 4}))
    undisturbed, _ = run_halving(tiny(study__name="undisturbed"))
    assert_same_run(undisturbed, folder)


def test_o2_control_chosen_anew_it_would_be_rounded_otherwise(tiny, monkeypatch):
    config = tiny()
    interrupt(config, monkeypatch, Memory({1: 4}))

    monkeypatch.setattr("train.training.opening.recorded_policy", lambda run, compute: None)
    folder, messages = run_halving(config)
    assert micro_batches(folder) == [8, 4, 8]
    assert "rows that were computed twice differ" in messages


class Interruption(Exception):
    """Some error in the middle of a run."""


def interrupt(config, monkeypatch, memory):
    def step(engine):
        if memory.updates == 30:
            raise Interruption
        memory(engine)

    with monkeypatch.context() as patched, pytest.raises(Interruption):  # noqa: PT012
        replace_step(patched, step)
        run_halving(config)


@pytest.fixture
def little_memory():
    """A fraction of the device, in which the allocator itself runs out."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.02)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
def test_o1_on_a_real_device_the_run_finds_what_fits(tiny, little_memory):
    folder, _ = run_halving(
        tiny(
            machine__micro_batch_seqs=512,
            model__d_model=256,
            data__seq_len=256,
            optimizer__batch_tokens=512 * 256,
            budget__tokens=2 * 512 * 256,
            data__allow_repeat=True,
        )
    )
    assert folder.state() == "completed"
    assert len(micro_batches(folder)) > 1
