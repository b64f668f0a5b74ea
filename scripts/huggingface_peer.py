"""Hugging Face's Trainer as a peer: GPT2LMHeadModel of the same shape, float32, nothing else on.

Optional: `pip install transformers accelerate` in the environment of the benchmark; without them
the figures are left out and the table says why. Trainer owns its loop, so the other contenders
run inside it: whenever a block of its steps is done, a callback gives the others their turn.
"""

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired_timing import Clock, Paired, Work, step_seconds, steps_for

from train.plan.shape import ModelShape

NAME = "trainer"
"""What the peer is called among the contenders."""

WARMUP_STEPS = 3
"""Of each contender, untimed."""


def missing_packages() -> list[str]:
    """Which of the packages that the peer needs are not installed."""
    return [name for name in ("transformers", "accelerate") if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def build_model(shape: ModelShape, *, activation: str) -> Any:  # noqa: ANN401
    """GPT2LMHeadModel from a config of this shape, without dropout.

    Args:
        shape: GPT-2's block.
        activation: `gelu_new`, the config's default, approximates GELU in several operations;
            `gelu`, the other contenders' function, is one kernel.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.seq_len,
            n_embd=shape.d_model,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            n_inner=shape.d_ff,
            activation_function=activation,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


class Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Windows of a uint16 memory map, end to end, over and over; Trainer shuffles them."""

    def __init__(self, path: Path, seq_len: int) -> None:
        self.tokens = np.memmap(path, dtype=np.uint16, mode="r")
        self.seq_len = seq_len

    def __len__(self) -> int:
        """Whole windows."""
        return len(self.tokens) // self.seq_len

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One window; the model shifts the labels itself."""
        start = index * self.seq_len
        ids = torch.from_numpy(self.tokens[start : start + self.seq_len].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


def time_in_turn_with_trainer(
    shape: ModelShape,
    tokens: Path,
    others: Mapping[str, Work],
    *,
    batch_tokens: int,
    activation: str,
    rounds: int,
    block_seconds: float,
    folder: Path,
    clock: Clock = time.process_time,
) -> Paired:
    """Time blocks of Trainer's steps and of the others in turn; `trainer` is its name.

    Args:
        shape: The model's, and everybody's.
        tokens: A file of uint16 tokens.
        others: What takes steps, by name; it takes a few before anything is timed.
        batch_tokens: Tokens of a step, a multiple of the shape's seq_len.
        activation: Of Trainer's model, see build_model.
        rounds: Rounds, at least 1.
        block_seconds: Aimed CPU seconds of each block.
        folder: An empty folder, which Trainer wants to have.
        clock: Seconds, increasing.
    """
    from transformers import PrinterCallback, Trainer, TrainingArguments, logging

    logging.set_verbosity_error()
    steps = {}
    for name, work in others.items():
        work(WARMUP_STEPS)
        steps[name] = steps_for(block_seconds, work, clock)
    turns = _turns(others, steps, rounds=rounds, block_seconds=block_seconds, clock=clock)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=10_000_000,
        per_device_train_batch_size=batch_tokens // shape.seq_len,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.1,
        max_grad_norm=1.0,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    windows = Windows(tokens, shape.seq_len)
    model = build_model(shape, activation=activation)
    trainer = Trainer(model, arguments, train_dataset=windows, callbacks=[turns])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return Paired(turns.seconds)


def _turns(
    others: Mapping[str, Work],
    other_steps: Mapping[str, int],
    *,
    rounds: int,
    block_seconds: float,
    clock: Clock,
) -> Any:  # noqa: ANN401
    """A callback that times Trainer's steps by the block and gives the others their turn."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        steps = 0  # of the block under way
        block_steps = 0  # 0 while warming up
        seconds: dict[str, list[float]]

        def __init__(self) -> None:
            self.seconds = {NAME: []} | {name: [] for name in others}
            self.began = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ANN401
            """Count the step; when its block is full, give the others their turn."""
            self.steps += 1
            if not self.block_steps:
                self._warm_up()
            elif self.steps == self.block_steps:
                self.seconds[NAME].append((clock() - self.began) / self.steps)
                for name, work in others.items():
                    self.seconds[name].append(step_seconds(work, other_steps[name], clock))
                control.should_training_stop = len(self.seconds[NAME]) == rounds
                self.steps, self.began = 0, clock()

        def _warm_up(self) -> None:
            if self.steps == WARMUP_STEPS + 1:  # the last of them is timed alone
                step_seconds = max(clock() - self.began, 1e-9)
                self.block_steps = max(1, round(block_seconds / step_seconds))
                self.steps = 0
            self.began = clock()

    return Turns()
