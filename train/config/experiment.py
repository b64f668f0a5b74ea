"""Settings that decide what is measured: model, data, optimizer, budget. Hashed into run_id."""

from dataclasses import dataclass, field
from enum import Enum


class Activation(Enum):
    """Non-linearity of the feed-forward layer."""

    gelu = "gelu"
    swiglu = "swiglu"


class Norm(Enum):
    """Normalisation of the residual stream; both kinds have a gain and no bias."""

    rms = "rms"
    layer = "layer"


class Positions(Enum):
    """Position encoding: rotary on queries and keys, or learned vectors added to the embeddings."""

    rotary = "rotary"
    learned = "learned"


@dataclass(kw_only=True)
class ModelConfig:
    """One rung of the ladder; depth, heads and d_ff follow from d_model (plan/shape.py).

    `model.norm=layer model.positions=learned model.qk_norm=false model.tie_head=true` with the
    default GELU is GPT-2's block (Radford et al. 2019) without biases.
    """

    d_model: int = 64
    """Width of the residual stream."""
    aspect_ratio: float = 64.0
    """d_model per layer; n_layers = max(min_layers, round(d_model / aspect_ratio))."""
    min_layers: int = 2
    """Smallest number of layers under the rule."""
    head_dim: int = 64
    """Target width of a head; n_heads = max(min_heads, d_model // head_dim)."""
    min_heads: int = 2
    """Smallest number of heads under the rule."""
    n_layers: int | None = None
    """Layers; null applies the rule."""
    n_heads: int | None = None
    """Attention heads; null applies the rule."""
    d_ff: int | None = None
    """Hidden width of the feed-forward layer; null is 4 d_model (GELU) or 8/3 d_model (SwiGLU)."""
    activation: Activation = Activation.gelu
    """Non-linearity of the feed-forward layer."""
    norm: Norm = Norm.rms
    """RMSNorm or LayerNorm before each sub-layer and the head."""
    qk_norm: bool = True
    """Whether queries and keys get RMSNorm, which widens the range of stable learning rates."""
    tie_head: bool = False
    """Whether the output head shares the embedding matrix."""
    positions: Positions = Positions.rotary
    """Position encoding; learned positions are a table of (data.seq_len, d_model)."""
    rotary_base: float = 10_000.0
    """Base of the rotary frequencies; unused by learned positions."""


class Source(Enum):
    """Source of the documents."""

    enwik8 = "enwik8"
    files = "files"
    synthetic = "synthetic"


class TokenizerKind(Enum):
    """Tokenizer: UTF-8 bytes or a trained byte-level BPE."""

    bytes = "bytes"
    bpe = "bpe"


@dataclass(kw_only=True)
class SyntheticConfig:
    """Markov source with a known entropy rate."""

    tokens: int = 4_000_000
    """Tokens generated, validation included."""
    document_tokens: int = 2_000
    """Tokens per document. Documents are pieces of one chain; the first ones are validation."""
    zipf_exponent: float = 1.0
    """Exponent of the unigram distribution p(rank) ~ rank**-s."""
    bigram_weight: float = 0.5
    """Probability, 0..1, that a token is drawn from the successors of the one before it."""
    successors: int = 4
    """Distinct successors of each token."""
    seed: int = 0
    """Seed of the source; independent of the run's seed."""


