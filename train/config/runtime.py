"""How and where a job runs: study, machine, tracker, paths. Not hashed into run_id."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

SCRATCH = "scratch"
"""The study of single jobs and plain sweeps that were given no other name."""


@dataclass(kw_only=True)
class StudyConfig:
    """A question with its grid."""

    name: str = SCRATCH
    """Folder under paths.runs, and the W&B group."""
    question: str = ""
    """What the study asks, in a sentence."""
    extend: bool = False
    """Whether a launch may add runs to a study that was planned with another grid; scratch may."""
    max_runs: int = 10_000
    """Largest grid that is accepted."""
    max_flops: float | None = None
    """Most training FLOPs (6 N D, all runs together) that a launch may plan; null is no limit."""
    diverged_above: float = 1.01
    """A run whose mean training loss over its last tenth is above this times its loss before the
    first update has diverged."""
    grid: list[dict[str, Any]] = field(default_factory=list)
    """Blocks of axes (config key: list of values): each a full product, the study their union."""


class Device(Enum):
    """Where a job computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dtype(Enum):
    """What matrix products compute in; weights and optimizer state are float32 always."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Compile(Enum):
    """Whether the step is compiled; not on and off, which YAML reads as true and false."""

    auto = "auto"
    always = "always"
    never = "never"


class AttentionKernel(Enum):
    """What computes attention: plain matrix products and a softmax, or PyTorch's fused kernel."""

    auto = "auto"
    plain = "plain"
    sdpa = "sdpa"


class OnSaveError(Enum):
    """What a checkpoint that cannot be written means for its run."""

    stop = "stop"
    warn = "warn"


@dataclass(kw_only=True)
class MachineConfig:
    """How this machine is used. Plumbing: it changes speed and rounding, not the question."""

    device: Device = Device.auto
    """auto takes CUDA when it is there."""
    threads: int = 1
    """CPU threads per job."""
    workers: int | None = None
    """Jobs at once in a study; null is one per core on CPU, and a few per GPU."""
    micro_batch_seqs: int | None = None
    """Windows per forward pass; null is the largest divisor that fits."""
    dtype: Dtype = Dtype.auto
    """auto is bf16 on CUDA and on CPUs with native bf16 instructions, and fp32 elsewhere, which is
    never TF32."""
    compile: Compile = Compile.auto
    """auto compiles where it pays."""
    attention: AttentionKernel = AttentionKernel.auto
    """auto takes the faster one on this device."""
    stack: int | None = None
    """Most replicas that one job trains; null is as many as a timing says pay, 1 is never any."""
    trunks: bool = True
    """Whether runs that differ in their horizon alone share the steps before their cooldowns."""
    deterministic: bool = False
    """Whether CUDA must use deterministic kernels."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    checkpoint_minutes: float = 2.0
    """Minutes between checkpoints, at the next logged step, and at least fifty times what the last
    one took to write; the end is always saved as well."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints, besides those by minutes; null is by minutes alone."""
    checkpoint_keep: int = 2
    """Checkpoints kept, at least 2."""
    on_save_error: OnSaveError = OnSaveError.stop
    """A full disk at a checkpoint: stop with exit 3, or warn and train on without it."""
    strict_versions: bool = False
    """Whether a run refuses to resume under other versions of torch, Python or this code."""


class TrackerKind(Enum):
    """Which mirror of the run folder is kept."""

    none = "none"
    wandb = "wandb"


class WandbMode(Enum):
    """auto is online when a key exists and offline otherwise."""

    auto = "auto"
    online = "online"
    offline = "offline"
    off = "off"


@dataclass(kw_only=True)
class TrackerConfig:
    """The mirror. The run folder is written whatever stands here."""

    kind: TrackerKind = TrackerKind.none
    """none or wandb."""
    mode: WandbMode = WandbMode.auto
    """How wandb connects."""
    project: str = "windtunnel"
    """W&B project."""
    entity: str | None = None
    """W&B entity; null is the key's default."""


@dataclass(kw_only=True)
class PathsConfig:
    """Folders, relative to the working folder."""

    runs: str = "runs"
    """Studies and their runs."""
    data: str = "data"
    """Prepared token shards."""
