"""The tiny run that every fault is tried on, its data, and the same run undisturbed."""

import functools

import pytest
import torch

from faults.damage import copy_of, train_and_kill
from faults.fake_study import REPO, Launchers, use_fake_jobs
from faults.foreign import train_command  # noqa: F401  (a fixture)
from faults.runner import in_no_time, run_folder, start_child
from faults.shared_jobs import two_by_three
from tests.builders import FAULTS, tiny_config
from tests.train.mirror_requests import leave_no_key, use_fake
from tests.train.shared_runs import elsewhere, train_alone
from train.data.prepare import prepare
from train.plan.validate import validate
from train.training.trainer import train_run

STEPS = 60
CHECKPOINT_STEPS = 7


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch):
    in_no_time(monkeypatch.setattr)


@pytest.fixture(scope="session")
def prepared_data(tmp_path_factory):
    """The tokens, prepared once; tests that damage data copy the folder first."""
    data = tmp_path_factory.mktemp("prepared")
    prepare(tiny_config(data, FAULTS).data, data)
    return data


@pytest.fixture(scope="session")
def reference_run(tmp_path_factory, prepared_data):
    """The run that nothing disturbed; never to be changed."""
    torch.set_num_threads(1)
    config = prepared_config(tmp_path_factory.mktemp("reference"), prepared_data)
    train_run(config, validate(config))
    return run_folder(config)


@pytest.fixture(scope="session")
def killed_run(tmp_path_factory, prepared_data):
    """The run killed after 30 steps, with checkpoints of 21 and 28; copied by damage.copy_of."""
    return train_and_kill(prepared_config(tmp_path_factory.mktemp("killed"), prepared_data))


def prepared_config(root, data, /, **changes):
    """The tiny run below `root`, on data that are prepared."""
    return tiny_config(root, {**FAULTS, "paths.data": str(data)}, **changes)


@pytest.fixture
def tiny(tmp_path, prepared_data):
    """Return a maker of the tiny run in this test's own folder, with changes by dotted keys."""
    return functools.partial(prepared_config, tmp_path, prepared_data)


@pytest.fixture
def stopped(killed_run, tiny):
    """A killed run of this test's own, with checkpoints of the steps 21 and 28."""
    config = tiny()
    return config, copy_of(killed_run, config)


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory):
    """Where the tokens of jobs of several runs are prepared, once."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def undisturbed(shared_data):
    """The runs of `configs`, each trained alone; never to be changed."""
    torch.set_num_threads(1)
    return train_alone(two_by_three(shared_data), shared_data / "alone")


@pytest.fixture
def configs(tmp_path, shared_data, undisturbed):
    """The runs of a job: of 16 steps, 12 and 7, two of each."""
    return [elsewhere(config, tmp_path / "runs") for config in two_by_three(shared_data)]


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
def no_key(tmp_path, monkeypatch):
    leave_no_key(tmp_path / "home", monkeypatch)


@pytest.fixture
def calls(tmp_path, monkeypatch, no_key):
    """The file to which the fake wandb writes its calls."""
    return use_fake(tmp_path, monkeypatch)


@pytest.fixture
def launchers(tiny, tmp_path):
    made = Launchers(tiny(machine__workers=2), tmp_path / "errors")
    yield made
    made.close()


@pytest.fixture
def fake_jobs(monkeypatch):
    """Let launchers start jobs that write run folders in a moment, and train nothing."""
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    use_fake_jobs(monkeypatch.setattr)
