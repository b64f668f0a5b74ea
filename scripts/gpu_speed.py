"""How fast steps are on a GPU: share of a matrix product's peak, tokens a second, graphs' gain."""

from dataclasses import dataclass

from benchmark_figures import Figure
from gpu_setting import (
    Setting,
    Tell,
    flops_a_step,
    product_peak,
    seconds_a_step,
    timed_engine,
)

from train.engine.engine import Engine
from train.plan.counting import count_params

TIMED_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A stack to time, and what is asked of it."""

    name: str
    d_model: int
    n_layers: int
    batch_tokens: int
    """Of a replica."""
    n_replicas: int = 1
    micro_batch_seqs: int | None = None
    share: float = 0.0
    """Goal: of the peak."""
    tokens_per_second: float = 0.0
    """Goal: of all replicas."""

    def engine(self, setting: Setting) -> Engine:
        """Compiled, and replayed as a graph."""
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
"""Named by the parameters of the blocks: 84.9 M, 18.9 M, 4.72 M, 0.98 M and 98 thousand. With V
8192, embedding and head add 12.6 M, 8.4 M, 4.2 M, 2.1 M and 1.05 M."""

GRAPH_GOAL = 3.0


def take_speed(name: str, setting: Setting, tell: Tell) -> None:
    """Time one of SPEEDS against the peak of this process."""
    speed = SPEEDS[name]
    engine = speed.engine(setting)
    seconds = seconds_a_step(engine, setting.seconds(TIMED_SECONDS))
    peak = product_peak(setting)
    flops = flops_a_step(engine)
    tokens = engine.n_replicas * engine.batches.batch_seqs * engine.shape.seq_len
    params = count_params(engine.shape)
    say = speed.name
    tell(Figure(f"{say}: share of the peak", flops / seconds / peak, "ratio", speed.share))
    tell(Figure(f"{say}: rate", tokens / seconds, "tokens/s", speed.tokens_per_second))
    tell(Figure(f"{say}: step", 1e3 * seconds, "ms"))
    tell(Figure(f"{say}: compiled", engine.policy.compiled, "1 is yes"))
    tell(Figure(f"{say}: model FLOPs", flops / seconds / 1e12, "TFLOP/s"))
    tell(Figure(f"{say}: peak of a matrix product", peak / 1e12, "TFLOP/s"))
    tell(Figure(f"{say}: parameters of the blocks", params.kaplan, "parameters"))
    tell(Figure(f"{say}: parameters in all", params.total, "parameters"))


def take_graph(setting: Setting, tell: Tell) -> None:
    """One run of 1 M at 8k: eager, as a graph, and compiled as a graph, in turn."""
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
        tell(Figure(f"1 M at 8k, one run: {name}", 1e3 * value, "ms a step"))
    gain = {name: seconds["eager"] / value for name, value in seconds.items()}
    tell(Figure("1 M at 8k: graph of eager kernels, times eager", gain["graph"], "ratio"))
    best = gain["compiled graph"]
    tell(Figure("1 M at 8k: whole-step graph, times eager", best, "ratio", GRAPH_GOAL))
