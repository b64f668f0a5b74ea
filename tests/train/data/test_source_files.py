"""A folder is used for the files it was made of, and for no others."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from token_folders import rewrite_manifest

from train.config.experiment import DataConfig, Source
from train.data import build, source_files
from train.data.manifest import read_manifest
from train.data.prepare import prepare
from train.data.verified import FILES, recall
from train.errors import DataError, StorageError

N_DOCUMENTS = 40


def write(path: Path, word: str) -> Path:
    rows = [{"text": f"document {number} of {word}"} for number in range(N_DOCUMENTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("one", "two"):
        write(folder / f"{name}.jsonl", name)
    return folder


def of(*patterns: object) -> DataConfig:
    files = [str(pattern) for pattern in patterns]
    return DataConfig(name="small", source=Source.files, files=files, validation_tokens=100)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed from here on."""
    names: list[str] = []
    real = source_files._sha256
    monkeypatch.setattr(
        source_files, "_sha256", lambda path: (names.append(path.name), real(path))[1]
    )
    return names


def test_the_manifest_knows_every_file_by_size_and_hash(corpus: Path, tmp_path: Path) -> None:
    made = read_manifest(prepare(of(corpus / "*.jsonl"), tmp_path / "data"))
    paths = [corpus / "one.jsonl", corpus / "two.jsonl"]
    assert made.source["files_bytes"] == sum(path.stat().st_size for path in paths)
    assert [entry["path"] for entry in made.source["files"]] == [str(path) for path in paths]
    assert [entry["bytes"] for entry in made.source["files"]] == [
        path.stat().st_size for path in paths
    ]
    assert len({entry["sha256"] for entry in made.source["files"]}) == 2


def test_an_edit_that_keeps_the_size_is_noticed(corpus: Path, tmp_path: Path) -> None:
    data = of(corpus / "*.jsonl")
    prepare(data, tmp_path / "data")
    write(corpus / "two.jsonl", "TWO")
    message = (
        r"two\.jsonl: was edited since .*small-bytes-\w{8} was made of it \(sha256 [0-9a-f]{12}, "
        r"was [0-9a-f]{12}, same size\); delete that folder and run again, or use another data\.na"
    )
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            prepare(data, tmp_path / "data")


def test_files_are_hashed_once_and_then_only_after_they_were_touched(
    corpus: Path, tmp_path: Path, hashed: list[str]
) -> None:
    data = of(corpus / "*.jsonl")
    folder = prepare(data, tmp_path / "data")
    assert hashed == ["one.jsonl", "two.jsonl"]
    for _ in range(3):
        prepare(data, tmp_path / "data")
    assert len(hashed) == 2
    os.utime(corpus / "two.jsonl", ns=(0, 12345))
    for _ in range(3):
        prepare(data, tmp_path / "data")
    assert hashed == ["one.jsonl", "two.jsonl", "two.jsonl"]
    assert recall(folder, FILES)[str(corpus / "two.jsonl")][1] == 12345
    (folder / "verified.json").write_text("[]")
    prepare(data, tmp_path / "data")
    assert hashed[3:] == ["one.jsonl", "two.jsonl"]


def test_another_size_is_refused_without_hashing(
    corpus: Path, tmp_path: Path, hashed: list[str]
) -> None:
    data = of(corpus / "*.jsonl")
    prepare(data, tmp_path / "data")
    write(corpus / "one.jsonl", "another")
    with pytest.raises(DataError, match=r"one\.jsonl: has \d+ bytes, and .* when it had \d+; del"):
        prepare(data, tmp_path / "data")
    assert len(hashed) == 2


