"""Where published tables are: other people's measurements, never part of this repository."""

import os
from pathlib import Path

import pandas as pd
import pytest


@pytest.fixture
def published():
    """Return a reader of published tables; the test is skipped where they are absent."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "published"
    folder = Path(os.environ.get("WINDTUNNEL_PUBLISHED", beside))

    def read(name):
        path = folder / name
        if not path.exists():
            pytest.skip(f"no {path}: set WINDTUNNEL_PUBLISHED to the folder of published tables")
        return pd.read_csv(path)

    return read


@pytest.fixture
def chinchilla(published):
    """Return the 240 runs left when the 5 largest losses are dropped."""
    return published("chinchilla_epoch.csv").sort_values("loss").iloc[:240]
