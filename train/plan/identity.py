"""run_id: a readable prefix and a hash of the experiment config (`science` in the records).

The same experiment has the same folder name on every machine, and another one a different name.
Runtime settings (device, micro-batch, tracker, launcher, paths) are not hashed.
"""

import dataclasses
import hashlib
from enum import Enum
from typing import Any

from train.config.schema import SCIENCE, Config
from train.storage.records import canonical_json

NUMERICS_VERSION = 2
"""Raised when the same experiment config would train differently; see CHANGELOG, "Numerics"."""


def science(config: Config) -> dict[str, Any]:
    """The experiment config: what decides the measured values, as JSON values."""
    return {name: _plain(getattr(config, name)) for name in SCIENCE}


def science_hash(config: Config) -> str:
    """SHA-256 (hex) of the canonical JSON of the experiment config and the numerics version."""
    content = {"numerics_version": NUMERICS_VERSION, "science": science(config)}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def run_id(config: Config, *, rung: str, tokens: int, lr: float) -> str:
    """`<rung>-<tokens>-lr<lr>-s<seed>-<8 hex digits>`; matches records.RUN_ID."""
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