def test_a_glob_that_matches_other_files_is_refused(corpus: Path, tmp_path: Path) -> None:
    data = of(corpus / "*.jsonl")
    prepare(data, tmp_path / "data")
    write(corpus / "three.jsonl", "three")
    with pytest.raises(DataError, match=r"three\.jsonl: data\.files name it, and .* without it; "):
        prepare(data, tmp_path / "data")
    (corpus / "three.jsonl").unlink()
    prepare(data, tmp_path / "data")
    (corpus / "one.jsonl").unlink()
    with pytest.raises(DataError, match=r"one\.jsonl: .* was made of it, and it is gone; delete"):
        prepare(data, tmp_path / "data")


def test_files_that_are_gone_are_not_missed_and_the_others_are_compared(
    corpus: Path, tmp_path: Path
) -> None:
    data = of(corpus / "one.jsonl", corpus / "two.jsonl")
    folder = prepare(data, tmp_path / "data")
    (corpus / "one.jsonl").unlink()
    assert prepare(data, tmp_path / "data") == folder
    write(corpus / "two.jsonl", "TWO")
    with pytest.raises(DataError, match=r"two\.jsonl: was edited since"):
        prepare(data, tmp_path / "data")
    (corpus / "two.jsonl").unlink()
    assert prepare(data, tmp_path / "data") == folder


def test_a_folder_made_before_files_were_hashed_is_compared_by_size(
    corpus: Path, tmp_path: Path, hashed: list[str]
) -> None:
    data = of(corpus / "*.jsonl")
    folder = prepare(data, tmp_path / "data")
    size = read_manifest(folder).source["files_bytes"]
    rewrite_manifest(folder, source={"files_bytes": size})
    hashed.clear()
    write(corpus / "two.jsonl", "TWO")
    assert prepare(data, tmp_path / "data") == folder
    write(corpus / "two.jsonl", "twenty")
    with pytest.raises(DataError, match=rf"hold {size + 120} bytes, but .* made of {size}; delete"):
        prepare(data, tmp_path / "data")
    for path in corpus.iterdir():
        path.unlink()
    assert prepare(data, tmp_path / "data") == folder
    assert hashed == []


def test_a_folder_that_says_nothing_of_its_files_is_used(corpus: Path, tmp_path: Path) -> None:
    data = of(corpus / "*.jsonl")
    folder = prepare(data, tmp_path / "data")
    rewrite_manifest(folder, source={})
    write(corpus / "two.jsonl", "twenty")
    assert prepare(data, tmp_path / "data") == folder


@pytest.mark.parametrize("files", [7, [7], [{}], [{"path": "x"}], {"path": 1}])
def test_garbled_facts_are_refused(corpus: Path, tmp_path: Path, files: object) -> None:
    data = of(corpus / "*.jsonl")
    folder = prepare(data, tmp_path / "data")
    rewrite_manifest(folder, source={"files": files})
    with pytest.raises(DataError, match=r"does not say what its files were|and .* without it"):
        prepare(data, tmp_path / "data")


@pytest.mark.parametrize("fate", ["edited", "removed"])
def test_a_file_that_changes_while_it_is_read_spoils_the_preparation(
    corpus: Path, tmp_path: Path, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = build._build_text

    def build_and_change(*arguments: Any) -> Any:
        made = real(*arguments)
        if fate == "edited":
            write(corpus / "two.jsonl", "TWO")
        else:
            (corpus / "two.jsonl").unlink()
        return made

    monkeypatch.setattr(build, "_build_text", build_and_change)
    with pytest.raises(DataError, match=r"two\.jsonl: changed while it was read; run again when"):
        prepare(of(corpus / "*.jsonl"), tmp_path / "data")
    assert [path.suffix for path in (tmp_path / "data").iterdir()] == [".lock"]


def test_a_file_that_cannot_be_compared_is_a_storage_error(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = of(corpus / "*.jsonl")
    prepare(data, tmp_path / "data")
    os.utime(corpus / "one.jsonl", ns=(0, 0))

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(source_files, "_sha256", refuse)
    with pytest.raises(StorageError, match=r"one\.jsonl: Permission denied"):
        prepare(data, tmp_path / "data")
