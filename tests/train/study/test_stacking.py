"""How many replicas a launch stacks: by timings, by memory, and never where a timing fails."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from train.config.runtime import MachineConfig
from train.config.schema import Config
from train.engine.device import DEVICE_SHARERS, ComputeDevice
from train.plan.planning import PlannedRun
from train.plan.validate import validate
from train.study import stacking
from train.study.stacking import LONGEST_ALONE, STATE_BYTES, STATE_SHARE, best_stack

MakeConfig = Callable[..., Config]


@pytest.fixture
def run(make_config: MakeConfig) -> PlannedRun:
    config = make_config()
    return PlannedRun(overrides=[], config=config, plan=validate(config))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], list[int]]:
    """Let steps of so many replicas take so long; a time of 0 is a full memory."""

    def let(seconds: dict[int, float]) -> list[int]:
        asked: list[int] = []

        def seconds_per_step(*facts: object, n_replicas: int, **more: object) -> float:
            asked.append(n_replicas)
            if not seconds[n_replicas]:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return seconds[n_replicas]

        stacking._best.cache_clear()
        monkeypatch.setattr(stacking, "seconds_per_step", seconds_per_step)
        return asked

    return let


def device(monkeypatch: pytest.MonkeyPatch, budget: int, sharers: str | None = None) -> None:
    """Let the device have so much memory, divided among so many jobs."""

    class Device(ComputeDevice):
        def memory_budget(self) -> int:
            return budget // self.sharers

    slot = {} if sharers is None else {DEVICE_SHARERS: sharers}
    monkeypatch.setattr(stacking, "job_slots", lambda machine: [slot])
    monkeypatch.setattr(
        stacking, "select_device", lambda machine: Device(torch.device("cpu"), "device")
    )


@pytest.mark.parametrize(
    ("seconds", "n", "best"),
    [
        ({1: 0.01, 8: 0.02, 4: 0.02, 2: 0.02}, 8, 8),
        ({1: 0.01, 8: 0.08, 4: 0.02, 2: 0.015}, 8, 4),
        ({1: 0.01, 5: 0.06, 3: 0.02, 2: 0.019}, 5, 3),
        ({1: 0.01, 2: 0.0195}, 2, 1),  # a gain within what timings are off by
        ({1: LONGEST_ALONE * 1.01}, 8, 1),
    ],
)
def test_the_fastest_per_run_is_taken(
    run: PlannedRun,
    timed: Callable[[dict[int, float]], list[int]],
    seconds: dict[int, float],
    n: int,
    best: int,
) -> None:
    asked = timed(seconds)
    assert best_stack(run, n) == best
    assert asked == list(seconds)
    assert best_stack(replace(run, overrides=["seed=1"]), n) == best  # of the same shape and batch
    assert asked == list(seconds)


def test_a_stack_that_does_not_fit_is_none(
    run: PlannedRun, timed: Callable[[dict[int, float]], list[int]]
) -> None:
    timed({1: 0.01, 8: 0.0, 4: 0.02, 2: 0.02})
    assert best_stack(run, 8) == 4
    timed({1: 0.0})
    assert best_stack(run, 8) == 1


def test_another_error_of_a_timing_is_not_hidden(
    run: PlannedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*facts: object, **more: object) -> float:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    stacking._best.cache_clear()
    monkeypatch.setattr(stacking, "seconds_per_step", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        best_stack(run, 8)


@pytest.mark.parametrize(("sharers", "best"), [(None, 8), ("1", 8), ("2", 4), ("8", 1)])
def test_the_states_of_a_stack_take_their_share_of_what_a_job_will_have(
    run: PlannedRun,
    timed: Callable[[dict[int, float]], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    sharers: str | None,
    best: int,
) -> None:
    timed({1: 0.01, 8: 0.02, 4: 0.02, 2: 0.02})
    state = STATE_BYTES * run.plan.params.total
    device(monkeypatch, int(8.5 * state / STATE_SHARE), sharers)
    assert best_stack(run, 8) == best


def test_a_machine_without_gpus_is_timed_as_it_is() -> None:
    assert stacking._as_a_job_sees_it(MachineConfig()).sharers == 1
