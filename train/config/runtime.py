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
    """Whether runs may be added to a study that has another grid; to scratch they always may."""
    max_runs: int = 10_000
    """Most runs of a grid."""
    max_flops: float | None = None
    """Most training FLOPs (6 N D, all runs together) of a launch; null is no limit."""
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
    """Dtype of matrix products; weights and optimizer state are always float32."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Compile(Enum):
    """Whether the step is compiled; not `on` and `off`, which YAML reads as true and false."""

    auto = "auto"
    always = "always"
    never = "never"


class AttentionKernel(Enum):
    """plain: two matrix products and a softmax; sdpa: PyTorch's fused kernel."""

    auto = "auto"
    plain = "plain"
    sdpa = "sdpa"


class OnSaveError(Enum):
    """What a run does when the disk has no room for a checkpoint."""

    stop = "stop"
    warn = "warn"


@dataclass(kw_only=True)
class MachineConfig:
    """How this machine is used: it changes speed and rounding, not what is measured."""

    device: Device = Device.auto
    """auto is CUDA if there is a device, else the CPU."""
    threads: int = 1
    """CPU threads per job."""
    workers: int | None = None
    """Jobs at once in a study; null is one per core on CPU, and a few per GPU."""
    micro_batch_seqs: int | None = None
    """Windows per forward pass; null is the largest divisor of the batch that fits memory."""
    dtype: Dtype = Dtype.auto
    """auto is bf16 on CUDA and on CPUs with bf16 instructions, else fp32; fp32 is never TF32."""
    compile: Compile = Compile.auto
    """auto compiles where it saves time."""
    attention: AttentionKernel = AttentionKernel.auto
    """auto times both on this device."""
    stack: int | None = None
    """Most replicas per job; null is the number that a timing finds fastest, 1 is no stacking."""
    trunks: bool = True
    """Whether runs that differ only in their horizon share the steps before their cooldowns."""
    deterministic: bool = False
    """Whether CUDA must use deterministic kernels."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    checkpoint_minutes: float = 2.0
    """Minutes between checkpoints, each at a logged step, and at least 50 times as long as the last
    one took to write; the last step is always saved."""
    checkpoint_steps: int | None = None
    """Steps between further checkpoints; null is none but those by minutes."""
    checkpoint_keep: int = 2
    """Checkpoints kept, at least 2."""
    on_save_error: OnSaveError = OnSaveError.stop
    """stop: exit 3; warn: train on without the checkpoint."""
    strict_versions: bool = False
    """Whether a run refuses to resume with other versions of torch, Python or this code."""


class TrackerKind(Enum):
    """Where run folders are mirrored."""

    none = "none"
    wandb = "wandb"


class WandbMode(Enum):
    """How W&B connects; auto is online if there is a key, else offline."""

    auto = "auto"
    online = "online"
    offline = "offline"
    off = "off"


@dataclass(kw_only=True)
class TrackerConfig:
    """The mirror of run folders, which are written in any case."""

    kind: TrackerKind = TrackerKind.none
    """none or wandb."""
    mode: WandbMode = WandbMode.auto
    """How wandb connects."""
    project: str = "windtunnel"
    """W&B project."""
    entity: str | None = None
    """W&B entity; null is the default of the key's account."""


@dataclass(kw_only=True)
class PathsConfig:
    """Folders, relative to the working folder."""

    runs: str = "runs"
    """Studies and their runs."""
    data: str = "data"
    """Prepared token shards."""
