"""A token file: ids in one little-endian unsigned type, and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}

BLOCK_TOKENS = 1 << 22
"""Tokens held at once by what reads a file from end to end."""


def dtype_name(vocab_size: int) -> str:
    """Return the narrowest type that holds every id below `vocab_size`."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def map_tokens(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a read-only memory map as a plain array, whose slices are cheap."""
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def read_blocks(path: Path, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Yield a file's ids in order, at most BLOCK_TOKENS at a time."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_TOKENS * dtype.itemsize):
            yield np.frombuffer(block, dtype=dtype)
