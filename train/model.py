"""The decoder-only transformer: pre-norm RMSNorm, rotary positions, SDPA, untied head by default.

Shapes: B batch, T time, D d_model, H n_heads, K head_dim, F d_ff, V vocab_size.
Its parameters are counted in counting.py, which the tests hold against this module.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.shape import ModelShape


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis; the result has the dtype of `x`."""
        return functional.rms_norm(x, (x.shape[-1],), self.gain.to(x.dtype), eps=1e-6)


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): each pair of coordinates is turned."""

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, seq_len: int, head_dim: int, base: float) -> None:
        super().__init__()
        frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = torch.outer(torch.arange(seq_len, dtype=torch.float64), frequencies)
        angles_TK = torch.cat((angles, angles), dim=1)
        sign_K = torch.cat((-torch.ones(head_dim // 2), torch.ones(head_dim // 2)))
        self.register_buffer("cos_TK", angles_TK.cos().float(), persistent=False)
        self.register_buffer("sin_TK", (angles_TK.sin() * sign_K).float(), persistent=False)

    def forward(self, x_BHTK: Tensor) -> Tensor:
        """Turn queries or keys by their position; a coordinate's partner is half a head away."""
        time, half = x_BHTK.shape[2], x_BHTK.shape[3] // 2
        cos, sin = self.cos_TK[:time].to(x_BHTK.dtype), self.sin_TK[:time].to(x_BHTK.dtype)
        return x_BHTK * cos + x_BHTK.roll(half, dims=-1) * sin


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, shape: ModelShape, rotary: Rotary) -> None:
        super().__init__()
        self.n_heads, self.head_dim = shape.n_heads, shape.head_dim
        self.qkv = nn.Linear(shape.d_model, 3 * shape.d_model, bias=False)
        self.out = nn.Linear(shape.d_model, shape.d_model, bias=False)
        self.rotary = rotary
        self.q_norm = RMSNorm(shape.head_dim) if shape.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(shape.head_dim) if shape.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Mix each position with the ones before it."""
        batch, time, width = x_BTD.shape
        qkv = self.qkv(x_BTD).view(batch, time, 3, self.n_heads, self.head_dim)
        q_BHTK, k_BHTK, v_BHTK = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q_BHTK = self.rotary(self.q_norm(q_BHTK))
        k_BHTK = self.rotary(self.k_norm(k_BHTK))
        y_BHTK = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        y_BTD: Tensor = self.out(y_BHTK.transpose(1, 2).reshape(batch, time, width))
        return y_BTD


class FeedForward(nn.Module):
    """GELU, or SwiGLU (Shazeer 2020, arXiv:2002.05202) when the shape is gated."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gated = shape.gated
        self.up = nn.Linear(shape.d_model, (2 if shape.gated else 1) * shape.d_ff, bias=False)
        self.down = nn.Linear(shape.d_ff, shape.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Apply the two (or three) matrices at every position."""
        h_BTF = self.up(x_BTD)
        if self.gated:
            gate_BTF, value_BTF = h_BTF.chunk(2, dim=-1)
            h_BTF = functional.silu(gate_BTF) * value_BTF
        else:
            h_BTF = functional.gelu(h_BTF, approximate="tanh")
        y_BTD: Tensor = self.down(h_BTF)
        return y_BTD


class Block(nn.Module):
    """Attention, then feed-forward, each added to the residual stream."""

    def __init__(self, shape: ModelShape, rotary: Rotary) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.d_model)
        self.attention = Attention(shape, rotary)
        self.feed_forward_norm = RMSNorm(shape.d_model)
        self.feed_forward = FeedForward(shape)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """One layer."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        y_BTD: Tensor = x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))
        return y_BTD


class Transformer(nn.Module):
    """Token ids to the mean next-token cross-entropy."""

    def __init__(self, shape: ModelShape, *, rotary_base: float = 10_000.0) -> None:
        super().__init__()
        self.shape = shape
        rotary = Rotary(shape.seq_len, shape.head_dim, rotary_base)
        self.embedding = nn.Embedding(shape.vocab_size, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape, rotary) for _ in range(shape.n_layers))
        self.final_norm = RMSNorm(shape.d_model)
        self.head = nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        if shape.tie_head:
            self.head.weight = self.embedding.weight

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean cross-entropy, nats per token, in float32."""
        x_BTD = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = self.head(self.final_norm(x_BTD))
        return functional.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw the weights on the CPU from `seed`, so that every device starts alike.

        The blocks' matrices have standard deviation 1 / sqrt(fan_in), those that write to the
        residual stream divided by sqrt(2 n_layers) (Radford et al. 2019), the embedding
        1 / sqrt(d_model). The head starts at zero, so that the first loss is exactly
        ln(vocab_size); a tied head is the embedding.
        """
        generator = torch.Generator().manual_seed(seed)

        def draw(weight: Tensor, std: float) -> None:
            values = torch.empty(weight.shape).normal_(0.0, std, generator=generator)
            weight.copy_(values)

        depth = (2 * self.shape.n_layers) ** -0.5
        draw(self.embedding.weight, self.shape.d_model**-0.5)
        for block in self.blocks:
            assert isinstance(block, Block)
            draw(block.attention.qkv.weight, self.shape.d_model**-0.5)
            draw(block.attention.out.weight, self.shape.d_model**-0.5 * depth)
            draw(block.feed_forward.up.weight, self.shape.d_model**-0.5)
            draw(block.feed_forward.down.weight, self.shape.d_ff**-0.5 * depth)
        if not self.shape.tie_head:
            self.head.weight.zero_()
