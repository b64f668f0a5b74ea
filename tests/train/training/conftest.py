"""What trains in these tests costs no time that is not training's, and shares its data."""

import pytest

from tests.train.shared_runs import elsewhere, shared_config
from train.engine.peak_flops import PeakFlops


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch):
    """No peak is measured, and no disk is waited for."""
    peak = PeakFlops(measured=1e11, datasheet=None)
    monkeypatch.setattr("train.engine.engine.peak_flops", lambda compute, dtype: peak)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Where the tokens of jobs of several runs are prepared, once."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def make(tmp_path, data):
    """Return a maker of such runs in this test's own folder."""

    def config(**changes):
        return elsewhere(shared_config(data, **changes), tmp_path / "runs")

    return config
