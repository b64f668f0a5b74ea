"""T3 and T4: ids that the vocabulary or the file type does not hold, offsets beyond 32 bits."""

import numpy as np
import pytest
from token_folders import build, read_ids, rewrite_ids, rewrite_manifest

from faults.data_runs import TRAIN, folder_of, launch, on_a_chain, on_text, refused, unprotected
from faults.runner import run_here
from train.config.runtime import Device, MachineConfig
from train.data.build import SplitWriter
from train.data.manifest import ShardEntry, SplitTotals
from train.data.sampler import segment_starts
from train.data.shards import open_dataset
from train.data.tokenizer import BytesTokenizer, text_bytes
from train.engine import batches
from train.engine.batches import Batches
from train.engine.device import select_device
from train.errors import DataError


@pytest.fixture
def config(tiny, prepared_data, tmp_path):
    return on_a_chain(tiny, prepared_data, tmp_path)


def encode_with(id_):
    def encode(_, texts):
        plain = [np.array([*text_bytes(text), 0], dtype=np.int64) for text in texts]
        return [np.where(ids == ord("w"), id_, ids) for ids in plain]

    return encode


@pytest.mark.parametrize("id_", [256, 65_535, 65_536, 70_000, 2**32, -1])
def test_t3_an_id_beyond_the_vocabulary_is_refused_when_it_is_written(
    tiny, tmp_path, id_, monkeypatch
):
    monkeypatch.setattr(BytesTokenizer, "encode", encode_with(id_))
    message = rf"token id {id_} at position \d+ of train-00000\.bin is not below vocab_size 256"
    with pytest.raises(DataError, match=message):
        on_text(tiny, tmp_path)
    assert [path.suffix for path in (tmp_path / "data").iterdir()] == [".lock"]


def test_t3_control_unchecked_the_id_wraps_and_the_folder_looks_sound(tiny, tmp_path, monkeypatch):
    def append(writer, ids):
        narrow = ids.astype(writer._dtype).tobytes()
        writer._digest.update(narrow)
        writer._file.write(narrow)
        writer._tokens += len(ids)

    monkeypatch.setattr(BytesTokenizer, "encode", encode_with(65_536 + ord("x")))
    monkeypatch.setattr(SplitWriter, "_append", append)
    text = on_text(tiny, tmp_path)
    launch(text)
    assert b"says xord" in bytes(read_ids(folder_of(text), TRAIN))


def test_t3_an_id_beyond_the_vocabulary_is_refused_when_it_is_opened(config):
    ids = read_ids(folder_of(config), TRAIN)
    rewrite_ids(folder_of(config), TRAIN, [*ids[:1234], 97, *ids[1235:]])
    refused(
        config,
        r"token id 97 at position 1234 of train-00000\.bin is not below vocab_size 97; delete the",
    )


def test_t3_control_unverified_the_run_crashes_on_it(config, monkeypatch):
    ids = read_ids(folder_of(config), TRAIN)
    rewrite_ids(folder_of(config), TRAIN, [97] * len(ids))
    unprotected(monkeypatch)
    with pytest.raises(IndexError, match="out of range"):
        run_here(config)


BEYOND = 2**33
"""Tokens of a training split of 16 GiB, of which the disk holds a few blocks."""


@pytest.fixture
def sparse(tmp_path):
    """Batches of a huge split of zeros in two files, both larger than 2^32 bytes."""
    folder = build(tmp_path / "sparse", [1], [1], vocab=50_000)
    sizes = (2**32 + 2**31, BEYOND - 2**32 - 2**31)
    known = {"sha256": "", "split": "train"}
    shards = []
    for number, tokens in enumerate(sizes):
        name = f"train-{number:05d}.bin"
        with (folder / name).open("wb") as file:
            file.truncate(2 * tokens)
        shards.append(ShardEntry(name=name, tokens=tokens, bytes=2 * tokens, **known))
    held = ShardEntry(name="validation.bin", split="validation", tokens=1, bytes=2, sha256="")
    splits = {
        "train": SplitTotals(tokens=BEYOND, text_bytes=BEYOND, documents=1),
        "validation": SplitTotals(tokens=1, text_bytes=1, documents=1),
    }
    rewrite_manifest(folder, shards=(*shards, held), splits=splits)
    compute = select_device(MachineConfig(device=Device.cpu))
    # hashing 16 GiB of zeros takes 15 s
    dataset = open_dataset(folder, verify=False)
    return Batches(dataset, compute, seeds=[3], batch_seqs=32, seq_len=64)


def mark(sparse, step):
    """Write another id at the start of each of a step's windows; return the ids."""
    starts = segment_starts(
        seed=3, step=step, n_steps=1, batch_seqs=32, n_tokens=BEYOND, seq_len=64
    )[0]
    assert (starts > 2**31).any()
    assert (starts > 2**32).any()
    assert (starts < 2**31).any()
    marks = list(range(100, 132))
    edge = sparse.dataset.manifest.shards[0].tokens
    for start, id_ in zip(starts.tolist(), marks, strict=True):
        name, place = (TRAIN, start) if start < edge else ("train-00001.bin", start - edge)
        with (sparse.dataset.folder / name).open("r+b") as file:
            file.seek(2 * place)
            file.write(id_.to_bytes(2, "little"))
    return marks


def windows_of(sparse, step):
    windows_RBT = sparse.empty()
    sparse.gather(sparse.starts(step, 1)[0], windows_RBT)
    return windows_RBT[0]


def test_t4_windows_beyond_32_bits_are_the_right_ones(sparse):
    marks = mark(sparse, step=1_000)
    windows_BT = windows_of(sparse, 1_000)
    assert windows_BT[:, 0].tolist() == marks
    assert int(windows_BT[:, 1:].sum()) == 0


@pytest.mark.parametrize("bits", [31, 32])
def test_t4_control_narrower_offsets_read_other_windows(sparse, bits, monkeypatch):
    def narrow(**settings):
        return segment_starts(**settings) & (2**bits - 1)

    marks = mark(sparse, step=1_000)
    monkeypatch.setattr(batches, "segment_starts", narrow)
    found = windows_of(sparse, 1_000)[:, 0].tolist()
    assert found != marks
    # a window that wrapped to zeros, and nothing says so
    assert 0 in found
