import os
from pathlib import Path

import pytest
from token_folders import build, rewrite_manifest

from train.data import token_file, verify
from train.data.shards import open_dataset
from train.errors import DataError


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", list(range(100)), [1])
    path = folder / "train-00000.bin"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    message = r"train-00000\.bin: expected sha256 \w{64}, got \w{64}; delete the folder .* again"
    with pytest.raises(DataError, match=message):
        open_dataset(folder)
    open_dataset(folder, verify=False)


def test_a_cut_file_is_found(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", list(range(100)), [1])
    os.truncate(folder / "train-00000.bin", 198)
    with pytest.raises(DataError, match=r"train-00000\.bin: expected 200 bytes, got 198; delete"):
        open_dataset(folder)


def test_missing_and_extra_files_are_found(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", list(range(100)), [1])
    (folder / "train-00007.bin").write_bytes(b"\0\0")
    with pytest.raises(DataError, match=r"train-00007\.bin is not in the manifest; delete"):
        open_dataset(folder)
    (folder / "train-00007.bin").unlink()
    (folder / "validation.bin").unlink()
    with pytest.raises(DataError, match=r"validation\.bin is missing; delete"):
        open_dataset(folder)


def test_ids_beyond_the_vocabulary_are_refused_at_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_file, "BLOCK_TOKENS", 10)
    folder = build(tmp_path / "d", [1] * 17 + [300], [1], vocab=301)
    rewrite_manifest(folder, vocab_size=256)
    message = "token id 300 at position 17 of train-00000.bin is not below vocab_size 256; delete"
    with pytest.raises(DataError, match=message):
        open_dataset(folder)


def test_files_that_passed_are_not_read_again_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path / "d", list(range(100)), [1])
    open_dataset(folder)
    with monkeypatch.context() as patch:
        patch.setattr(verify, "_check_content", lambda *_: pytest.fail("read again"))
        open_dataset(folder)
    path = folder / "train-00000.bin"
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="expected sha256"):
        open_dataset(folder)


def test_a_folder_made_of_other_content_is_looked_through_for_overlap_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(verify, "refuse_overlap", lambda folder, *_, **__: looked.append(folder))
    folder = build(tmp_path / "d", [1, 0], [2, 0])
    for _ in range(3):
        open_dataset(folder)
    assert looked == [folder]
    build(folder, [2, 0], [1, 0])
    open_dataset(folder)
    assert looked == [folder, folder]


def test_a_shared_document_is_refused_at_every_open(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", [5, 0, 6, 7, 0], [6, 7, 0])
    for _ in range(2):
        with pytest.raises(DataError, match=r"is in the training split too, at token 2: .* delete"):
            open_dataset(folder)


def test_a_cut_file_whose_size_is_no_whole_number_of_ids_is_found(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", [1, 2, 3], [1])
    for size in (0, 1, 5):
        os.truncate(folder / "train-00000.bin", size)
        with pytest.raises(DataError, match=f"expected 6 bytes, got {size}; delete"):
            open_dataset(folder)
