"""How far a GPU's fast paths move a loss: one run's CUDA graph, a stack, bfloat16.

scripts/gpu_check.sh tabulates what these tests record.
"""

from statistics import fmean, stdev

import pytest
import torch

from tests.train.small_engines import policy
from train.config.experiment import (
    Cooldown,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleShape,
    Source,
    SyntheticConfig,
)
from train.config.runtime import Dtype
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.engine.batches import Batches
from train.engine.device import ComputeDevice
from train.engine.engine import Engine, Replica
from train.engine.evaluate import evaluate
from train.plan.schedule import Schedule
from train.plan.shape import model_shape

pytestmark = pytest.mark.gpu

GPU = ComputeDevice(torch.device("cuda", 0), "gpu")
BATCH_SEQS, SEQ_LEN = 16, 256
SHAPE = model_shape(ModelConfig(d_model=64, n_layers=2), vocab_size=256, seq_len=SEQ_LEN)
PARITY_STEPS = 600


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = DataConfig(
        name="precision",
        source=Source.synthetic,
        vocab_size=256,
        seq_len=SEQ_LEN,
        validation_tokens=100_000,
        synthetic=SyntheticConfig(tokens=2_000_000),
    )
    return open_dataset(prepare(data, tmp_path_factory.mktemp("data")))


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(autouse=True)
def _plain_float32():
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    # torch keeps compiled code for only a few shapes per process
    torch.compiler.reset()
    yield
    torch.set_float32_matmul_precision(precision)


def run(seed, *, lr=None, weight_decay=None, total_steps=None):
    """A replica; with `total_steps` on a cosine with warm-up, otherwise at a constant rate."""
    steps = total_steps or 1_000_000
    schedule = Schedule(
        shape=ScheduleShape.cosine if total_steps else ScheduleShape.constant,
        total_steps=steps,
        warmup_steps=steps // 10 if total_steps else 0,
        cooldown_steps=0,
        cooldown=Cooldown.linear,
        final_ratio=0.0,
        decay_end_step=steps,
    )
    decay = 0.1 / (1 + seed) if weight_decay is None else weight_decay
    optimizer = OptimizerConfig(weight_decay=decay)
    return Replica(seed=seed, lr=lr or 1e-3 * 1.2**seed, schedule=schedule, optimizer=optimizer)


def engine_of(runs, dataset, *, may_graph=True, **changes):
    seeds = [each.seed for each in runs]
    batches = Batches(dataset, GPU, seeds=seeds, batch_seqs=BATCH_SEQS, seq_len=SEQ_LEN)
    changes = {"micro_batch_seqs": BATCH_SEQS, "eval_seqs": BATCH_SEQS, **changes}
    batches.load_validation(dataset.n_tokens("validation"), max_seqs=64)
    return Engine(SHAPE, runs, GPU, batches, policy(**changes), may_graph=may_graph)


@pytest.mark.parametrize("compiled", [False, True])
def test_one_run_s_recorded_step_is_its_eager_step_in_every_bit(dataset, deterministic, compiled):
    ours, eager = (
        engine_of([run(0)], dataset, dtype=Dtype.bf16, compiled=compiled, may_graph=may_graph)
        for may_graph in (True, False)
    )
    assert ours.advance(43) == eager.advance(43)
    assert torch.equal(ours.rows_RP, eager.rows_RP)


@pytest.mark.parametrize("dtype", [Dtype.fp32, Dtype.bf16])
def test_a_stack_stays_close_to_its_runs_alone(dataset, deterministic, record_property, dtype):
    runs = [run(seed) for seed in range(4)]
    stacked = engine_of(runs, dataset, dtype=dtype).advance(50).losses_SR
    apart = max(
        abs(row[0] - stacked_row[place])
        for place, each in enumerate(runs)
        for row, stacked_row in zip(
            engine_of([each], dataset, dtype=dtype).advance(50).losses_SR, stacked, strict=True
        )
    )
    name = f"stacked against alone, {dtype.name}: loss apart within 50 steps"
    goal = " <= 1e-5" if dtype is Dtype.fp32 else ""
    record_property(name, f"{apart} nats{goal}")
    if dtype is Dtype.fp32:
        assert apart <= 1e-5


def test_bf16_moves_the_mean_final_loss_by_less_than_a_tenth_of_the_spread_over_seeds(
    dataset, record_property
):
    runs = [run(seed, lr=2e-3, weight_decay=0.1, total_steps=PARITY_STEPS) for seed in range(4)]
    final = {}
    for dtype in (Dtype.fp32, Dtype.bf16):
        engine = engine_of(runs, dataset, dtype=dtype)
        engine.advance(PARITY_STEPS)
        final[dtype] = [each.loss for each in evaluate(engine)]
    moved = abs(fmean(final[Dtype.bf16]) - fmean(final[Dtype.fp32]))
    spread = stdev(final[Dtype.fp32])
    record_property("bf16 against fp32, 600 steps, 4 seeds: moved", f"{moved} nats")
    record_property("bf16 against fp32: standard deviation over seeds", f"{spread} nats")
    record_property("bf16 against fp32: moved, of that deviation", f"{moved / spread} ratio <= 0.1")

    assert moved <= 0.1 * spread
