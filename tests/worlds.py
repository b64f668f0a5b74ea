"""Jobs of several processes for tests: forked from one that has imported all, without torchrun.

Starting torchrun imports torch three times over; forking takes milliseconds. Rank 0 holds the store
here, where torchrun would.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from train.engine.engine import Engine

# Spoil: Called with its rank in each process, before the command.

PATIENCE = 60.0
"""Seconds after which a process hangs, by the tests' reckoning."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["train.__main__", "tests.worlds"])


@dataclass(frozen=True)
class Ranks:
    """The processes of one job."""

    processes: list[ForkServerProcess]
    outputs: list[Path]

    def wait(self):
        """Exit codes by rank; a signal's is negative."""
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        hang = [rank for rank, process in enumerate(self.processes) if process.exitcode is None]
        for rank in hang:
            self.processes[rank].kill()
        assert not hang, f"ranks {hang} hang:\n{self.said()}"
        return [process.exitcode or 0 for process in self.processes]

    def kill(self, rank, number):
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def said(self):
        """What all of them wrote to standard output and error."""
        return "".join(path.read_text(encoding="utf-8") for path in self.outputs if path.exists())


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def start(size, words, root, *, spoil=None):
    """`python -m train WORDS` by `size` processes, in the folder `root`."""
    folder = root / f"output-{time.monotonic_ns()}"
    folder.mkdir()
    outputs = [folder / str(rank) for rank in range(size)]
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment |= {name: os.environ[name] for name in ("TMPDIR", "WINDTUNNEL_CACHE")}
    processes = [
        _context.Process(
            target=_run, args=(rank, size, list(words), root, outputs[rank], environment, spoil)
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return Ranks(processes, outputs)


def _run(rank, size, words, root, output, environment, spoil):
    from train.__main__ import main

    os.environ.update(environment)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline")
    os.chdir(root)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["train", *words]
    if spoil is not None:
        spoil(rank)
    sys.exit(main())


def slowly(rank):
    """Steps take so long that a signal comes between two of them."""
    del rank
    whole = Engine._step

    def step(self):
        time.sleep(0.02)
        whole(self)

    Engine._step = step


def full_memory_at_rank_1(rank):
    """The second process alone runs out of memory in its sixth step."""
    whole, steps = Engine._step, iter(range(100))

    def step(self):
        if rank == 1 and next(steps) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        whole(self)

    Engine._step = step


def too_little_patience(rank):
    """Only the first process comes, and does not wait for long."""
    import train.distributed

    if rank == 1:
        os._exit(0)
    train.distributed.JOIN_SECONDS = 0.5


def error_between_collectives_at_rank_0(rank):
    """Rank 0 fails where the other is on its way to an all-reduce."""
    import train.training.loop as loop

    whole, calls = loop._next_boundary, iter(range(100))

    def next_boundary(runs, step):
        if next(calls) == 4:
            raise ValueError("between two collectives")
        return whole(runs, step)

    if rank == 0:
        loop._next_boundary = next_boundary


def full_memory_in_a_record_of_rank_0(rank):
    """Rank 0 runs out of memory while it writes, and the other waits for it."""
    import train.training.recording as recording

    def save_checkpoint(*words, **more):
        raise MemoryError

    if rank == 0:
        recording.save_checkpoint = save_checkpoint
