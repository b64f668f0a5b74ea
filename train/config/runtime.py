"""Settings of how and where a job runs: study, machine, tracker, paths. Not in run_id."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

SCRATCH = "scratch"
"""Default study: single jobs and sweeps without a name."""


@dataclass(kw_only=True)
class StudyConfig:
    """A question with its grid."""

    name: str = SCRATCH
    """Folder under paths.runs; also the W&B group."""
    question: str = ""
    """Question of the study, in a sentence."""
    extend: bool = False
    """Whether a launch may add runs to a study planned with another grid; scratch always may."""
    max_runs: int = 10_000
    """Largest accepted grid."""
    max_flops: float | None = None
    """Largest total of training FLOPs (6 N D) of a launch; null is no limit."""
    diverged_above: float = 1.01
    """A run is diverged if its mean training loss over the last tenth of its steps is above this
    multiple of its first loss."""
    grid: list[dict[str, Any]] = field(default_factory=list)
    """Blocks of axes (config key: list of values); the grid is the union of their products."""


class Device(Enum):
    """Device of a job."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dtype(Enum):
    """Dtype of matmuls; weights and optimizer state are always float32."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Compile(Enum):
    """Use of torch.compile; YAML would read on and off as true and false."""

    auto = "auto"
    always = "always"
    never = "never"


class AttentionKernel(Enum):
    """Attention kernel: plain (matmuls and a softmax), or PyTorch's fused sdpa."""

    auto = "auto"
    plain = "plain"
    sdpa = "sdpa"


class OnSaveError(Enum):
    """Reaction to a checkpoint that cannot be written."""

    stop = "stop"
    warn = "warn"


@dataclass(kw_only=True)
class MachineConfig:
    """Use of this machine. It changes speed and rounding, not what is measured."""

    device: Device = Device.auto
    """auto is CUDA where available."""
    threads: int = 1
    """CPU threads per job."""
    workers: int | None = None
    """Jobs of a study at a time; null is one per CPU core, or a few per GPU."""
    micro_batch_seqs: int | None = None
    """Windows per forward pass; null is the largest divisor of the batch that fits."""
    dtype: Dtype = Dtype.auto
    """auto is bf16 on CUDA and on CPUs with bf16 instructions, otherwise fp32 (never TF32)."""
    compile: Compile = Compile.auto
    """auto compiles jobs of enough FLOPs to gain from it."""
    attention: AttentionKernel = AttentionKernel.auto
    """auto is the faster kernel on this device."""
    stack: int | None = None
    """Largest number of replicas per job; null is the number that a timing finds fastest."""
    trunks: bool = True
    """Whether runs that differ only in horizon share the steps before their cooldowns."""
    deterministic: bool = False
    """Whether CUDA must use deterministic kernels."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    checkpoint_minutes: float = 2.0
    """Minutes between checkpoints, which are written at logged steps and at the end; at least fifty
    times what the last one took to write."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints, in addition to checkpoint_minutes; null is none."""
    checkpoint_keep: int = 2
    """Checkpoints kept, at least 2."""
    on_save_error: OnSaveError = OnSaveError.stop
    """On a full disk: stop with exit code 3, or warn and train on without this checkpoint."""
    strict_versions: bool = False
    """Whether a resume with other versions of torch, Python or this code is refused."""


class TrackerKind(Enum):
    """Mirror of the run folder."""

    none = "none"
    wandb = "wandb"


class WandbMode(Enum):
    """Connection to W&B; auto is online where an API key exists, otherwise offline."""

    auto = "auto"
    online = "online"
    offline = "offline"
    off = "off"


@dataclass(kw_only=True)
class TrackerConfig:
    """Mirror of the run folder, which is written in any case."""

    kind: TrackerKind = TrackerKind.none
    """none or wandb."""
    mode: WandbMode = WandbMode.auto
    """Connection to W&B."""
    project: str = "windtunnel"
    """W&B project."""
    entity: str | None = None
    """W&B entity; null is the default of the API key."""


@dataclass(kw_only=True)
class PathsConfig:
    """Folders, relative to the working folder."""

    runs: str = "runs"
    """Folder of the studies."""
    data: str = "data"
    """Folder of the prepared token shards."""
