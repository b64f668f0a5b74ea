"""Speed of training steps on a GPU: MFU, tokens per second, speed-up of CUDA graphs."""

from dataclasses import dataclass

from bench.figures import Figure
from gpu.setting import (
    Report,
    Setting,
    flops_a_step,
    matmul_peak,
    seconds_a_step,
    timed_engine,
)
from train.engine.engine import Engine
from train.plan.counting import count_params

TIMED_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A stack to time, and its goals."""

    name: str
    d_model: int
    n_layers: int
    batch_tokens: int
    """Tokens per step of one replica."""
    n_replicas: int = 1
    micro_batch_seqs: int | None = None
    share: float = 0.0
    """Goal for the share of the matmul peak."""
    tokens_per_second: float = 0.0
    """Goal for the rate of all replicas together."""

    def engine(self, setting: Setting) -> Engine:
        """Build the engine, compiled and with CUDA graphs."""
        return timed_engine(
            setting.shape(self.d_model, self.n_layers),
            setting,
            batch_seqs=setting.seqs(self.batch_tokens),
            n_replicas=self.n_replicas,
            micro_batch_seqs=None if setting.is_tiny else self.micro_batch_seqs,
            is_compiled=True,
        )


SPEEDS = {
    "100M": Speed(
        name="100 M at 64k",
        d_model=768,
        n_layers=12,
        batch_tokens=65_536,
        micro_batch_seqs=32,
        share=0.50,
    ),
    "20M": Speed(
        name="20 M at 64k",
        d_model=512,
        n_layers=6,
        batch_tokens=65_536,
        tokens_per_second=2.2e6,
    ),
    "5M": Speed(
        name="5 M at 8k x 8",
        d_model=256,
        n_layers=6,
        batch_tokens=8_192,
        n_replicas=8,
        share=0.35,
    ),
    "1M": Speed(
        name="1 M at 8k x 8",
        d_model=128,
        n_layers=5,
        batch_tokens=8_192,
        n_replicas=8,
        share=0.22,
    ),
    "0.1M": Speed(
        name="0.1 M at 8k x 8",
        d_model=64,
        n_layers=2,
        batch_tokens=8_192,
        n_replicas=8,
        share=0.11,
    ),
}
"""Named by their non-embedding parameters: 84.9 M, 18.9 M, 4.72 M, 0.98 M and 98 thousand. With a
vocabulary of 8192, embedding and head add 12.6 M, 8.4 M, 4.2 M, 2.1 M and 1.05 M."""

GRAPH_GOAL = 3.0


def take_speed(name: str, setting: Setting, report: Report) -> None:
    """Time one of SPEEDS, and the matmul peak in the same process."""
    speed = SPEEDS[name]
    engine = speed.engine(setting)
    seconds = seconds_a_step(engine, setting.seconds(TIMED_SECONDS))
    peak = matmul_peak(setting)
    flops = flops_a_step(engine)
    tokens = engine.n_replicas * engine.batches.batch_seqs * engine.shape.seq_len
    params = count_params(engine.shape)
    title = speed.name
    report(Figure(f"{title}: share of the peak", flops / seconds / peak, "ratio", speed.share))
    report(Figure(f"{title}: rate", tokens / seconds, "tokens/s", speed.tokens_per_second))
    report(Figure(f"{title}: step", 1e3 * seconds, "ms"))
    report(Figure(f"{title}: compiled", engine.policy.compiled, "1 is yes"))
    report(Figure(f"{title}: model FLOPs", flops / seconds / 1e12, "TFLOP/s"))
    report(Figure(f"{title}: peak of a matrix product", peak / 1e12, "TFLOP/s"))
    report(Figure(f"{title}: parameters of the blocks", params.kaplan, "parameters"))
    report(Figure(f"{title}: parameters in all", params.total, "parameters"))


def take_graph(setting: Setting, report: Report) -> None:
    """Time one run of 1 M at 8k eager, with CUDA graphs, and compiled with CUDA graphs."""
    speed = SPEEDS["1M"]
    shape, seqs = setting.shape(speed.d_model, speed.n_layers), setting.seqs(speed.batch_tokens)
    engines = {
        "eager": timed_engine(shape, setting, batch_seqs=seqs, may_graph=False),
        "graph": timed_engine(shape, setting, batch_seqs=seqs),
        "compiled graph": timed_engine(shape, setting, batch_seqs=seqs, is_compiled=True),
    }
    seconds = {
        name: seconds_a_step(engine, setting.seconds(TIMED_SECONDS / 2))
        for name, engine in engines.items()
    }
    for name, value in seconds.items():
        report(Figure(f"1 M at 8k, one run: {name}", 1e3 * value, "ms a step"))
    gain = {name: seconds["eager"] / value for name, value in seconds.items()}
    report(Figure("1 M at 8k: graph of eager kernels, times eager", gain["graph"], "ratio"))
    best = gain["compiled graph"]
    report(Figure("1 M at 8k: whole-step graph, times eager", best, "ratio", GRAPH_GOAL))
