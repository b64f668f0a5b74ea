"""New rows of a run folder whose files grow, in the order of their steps."""

import json
from pathlib import Path
from typing import Any, BinaryIO


class Tail:
    """The whole lines that were added to a file since it was last read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._file: BinaryIO | None = None
        self._open()

    def rows(self) -> list[dict[str, Any]]:
        """New rows; a line without its end waits for it.

        Raises:
            ValueError: A whole line is not JSON.
        """
        self._open()
        if self._file is None:
            return []
        self._file.seek(self._offset)
        whole = self._file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._offset += len(whole) + 1
        return [json.loads(line) for line in whole.split(b"\n") if line.strip()]

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        """Open the file once: a later attempt puts another in its place, which is not ours."""
        if self._file is None and self._path.exists():
            self._file = self._path.open("rb")


class RunTail:
    """metrics.jsonl and evals.jsonl as one sequence of (file name, row) by step."""

    def __init__(self, folder: Path, *, start_step: int) -> None:
        self._metrics, self._evals = Tail(folder / "metrics.jsonl"), Tail(folder / "evals.jsonl")
        self._start_step = start_step
        self._last = start_step
        self._early: list[dict[str, Any]] = []

    def rows(self, *, is_over: bool) -> list[tuple[str, dict[str, Any]]]:
        """New rows with a step after the start.

        An evaluation is written after its step's row of metrics and before the next one. So one
        whose step is at most the last row's is in order; any other waits, unless the run `is_over`.
        """
        metrics = [row for row in self._metrics.rows() if row["step"] > self._start_step]
        if metrics:
            self._last = metrics[-1]["step"]
        evals = self._early + [row for row in self._evals.rows() if row["step"] > self._start_step]
        self._early = [] if is_over else [row for row in evals if row["step"] > self._last]
        ready = evals[: len(evals) - len(self._early)]
        named = [("metrics.jsonl", row) for row in metrics]
        named += [("evals.jsonl", row) for row in ready]
        return sorted(named, key=lambda item: item[1]["step"])  # stable: metrics come first

    def close(self) -> None:
        """Let go of the files."""
        self._metrics.close()
        self._evals.close()
