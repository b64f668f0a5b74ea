"""bfloat16 matmuls: how far they move the final loss, relative to its spread over seeds."""

import statistics
from dataclasses import dataclass

import pytest

from tests.train.small_engines import CPU, policy
from train.config.experiment import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    Source,
    SyntheticConfig,
)
from train.config.runtime import AttentionKernel, Dtype
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.engine.batches import Batches
from train.engine.engine import Engine, Replica
from train.engine.evaluate import evaluate
from train.plan.schedule import resolve_schedule
from train.plan.shape import model_shape

SEEDS = range(4)
LARGEST_SHIFT = 0.1
"""Of the seed's standard deviation."""
SEQ_LEN, VOCAB = 64, 64


@dataclass(frozen=True, kw_only=True)
class Setting:
    steps: int
    d_model: int
    batch_tokens: int
    lr: float

    @property
    def data(self):
        return DataConfig(
            source=Source.synthetic,
            vocab_size=VOCAB,
            seq_len=SEQ_LEN,
            validation_tokens=140_000,
            synthetic=SyntheticConfig(tokens=self.steps * self.batch_tokens + 300_000),
        )


SHORT = Setting(steps=200, d_model=16, batch_tokens=512, lr=0.01)
LONG = Setting(steps=600, d_model=32, batch_tokens=1024, lr=0.006)


def final_losses(setting, dataset, dtype):
    """Validation losses of a stack of the four seeds, each trained to its horizon."""
    shape = model_shape(
        ModelConfig(d_model=setting.d_model, head_dim=16), vocab_size=VOCAB, seq_len=SEQ_LEN
    )
    schedule = resolve_schedule(
        ScheduleConfig(warmup_fraction=0.05),
        total_steps=setting.steps,
        batch_tokens=setting.batch_tokens,
        n_params_standard=1,
    )
    batch_seqs = setting.batch_tokens // SEQ_LEN
    batches = Batches(dataset, CPU, seeds=SEEDS, batch_seqs=batch_seqs, seq_len=SEQ_LEN)
    replicas = [
        Replica(seed=seed, lr=setting.lr, schedule=schedule, optimizer=OptimizerConfig())
        for seed in SEEDS
    ]
    choices = policy(dtype=dtype, attention=AttentionKernel.plain, micro_batch_seqs=batch_seqs)
    engine = Engine(shape, replicas, CPU, batches, choices)
    engine.advance(setting.steps)
    batches.load_validation(131_072, max_seqs=64)
    return [measured.loss for measured in evaluate(engine)]


@pytest.mark.parametrize("setting", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
def test_bfloat16_moves_the_final_loss_by_a_tenth_of_what_the_seed_does_at_most(setting, tmp_path):
    dataset = open_dataset(prepare(setting.data, tmp_path))
    exact = final_losses(setting, dataset, Dtype.fp32)
    rounded = final_losses(setting, dataset, Dtype.bf16)
    shift = statistics.fmean(b - a for a, b in zip(exact, rounded, strict=True))
    assert rounded != exact, "bfloat16 was not used"
    assert abs(shift) <= LARGEST_SHIFT * statistics.stdev(exact)
