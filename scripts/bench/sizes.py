"""The model shapes that the engine is timed at, small enough for one CPU core."""

from dataclasses import dataclass

from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    ModelConfig,
    Norm,
    OptimizerConfig,
    Positions,
    ScheduleConfig,
    ScheduleShape,
    Source,
    SyntheticConfig,
)
from train.config.schema import Config
from train.plan.counting import count_params
from train.plan.planning import PlannedRun
from train.plan.validate import validate

STEPS = 1_000_000
"""Horizon of a timed run. It is never reached: only the timed blocks of steps are taken."""

TEXT = SyntheticConfig(tokens=2_000_000)
"""The text that every contender reads: bytes of a Markov source."""


@dataclass(frozen=True)
class Size:
    """A model shape and a batch size."""

    d_model: int
    n_layers: int
    n_heads: int
    seq_len: int
    batch_tokens: int

    @property
    def name(self) -> str:
        """Parameters and tokens per step, such as "0.12 M at 1024"."""
        params = count_params(self.gpt2().plan.shape).total
        return f"{params / 1e6:.2g} M at {self.batch_tokens}"

    def gpt2(self) -> PlannedRun:
        """A run with GPT-2's block: LayerNorm, learned positions, GELU, tied head."""
        return self._run(
            ModelConfig(norm=Norm.layer, positions=Positions.learned, qk_norm=False, tie_head=True)
        )

    def default(self) -> PlannedRun:
        """A run with our default block: RMSNorm, rotary positions, QK-norm, untied head."""
        return self._run(ModelConfig())

    def _run(self, model: ModelConfig) -> PlannedRun:
        model.d_model, model.n_layers, model.n_heads = self.d_model, self.n_layers, self.n_heads
        config = Config(
            model=model,
            data=DataConfig(
                name="bench",
                source=Source.synthetic,
                seq_len=self.seq_len,
                validation_tokens=20_000,
                allow_repeat=True,
                synthetic=TEXT,
            ),
            optimizer=OptimizerConfig(lr=1e-3, batch_tokens=self.batch_tokens),
            schedule=ScheduleConfig(shape=ScheduleShape.constant),
            budget=BudgetConfig(tokens=self.batch_tokens * STEPS),
        )
        return PlannedRun(overrides=[], config=config, plan=validate(config))


TINY = Size(16, 2, 2, 16, 64)
"""The shape of --tiny."""
