"""Runs that cost no time but training's, and share their data."""

import pytest
from faults.runner import in_no_time

from tests.train.shared_runs import elsewhere, shared_config


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch):
    in_no_time(monkeypatch.setattr)


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
