"""The tiny run that every fault is tried on, its data, and the same run undisturbed."""

import pytest
import torch

from faults.fake_study import REPO, use_fake_jobs
from faults.foreign import train_command  # noqa: F401  (a fixture)
from faults.overrides import changed
from faults.runner import PEAK, run_folder, start_child
from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    Source,
    SyntheticConfig,
)
from train.config.runtime import (
    AttentionKernel,
    Compile,
    Device,
    Dtype,
    MachineConfig,
    PathsConfig,
    StudyConfig,
)
from train.config.schema import Config
from train.data.prepare import prepare
from train.plan.validate import validate
from train.training.trainer import train_run

STEPS = 60
CHECKPOINT_STEPS = 7
BATCH_TOKENS = 256


def tiny_config(runs, data):
    """60 steps, 2 layers, width 32, 97 token ids, windows of 32; logs every step."""
    return Config(
        model=ModelConfig(d_model=32, head_dim=16),
        data=DataConfig(
            name="faults",
            source=Source.synthetic,
            vocab_size=97,
            seq_len=32,
            validation_tokens=4_000,
            synthetic=SyntheticConfig(tokens=40_000, document_tokens=500),
        ),
        optimizer=OptimizerConfig(lr=0.01, batch_tokens=BATCH_TOKENS),
        schedule=ScheduleConfig(warmup_steps=5),
        budget=BudgetConfig(tokens=float(STEPS * BATCH_TOKENS)),
        eval=EvalConfig(points=3, tokens=1_024),
        study=StudyConfig(name="faults"),
        machine=MachineConfig(
            device=Device.cpu,
            log_every=1,
            checkpoint_steps=CHECKPOINT_STEPS,
            checkpoint_minutes=1_000.0,
            dtype=Dtype.fp32,  # as the golden curve was made, on any processor
            attention=AttentionKernel.sdpa,
            compile=Compile.never,
        ),
        paths=PathsConfig(runs=str(runs), data=str(data)),
    )


@pytest.fixture(autouse=True)
def _no_peak_measurement(monkeypatch):
    """As in the children: 0.2 s of every start, for the column mfu alone."""
    monkeypatch.setattr("train.engine.engine.peak_flops", lambda compute, dtype: PEAK)


@pytest.fixture(scope="session")
def prepared_data(tmp_path_factory):
    """The tokens, prepared once; tests that damage data copy the folder first."""
    data = tmp_path_factory.mktemp("prepared")
    prepare(tiny_config(data / "unused", data).data, data)
    return data


@pytest.fixture(scope="session")
def reference_run(tmp_path_factory, prepared_data):
    """The run that nothing disturbed; never to be changed."""
    torch.set_num_threads(1)
    config = tiny_config(tmp_path_factory.mktemp("reference"), prepared_data)
    train_run(config, validate(config))
    return run_folder(config)


@pytest.fixture
def tiny(tmp_path, prepared_data):
    """Return a maker of the tiny run in this test's own folder, with changes by dotted keys."""

    def make(**changes):
        config = tiny_config(tmp_path / "runs", prepared_data)
        return changed(config, {key.replace("__", "."): new for key, new in changes.items()})

    return make


@pytest.fixture
def started():
    """Return `start_child`, whose children end with the test."""
    children = []

    def start(config, *patches, **options):
        children.append(start_child(config, *patches, **options))
        return children[-1]

    yield start
    for child in children:
        child.close()


@pytest.fixture
def fake_jobs(monkeypatch):
    """Let launchers start jobs that write run folders in a moment, and train nothing."""
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    use_fake_jobs(monkeypatch.setattr)
