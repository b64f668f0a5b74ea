"""Decoder-only transformer as a function of its weights, for R replicas of one shape at once.

Pre-norm, without biases. By default RMSNorm, rotary positions, normalised queries and keys, and an
untied head; options give GPT-2's block. Weights are float32 and passed by name (parameters.py);
matmuls run in `dtype`. In a stack every weight has a leading axis R and matmuls are batched;
attention has no weights, so it sees the windows of all replicas as one batch. Each operation
computes every replica separately and in the same order as for one, so stacking changes at most the
last float32 bits, where a library uses another kernel for a batched matmul.

Shapes: R replicas, B batch, T time, D d_model, H n_heads, K head_dim, F d_ff, V vocab_size. `_`
stands for the leading R, absent for one replica; N is B * T.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from train.config.experiment import Norm, Positions
from train.model.cross_entropy import cross_entropy
from train.model.matmul import matmul
from train.plan.shape import ModelShape

EPS = 1e-6
"""Added to the mean square (RMSNorm) or variance (LayerNorm)."""

MODELS_KEPT = 16
"""Models that a process keeps, with their compiled code, for its next stacks."""

BLOCK_WEIGHTS = (
    "attention_norm.gain",
    "attention.qkv.weight",
    "attention.out.weight",
    "feed_forward_norm.gain",
    "feed_forward.up.weight",
    "feed_forward.down.weight",
)
QK_GAINS = ("attention.q_norm.gain", "attention.k_norm.gain")

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
Weights = Mapping[str, Tensor]


class Transformer:
    """Token ids to the mean next-token cross-entropy of each replica."""

    def __init__(
        self,
        shape: ModelShape,
        *,
        device: torch.device,
        dtype: torch.dtype,
        attention: AttentionFunction,
        rotary_base: float = 10_000.0,
    ) -> None:
        self.shape, self.dtype, self.attention = shape, dtype, attention
        self.names = BLOCK_WEIGHTS + (QK_GAINS if shape.qk_norm else ())
        self.rotary = None
        if shape.positions is Positions.rotary:
            self.rotary = Rotary(shape, base=rotary_base, device=device, dtype=dtype)

    def losses(self, weights: Weights, tokens_RBT: Tensor, targets_RBT: Tensor) -> Tensor:
        """Mean cross-entropy of each replica in nats per token, float32: (R,)."""
        x = self.embed(weights, tokens_RBT)
        for i in range(self.shape.n_layers):
            x = self.block(x, *(weights[f"blocks.{i}.{name}"] for name in self.names))
        return self.loss(x, weights["final_norm.gain"], self.head(weights), targets_RBT)

    def embed(self, weights: Weights, tokens_RBT: Tensor) -> Tensor:
        """Token embeddings plus learned positions, if any: (_, N, D).

        The lookup is in float32, so that the gradient of a frequent token is summed in float32.
        """
        n_replicas, batch, time = tokens_RBT.shape
        table_RVD = weights["embedding.weight"].view(n_replicas, self.shape.vocab_size, -1)
        first_R = torch.arange(n_replicas, device=tokens_RBT.device) * self.shape.vocab_size
        rows = (tokens_RBT + first_R[:, None, None]).flatten()
        x = functional.embedding(rows, table_RVD.flatten(0, 1)).to(self.dtype)
        if self.shape.positions is Positions.learned:
            positions_RTD = weights["positions.weight"].view(n_replicas, 1, self.shape.seq_len, -1)
            x = x.view(n_replicas, batch, time, -1) + positions_RTD[:, :, :time].to(self.dtype)
        lead = () if n_replicas == 1 else (n_replicas,)
        return x.view(*lead, batch * time, self.shape.d_model)

    def head(self, weights: Weights) -> Tensor:
        """Output matrix: (_, V, D)."""
        return weights["embedding.weight" if self.shape.tie_head else "head.weight"]

    def block(
        self,
        x: Tensor,
        norm_gain: Tensor,
        qkv: Tensor,
        out: Tensor,
        feed_forward_gain: Tensor,
        up: Tensor,
        down: Tensor,
        *qk_gains: Tensor,
    ) -> Tensor:
        """One layer: attention and feed-forward, each added to the residual stream (_, N, D)."""
        mixed = self.mix(matmul(self.norm(x), self.scaled(qkv, norm_gain)), *qk_gains)
        x = x + matmul(mixed.view(x.shape), out.to(self.dtype))
        hidden = matmul(self.norm(x), self.scaled(up, feed_forward_gain))
        return x + matmul(self.activate(hidden), down.to(self.dtype))

    def mix(self, qkv: Tensor, *qk_gains: Tensor) -> Tensor:
        """Causal attention of (_, N, 3D) queries, keys and values: (B, T, H, K), B of all R."""
        shape, lead = self.shape, qkv.shape[:-2]
        qkv = qkv.view(-1, shape.seq_len, 3, shape.n_heads, shape.head_dim)
        if self.rotary is None and not qk_gains:
            q_BTHK, k_BTHK, v_BTHK = qkv.unbind(2)
        else:
            turned, v_BT1HK = torch.split(qkv, [2, 1], dim=2)
            if qk_gains:
                gains = torch.stack(qk_gains, dim=-2)  # (_, 2, K)
                normed = root_mean_square_norm(turned).view(*lead, -1, *turned.shape[1:])
                spread = gains.view(*lead, 1, 1, 2, 1, shape.head_dim).to(self.dtype)
                turned = (normed * spread).view(turned.shape)
            if self.rotary is not None:
                turned = self.rotary(turned)
            q_BTHK, k_BTHK = turned.unbind(2)
            v_BTHK = v_BT1HK.squeeze(2)
        y_BHTK = self.attention(
            q_BTHK.transpose(1, 2), k_BTHK.transpose(1, 2), v_BTHK.transpose(1, 2)
        )
        return y_BHTK.transpose(1, 2).contiguous()

    def activate(self, hidden: Tensor) -> Tensor:
        """GELU (Hendrycks & Gimpel, arXiv:1606.08415) or SwiGLU (Shazeer, arXiv:2002.05202)."""
        if self.shape.gated:
            gate, value = hidden.chunk(2, dim=-1)
            return functional.silu(gate) * value
        return functional.gelu(hidden)

    def norm(self, x: Tensor) -> Tensor:
        """Norm without its gain, which `scaled` multiplies into the next matrix."""
        if self.shape.norm is Norm.layer:
            return functional.layer_norm(x, (x.shape[-1],), eps=EPS)
        return root_mean_square_norm(x)

    def scaled(self, matrix: Tensor, gain: Tensor) -> Tensor:
        """Matrix with the gain of a norm on its columns, in `dtype`.

        (x * gain) W = x (gain * W): one multiplication per weight instead of one per activation,
        and rounded to `dtype` once.
        """
        return (matrix * gain.unsqueeze(-2)).to(self.dtype)

    def loss(self, x: Tensor, gain: Tensor, head: Tensor, targets_RBT: Tensor) -> Tensor:
        """Mean cross-entropy of each replica: (R,)."""
        n_replicas = targets_RBT.shape[0]
        targets = targets_RBT.reshape(*x.shape[:-1])
        return cross_entropy(self.norm(x), self.scaled(head, gain), targets).view(n_replicas)


@lru_cache(maxsize=MODELS_KEPT)
def shared_model(
    shape: ModelShape,
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: AttentionFunction,
    rotary_base: float,
) -> Transformer:
    """Return the process's one Transformer of these arguments; its only state is compiled code."""
    return Transformer(
        shape, device=device, dtype=dtype, attention=attention, rotary_base=rotary_base
    )


