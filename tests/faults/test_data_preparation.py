"""L5: the same data prepared twice at once, by a process that is killed, on a full disk."""

import contextlib
import resource
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faults.damage import contents
from faults.data_runs import SHORT, folder_of, launch
from faults.patches import At, Kill, Replace
from faults.runner import run_child, run_here
from train.data import prepare as preparation
from train.data.build import build_tokens
from train.data.manifest import write_manifest
from train.data.prepare import prepare, prepared_folder, token_spec
from train.errors import DataError, StorageError


@pytest.fixture
def config(tiny, tmp_path):
    return tiny(paths__data=str(tmp_path / "data"), **SHORT)


def prepared(config):
    return prepare(config.data, Path(config.paths.data))


def assert_whole(config, prepared_data):
    """The folder holds what an undisturbed preparation wrote, and nothing else is left."""
    folder = folder_of(config)
    sound = contents(prepared_folder(config.data, prepared_data))
    # which holds modification times
    left_out = ("verified.json",)
    found, wanted = (
        {name: content for name, content in files.items() if name not in left_out}
        for files in (contents(folder), sound)
    )
    assert found == wanted
    assert names(config) == {folder.name, f"{folder.name}.lock"}


def names(config):
    return {path.name for path in Path(config.paths.data).iterdir()}


def test_l5_one_builds_and_the_other_waits(config, prepared_data, monkeypatch):
    is_building, may_go_on = threading.Event(), threading.Event()
    built = []

    def build_slowly(data, root, folder, **options):
        made = build_tokens(data, root, folder, **options)
        built.append(folder)
        is_building.set()
        assert may_go_on.wait(20)
        return made

    monkeypatch.setattr(preparation, "build_tokens", build_slowly)
    with ThreadPoolExecutor() as pool:
        one = pool.submit(prepared, config)
        assert is_building.wait(20)
        other = pool.submit(prepared, config)
        with pytest.raises(TimeoutError):
            other.result(timeout=0.2)
        assert not folder_of(config).exists()
        may_go_on.set()
        assert one.result(20) == other.result(20) == folder_of(config)
    assert len(built) == 1
    assert_whole(config, prepared_data)


def test_l5_control_without_the_lock_they_ruin_each_other(config, monkeypatch):
    others = []

    def build_beside_another(data, root, folder, **options):
        made = build_tokens(data, root, folder, **options)
        if not others:
            others.append(folder)
            prepare(data, root)
        return made

    monkeypatch.setattr(preparation, "build_tokens", build_beside_another)
    monkeypatch.setattr(preparation, "hold", lambda *_, **__: contextlib.nullcontext())
    with pytest.raises(StorageError, match="No such file"):
        prepared(config)


def build_in_place(data, root, folder, *, progress):
    folder.mkdir()
    made = build_tokens(data, root, folder, spec=token_spec(data), progress=progress)
    write_manifest(folder, made)


KILLED = At("train.data.build:SplitWriter.write", Kill(), call=30)
IN_PLACE = Replace("train.data.prepare:_build", build_in_place)


def test_l5_a_builder_that_was_killed_is_no_obstacle(config, prepared_data):
    assert run_child(config, KILLED).exit_code == -signal.SIGKILL
    name = folder_of(config).name
    assert names(config) == {f"{name}.partial", f"{name}.lock"}
    run_here(config)
    assert_whole(config, prepared_data)


def test_l5_control_built_in_place_half_a_folder_has_the_name(config):
    assert run_child(config, IN_PLACE, KILLED).exit_code == -signal.SIGKILL
    assert folder_of(config).exists()
    with pytest.raises(DataError, match=r"manifest\.json is missing; delete the folder"):
        # only a person can delete it
        launch(config)


@contextlib.contextmanager
def full_disk(largest_file):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 9_000, 50_000])
def test_l5_a_full_disk_stops_a_preparation_and_leaves_nothing(config, prepared_data, room):
    (Path(config.paths.data)).mkdir()
    with full_disk(room), pytest.raises(StorageError, match="File too large") as caught:
        launch(config)
    assert caught.value.exit_code == 3
    assert names(config) <= {f"{folder_of(config).name}.lock"}
    launch(config)
    assert_whole(config, prepared_data)


def test_l5_control_built_in_place_a_full_disk_leaves_half_a_folder(config, monkeypatch):
    monkeypatch.setattr(preparation, "_build", build_in_place)
    with full_disk(50_000), pytest.raises(StorageError, match="File too large"):
        launch(config)
    with pytest.raises(DataError, match=r"manifest\.json is missing; delete the folder"):
        launch(config)
    shutil.rmtree(folder_of(config))
    launch(config)
