"""The shapes that the engine is timed at, small enough for one CPU core."""

from dataclasses import dataclass

from train.config import ModelConfig, Norm, Positions
from train.counting import count_params
from train.shape import ModelShape, model_shape

VOCAB_SIZE = 256
"""Bytes."""


@dataclass(frozen=True)
class Size:
    """A shape and the tokens of a step."""

    d_model: int
    n_layers: int
    n_heads: int
    seq_len: int
    batch_tokens: int

    @property
    def name(self) -> str:
        """Such as '0.12 M at 1024'."""
        params = count_params(self.gpt2()).total
        return f"{params / 1e6:.2g} M at {self.batch_tokens}"

    def gpt2(self) -> ModelShape:
        """GPT-2's block: LayerNorm, learned positions, GELU, a tied head."""
        return self._shape(
            ModelConfig(norm=Norm.layer, positions=Positions.learned, qk_norm=False, tie_head=True)
        )

    def default(self) -> ModelShape:
        """Our default block: RMSNorm, rotary positions, normalised queries and keys, own head."""
        return self._shape(ModelConfig())

    def _shape(self, model: ModelConfig) -> ModelShape:
        model.d_model, model.n_layers, model.n_heads = self.d_model, self.n_layers, self.n_heads
        return model_shape(model, vocab_size=VOCAB_SIZE, seq_len=self.seq_len)


TINY = Size(16, 2, 2, 16, 64)
"""For trying everything out."""
