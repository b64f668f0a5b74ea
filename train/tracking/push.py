"""Rebuild W&B from run folders: one W&B run per run, with all rows of its folder.

    python -m train.tracking.push study=NAME [runs=runs] [project=windtunnel] [entity=NAME]
                                  [mode=auto|online|offline]

The W&B id is the run_id. That of a run mirrored during training also ends in `-a<attempt>`, so the
two never clash, and `python -m analysis wandb=...` treats them as one run. Config, rows and summary
are those of the mirror. Running, diverged and killed runs are pushed with the rows they have.

Pushing twice duplicates nothing: online, an existing W&B run gets the missing rows and the new
state; offline, the last offline record of the run is replaced. If W&B cannot be reached, mode=auto
writes offline records for the rest of the study.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from train.config.runtime import TrackerConfig, WandbMode
from train.errors import (
    ConfigError,
    DataError,
    InfrastructureError,
    StorageError,
    WindTunnelError,
    did_you_mean,
)
from train.run_folder.manifest import find_study, read_manifest
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_json, read_jsonl
from train.tracking.mirror import MirrorProcess, MirrorRequest
from train.tracking.tracker import require_wandb, resolve_mode

PUSH_SECONDS = 300.0
"""Time limit for one run."""

USAGE = (
    "python -m train.tracking.push study=NAME [runs=DIR] [project=NAME] [entity=NAME] "
    "[mode=auto|online|offline]"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command."""

    study: str
    runs: Path = Path("runs")
    project: str = TrackerConfig().project
    entity: str | None = None
    mode: str = "auto"


def parse(arguments: Sequence[str]) -> Options:
    """Parse the `key=value` arguments of the command line.

    Raises:
        ConfigError: An unknown key or value, no study, or W&B disabled by WANDB_MODE.
    """
    known = ("study", "runs", "project", "entity", "mode")
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            raise ConfigError(f"{argument}: unknown option{did_you_mean(key, known)}")
        given[key] = value
    if not given.get("study"):
        raise ConfigError(f"study=NAME is missing: {USAGE}")
    modes = ("auto", "online", "offline")
    mode = given.get("mode", "auto")
    if mode not in modes:
        raise ConfigError(f"mode={mode}: unknown mode{did_you_mean(mode, modes)}")
    resolved = resolve_mode(WandbMode[mode])
    if resolved == "off":
        raise ConfigError("WANDB_MODE=disabled: there is nowhere to push to; unset it or use mode=")
    return Options(
        study=given["study"],
        runs=Path(given.get("runs", "runs")),
        project=given.get("project") or TrackerConfig().project,
        entity=given.get("entity") or None,
        mode=resolved,
    )


class Push:
    """Push of the runs of one study, with counts of the outcomes."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options, self._console = options, console
        self._mode = "online" if options.mode == "auto" else options.mode
        self.outcomes: Counter[str] = Counter()
        self.rows = 0
        self.damaged: list[str] = []

    def run(self, folder: RunFolder, entry: Mapping[str, Any]) -> str:
        """Push one run.

        Args:
            folder: Its run folder.
            entry: Its entry in the manifest.

        Returns:
            "online", "offline", "without rows" or "damaged".

        Raises:
            InfrastructureError: W&B cannot be reached, with mode=online.
            StorageError: The offline record cannot be written.
        """
        try:
            n_rows = len(read_jsonl(folder.metrics)) + len(read_jsonl(folder.evals))
            state, summary = _ending(folder)
        except ValueError as error:
            self.damaged.append(str(error))
            return "damaged"
        if n_rows == 0:
            return "without rows"
        report = self._mirror(folder, entry, state, summary)
        if report["mode"] == "off" and self._mode == "online":
            self._cannot_connect(report["reason"])
            report = self._mirror(folder, entry, state, summary)
        if report["mode"] == "off":
            raise StorageError(f"{folder.path}: no offline record: {report['reason']}")
        self.rows += report["rows"]
        return str(report["mode"])

    def _mirror(
        self, folder: RunFolder, entry: Mapping[str, Any], state: str, summary: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        run_id = entry["run_id"]
        # does not match the records of attempts, whose names end in -a<n>
        for old in folder.path.glob(f"wandb/offline-run-*-{run_id}"):
            shutil.rmtree(old)
        request = MirrorRequest(
            id=run_id,
            name=run_id,
            group=self._options.study,
            project=self._options.project,
            entity=self._options.entity,
            mode=self._mode,
            resume="allow" if self._mode == "online" else "never",
            config=entry["science"],
            start_step=-1,
            limit_seconds=PUSH_SECONDS,
        )
        return MirrorProcess(request, folder.path).finish(state, summary)

    def _cannot_connect(self, reason: str) -> None:
        """Go offline for the rest of the study, or raise with mode=online."""
        if self._options.mode == "online":
            raise InfrastructureError(
                f"W&B: {reason}; pushed so far: {self.counts()}. Run the same command again to go "
                f"on; mode=offline writes records without W&B"
            )
        self._mode = "offline"
        self._console.print(
            f"warning: W&B: {reason}; writing offline records instead. The same command sends the "
            f"rows once there are a key and a network",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def counts(self) -> str:
        """Text with the number of runs per outcome, and of rows."""
        counts = ", ".join(f"{count} {name}" for name, count in self.outcomes.items())
        return f"{counts or 'nothing'}; {self.rows} rows written"


def _ending(folder: RunFolder) -> tuple[str, Mapping[str, Any]]:
    """State of the run, and its row of the runs table, empty without one."""
    row = read_json(folder.result)["row"] if folder.result.exists() else {}
    state = folder.state()
    if state == "running" and not folder.is_locked():
        state = "killed"
    return state, row


def push_study(options: Options, console: Console) -> str:
    """Push every run in the manifest of the study; return the closing line.

    Raises:
        ConfigError: There is no such study.
        DataError: The manifest is damaged, or the records of some runs are; the others are pushed.
        MissingExtraError: wandb is not installed.
        InfrastructureError, StorageError: W&B cannot be reached, or a record not be written.
    """
    require_wandb("python -m train.tracking.push")
    study_folder = find_study(options.runs, options.study)
    manifest = read_manifest(study_folder)
    assert manifest is not None
    push = Push(options, console)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(options.study, total=len(manifest["runs"]))
        for entry in manifest["runs"]:
            run_id = entry["run_id"]
            bar.update(task, description=run_id)
            outcome = push.run(RunFolder(study_folder / run_id), entry)
            push.outcomes[outcome] += 1
            console.print(f"{run_id}: {outcome}", markup=False, highlight=False, soft_wrap=True)
            bar.advance(task)
    if push.damaged:
        raise DataError("\n".join([f"{study_folder}: {push.counts()}; damaged:", *push.damaged]))
    return f"{study_folder}: {push.counts()}"


def main(arguments: Sequence[str]) -> int:
    """Push one study; return the exit code."""
    console = Console(stderr=True)
    try:
        summary = push_study(parse(arguments), console)
    except WindTunnelError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    sys.stdout.write(summary + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
