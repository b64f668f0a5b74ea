"""scripts/bench/paired_timing.py on a simulated clock, and Trainer's turns in its own loop."""

import numpy as np
import pytest
import torch

from bench import huggingface_peer
from bench.paired_timing import Paired, steps_for, time_in_turn
from train.config.experiment import ModelConfig
from train.plan.shape import model_shape


class Bench:
    """A clock that only steps advance, each by its own cost."""

    def __init__(self):
        self.now, self.blocks, self.steps = 0.0, [], {}

    def clock(self):
        return self.now

    def work(self, name, cost):
        def take(steps):
            for _ in range(steps):
                self.steps[name] = self.steps.get(name, 0) + 1
                self.now += cost(self.steps[name])
            self.blocks.append((name, steps))

        return take


def test_the_ratio_is_the_median_of_the_rounds_ratios():
    paired = Paired({"a": [2.0, 8.0, 3.0], "b": [1.0, 2.0, 3.0]})
    # of 2, 4 and 1; the ratio of the medians is 1.5
    assert paired.ratio("a", "b") == 2.0
    assert (paired.median("a"), paired.median("b")) == (3.0, 2.0)
    with pytest.raises(ValueError, match="shorter than argument 1"):
        Paired({"a": [1.0, 2.0], "b": [1.0]}).ratio("a", "b")


def test_contenders_take_turns_in_blocks_of_the_given_length():
    bench = Bench()
    work = {
        "slow": bench.work("slow", lambda step: 0.5),
        "fast": bench.work("fast", lambda step: 0.25),
        "longer than a block": bench.work("longer than a block", lambda step: 7.0),
    }
    paired = time_in_turn(work, rounds=2, block_seconds=1.0, warmup_steps=2, clock=bench.clock)
    # each warms up, then one step is timed to choose its block
    begin = [(name, steps) for name in work for steps in (2, 1)]
    assert bench.blocks == begin + [("slow", 2), ("fast", 4), ("longer than a block", 1)] * 2
    assert paired.seconds["slow"] == [0.5, 0.5]
    assert paired.ratio("slow", "fast") == 2.0
    assert steps_for(1e-9, lambda steps: None, lambda: 0.0) == 1


def test_a_disturbance_in_one_round_does_not_reach_the_ratio():
    bench = Bench()
    work = {
        "slow": bench.work("slow", lambda step: 100.0 if step == 6 else 1.0),
        "fast": bench.work("fast", lambda step: 0.5),
    }
    paired = time_in_turn(work, rounds=3, block_seconds=0.5, clock=bench.clock)
    assert paired.seconds["slow"] == [1.0, 100.0, 1.0]
    assert paired.ratio("slow", "fast") == 2.0


def test_trainer_and_the_others_are_timed_in_turn(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    shape = model_shape(ModelConfig(d_model=16, n_layers=3, n_heads=2), vocab_size=32, seq_len=8)
    np.arange(30, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    blocks = []
    paired = huggingface_peer.time_in_turn_with_trainer(
        shape,
        tmp_path / "tokens.bin",
        {"ours": blocks.append},
        batch_tokens=16,
        activation="gelu_new",
        rounds=2,
        block_seconds=0.001,
        folder=tmp_path / "trainer",
    )
    # three steps of warm-up, one to choose the block, two blocks
    assert blocks[:2] == [3, 1]
    assert len(blocks) == 4
    assert [len(seconds) for seconds in paired.seconds.values()] == [2, 2]
    assert min(paired.seconds["trainer"]) > 0


def test_trainer_s_windows_lie_end_to_end(tmp_path):
    np.arange(30, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    windows = huggingface_peer.Windows(tmp_path / "tokens.bin", 8)
    assert len(windows) == 3
    assert torch.equal(windows[2]["input_ids"], torch.arange(16, 24))
