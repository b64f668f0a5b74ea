"""New rows of the growing .jsonl files of a run folder, in the order of their steps."""

import json
from pathlib import Path
from typing import Any, BinaryIO


class Tail:
    """Reader of the complete lines added to a file since the last read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._file: BinaryIO | None = None
        self._open()

    def rows(self) -> list[dict[str, Any]]:
        """Return the new rows; an incomplete last line is left for the next call.

        Raises:
            ValueError: A complete line is not JSON.
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
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        """Open the file once, so that a replacement by a later attempt is not read."""
        if self._file is None and self._path.exists():
            self._file = self._path.open("rb")


class RunTail:
    """Rows of metrics.jsonl and evals.jsonl as (file name, row), merged by step."""

    def __init__(self, folder: Path, *, start_step: int) -> None:
        self._metrics, self._evals = Tail(folder / "metrics.jsonl"), Tail(folder / "evals.jsonl")
        self._start_step = start_step
        self._last = start_step
        self._early: list[dict[str, Any]] = []

    def rows(self, *, is_over: bool) -> list[tuple[str, dict[str, Any]]]:
        """Return the new rows with steps after `start_step`.

        The trainer writes an evaluation after the metrics row of its step and before the next one.
        So evaluations up to the last metrics row are returned; later ones wait for it, unless the
        run `is_over`.
        """
        metrics = [row for row in self._metrics.rows() if row["step"] > self._start_step]
        if metrics:
            self._last = metrics[-1]["step"]
        evals = self._early + [row for row in self._evals.rows() if row["step"] > self._start_step]
        self._early = [] if is_over else [row for row in evals if row["step"] > self._last]
        ready = evals[: len(evals) - len(self._early)]
        named = [("metrics.jsonl", row) for row in metrics]
        named += [("evals.jsonl", row) for row in ready]
        # stable: metrics come first at equal steps
        return sorted(named, key=lambda item: item[1]["step"])

    def close(self) -> None:
        """Close both files."""
        self._metrics.close()
        self._evals.close()
