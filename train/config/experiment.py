"""What a run measures: model, data, optimizer, schedule, budget, eval. Hashed into run_id.

Each field says its unit. Rules of single values are in ranges.py, rules across them in
plan/validate.py; what they come to is computed in plan/planning.py.
"""

from dataclasses import dataclass, field
from enum import Enum


class Activation(Enum):
    """The feed-forward layer's non-linearity."""

    gelu = "gelu"
    swiglu = "swiglu"


class Norm(Enum):
    """Normalisation before each sub-layer: a gain and no bias, so both have as many parameters."""

    rms = "rms"
    layer = "layer"


class Positions(Enum):
    """Position encoding: rotated queries and keys, or a trained vector added to the embedding."""

    rotary = "rotary"
    learned = "learned"


@dataclass(kw_only=True)
class ModelConfig:
    """One rung: a width, from which the ladder's rule (plan/shape.py) derives depth and heads.

    `model.norm=layer model.positions=learned model.qk_norm=false model.tie_head=true`, with the
    default GELU, is GPT-2's block (Radford et al. 2019) without its biases, which no layer here
    has.
    """

    d_model: int = 64
    """Width of the residual stream, the one number that differs between rungs."""
    aspect_ratio: float = 64.0
    """d_model per layer; n_layers = max(min_layers, round(d_model / aspect_ratio))."""
    min_layers: int = 2
    """Fewest layers of the rule."""
    head_dim: int = 64
    """Target width of a head; n_heads = max(min_heads, d_model // head_dim)."""
    min_heads: int = 2
    """Fewest heads of the rule."""
    n_layers: int | None = None
    """Layers; null follows the rule."""
    n_heads: int | None = None
    """Attention heads; null follows the rule."""
    d_ff: int | None = None
    """Hidden width of the feed-forward layer; null is 4 d_model (GELU) or 8/3 d_model (SwiGLU)."""
    activation: Activation = Activation.gelu
    """Non-linearity of the feed-forward layer."""
    norm: Norm = Norm.rms
    """RMSNorm or LayerNorm before each sub-layer and the head."""
    qk_norm: bool = True
    """Whether queries and keys are normalised (RMSNorm): more learning rates are then stable."""
    tie_head: bool = False
    """Whether the output head shares the embedding's matrix."""
    positions: Positions = Positions.rotary
    """rotary, or learned: a table of (data.seq_len, d_model) added to the token embeddings."""
    rotary_base: float = 10_000.0
    """Base of the rotary frequencies; unused with learned positions."""


class Source(Enum):
    """Where documents come from."""

    enwik8 = "enwik8"
    files = "files"
    synthetic = "synthetic"


class TokenizerKind(Enum):
    """How text becomes token ids."""

    bytes = "bytes"
    bpe = "bpe"


@dataclass(kw_only=True)
class SyntheticConfig:
    """A Markov source of exactly known entropy rate."""

    tokens: int = 4_000_000
    """Tokens generated, validation included."""
    document_tokens: int = 2_000
    """Tokens per document; documents are cut from one chain, and the first are validation."""
    zipf_exponent: float = 1.0
    """Exponent of the unigram distribution p(rank) ~ rank**-s."""
    bigram_weight: float = 0.5
    """Probability that the next token follows its predecessor's own successors, 0..1."""
    successors: int = 4
    """Distinct successors of each token in the bigram part."""
    seed: int = 0
    """Seed of the source, the same for all runs of a study."""


@dataclass(kw_only=True)
class DataConfig:
    """The text, its tokenizer, and the length of a training window."""

    name: str = "enwik8"
    """Prefix of the prepared folder; letters, digits, dot, dash, underscore."""
    source: Source = Source.enwik8
    """Where documents come from."""
    files: list[str] = field(default_factory=list)
    """For source=files: paths or globs of .txt (long ones split), .jsonl (field `text`), .gz."""
    tokenizer: TokenizerKind = TokenizerKind.bytes
    """How text becomes token ids."""
    vocab_size: int = 256
    """Token ids, all below this; 256 for bytes."""
    seq_len: int = 256
    """Tokens per training window."""
    validation_tokens: int = 1_000_000
    """Tokens held out at least: whole documents, chosen by their hash."""
    allow_repeat: bool = False
    """Whether a run may read more tokens than the data has (its epochs are recorded)."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    """The generated source, for source=synthetic."""


@dataclass(kw_only=True)
class LearningRateRule:
    """lr = coefficient * (n_params_standard / reference_params) ** exponent, at most `maximum`.

    Source:
        Form and exponent: Porian et al. 2024 (arXiv:2406.19146), whose constant is 0.0047. At 10
        and 33 thousand parameters that is about ten times too high, hence 0.0007 (measured,
        docs/results/lr_check.md). At 115 thousand no best learning rate was resolved; larger sizes
        were not tried.
    """

    coefficient: float = 0.0007
    """Learning rate at the reference size."""
    reference_params: float = 108e6
    """Parameters at which lr equals the coefficient."""
    exponent: float = -1.0 / 3.0
    """Power of the parameter count."""
    maximum: float = 0.03
    """Highest learning rate of the rule, reached below 1,400 parameters."""


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW, decoupled weight decay on matrices only, and the batch."""

    lr: float | None = None
    """Peak learning rate; null follows lr_rule."""
    lr_multiplier: float = 1.0
    """Factor on the learning rate: the axis of a sweep across sizes."""
    lr_rule: LearningRateRule = field(default_factory=LearningRateRule)
    """Default learning rate as a function of size."""
    batch_tokens: int = 16_384
    """Tokens per optimiser step, a multiple of data.seq_len."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the square root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices: lr * weight_decay per step."""
    grad_clip: float = 1.0
    """Largest global gradient norm."""


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
    """Learning-rate multiplier over a run; warm-up is given by at most one of four settings."""

    shape: ScheduleShape = ScheduleShape.cosine
    """Decay after warm-up."""
    warmup_steps: int | None = None
    """Warm-up in steps."""
    warmup_tokens: float | None = None
    """Warm-up in tokens, rounded to whole steps."""
    warmup_tokens_per_param: float | None = None
    """Warm-up in tokens per parameter (standard counting), rounded to whole steps.

    1 is the rule of Porian et al. 2024 (arXiv:2406.19146), in place of Kaplan's fixed 3000 steps:
    as many tokens as the model has parameters, however long the run.
    """
    warmup_fraction: float | None = None
    """Warm-up as a fraction of the run's steps, 0..1."""
    final_lr_ratio: float = 0.1
    """Last multiplier of cosine, linear, wsd and kaplan, 0..1."""
    cooldown: Cooldown = Cooldown.linear
    """Shape of the WSD cooldown."""
    cooldown_fraction: float = 0.2
    """WSD cooldown as a fraction of the run's steps, 0..1."""
    horizon_tokens: float | None = None
    """For kaplan: tokens at which its cosine ends, whatever the run's own horizon."""


class FlopConvention(Enum):
    """What a FLOP budget counts per token."""

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
    """Training tokens per parameter, standard counting."""
    convention: FlopConvention = FlopConvention.standard
    """kaplan, standard and total: 6 N FLOPs per token with that N; attention: every FLOP."""


@dataclass(kw_only=True)
class EvalConfig:
    """When, and on how many tokens of the validation set, the loss is measured."""

    points: int = 8
    """Evaluations before the last step, log-spaced in steps; the last step is always evaluated."""
    tokens: int = 262_144
    """Validation tokens per evaluation: the first ones, the same for every run, at most all."""
