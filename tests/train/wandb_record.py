"""Read the .wandb file of an offline run: wandb's protobuf records in LevelDB's log format.

The wandb package can only write the framing, so it is read here; the records are parsed by wandb's
own classes.
"""

import json
import struct
from dataclasses import dataclass, field
from typing import Any

MAGIC = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
BLOCK = 32_768
# checksum, length, kind
HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    id: str = ""
    name: str = ""
    group: str = ""
    project: str = ""
    host: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None


def read_offline_run(folder, run_id):
    """Read the only offline record of `run_id` in a run folder."""
    (path,) = folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")
    return parse(path)


def parse(path):
    """Read a .wandb file up to its first incomplete record."""
    from wandb.proto import wandb_internal_pb2

    run = OfflineRun()
    for content in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found = record.run
            run.id, run.name, run.group = found.run_id, found.display_name, found.run_group
            run.project, run.host = found.project, found.host
            run.config.update(_items(found.config.update))
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "summary":
            run.summary.update(_items(record.summary.update))
        elif kind == "metric":
            name = record.metric.glob_name or record.metric.name
            run.axes[name] = record.metric.step_metric
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _items(items):
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for item in items
        if item.value_json
    }


def _records(data):
    assert data.startswith(MAGIC), "not a .wandb file"
    at, parts = len(MAGIC), b""
    while at + HEADER.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER.size:
            at += left
            continue
        _checksum, length, kind = HEADER.unpack_from(data, at)
        at += HEADER.size
        piece = data[at : at + length]
        if kind == 0 or len(piece) < length:
            # the file ends within a record
            return
        parts += piece
        at += length
        if kind in (FULL, LAST):
            yield parts
            parts = b""
