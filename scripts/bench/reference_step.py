"""The reference: a plain PyTorch training step of one model, following nanoGPT's train.py.

The protocol is nanoGPT's (Karpathy 2022, github.com/karpathy/nanoGPT: train.py and model.py), the
code is ours: a pre-norm GPT-2 block in float32, eager; each batch stacked in Python from random
offsets of a uint16 memory map; AdamW with its CPU defaults; gradient norm clipped at 1.0; learning
rate set and loss.item() called every step. Two differences: the norm uses our epsilon, so that both
models compute the same function, and the memory map is opened once instead of for every batch.

Shapes: B batch, T time, D d_model, F d_ff, H n_heads, K head_dim, V vocab_size.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from train.plan.shape import ModelShape

EPS = 1e-6
"""Norm epsilon of our model; nanoGPT uses 1e-5."""


class Norm(nn.Module):
    """LayerNorm with gain, without bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Normalise the last axis."""
        return functional.layer_norm(x_BTD, self.weight.shape, self.weight, None, EPS)


class ReferenceBlock(nn.Module):
    """Pre-norm residual block: attention, then feed-forward."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.feed_forward_norm = Norm(d_model), Norm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Apply the block."""
        x_BTD = x_BTD + self.out(self.attend(self.attention_norm(x_BTD)))
        h_BTF = functional.gelu(self.up(self.feed_forward_norm(x_BTD)))
        y_BTD: Tensor = x_BTD + self.down(h_BTF)
        return y_BTD

    def attend(self, x_BTD: Tensor) -> Tensor:
        """Causal self-attention without its output projection."""
        batch, time, width = x_BTD.shape
        q_BHTK, k_BHTK, v_BHTK = (
            part.view(batch, time, self.n_heads, width // self.n_heads).transpose(1, 2)
            for part in self.qkv(x_BTD).split(width, dim=2)
        )
        y_BHTK = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        return y_BHTK.transpose(1, 2).contiguous().view(batch, time, width)


class ReferenceModel(nn.Module):
    """GPT-2: learned positions, head tied to the embedding."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab_size, shape.d_model)
        self.positions = nn.Embedding(shape.seq_len, shape.d_model)
        self.blocks = nn.ModuleList(
            ReferenceBlock(shape.d_model, shape.n_heads, shape.d_ff) for _ in range(shape.n_layers)
        )
        self.final_norm = Norm(shape.d_model)
        self.head = nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        for name, weight in self.named_parameters():
            # GPT-2's initialisation: 0.02, scaled down for projections into the residual stream
            if weight.ndim == 2:
                is_projection = name.endswith(("out.weight", "down.weight"))
                scale = (2 * shape.n_layers) ** -0.5 if is_projection else 1.0
                nn.init.normal_(weight, std=0.02 * scale)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean cross-entropy, nats per token."""
        positions_T = torch.arange(tokens_BT.shape[1])
        x_BTD = self.embedding(tokens_BT) + self.positions(positions_T)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = self.head(self.final_norm(x_BTD))
        return functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


class RandomWindows:
    """Batches of windows at random offsets of a uint16 token file."""

    def __init__(self, path: Path, *, batch_seqs: int, seq_len: int) -> None:
        self.tokens = np.memmap(path, dtype=np.uint16, mode="r")
        self.batch_seqs, self.seq_len = batch_seqs, seq_len

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, each int64 of shape (batch_seqs, seq_len)."""
        starts = torch.randint(len(self.tokens) - self.seq_len, (self.batch_seqs,)).tolist()
        return self._stack(starts), self._stack([start + 1 for start in starts])

    def _stack(self, starts: list[int]) -> Tensor:
        windows = (self.tokens[start : start + self.seq_len].astype(np.int64) for start in starts)
        return torch.stack([torch.from_numpy(window) for window in windows])


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Linear warm-up, then a cosine from the peak to a tenth of it at the last step."""

    peak_lr: float = 1e-3
    warmup_steps: int = 0
    total_steps: int = 1_000_000

    def __call__(self, step: int) -> float:
        """Learning rate of update number `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.peak_lr * (0.1 + 0.45 * (1.0 + math.cos(math.pi * min(1.0, progress))))


class ReferenceStep:
    """The reference's training loop; called with a number of steps, it takes them."""

    def __init__(
        self, shape: ModelShape, tokens: Path, *, batch_tokens: int, schedule: Cosine | None = None
    ) -> None:
        self.model = ReferenceModel(shape)
        batch_seqs = batch_tokens // shape.seq_len
        self.batches = RandomWindows(tokens, batch_seqs=batch_seqs, seq_len=shape.seq_len)
        weights = list(self.model.parameters())
        groups = [
            {"params": [w for w in weights if w.ndim >= 2], "weight_decay": 0.1},
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
        self.schedule = schedule or Cosine()
        self.step = 0

    def __call__(self, steps: int) -> list[float]:
        """Train for `steps` steps; return the loss of each before its update, in nats per token."""
        return [self.take() for _ in range(steps)]

    def take(self) -> float:
        """Take one step; return its loss before the update, in nats per token."""
        lr = self.schedule(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self.model(*self.batches())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.item())
