"""Open, fill and close one W&B run. The only module of train that imports wandb.

Sent to W&B when online: id, name, group, project and entity; the experiment part of the config; the
rows of metrics and evaluations under the names below; at the end the state and the row of the runs
table, which names the device. wandb adds times, versions of Python and wandb, operating system, and
the user of the API key. Not sent: code, git state, command line, console output, package list, host
name, hardware, system statistics, error reports.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.tracking.mirror import MirrorRequest

ENVIRONMENT = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_CONSOLE": "off",
}
"""Environment variables, set before the import of wandb."""

PRIVATE = {
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "console": "off",
    "silent": True,
    "host": "",
    "program": "train",
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
"""wandb.Settings of every run; a version of wandb that lacks one of them raises."""

PROGRESS_KEYS = {
    "step": "progress/step",
    "tokens": "progress/tokens",
    "flops": "progress/flops",
}
WANDB_KEYS = {
    "loss": "train/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "perf/tokens_per_second",
    "flops_per_second": "perf/flops_per_second",
    "mfu": "perf/mfu",
    "mfu_datasheet": "perf/mfu_datasheet",
}
EVAL_KEYS = {"loss": "val/loss", "bits_per_byte": "val/bits_per_byte"}
KEYS_OF = {"metrics.jsonl": WANDB_KEYS, "evals.jsonl": EVAL_KEYS}

GOOD_ENDS = ("completed", "preempted", "running")
"""States that W&B shows as finished; it shows others as failed."""


def load_wandb() -> Any:  # noqa: ANN401
    """Import wandb, which takes seconds on a slow disk."""
    import wandb

    return wandb


def open_run(
    wandb: Any,  # noqa: ANN401
    request: MirrorRequest,
    *,
    mode: str,
    folder: Path,
    connect_seconds: float,
) -> Any:  # noqa: ANN401
    """Open the W&B run and define the x-axis of each group of metrics."""
    run = wandb.init(
        project=request.project,
        entity=request.entity,
        group=request.group,
        name=request.name,
        id=request.id,
        resume=request.resume,
        dir=folder,
        config=dict(request.config),
        mode=mode,
        settings=wandb.Settings(init_timeout=connect_seconds, **PRIVATE),
    )
    for axis in PROGRESS_KEYS.values():
        run.define_metric(axis)
    run.define_metric("train/*", step_metric="progress/tokens")
    run.define_metric("perf/*", step_metric="progress/tokens")
    run.define_metric("val/*", step_metric="progress/flops")
    return run


def log_row(run: Any, file_name: str, row: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Log one row of metrics.jsonl or evals.jsonl, without values that are not finite."""
    named = {**PROGRESS_KEYS, **KEYS_OF[file_name]}
    run.log({named[key]: value for key, value in row.items() if key in named and _is_value(value)})


def count_rows(run: Any) -> int:  # noqa: ANN401
    """Number of rows in a resumed W&B run: wandb counts each row as a step."""
    return int(run.starting_step)


def close_run(run: Any, state: str, summary: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Write the summary; return once all is uploaded, or on disk when offline."""
    known = {key: value for key, value in summary.items() if _is_value(value)}
    run.summary.update({"state": state, **known})
    run.finish(exit_code=0 if state in GOOD_ENDS else 1)


def _is_value(value: Any) -> bool:  # noqa: ANN401
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
