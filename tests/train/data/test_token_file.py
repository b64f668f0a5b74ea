from pathlib import Path

import numpy as np
import pytest

from train.data import token_file
from train.data.token_file import DTYPES, dtype_name, map_tokens, read_blocks


def test_dtype_is_the_narrowest_that_holds_all_ids() -> None:
    assert dtype_name(65_536) == "uint16"
    assert dtype_name(65_537) == "uint32"


def test_a_file_reads_the_same_in_blocks_and_as_a_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_file, "BLOCK_TOKENS", 4)
    ids = np.arange(65_530, 65_541)
    path = tmp_path / "ids.bin"
    path.write_bytes(ids.astype("<u4").tobytes())
    blocks = list(read_blocks(path, DTYPES["uint32"]))
    assert [len(block) for block in blocks] == [4, 4, 3]
    assert np.concatenate(blocks).tolist() == ids.tolist()
    assert map_tokens(path, DTYPES["uint32"]).tolist() == ids.tolist()
