"""The mirror process: `python -m train.tracking.wandb_mirror FOLDER`, started by mirror.py.

It reads a MirrorRequest from standard input and mirrors the rows of the folder. On the trainer's
last line, {"state", "summary"}, it closes the W&B run and prints {"mode", "rows", "reason"?}. Input
that ends without that line means that the trainer was killed, and the state becomes `killed`.

wandb may hang, raise or crash, so it runs in a forked worker, which this process kills when it is
silent for too long. The fork happens before wandb is imported, while there is only one thread. The
service process of wandb ends with the worker.
"""

import contextlib
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from train.tracking.jsonl_tail import RunTail
from train.tracking.mirror import MirrorRequest
from train.tracking.wandb_run import (
    ENVIRONMENT,
    close_run,
    count_rows,
    load_wandb,
    log_row,
    open_run,
)

CONNECT_SECONDS = 12.0
"""Time limit for connecting; it leaves time for an offline record."""

CLOSE_SHARE = 0.9
"""Fraction of limit_seconds after which the mirror gives up, so that its report is in time."""

POLL_SECONDS = 0.5

KILLED = {"state": "killed", "summary": {}}


class Trainer:
    """Trainer at the other end of standard input: its lines, and whether it lives."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        # the request replaces it with the trainer's own value
        self.pid = os.getppid()
        self._bytes = b""

    def line(self, *, is_ready: bool) -> dict[str, Any] | None:
        """Return the next complete line, None if there is none yet, KILLED if the trainer died.

        Args:
            is_ready: Whether the input can be read without blocking.
        """
        if is_ready and b"\n" not in self._bytes:
            new = os.read(self.descriptor, 65_536)
            self._bytes += new
            if not new:
                return KILLED
        line, newline, rest = self._bytes.partition(b"\n")
        # a child of the trainer may hold the pipe open after its death
        if not newline:
            return KILLED if os.getppid() != self.pid else None
        self._bytes = rest
        value = json.loads(line)
        assert isinstance(value, dict)
        return value


class Worker:
    """Forked process that runs wandb, and the pipe to it."""

    def __init__(
        self, request: MirrorRequest, folder: Path, mode: str, *, not_for_it: Sequence[int]
    ) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        closed = (*not_for_it, self.pipe.fileno())
        self._process = context.Process(target=_work, args=(theirs, closed, request, folder, mode))
        self._process.start()
        theirs.close()

    def send(self, ending: dict[str, Any]) -> None:
        """Send the trainer's last line; `receive` notices a dead worker."""
        with contextlib.suppress(OSError):
            self.pipe.send(ending)

    def receive(self) -> tuple[str, Any]:
        """Return the worker's next message: ("", None) if none, ("failed", why) if it died."""
        try:
            return self.pipe.recv() if self.pipe.poll() else ("", None)
        except (EOFError, OSError):
            self._process.join(1.0)
            return "failed", f"wandb's process died (exit code {self._process.exitcode})"

    def kill(self) -> None:
        """Kill the worker."""
        self._process.kill()
        self._process.join(1.0)


