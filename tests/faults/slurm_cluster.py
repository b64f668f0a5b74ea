"""A Slurm of one node on this machine's loopback address, in a folder of its own."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel")

CONFIG = """\
ClusterName=windtunnel
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={root}/munge.socket
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller_port}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobCompType=jobcomp/none
KillWait=20
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=2 RealMemory=1000
PartitionName=debug Nodes=n1 Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs():
    """What a test cluster needs and this machine lacks."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return missing if os.getuid() == 0 else [*missing, "root's rights"]


@dataclass(frozen=True)
class Cluster:
    """A running cluster; `env` lets Slurm's commands find it."""

    root: Path
    env: Mapping[str, str]

    def command(self, *words):
        """Standard output of one of Slurm's commands, which must succeed."""
        done = subprocess.run(
            words, env=self.env, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def facts(self, job):
        """What `scontrol show job` says, by name."""
        words = self.command("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, job, condition):
        """The job's facts once `condition` holds of them."""
        deadline = time.monotonic() + 120.0
        while not condition(facts := self.facts(job)):
            assert time.monotonic() < deadline, facts
            time.sleep(0.1)
        return facts


def start_cluster(root):
    """Start the daemons and wait until the node is idle; `stop_cluster` ends them."""
    for name in ("state", "spool"):
        (root / name).mkdir()
    root.chmod(0o755)  # munged wants its socket in reach of every user
    key = root / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    (root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n", "utf-8")
    ports = _free_ports(2)
    config = CONFIG.format(
        root=root, host=socket.gethostname(), controller_port=ports[0], node_port=ports[1]
    )
    (root / "slurm.conf").write_text(config, "utf-8")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    cluster = Cluster(root, {**own, "PATH": path, "SLURM_CONF": str(root / "slurm.conf")})
    munge = [f"--{name}={root}/munge.{end}" for name, end in MUNGE_FILES.items()]
    cluster.command("munged", "--force", *munge)
    cluster.command("slurmctld")
    cluster.command("slurmd", "-N", "n1")
    deadline = time.monotonic() + 60.0
    while "State=IDLE" not in cluster.command("scontrol", "show", "node", "n1"):
        assert time.monotonic() < deadline, (root / "slurmd.log").read_text()
        time.sleep(0.2)
    return cluster


MUNGE_FILES = {
    "socket": "socket",
    "key-file": "key",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


def stop_cluster(root):
    """End the daemons by their pid files, the node's first."""
    for name in ("slurmd.pid", "slurmctld.pid", "munge.pid"):
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int((root / name).read_text())
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 20.0
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.05)


def _free_ports(n):
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
