"""scripts/bench/paired_timing.py on a simulated clock, and Trainer's turns inside its own loop."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from bench import huggingface_peer
from bench.paired_timing import Paired, steps_for, time_in_turn
from train.config.experiment import ModelConfig
from train.plan.shape import model_shape

SHAPE = model_shape(ModelConfig(d_model=16, n_layers=3, n_heads=2), vocab_size=32, seq_len=8)


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


def fake_transformers(bench, given):
    """The part of the package that is used; Trainer's steps take 1 s."""

    class Trainer:
        def __init__(self, model, arguments, *, train_dataset, callbacks):
            given.update(model=model, arguments=arguments)
            (self.callback,) = callbacks
            self.step = bench.work("trainer", lambda step: 1.0)

        def remove_callback(self, kind):
            pass

        def train(self):
            control = SimpleNamespace(should_training_stop=False)
            while not control.should_training_stop:
                self.step(1)
                self.callback.on_step_end(None, None, control)

    package = ModuleType("transformers")
    package.Trainer, package.TrainerCallback, package.PrinterCallback = Trainer, object, None
    package.TrainingArguments = package.GPT2Config = lambda **words: SimpleNamespace(**words)
    package.GPT2LMHeadModel = lambda config: config
    package.logging = SimpleNamespace(set_verbosity_error=lambda: None)
    return package


@pytest.fixture
def tokens(tmp_path):
    np.arange(30, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    return tmp_path / "tokens.bin"


def test_blocks_of_trainer_and_of_the_others_alternate(monkeypatch, tokens):
    bench, given = Bench(), {}
    monkeypatch.setitem(sys.modules, "transformers", fake_transformers(bench, given))
    paired = huggingface_peer.time_in_turn_with_trainer(
        SHAPE,
        tokens,
        {"ours": bench.work("ours", lambda step: 0.25)},
        batch_tokens=32,
        activation="gelu",
        rounds=2,
        block_seconds=2.0,
        folder=tokens.parent,
        clock=bench.clock,
    )
    begin = [("ours", 3), ("ours", 1)] + [("trainer", 1)] * 4
    assert bench.blocks == begin + [("trainer", 1), ("trainer", 1), ("ours", 8)] * 2
    assert paired.seconds == {"trainer": [1.0, 1.0], "ours": [0.25, 0.25]}
    model, arguments = given["model"], given["arguments"]
    assert (model.n_embd, model.n_layer, model.n_head, model.n_inner) == (16, 3, 2, 64)
    assert (model.vocab_size, model.n_positions, model.activation_function) == (32, 8, "gelu")
    assert arguments.per_device_train_batch_size == 4
    assert (arguments.max_grad_norm, arguments.weight_decay) == (1.0, 0.1)
    windows = huggingface_peer.Windows(tokens, 8)
    assert len(windows) == 3
    assert torch.equal(windows[2]["input_ids"], torch.arange(16, 24))


def test_the_real_trainer_trains_in_turn(tokens):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    paired = huggingface_peer.time_in_turn_with_trainer(
        SHAPE,
        tokens,
        {"ours": lambda steps: None},
        batch_tokens=16,
        activation="gelu_new",
        rounds=2,
        block_seconds=0.001,
        folder=tokens.parent / "trainer",
    )
    assert [len(seconds) for seconds in paired.seconds.values()] == [2, 2]
    assert min(paired.seconds["trainer"]) > 0
