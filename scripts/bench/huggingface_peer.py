"""Hugging Face's Trainer as a contender: GPT2LMHeadModel of the same shape in float32.

Optional: without `pip install transformers accelerate` its figures are left out and the output says
why. Trainer owns its loop, so the other contenders run inside it: after each block of Trainer's
steps a callback runs one block of each of the others.
"""

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.paired_timing import Clock, Paired, Work, step_seconds, steps_for
from train.plan.shape import ModelShape

NAME = "trainer"
"""Trainer's name among the contenders."""

WARMUP_STEPS = 3
"""Untimed steps of each contender before the first round."""


def missing_packages() -> list[str]:
    """Names of Trainer's packages that are not installed."""
    needed = ("transformers", "accelerate")
    return [name for name in needed if importlib.util.find_spec(name) is None]


def build_model(shape: ModelShape, *, activation: str) -> Any:  # noqa: ANN401
    """Build GPT2LMHeadModel of this shape, without dropout.

    Args:
        shape: Its sizes; the block is GPT-2's.
        activation: "gelu_new", the default of GPT2Config, approximates GELU in several operations;
            "gelu", which the other contenders compute, is one kernel.
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
    """Consecutive windows of a uint16 token file, in the order that Trainer shuffles them to."""

    def __init__(self, path: Path, seq_len: int) -> None:
        self.tokens = np.memmap(path, dtype=np.uint16, mode="r")
        self.seq_len = seq_len

    def __len__(self) -> int:
        """Number of whole windows."""
        return len(self.tokens) // self.seq_len

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one window; the model shifts the labels itself."""
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
    """Time blocks of Trainer's steps, named "trainer", and of the other contenders in turn.

    Args:
        shape: Model shape of every contender.
        tokens: File of uint16 tokens.
        others: The other contenders by name.
        batch_tokens: Tokens per step, a multiple of the shape's seq_len.
        activation: Activation of Trainer's model, see build_model.
        rounds: At least 1.
        block_seconds: Target length of a block in CPU seconds.
        folder: Empty folder for Trainer's output_dir.
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
    """Build the callback that times Trainer's blocks and runs the others between them."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.seconds: dict[str, list[float]] = {name: [] for name in (NAME, *others)}
            self.began = 0.0
            # steps taken in the current block
            self.steps = 0
            # steps of a full block; 0 during warm-up
            self.block_steps = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ANN401
            """Count the step; after a full block time one block of each of the others."""
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
            # one step after the warm-up is timed alone, to choose the length of a block
            if self.steps == WARMUP_STEPS + 1:
                step_seconds = max(clock() - self.began, 1e-9)

                self.block_steps = max(1, round(block_seconds / step_seconds))
                self.steps = 0
            self.began = clock()

    return Turns()
