"""What a run measures: model, data, optimizer, schedule, budget, eval. Hashed into run_id.

Each field says its unit. Rules are in validate.py and ranges.py, arithmetic in planning.py; why the
dataclasses are not frozen is in config.py.
"""

from dataclasses import dataclass, field
from enum import Enum


class Activation(Enum):
    """The feed-forward layer's non-linearity."""

    gelu = "gelu"
    swiglu = "swiglu"


class Norm(Enum):
    """What normalises the residual stream; either has a gain and no bias, so as many parameters."""

    rms = "rms"
    layer = "layer"


class Positions(Enum):
    """How a position is told: queries and keys are turned, or a trained vector is added."""

    rotary = "rotary"
    learned = "learned"


@dataclass(kw_only=True)
class ModelConfig:
    """One rung: the ladder's rule applied to a width. Shapes follow in shape.py.

    `model.norm=layer model.positions=learned model.qk_norm=false model.tie_head=true`, with the
    default GELU, asks for GPT-2's block (Radford et al. 2019), but for its biases, which no layer
    here has.
    """

    d_model: int = 64
    """Width of the residual stream, the ladder's dial."""
    aspect_ratio: float = 64.0
    """d_model per layer; n_layers = max(min_layers, round(d_model / aspect_ratio))."""
    min_layers: int = 2
    """Layers below which the rule does not go."""
    head_dim: int = 64
    """Aimed width of a head; n_heads = max(min_heads, d_model // head_dim)."""
    min_heads: int = 2
    """Heads below which the rule does not go."""
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
    """RMSNorm on queries and keys, which widens the range of usable learning rates."""
    tie_head: bool = False
    """Whether the output head shares the embedding's matrix."""
    positions: Positions = Positions.rotary
    """rotary, or learned: a table of (data.seq_len, d_model) added to the token embeddings."""
    rotary_base: float = 10_000.0
    """Base of the rotary position frequencies; learned positions have none."""


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
    """Tokens per piece of the one unbroken chain; validation is its first whole pieces."""
    zipf_exponent: float = 1.0
    """Exponent of the unigram distribution p(rank) ~ rank**-s."""
    bigram_weight: float = 0.5
    """Probability that the next token follows its predecessor's own successors, 0..1."""
    successors: int = 4
    """Distinct successors of each token in the bigram part."""
    seed: int = 0
    """Seed of the source itself; runs share it."""


@dataclass(kw_only=True)
class DataConfig:
    """The text, its tokens, and how long a window is."""

    name: str = "enwik8"
    """Prefix of the prepared folder; letters, digits, dot, dash, underscore."""
    source: Source = Source.enwik8
    """Where documents come from."""
    files: list[str] = field(default_factory=list)
    """For source=files: paths or globs of .txt (long ones are cut), .jsonl (field `text`), .gz."""
    tokenizer: TokenizerKind = TokenizerKind.bytes
    """How text becomes token ids."""
    vocab_size: int = 256
    """Token ids, all below this; 256 for bytes."""
    seq_len: int = 256
    """Tokens per training window."""
    validation_tokens: int = 1_000_000
    """At least this many tokens are held out, whole documents chosen by their hash."""
    allow_repeat: bool = False
    """Whether a run may read more tokens than the data has (epochs are recorded)."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    """The generated source, for source=synthetic."""


@dataclass(kw_only=True)
class LearningRateRule:
    """lr = coefficient * (n_params_standard / reference_params) ** exponent, at most `maximum`.

    Source:
        Form and exponent: Porian et al. 2024 (arXiv:2406.19146), whose constant is 0.0047. At 10
        and 33 thousand parameters that is about ten times too high, hence 0.0007 (ours,
        docs/results/lr_check.md). The check at 115 thousand did not resolve a best learning rate,
        and larger sizes were not tried.
    """

    coefficient: float = 0.0007
    """Learning rate at the reference size."""
    reference_params: float = 108e6
    """Parameters at which lr equals the coefficient."""
    exponent: float = -1.0 / 3.0
    """How the learning rate falls with parameters."""
    maximum: float = 0.03
    """Cap, which models below 1,400 parameters reach."""


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW, decoupled weight decay on matrices only, and the batch."""

    lr: float | None = None
    """Peak learning rate; null follows lr_rule."""
    lr_multiplier: float = 1.0
    """Factor on the learning rate, the natural axis of a learning-rate sweep across sizes."""
    lr_rule: LearningRateRule = field(default_factory=LearningRateRule)
    """The default learning rate as a function of size."""
    batch_tokens: int = 16_384
    """Tokens per optimiser step, a multiple of data.seq_len."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices per step, times lr."""
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
    """Learning-rate multiplier over a run; warm-up is given in at most one of four ways."""

    shape: ScheduleShape = ScheduleShape.cosine
    """Decay after warm-up."""
    warmup_steps: int | None = None
    """Steps from 0 to the peak."""
    warmup_tokens: float | None = None
    """Tokens from 0 to the peak, rounded to whole steps."""
    warmup_tokens_per_param: float | None = None
    """Tokens from 0 to the peak per parameter, standard counting; rounded to whole steps.

    1 is the rule of Porian et al. 2024 (arXiv:2406.19146), who correct Kaplan's fixed 3000 steps:
    a warm-up of as many tokens as the model has parameters, however long the run.
    """
    warmup_fraction: float | None = None
    """Share of the run's steps from 0 to the peak, 0..1."""
    final_lr_ratio: float = 0.1
    """Last multiplier of cosine, linear, wsd and kaplan, 0..1."""
    cooldown: Cooldown = Cooldown.linear
    """Shape of the WSD cooldown."""
    cooldown_fraction: float = 0.2
    """Share of the run's steps in the WSD cooldown, 0..1."""
    horizon_tokens: float | None = None
    """For kaplan: tokens at which its one long cosine would end, whatever the run's own horizon."""


class FlopConvention(Enum):
    """What a FLOP budget counts per token."""

    kaplan = "kaplan"
    standard = "standard"
    total = "total"
    attention = "attention"


@dataclass(kw_only=True)
class BudgetConfig:
    """How long a run is: exactly one of tokens, flops, tokens_per_param."""

    tokens: float | None = None
    """Training tokens."""
    flops: float | None = None
    """Training FLOPs under `convention`; tokens = flops / flops_per_token."""
    tokens_per_param: float | None = None
    """Training tokens per parameter, standard counting."""
    convention: FlopConvention = FlopConvention.standard
    """kaplan, standard and total are 6 N per token with that N; attention counts every FLOP."""


@dataclass(kw_only=True)
class EvalConfig:
    """When and on how much of the fixed validation set the loss is measured."""

    points: int = 8
    """Evaluations on the way, log-spaced in steps; the end is always evaluated as well."""
    tokens: int = 262_144
    """Validation tokens used: the same first ones for every run, at most what is held out."""
