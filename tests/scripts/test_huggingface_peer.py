"""scripts/huggingface_peer.py: who takes a turn when, with a Trainer made by hand."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from train.config.experiment import ModelConfig
from train.plan.shape import model_shape

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

import huggingface_peer  # type: ignore[import-not-found]  # noqa: E402

SHAPE = model_shape(ModelConfig(d_model=16, n_layers=3, n_heads=2), vocab_size=32, seq_len=8)


class Bench:
    """A clock that steps move: Trainer's take 1 s, the other's 0.25 s."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.asked: dict[str, Any] = {}

    def clock(self) -> float:
        return self.now

    def ours(self, steps: int) -> None:
        self.now += 0.25 * steps
        self.done.append(f"ours {steps}")

    def transformers(self) -> ModuleType:
        """What the peer needs of the package."""
        bench = self

        class Trainer:
            def __init__(
                self, model: Any, arguments: Any, *, train_dataset: Any, callbacks: list[Any]
            ) -> None:
                bench.asked |= {"model": model, "arguments": arguments, "data": train_dataset}
                (self.callback,) = callbacks

            def remove_callback(self, kind: Any) -> None:
                bench.asked["silenced"] = kind

            def train(self) -> None:
                control = SimpleNamespace(should_training_stop=False)
                while not control.should_training_stop:
                    bench.now += 1.0
                    bench.done.append("trainer")
                    self.callback.on_step_end(None, None, control)

        package: Any = ModuleType("transformers")
        package.Trainer, package.TrainerCallback = Trainer, object
        package.PrinterCallback = "printer"
        package.TrainingArguments = package.GPT2Config = lambda **given: SimpleNamespace(**given)
        package.GPT2LMHeadModel = lambda config: config
        package.logging = SimpleNamespace(set_verbosity_error=lambda: None)
        return package  # type: ignore[no-any-return]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.setitem(sys.modules, "transformers", made.transformers())
    return made


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    np.arange(30, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    return tmp_path / "tokens.bin"


def timed(bench: Bench, tokens: Path, *, rounds: int) -> Any:
    return huggingface_peer.time_in_turn_with_trainer(
        SHAPE,
        tokens,
        {"ours": bench.ours},
        batch_tokens=32,
        activation="gelu",
        rounds=rounds,
        block_seconds=2.0,
        folder=tokens.parent,
        clock=bench.clock,
    )


def test_blocks_of_trainer_and_of_the_others_alternate(bench: Bench, tokens: Path) -> None:
    paired = timed(bench, tokens, rounds=2)
    begin = ["ours 3", "ours 1"] + ["trainer"] * 4  # warm up, then size a block
    assert bench.done == begin + ["trainer", "trainer", "ours 8"] * 2
    assert paired.seconds == {"trainer": [1.0, 1.0], "ours": [0.25, 0.25]}
    assert paired.ratio("trainer", "ours") == 4.0


def test_trainer_is_asked_for_steps_and_nothing_else(bench: Bench, tokens: Path) -> None:
    timed(bench, tokens, rounds=1)
    model, asked = bench.asked["model"], bench.asked["arguments"]
    assert (model.n_embd, model.n_layer, model.n_head, model.n_inner) == (16, 3, 2, 64)
    assert (model.vocab_size, model.n_positions, model.activation_function) == (32, 8, "gelu")
    assert model.resid_pdrop == model.embd_pdrop == model.attn_pdrop == 0.0
    assert asked.per_device_train_batch_size == 4
    assert asked.logging_strategy == asked.save_strategy == asked.eval_strategy == "no"
    assert (asked.max_grad_norm, asked.adam_beta2, asked.weight_decay) == (1.0, 0.95, 0.1)
    assert asked.use_cpu
    assert asked.report_to == []
    assert bench.asked["silenced"] == "printer"


def test_windows_lie_end_to_end(tokens: Path) -> None:
    windows = huggingface_peer.Windows(tokens, 8)
    assert len(windows) == 3
    for name in ("input_ids", "labels"):
        assert torch.equal(windows[2][name], torch.arange(16, 24))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Callable[[str], Any] = lambda name: None if name == "accelerate" else object()  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", found)
    assert huggingface_peer.missing_packages() == ["accelerate"]


def test_the_real_package_trains_in_turn(tokens: Path) -> None:
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
