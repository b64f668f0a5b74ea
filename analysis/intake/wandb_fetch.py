"""Reads the runs of a W&B group and prints one JSON line each. Run as a script, by wandb_table.py.

A process of its own: wandb asks for a key on a terminal, starts a service, retries for minutes and
writes to standard error, none of which belongs in an analysis. This is the only module of analysis
that imports wandb, and it imports nothing of ours.

Lines: {"server": URL}, then {"run": {...}} for each run, then {"done": true}; or {"groups": [...]}
when the group has no runs; or {"error": KIND, "message": TEXT}.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

PAGE = 100
"""Runs a request."""

LOOKED_AT = 300
"""Newest runs of a project whose groups are named when the one asked for is empty."""


def main(entity: str, project: str, group: str, seconds: float) -> None:
    """Print the runs of a group."""
    import wandb

    try:
        _tell(server=str(wandb.setup().settings.base_url))
        api = wandb.Api(timeout=int(seconds))
    except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
        _tell(error="key", message=str(error))
        return
    except Exception as error:
        _tell(error="read", message=f"{type(error).__name__}: {error}".replace("\n", " "))
        return
    path = f"{entity}/{project}"
    try:
        runs = api.runs(path, filters={"group": group}, per_page=PAGE, lazy=False)
        found = False
        for run in runs:
            found = True
            _tell(run=_read_run(run))
        if not found:
            _tell(groups=sorted(_groups(api.runs(path, order="-created_at", per_page=PAGE))))
            return
    except Exception as error:
        _tell(error="read", message=str(error))
        return
    _tell(done=True)


def _read_run(run: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "id": run.id,
        "name": run.name,
        "state": run.state,
        "created_at": run.created_at,
        "config": dict(_plain(run.config)),
        "summary": dict(_plain(run.summary_metrics)),
    }


def _plain(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield numbers and words by dotted key; tables, images and wandb's own keys are left out."""
    for key, value in values.items():
        if str(key).startswith("_"):
            continue
        if isinstance(value, Mapping):
            yield from _plain(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}", value


def _groups(runs: Any) -> set[str]:  # noqa: ANN401
    names = set()
    for _, run in zip(range(LOOKED_AT), runs, strict=False):
        if run.group:
            names.add(str(run.group))
    return names


def _tell(**line: Any) -> None:  # noqa: ANN401
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
