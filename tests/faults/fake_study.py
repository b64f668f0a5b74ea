"""A study whose jobs are fake_job.py: the real planning, locks, launcher, records and report."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from faults import fake_job
from tests.builders import changed
from train.errors import WindTunnelError
from train.plan.validate import validate
from train.run_folder.run_folder import RunFolder
from train.study import launch, study
from train.study import progress as study_progress
from train.study.run_status import study_status

REPO = Path(__file__).resolve().parents[2]

# Acts: What each start of a run does, by the run's seed; see fake_job.py.


def hydra_node(*sources):
    """What a launcher reads of Hydra's own node in a sweep."""
    return {
        "runtime": {"config_sources": list(sources)},
        "job": {"config_name": "train"},
        "overrides": {"hydra": ["hydra.mode=MULTIRUN"]},
        "run": {"dir": "."},
    }


def use_fake_jobs(put=setattr):
    """Point the launcher at fake jobs, and let it look often."""
    put(launch, "JOB_COMMAND", (sys.executable, str(Path(fake_job.__file__))))
    put(launch, "POLL_SECONDS", 0.02)
    put(launch, "HELD_SECONDS", 0.1)
    put(study_progress, "LOOK_SECONDS", 0.1)
    put(study_progress, "LINE_SECONDS", 0.1)


def run_fake_study(config, acts, *, words=(), workers=2):
    """Run one job a seed, or a stack of seeds where the config says, through train.study.study
    and train.study.launch; raises as the command would."""
    stack = config.machine.stack or 1
    config = changed(config, {"machine.workers": workers, "machine.stack": stack})
    base = OmegaConf.structured(config)

    def compose(overrides):
        return OmegaConf.merge(base, OmegaConf.from_dotlist(overrides))

    def launch_fakes(jobs):
        return launch.launch_local([_fake(job, acts) for job in jobs], _hydra_config(config))

    seeds = f"seed={','.join(map(str, acts))}"
    tree = compose(list(words))
    study.run_study([seeds, *words], study=tree.study, compose=compose, launch=launch_fakes)


def _fake(job, acts):
    return replace(job, runs=tuple(_fake_run(run, acts) for run in job.runs))


def _fake_run(run, acts):
    (seed,) = [word.removeprefix("seed=") for word in run.overrides if word.startswith("seed=")]
    return replace(run, overrides=(f"folder={run.folder.path}", f"acts={acts[int(seed)]}"))


def _hydra_config(config):
    groups = {"machine": config.machine, "paths": config.paths, "study": config.study}
    return OmegaConf.create({**groups, "hydra": hydra_node()})


def start_launcher(config, acts, errors, *patches):
    """Run the study in a process of its own, which can be killed; its standard error in a file."""
    process = multiprocessing.get_context("forkserver").Process(
        target=_launcher, args=(config, dict(acts), errors, patches), daemon=False
    )
    process.start()
    return process


class Launchers:
    """Launchers in processes of their own; they and their jobs end with the test."""

    def __init__(self, config, errors):
        self.config, self.errors, self.processes = config, errors, []

    def start(self, acts, *patches):
        process = start_launcher(self.config, acts, self.errors, *patches)
        self.processes.append(process)
        return process

    def wait_until(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def said(self):
        return self.errors.read_text(encoding="utf-8") if self.errors.exists() else ""

    def close(self):
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
            process.close()


def _launcher(config, acts, errors, patches):
    os.setpgid(0, 0)
    descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    os.environ["PYTHONPATH"] = str(REPO)
    use_fake_jobs()
    for patch in patches:
        patch()
    try:
        run_fake_study(config, acts)
    except WindTunnelError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def folder_of(config, seed):
    config = changed(config, {"seed": seed})
    return RunFolder(study_folder(config) / validate(config).run_id)


def study_folder(config):
    return Path(config.paths.runs) / config.study.name


def states(config):
    """The state of every run of the manifest; none before there is one."""
    return [run.state for run in study_status(study_folder(config))]


def starts(config, seeds):
    """The acts that each run's starts did, doomed ones included."""
    log = study_folder(config) / fake_job.STARTED
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    names = {seed: folder_of(config, seed).path.name for seed in seeds}
    return {seed: [line[1] for line in lines if line[0] == name] for seed, name in names.items()}
