"""scripts/paired_timing.py: blocks, rounds and medians, exact on a clock made by hand."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

from paired_timing import (  # type: ignore[import-not-found]  # noqa: E402
    Paired,
    repeated,
    step_seconds,
    steps_for,
    time_in_turn,
)


class Bench:
    """A clock that only work moves; what each step costs is given beforehand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.blocks: list[tuple[str, int]] = []

    def clock(self) -> float:
        return self.now

    def work(self, name: str, costs: Callable[[int], float]) -> Callable[[int], None]:
        done = 0

        def take(steps: int) -> None:
            nonlocal done
            self.now += sum(costs(done + k) for k in range(steps))
            done += steps
            self.blocks.append((name, steps))

        return take


def test_the_ratio_is_the_median_of_paired_ratios_not_the_ratio_of_medians() -> None:
    paired = Paired({"a": [1.0, 2.0, 6.0], "b": [1.0, 4.0, 2.0]})
    assert paired.ratio("a", "b") == 1.0  # of 1, 0.5 and 3
    assert paired.median("a") / paired.median("b") == 1.0
    paired = Paired({"a": [2.0, 8.0, 3.0], "b": [1.0, 2.0, 3.0]})
    assert paired.ratio("a", "b") == 2.0  # of 2, 4 and 1
    assert (paired.median("a"), paired.median("b")) == (3.0, 2.0)


def test_contenders_take_turns_in_blocks_of_the_asked_time() -> None:
    bench = Bench()
    work = {
        "slow": bench.work("slow", lambda done: 0.5),
        "fast": bench.work("fast", lambda done: 0.25),
    }
    paired = time_in_turn(work, rounds=2, block_seconds=1.0, warmup_steps=2, clock=bench.clock)
    one_round = [("slow", 2), ("fast", 4)]
    begin = [("slow", 2), ("slow", 1), ("fast", 2), ("fast", 1)]  # warm up, then size a block
    assert bench.blocks == begin + one_round * 2
    assert paired.seconds == {"slow": [0.5, 0.5], "fast": [0.25, 0.25]}
    assert paired.ratio("slow", "fast") == 2.0


def test_a_disturbance_of_one_round_does_not_reach_the_ratio() -> None:
    bench = Bench()
    slow = bench.work("slow", lambda done: 100.0 if done == 5 else 1.0)
    fast = bench.work("fast", lambda done: 0.5)
    paired = time_in_turn(
        {"slow": slow, "fast": fast}, rounds=3, block_seconds=0.5, clock=bench.clock
    )
    assert paired.seconds["slow"] == [1.0, 100.0, 1.0]  # after three to warm up and one to size
    assert paired.ratio("slow", "fast") == 2.0


def test_a_step_longer_than_a_block_is_a_block() -> None:
    bench = Bench()
    paired = time_in_turn(
        {"a": bench.work("a", lambda done: 7.0)},
        rounds=1,
        block_seconds=0.1,
        warmup_steps=1,
        clock=bench.clock,
    )
    assert bench.blocks == [("a", 1)] * 3
    assert paired.seconds == {"a": [7.0]}


def test_a_step_takes_its_share_of_the_block() -> None:
    bench = Bench()
    assert step_seconds(bench.work("a", float), 4, bench.clock) == (0.0 + 1.0 + 2.0 + 3.0) / 4


def test_a_clock_too_coarse_for_one_step_ends_all_the_same() -> None:
    assert steps_for(1e-9, lambda steps: None, lambda: 0.0) == 1


def test_calls_of_a_function_are_steps() -> None:
    calls: list[int] = []
    repeated(lambda: calls.append(1))(3)
    assert calls == [1, 1, 1]


def test_unpaired_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter than argument 1"):
        Paired({"a": [1.0, 2.0], "b": [1.0]}).ratio("a", "b")