@dataclass(kw_only=True)
class DataConfig:
    """Text, tokenizer and window length."""

    name: str = "enwik8"
    """Prefix of the prepared folder: letters, digits, dots, dashes, underscores."""
    source: Source = Source.enwik8
    """Source of the documents."""
    files: list[str] = field(default_factory=list)
    """Paths or globs for source=files: .txt (cut where long), .jsonl (field `text`), or .gz."""
    tokenizer: TokenizerKind = TokenizerKind.bytes
    """Tokenizer of the text."""
    vocab_size: int = 256
    """Number of token ids; 256 for bytes."""
    seq_len: int = 256
    """Tokens per training window."""
    validation_tokens: int = 1_000_000
    """Fewest tokens held out: whole documents, chosen by the hash of their text."""
    allow_repeat: bool = False
    """Whether a run may train on more tokens than the data has; its epochs are recorded."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    """Settings of source=synthetic."""


@dataclass(kw_only=True)
class LearningRateRule:
    """lr = coefficient * (n_params_standard / reference_params) ** exponent, at most `maximum`.

    Source:
        Form and exponent: Porian et al. 2024 (arXiv:2406.19146), whose coefficient 0.0047 is about
        ten times too high at 10 and 33 thousand parameters, hence 0.0007 (ours,
        docs/results/lr_check.md). At 115 thousand parameters our check did not resolve a best
        learning rate; larger sizes were not tried.
    """

    coefficient: float = 0.0007
    """Learning rate at the reference size."""
    reference_params: float = 108e6
    """Reference size, in parameters (standard counting)."""
    exponent: float = -1.0 / 3.0
    """Exponent of the size."""
    maximum: float = 0.03
    """Cap, reached below 1,400 parameters."""


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW with decoupled weight decay on matrices only, and the batch size."""

    lr: float | None = None
    """Peak learning rate; null applies lr_rule."""
    lr_multiplier: float = 1.0
    """Factor on the learning rate: the axis of a learning-rate sweep over several sizes."""
    lr_rule: LearningRateRule = field(default_factory=LearningRateRule)
    """Default learning rate as a function of size."""
    batch_tokens: int = 16_384
    """Tokens per optimiser step, a multiple of data.seq_len."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Term added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay; a step multiplies matrices by 1 - lr * weight_decay."""
    grad_clip: float = 1.0
    """Largest global gradient norm; larger gradients are scaled down to it."""


class ScheduleShape(Enum):
    """Learning-rate multiplier after warm-up."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    wsd = "wsd"
    kaplan = "kaplan"


class Cooldown(Enum):
    """Shape of the decay that ends a WSD schedule."""

    linear = "linear"
    one_minus_sqrt = "one_minus_sqrt"


@dataclass(kw_only=True)
class ScheduleConfig:
    """Learning-rate multiplier over a run; at most one of the four warm-up settings is used."""

    shape: ScheduleShape = ScheduleShape.cosine
    """Decay after warm-up."""
    warmup_steps: int | None = None
    """Length of the warm-up in steps."""
    warmup_tokens: float | None = None
    """Length of the warm-up in tokens, rounded to whole steps."""
    warmup_tokens_per_param: float | None = None
    """Length of the warm-up in tokens per parameter (standard counting), rounded to whole steps.

    1 is the rule of Porian et al. 2024 (arXiv:2406.19146), instead of Kaplan's fixed 3000 steps.
    """
    warmup_fraction: float | None = None
    """Length of the warm-up as a fraction of the steps, 0..1."""
    final_lr_ratio: float = 0.1
    """Multiplier at the end of cosine, linear, wsd and kaplan, 0..1."""
    cooldown: Cooldown = Cooldown.linear
    """Shape of the WSD cooldown."""
    cooldown_fraction: float = 0.2
    """Length of the WSD cooldown as a fraction of the steps, 0..1."""
    horizon_tokens: float | None = None
    """Tokens at which the cosine of shape=kaplan ends, independent of the horizon of the run."""


class FlopConvention(Enum):
    """Counting of a FLOP budget."""

    kaplan = "kaplan"
    standard = "standard"
    total = "total"
    attention = "attention"


@dataclass(kw_only=True)
class BudgetConfig:
    """Length of a run: exactly one of tokens, flops, tokens_per_param."""

    tokens: float | None = None
    """Training tokens."""
    flops: float | None = None
    """Training FLOPs under `convention`; tokens = flops / flops_per_token."""
    tokens_per_param: float | None = None
    """Training tokens per parameter (standard counting)."""
    convention: FlopConvention = FlopConvention.standard
    """FLOPs per token: 6 N with N by kaplan, standard or total counting, or the exact attention."""


@dataclass(kw_only=True)
class EvalConfig:
    """Evaluations on the fixed validation set."""

    points: int = 8
    """Evaluations before the last step, log-spaced; the last step is always evaluated too."""
    tokens: int = 262_144
    """Validation tokens of each evaluation, the same for every run; capped at those held out."""