class Mirror:
    """Server of one request: runs workers, goes offline where necessary, and makes the report."""

    def __init__(
        self, request: MirrorRequest, folder: Path, trainer: Trainer, *, not_for_worker: int
    ) -> None:
        self._request, self._folder, self._trainer = request, folder, trainer
        self._not_for_worker = (trainer.descriptor, not_for_worker)
        self._ending: dict[str, Any] | None = None
        self._ends_by = math.inf
        self._reason: str | None = None
        self._start("offline" if request.mode == "offline" else "online")

    def keep(self) -> dict[str, Any]:
        """Mirror until the W&B run is closed or the mirror has failed; return the report."""
        while True:
            listens = [self._trainer.descriptor] if self._ending is None else []
            patience = min(self._ends_by, self._opens_by) - time.monotonic()
            timeout = max(0.0, min(POLL_SECONDS, patience))
            ready = wait([self._worker.pipe, *listens], timeout=timeout)
            if self._ending is None:
                is_ready = self._trainer.descriptor in ready
                self._ending = self._trainer.line(is_ready=is_ready)
                if self._ending is not None:
                    self._ends_by = time.monotonic() + CLOSE_SHARE * self._request.limit_seconds
                    self._worker.send(self._ending)
            report = self._follow(*self._worker.receive())
            if report is not None:
                self._worker.kill()
                return report

    def _start(self, mode: str) -> None:
        self._mode = mode
        self._is_open, self._opens_by = False, math.inf
        self._worker = Worker(self._request, self._folder, mode, not_for_it=self._not_for_worker)
        if self._ending is not None:
            self._worker.send(self._ending)

    def _follow(self, message: str, value: Any) -> dict[str, Any] | None:  # noqa: ANN401
        """Handle a message of the worker and the time limits; return the report at the end."""
        now = time.monotonic()
        if message == "opening" and self._mode == "online":
            self._opens_by = now + CONNECT_SECONDS
        elif message == "open":
            self._is_open, self._opens_by = True, math.inf
        elif message == "closed":
            reason = {"reason": self._reason} if self._reason else {}
            return {"mode": self._mode, "rows": value, **reason}
        elif message == "failed":
            return self._give_up(value)
        if now >= self._ends_by:
            return {"mode": "off", "reason": "wandb did not end in time"}
        if now >= self._opens_by:
            return self._give_up(f"no connection within {CONNECT_SECONDS:g} s")
        return None

    def _give_up(self, why: str) -> dict[str, Any] | None:
        """Restart offline if mode=auto could not connect; otherwise return the report."""
        if self._is_open or self._mode == "offline" or self._request.mode != "auto":
            return {"mode": "off", "reason": why}
        self._reason = why
        _warn(
            f"{self._request.id} is mirrored offline, into {self._folder / 'wandb'} ({why}); "
            f"`python -m train.tracking.push study={self._request.group}` sends it later"
        )
        self._worker.kill()
        self._start("offline")
        return None


def _work(
    pipe: Connection, closed: Sequence[int], request: MirrorRequest, folder: Path, mode: str
) -> None:
    """Run wandb in the worker, which ends by os._exit, because exit hooks of wandb may hang."""
    for descriptor in closed:
        os.close(descriptor)
    try:
        wandb = load_wandb()
        pipe.send(("opening", None))
        run = open_run(wandb, request, mode=mode, folder=folder, connect_seconds=CONNECT_SECONDS)
        pipe.send(("open", None))
        tail, n_rows = RunTail(folder, start_step=request.start_step), 0
        n_known = count_rows(run) if request.resume == "allow" else 0
        ending = None
        while ending is None:
            ending = pipe.recv() if pipe.poll(POLL_SECONDS) else None
            for name, row in tail.rows(is_over=ending is not None):
                n_rows += 1
                if n_rows > n_known:
                    log_row(run, name, row)
        close_run(run, ending["state"], ending["summary"])
        pipe.send(("closed", max(0, n_rows - n_known)))
    except BaseException as error:
        with contextlib.suppress(OSError):
            pipe.send(("failed", _describe(error)))
    finally:
        os._exit(0)


def _describe(error: BaseException) -> str:
    """The first sentence of an error, on one line, without the API key."""
    text = f"{type(error).__name__}: {error}"
    key = os.environ.get("WANDB_API_KEY")
    text = " ".join((text.replace(key, "(key)") if key else text).split())
    return text.partition(". ")[0].rstrip(".")


def _warn(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"warning: {text}\n")
        sys.stderr.flush()


def main(folder: Path) -> None:
    """Serve one trainer; wandb and its processes get /dev/null as standard input and output."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.environ.update(ENVIRONMENT, XDG_CACHE_HOME=str(folder.resolve() / "wandb" / "cache"))
    trainer = Trainer(requests)
    line = None
    while line is None:
        line = trainer.line(is_ready=True)
    if line is KILLED:
        return
    request = MirrorRequest(**line)
    trainer.pid = request.trainer_pid
    report = Mirror(request, folder, trainer, not_for_worker=answers).keep()
    with contextlib.suppress(BrokenPipeError):
        os.write(answers, json.dumps(report).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
