"""Runs of the real command in children that can be killed, signalled and patched.

A fork server imports torch and the project once per test process, so a child costs a fraction of a
second instead of an interpreter's start. The child runs `train.__main__.main` on overrides made
from a typed config: the exit code, standard error and signal handling are the command's own. Faults
are injected by patches (patches.py) which the child applies to product functions before it starts;
the product has no hooks.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

import train.engine.engine
from faults.overrides import as_overrides
from train.__main__ import main
from train.config.schema import Config
from train.engine.peak_flops import PeakFlops
from train.plan.validate import validate
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_jsonl
from train.training.trainer import train_run

# Patch: Applied in the child before the command starts. Module-level functions and instances of
# module-level classes travel; lambdas and closures do not.

PRELOAD = [
    "pytest",  # test modules, which define patches, import it
    "train.__main__",
    "train.training.trainer",
    "train.study.study",
    "train.plan.grid",
]

PEAK = PeakFlops(measured=1e11, datasheet=None)
"""What the device is said to do, so that no start measures it."""

DEADLINE = 90.0
"""Seconds after which a child, or what a test waits for, counts as hung."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(PRELOAD)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended."""

    exit_code: int
    """The command's, or minus the number of the signal that killed it."""
    stdout: str
    stderr: str
    seconds: float
    folder: RunFolder


class Child:
    """A running command, leader of a process group of its own."""

    def __init__(self, config, patches, arguments, command):
        self.folder = run_folder(config)
        self._output = Path(tempfile.mkdtemp(prefix="child-"))
        self._began = time.monotonic()
        words = as_overrides(config) if arguments is None else arguments
        self._process = _server.Process(
            target=_run_command,
            args=(command, words, patches, dict(os.environ), self._output),
            daemon=True,  # ends with the tests, whatever happens to them
        )
        self._process.start()
        self.pid = self._process.pid

    def wait_for(self, condition, *, seconds=DEADLINE):
        """Return once `condition()` holds; fail when the child ends first or it takes too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            if not self._process.is_alive() and not condition():
                raise AssertionError(f"the child ended first: {self.wait()}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"not within {seconds:.0f} s; the child: {self.wait()}")
            time.sleep(0.002)

    def ends_within(self, seconds):
        self._process.join(seconds)
        return self._process.exitcode is not None

    def send(self, number, *, whole_group=False):
        """Send a signal to the child, or to all that it started as well."""
        (os.killpg if whole_group else os.kill)(self.pid, number)

    def kill(self):
        """SIGKILL the child and all that it started; one that has ended is left alone."""
        if self._process.is_alive():
            try:
                self.send(signal.SIGKILL, whole_group=True)
            except ProcessLookupError:  # it has not made its group yet
                self.send(signal.SIGKILL)

    def wait(self, *, seconds=DEADLINE):
        self._process.join(seconds)
        hung = self._process.exitcode is None
        if hung:
            self.kill()
            self._process.join()
        outcome = Outcome(
            exit_code=self._process.exitcode,
            stdout=_text(self._output / "stdout"),
            stderr=_text(self._output / "stderr"),
            seconds=time.monotonic() - self._began,
            folder=self.folder,
        )
        assert not hung, f"the child hung for {seconds:.0f} s: {outcome}"
        return outcome

    def close(self):
        self.kill()
        self._process.join()
        self._process.close()
        shutil.rmtree(self._output, ignore_errors=True)


def start_child(config, *patches, arguments=None, command=main):
    """Start the command on `config` in a child; the caller closes it.

    Args:
        config: The job.
        patches: Applied in the child, in this order, before the command starts.
        arguments: The command line to use instead of the config's overrides.
        command: What runs instead of `python -m train`, a module-level function.
    """
    return Child(config, patches, arguments, command)


def run_child(config, *patches, arguments=None, seconds=DEADLINE):
    """Run the command on `config` in a child, to its end; arguments as in `start_child`."""
    child = start_child(config, *patches, arguments=arguments)
    try:
        return child.wait(seconds=seconds)
    finally:
        child.close()


@dataclass(frozen=True)
class Train:
    """What the command comes to, without composing its config, which takes as long as 20 steps."""

    config: Config

    def __call__(self):
        train_run(self.config, validate(self.config))
        return 0


def killed(config, *faults):
    """The folder of a run that one of `faults` killed by SIGKILL; any other end is a failure."""
    child = start_child(config, *faults, command=Train(config))
    try:
        outcome = child.wait()
    finally:
        child.close()
    assert outcome.exit_code == -signal.SIGKILL, outcome
    return outcome.folder


def run_here(config):
    """Train `config` in this process, where a test may have monkeypatched the product."""
    with warnings.catch_warnings():  # someone who commits while the tests run is no fault
        warnings.filterwarnings("ignore", r"[^:]*: changed since its last attempt: git [^,]*$")
        train_run(config, validate(config))
    return run_folder(config)


def starts(folder):
    """The rows of attempts.jsonl that say where attempts began."""
    return [row for row in read_jsonl(folder.attempts) if row["event"] == "start"]


def ends(folder):
    """The rows that say how they ended."""
    return [row for row in read_jsonl(folder.attempts) if row["event"] == "end"]


def start_steps(folder):
    """The step that each attempt of a run went on from."""
    return [row["start_step"] for row in starts(folder)]


def run_folder(config):
    return RunFolder(Path(config.paths.runs) / config.study.name / validate(config).run_id)


def _run_command(command, words, patches, env, output):
    """In the child: what `python -m train WORDS` does, its output in files."""
    os.setpgid(0, 0)
    os.environ.clear()  # the server's is as old as the server
    os.environ.update(env)
    for stream in (sys.stdout, sys.stderr):
        name = "stdout" if stream is sys.stdout else "stderr"
        descriptor = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1 if name == "stdout" else 2)
        os.close(descriptor)
    torch.set_num_threads(1)
    in_no_time()
    for patch in patches:
        patch()
    sys.argv = ["train", *words]
    sys.exit(command())


def in_no_time(put=setattr):
    """Neither measure the device, which scales the column mfu alone, nor wait for the disk.

    What the kernel holds survives a killed process; test_power.py has a disk of its own.
    """
    put(train.engine.engine, "peak_flops", lambda compute, dtype: PEAK)
    put(os, "fsync", lambda descriptor: None)


def _text(path):
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