class Rotary:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): rotate pairs of coordinates."""

    def __init__(
        self, shape: ModelShape, *, base: float, device: torch.device, dtype: torch.dtype
    ) -> None:
        half = shape.head_dim // 2
        frequencies = base ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.outer(torch.arange(shape.seq_len, dtype=torch.float64), frequencies)
        cos_TK = torch.cat((angles.cos(), angles.cos()), dim=1)
        sin_TK = torch.cat((-angles.sin(), angles.sin()), dim=1)
        self.cos_T11K, self.sin_T11K = (
            table.to(device, dtype)[:, None, None] for table in (cos_TK, sin_TK)
        )

    def __call__(self, x_BT2HK: Tensor) -> Tensor:
        """Rotate queries and keys by position; coordinates i and i + K/2 are a pair."""
        partner = x_BT2HK.roll(x_BT2HK.shape[-1] // 2, dims=-1)
        return x_BT2HK * self.cos_T11K + partner * self.sin_T11K


class _RootMeanSquareNorm(torch.autograd.Function):
    """RMSNorm in few passes over x; on a CPU, PyTorch's own takes twice as long."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
        y = (wide * inverse).to(x.dtype)
        context.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(context: Any, grad_y: Tensor) -> Tensor:  # noqa: ANN401
        y, inverse = context.saved_tensors
        along = (grad_y * y).mean(-1, keepdim=True)
        grad_x: Tensor = (torch.addcmul(grad_y, y, along, value=-1) * inverse).to(y.dtype)
        return grad_x


def root_mean_square_norm(x: Tensor) -> Tensor:
    """Divide the last axis by its root mean square (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    # the compiler fuses torch's own
    if torch.compiler.is_compiling():
        wide: Tensor = functional.rms_norm(x.float(), (x.shape[-1],), eps=EPS)
        return wide.to(x.dtype)
    y: Tensor = _RootMeanSquareNorm.apply(x)  # type: ignore[no-untyped-call]
    return y
