"""Starts the process that reads W&B, and turns what it prints into runs or a plain error."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from analysis.errors import InputError, near_names

SECONDS = 20.0
"""Silence after which W&B counts as not there."""

ELSEWHERE = "or read the run folders with study=NAME"


def fetch_runs(
    entity: str, project: str, group: str, seconds: float = SECONDS
) -> list[dict[str, Any]]:
    """Return every W&B run of a group: id, name, state, created_at, config and summary.

    Raises:
        InputError: There is no key, no answer, no such project, or the group has no runs.
    """
    path = f"{entity}/{project}/{group}"
    script = Path(__file__).with_name("wandb_fetch.py")
    command = [sys.executable, "-P", str(script), entity, project, group, str(seconds)]
    runs: list[dict[str, Any]] = []
    server = "its server"
    with tempfile.TemporaryDirectory() as folder:
        for line in _lines(command, Path(folder), seconds):
            if "server" in line:
                server = line["server"]
            elif "run" in line:
                runs.append(line["run"])
            elif "groups" in line:
                hint = near_names(group, line["groups"]) or f"; {entity}/{project} has no groups"
                raise InputError(f"wandb={path}: no runs in the group '{group}'{hint}")
            elif "error" in line:
                raise InputError(_plain_words(path, line["error"], line["message"], server))
            elif "silent" in line:
                raise InputError(
                    f"wandb={path}: no answer from {server} within {seconds:g} s; check the "
                    f"network, {ELSEWHERE}"
                )
            elif "done" in line:
                return runs
    raise InputError(f"wandb={path}: wandb ended without an answer; try again, {ELSEWHERE}")


def _lines(command: list[str], folder: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield what the process prints until it ends or is silent for too long, then end it."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "WANDB_DIR": str(folder), "WANDB_SILENT": "true"},
        stdin=subprocess.DEVNULL,  # wandb asks a terminal for a key
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        while (text := lines.get(timeout=seconds)) is not None:
            yield json.loads(text)
    except queue.Empty:
        yield {"silent": True}
    finally:
        # The group: wandb's service is a child of the process.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
        process.stdout.close()


def _pump(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    """Pass on lines until the process has none, then None."""
    for text in stream:
        lines.put(text)
    lines.put(None)


def _plain_words(path: str, kind: str, message: str, server: str) -> str:
    """Return what went wrong and what to do, without the key."""
    said = (message.strip().splitlines() or ["no reason given"])[0].rstrip(".")
    key = os.environ.get("WANDB_API_KEY")
    said = said.replace(key, "(key)") if key else said
    if kind == "key":
        return f"wandb={path}: {said}; set WANDB_API_KEY or run `wandb login`, {ELSEWHERE}"
    if "could not find project" in said.lower():
        project = path.rpartition("/")[0]
        return (
            f"wandb={path}: no project {project} at {server}, or this key may not read it; check "
            "both names, as in the address of its page"
        )
    return f"wandb={path}: reading {server}: {said}; check the names and the key, {ELSEWHERE}"
