"""The ladder: from `model.d_model` alone to a whole transformer shape. No torch."""

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum

from train.config.experiment import Activation, ModelConfig, Norm, Positions
from train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Everything that decides the sizes of a model's matrices; `d_model = n_heads * head_dim`."""

    n_layers: int
    d_model: int
    n_heads: int
    head_dim: int
    d_ff: int
    vocab_size: int
    seq_len: int
    gated: bool
    """Whether the feed-forward layer has a third, gating matrix (SwiGLU)."""
    norm: Norm
    qk_norm: bool
    tie_head: bool
    positions: Positions

    @property
    def rung(self) -> str:
        """The shape's short name, such as d64l2."""
        return f"d{self.d_model}l{self.n_layers}"

    def to_json(self) -> dict[str, int | bool | str]:
        """Every field as a JSON value, enums by name."""
        fields = dataclasses.asdict(self)
        return {k: value.name if isinstance(value, Enum) else value for k, value in fields.items()}


def model_shape(model: ModelConfig, *, vocab_size: int, seq_len: int) -> ModelShape:
    """The shape of a width by the ladder's rule; given n_layers, n_heads and d_ff win over it.

    Source:
        ours: a fixed aspect ratio d_model / n_layers, as in nanochat's depth dial, with a floor of
        `min_layers` because one-layer models cannot form induction heads (Olsson et al. 2022,
        arXiv:2209.11895). The SwiGLU width 8/3 d_model keeps its three matrices at the parameters
        of GELU's two (Shazeer 2020, arXiv:2002.05202), rounded up to a multiple of 8.

    Raises:
        ConfigError: A size is not positive, heads do not divide d_model, or a head's width is odd
            where rotary positions turn its pairs.
    """
    for name in ("d_model", "aspect_ratio", "min_layers", "head_dim", "min_heads"):
        _require_positive(f"model.{name}", getattr(model, name))
    for name in ("n_layers", "n_heads", "d_ff"):
        value = getattr(model, name)
        if value is not None:
            _require_positive(f"model.{name}", value)
    d_model = model.d_model
    n_layers = model.n_layers or max(model.min_layers, round(d_model / model.aspect_ratio))
    n_heads = model.n_heads or max(model.min_heads, d_model // model.head_dim)
    _require_head_widths(d_model, n_heads, rotary=model.positions is Positions.rotary)
    gated = model.activation is Activation.swiglu
    rule_d_ff = -(-8 * d_model // 3 // 8) * 8 if gated else 4 * d_model
    return ModelShape(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        head_dim=d_model // n_heads,
        d_ff=model.d_ff or rule_d_ff,
        vocab_size=vocab_size,
        seq_len=seq_len,
        gated=gated,
        norm=model.norm,
        qk_norm=model.qk_norm,
        tie_head=model.tie_head,
        positions=model.positions,
    )


def _require_positive(name: str, value: float) -> None:
    # false for NaN too
    if not 0 < value < math.inf:
        raise ConfigError(f"{name}={value}: must be positive and finite, such as 1")


def _require_head_widths(d_model: int, n_heads: int, *, rotary: bool) -> None:
    """Heads must divide d_model; rotary positions rotate pairs, so they need an even head width."""
    unit = (2 if rotary else 1) * n_heads
    if d_model % unit == 0:
        return
    rule = "is not divisible by" if d_model % n_heads else "leaves an odd head width with"
    reason = " (rotary needs an even head width)" if rotary else ""
    below = d_model - d_model % unit
    widths = [str(width) for width in (below, below + unit) if width > 0]
    raise ConfigError(
        f"model.d_model={d_model} {rule} model.n_heads={n_heads}{reason}; "
        f"use d_model={' or '.join(widths)}"
    )
