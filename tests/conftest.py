"""What every test needs: no network, one thread, and a tiny real job."""

import os
import signal
import tempfile
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", OMP_NUM_THREADS="1"
)

import pytest
import torch

from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    Source,
    SyntheticConfig,
)
from train.config.runtime import MachineConfig, PathsConfig, StudyConfig
from train.config.schema import Config


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session", autouse=True)
def _temporary_files():
    """What processes leave in the system's folder for temporary files goes with the tests.

    wandb's leave some when they are killed. Its path is short: the names of sockets are in it.
    """
    with (
        tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)  # this process has looked already
        patch.setenv("WINDTUNNEL_CACHE", f"{folder}/cache")  # one attention kernel, for all of them
        yield


@pytest.fixture(scope="session", autouse=True)
def _signals_as_at_a_terminal():
    """A shell starts what is in its background, and nohup, with signals ignored; children too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def make_config(tmp_path):
    """Return a maker of tiny jobs: width 32, windows of 32, batches of 256, synthetic text."""

    def make(**groups):
        fields = {
            "model": ModelConfig(d_model=32, head_dim=16),
            "data": DataConfig(
                name="tiny",
                source=Source.synthetic,
                vocab_size=64,
                seq_len=32,
                validation_tokens=4_000,
                synthetic=SyntheticConfig(tokens=40_000, document_tokens=500),
            ),
            "optimizer": OptimizerConfig(lr=0.01, batch_tokens=256),
            "budget": BudgetConfig(tokens=40 * 256),
            "eval": EvalConfig(points=2, tokens=1_024),
            "study": StudyConfig(name="tiny"),
            "machine": MachineConfig(log_every=10),
            "paths": PathsConfig(runs=str(tmp_path / "runs"), data=str(tmp_path / "data")),
        }
        return Config(**{**fields, **groups})

    return make


@pytest.fixture
def published_folder():
    """The folder of tables that others published; the test is skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "published"
    folder = Path(os.environ.get("WINDTUNNEL_PUBLISHED", beside))
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set WINDTUNNEL_PUBLISHED to the folder of published tables")
    return folder
