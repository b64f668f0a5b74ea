"""What every test needs: no network, one thread, and a tiny real job."""

import functools
import os
import signal
import tempfile
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", OMP_NUM_THREADS="1"
)

import pytest
import torch

from tests.builders import tiny_config


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
    """Return a maker of tiny configs in this test's own folder: builders.tiny_config."""
    return functools.partial(tiny_config, tmp_path)


@pytest.fixture
def published_folder():
    """The folder of tables that others published; the test is skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "published"
    folder = Path(os.environ.get("WINDTUNNEL_PUBLISHED", beside))
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set WINDTUNNEL_PUBLISHED to the folder of published tables")
    return folder
