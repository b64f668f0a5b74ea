"""The rule by which a run with finite losses has diverged, and what it remembers."""

import json
import math

import pytest

from train.training.divergence import LossWatch


def watch(losses):
    made = LossWatch(total_steps=len(losses))
    for step, loss in enumerate(losses, start=1):
        made.observe(step, loss)
    return made


def test_the_end_is_the_mean_of_the_last_tenth():
    assert watch([9.0] * 18 + [1.0, 2.0]).end == 1.5
    assert watch([9.0, 8.0, 7.0]).end == 7.0  # at least one step
    assert math.isnan(LossWatch(total_steps=20).end)


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([5.0] + [4.0] * 19, False),
        ([5.0] * 20, False),
        ([5.0] * 18 + [5.04, 5.05], False),  # within one per cent
        ([5.0] * 18 + [5.06, 5.06], True),
        ([5.0] + [60.0] * 17 + [4.0, 4.0], False),  # a spike that came back
        ([5.0] + [4.0] * 17 + [60.0, 60.0], True),
    ],
)
def test_a_run_that_ends_above_its_start_has_diverged(losses, diverged):
    assert watch(losses).has_diverged(1.01) is diverged


def test_the_threshold_is_the_caller_s():
    assert watch([5.0] * 18 + [5.5, 5.5]).has_diverged(1.05)
    assert not watch([5.0] * 18 + [5.5, 5.5]).has_diverged(1.2)


def test_a_watch_without_losses_has_not_diverged():
    assert not LossWatch(total_steps=10).has_diverged(1.0)


def test_the_worst_spike_is_measured_from_the_lowest_loss_before_it():
    assert watch([5.0, 4.0, 2.0, 6.0, 3.0, 5.0]).max_ratio == 3.0
    assert watch([5.0, 4.0, 3.0]).max_ratio == 1.0
    assert watch([5.0, 0.0, 3.0]).max_ratio == 1.0  # nothing is a multiple of zero


def test_a_watch_goes_on_from_its_state_as_if_nothing_had_been():
    losses = [5.0, 7.25, 4.0, 1 / 3, 6.0, 0.1 + 0.2, 4.0, 3.0, 2.0, 1.0]
    whole = watch(losses)
    for cut in range(len(losses) + 1):
        first = LossWatch(total_steps=len(losses))
        for step, loss in enumerate(losses[:cut], start=1):
            first.observe(step, loss)
        state = json.loads(json.dumps(first.to_state(), allow_nan=False))
        second = LossWatch.from_state(state, total_steps=len(losses))
        for step, loss in enumerate(losses[cut:], start=cut + 1):
            second.observe(step, loss)
        assert second == whole


def test_the_facts_are_start_end_and_worst_spike():
    assert watch([5.0] * 9 + [2.5]).to_json() == {
        "loss_start": 5.0,
        "loss_end": 2.5,
        "max_loss_ratio": 1.0,
    }
