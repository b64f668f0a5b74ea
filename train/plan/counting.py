"""Parameters, their bytes, and FLOPs of a shape under every convention. No torch.

The counting convention alone moves the compute-optimal exponent of the same runs from .37 to .70
(nanochat's scaling log; Porian et al. 2024, arXiv:2406.19146), so none is chosen here: all counts
are recorded, and the analysis takes one by name. Python integers throughout: 6 N D overflows int64.
"""

from dataclasses import dataclass

from train.config.experiment import FlopConvention, Positions
from train.plan.shape import ModelShape

STATE_BYTES = 16
"""Memory per parameter in training: the weight, its gradient and two moments, in float32."""

CHECKPOINT_BYTES = 12
"""Disk per parameter of a checkpoint: the weight and two moments, in float32."""


@dataclass(frozen=True, kw_only=True)
class ParamCounts:
    """Parameters by group; a tied head has none of its own, but its matmul counts all the same."""

    embedding: int
    """Lookup tables: of tokens, and of learned positions."""
    attention: int
    feed_forward: int
    norms: int
    head: int
    head_matmul: int
    """Entries of the head's matrix, tied or not."""

    @property
    def kaplan(self) -> int:
        """Matrices of the blocks: no embedding, no head (Kaplan et al. 2020, section 2.1)."""
        return self.attention + self.feed_forward

    @property
    def standard(self) -> int:
        """All matrices that activations are multiplied with, the head included."""
        return self.kaplan + self.head_matmul

    @property
    def total(self) -> int:
        """All trained parameters (Hoffmann et al. 2022)."""
        return self.embedding + self.attention + self.feed_forward + self.norms + self.head


def count_params(shape: ModelShape) -> ParamCounts:
    """Count the parameters of train.model.transformer.Transformer for `shape`.

    LayerNorm has no bias, so both norms have one gain per channel. Learned positions are looked up
    and added: parameters without a matmul.
    """
    per_layer_norms = 2 * shape.d_model + (2 * shape.head_dim if shape.qk_norm else 0)
    table = shape.vocab_size * shape.d_model
    is_learned = shape.positions is Positions.learned
    positions = shape.seq_len * shape.d_model if is_learned else 0
    return ParamCounts(
        embedding=table + positions,
        attention=shape.n_layers * 4 * shape.d_model**2,
        feed_forward=shape.n_layers * (3 if shape.gated else 2) * shape.d_model * shape.d_ff,
        norms=shape.n_layers * per_layer_norms + shape.d_model,
        head=0 if shape.tie_head else table,
        head_matmul=table,
    )


@dataclass(frozen=True, kw_only=True)
class TokenFlops:
    """FLOPs of the matmuls per token in the forward pass; a multiply-add is two FLOPs."""

    blocks: int
    """Weight matrices of the blocks."""
    head: int
    """Output head."""
    attention: int
    """Query-key and attention-value matmuls over the full window, without the causal mask."""

    @property
    def forward(self) -> int:
        """All components, forward."""
        return self.blocks + self.head + self.attention

    @property
    def backward(self) -> int:
        """Twice the forward: one matmul for the gradient of each operand."""
        return 2 * self.forward

    @property
    def train(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward


def count_token_flops(shape: ModelShape) -> TokenFlops:
    """Count the FLOPs of one token in a window of `shape.seq_len`.

    Source:
        Weights: 2 per entry (Kaplan et al. 2020, table 1). Attention: 4 d_model T per layer, so
        12 L d_model T in training (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), not halved
        for the causal mask. Norms, softmax and activation functions are left out, as usual.
    """
    params = count_params(shape)
    return TokenFlops(
        blocks=2 * params.kaplan,
        head=2 * params.head_matmul,
        attention=4 * shape.n_layers * shape.d_model * shape.seq_len,
    )


def flops_per_token(shape: ModelShape, convention: FlopConvention) -> int:
    """Training FLOPs per token: 6 N under the convention's N, or every FLOP for `attention`."""
    params = count_params(shape)
    return {
        FlopConvention.kaplan: 6 * params.kaplan,
        FlopConvention.standard: 6 * params.standard,
        FlopConvention.total: 6 * params.total,
        FlopConvention.attention: count_token_flops(shape).train,
    }[convention]
