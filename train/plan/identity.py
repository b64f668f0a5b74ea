"""run_id: a readable prefix and a hash of the science, so that content alone names a run.

The same science is the same folder, whoever starts it and wherever; another science cannot collide.
Plumbing (device, micro-batch, tracker, launcher, paths) is not in the hash.
"""

import dataclasses
import hashlib
import re
from enum import Enum
from typing import Any

from train.config.schema import SCIENCE, Config
from train.storage.records import canonical_json

NUMERICS_VERSION = 2
"""Raised when the same science config would train differently; see CHANGELOG, "Numerics"."""


RUN_ID = re.compile(
    r"d\d+l\d+-[0-9.e]+[kmbt]?-lr\d\.\d\de-?\d+-s\d+-[0-9a-f]{8}",
    re.ASCII,
)
"""The form of every run_id."""


def science(config: Config) -> dict[str, Any]:
    """The part of the config that decides what is measured, as plain JSON values."""
    return {name: _plain(getattr(config, name)) for name in SCIENCE}


def science_hash(config: Config) -> str:
    """SHA-256 (hex) of the canonical JSON of the science and the numerics version."""
    content = {"numerics_version": NUMERICS_VERSION, "science": science(config)}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def run_id(config: Config, *, rung: str, tokens: int, lr: float) -> str:
    """`<rung>-<tokens>-lr<lr>-s<seed>-<8 hex digits>`, all in [a-z0-9._-]."""
    digest = science_hash(config)[:8]
    return f"{rung}-{short_count(tokens)}-lr{lr:.2e}-s{config.seed}-{digest}".replace("+", "")


def short_count(count: float) -> str:
    """Three digits and a unit: 16800000 -> 16.8m, 5.12e9 -> 5.12b."""
    for unit, scale in (("t", 1e12), ("b", 1e9), ("m", 1e6), ("k", 1e3)):
        if count >= 0.9995 * scale:
            return f"{count / scale:.3g}{unit}"
    return f"{count:.3g}"


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Dataclasses, Enums and containers as JSON values."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
