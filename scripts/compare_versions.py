"""Bit-for-bit comparison of the runs that two versions of the code train.

    python scripts/compare_versions.py record CHECKOUT OUT
    python scripts/compare_versions.py compare OUT_A OUT_B
    python scripts/compare_versions.py continue CHECKOUT OUT_A OUT_C

`record` trains STUDIES with the code of a checkout and keeps what SIGKILL left of some in
OUT/unfinished. `continue` finishes the unfinished studies of OUT_A with another checkout, in OUT_C,
and compares them with OUT_A's finished ones. Exit code 0: all equal; 1: not. Only command lines and
run folders are used and nothing of ours is imported, because the versions differ in their modules.
"""

import contextlib
import hashlib
import json
import os
import pickletools
import select
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IGNORED = {
    **dict.fromkeys(("seconds", "tokens_per_second", "flops_per_second", "mfu"), "wall clock"),
    **dict.fromkeys(("mfu_datasheet", "heartbeat", "cost"), "wall clock"),
    "files": "hashes of files that hold wall clocks",
    "device": "the host's processor",
    "versions": "what is compared",
    "git": "what is compared",
    "schema": "the number of a file format",
    "reason": "a sentence for people; the state and the step are compared",
    "attempts": "number of processes: a kill adds one",
    "replayed": "rows computed again: depends on where exactly a kill hit",
}
"""Keys left out at any depth, with the reason. attempts.jsonl (process ids, host, times),
config.yaml and the manifest's overrides (paths) are not compared at all."""

PINNED = """
data=synthetic data.vocab_size=64 data.seq_len=32 data.validation_tokens=4000
data.synthetic.tokens=40000 data.synthetic.document_tokens=500 model.d_model=32 model.head_dim=16
optimizer.batch_tokens=256 budget.tokens=30720 eval.points=3 eval.tokens=1024 machine.device=cpu
machine.dtype=fp32 machine.attention=sdpa machine.compile=never machine.threads=1 machine.workers=1
machine.stack=1 machine.log_every=3 machine.checkpoint_steps=20 machine.checkpoint_minutes=1000
"""
"""Overrides of every study, 120 steps; a study's own come after them. Nothing is left to `auto`."""

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
ENVIRONMENT |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TIMEOUT = 180.0
"""Seconds after which a command counts as hung."""


@dataclass(frozen=True)
class Study:
    """One study to record; a comma in its words makes it a sweep."""

    words: str
    shows: str = ""
    """How many runs have these keys in the last attempt's rows of attempts.jsonl; otherwise the
    study did not test what it should."""
    twin: str = ""
    """Another study whose records must be the same."""
    killed_at: tuple[int, int] = (0, -1)
    """SIGKILL once a run of so many steps has logged this step, well before the next checkpoint; at
    step 0, once the study is planned; at -1, never."""
    is_two_ranks: bool = False
    """Two ranks train it. A sweep is launched by one process, killed as soon as it is planned, and
    two ranks then train all its runs as one job."""
    exit_code: int = 0


RUN = "optimizer.lr=0.01"
STACK = "optimizer.lr=0.005,0.01,0.02 seed=0,1 machine.stack=6"
TRUNKS = """schedule=wsd schedule.warmup_tokens_per_param=null schedule.warmup_steps=3
    optimizer.lr=0.01 seed=0,1 budget.tokens=30720,20480,15360 machine.stack=2"""
RANKS = "optimizer.lr=0.01 schedule=linear seed=3 machine.micro_batch_seqs=2"
DIVERGED = "optimizer.lr=1e30 schedule=constant machine.log_every=1"
# The loss is not finite at 1e30; at 10 it ends finite, above where it began.
DIVERGED_STACK = "optimizer.lr=0.01,10,1e30 machine.stack=3 machine.log_every=1"
# GPT-2's block, on data that repeats.
MICRO_BATCHES = """model.norm=layer model.positions=learned model.qk_norm=false model.tie_head=true
    schedule=kaplan schedule.warmup_steps=5 budget.tokens=null budget.tokens_per_param=1
    data.allow_repeat=true data.synthetic.tokens=12000 machine.micro_batch_seqs=2"""
BF16 = """model=d16 model.d_model=16 model.activation=swiglu budget.tokens=null budget.flops=1e9
    machine.dtype=bf16 machine.attention=plain"""
FORKED = "stacked_with=6 forked_from=4"
STUDIES = {
    "run": Study(RUN),
    "killed_run": Study(RUN, "", "run", (120, 27)),
    "wandb": Study(f"{RUN} tracker=wandb tracker.mode=offline", "wandb_id=1 mirror=1", "run"),
    "stack": Study(STACK, "stacked_with=6"),
    "killed_stack": Study(STACK, "stacked_with=6", "stack", (120, 27)),
    "trunks": Study(TRUNKS, FORKED),
    "killed_trunk": Study(TRUNKS, FORKED, "trunks", (120, 27)),
    "killed_branch": Study(TRUNKS, FORKED, "trunks", (80, 66)),
    "ranks": Study(RANKS, "world_size=1", is_two_ranks=True),
    "killed_ranks": Study(RANKS, "world_size=1", "ranks", (120, 27), is_two_ranks=True),
    "ranks_trunks": Study(TRUNKS, f"{FORKED} world_size=6", "", (120, 0), is_two_ranks=True),
    "diverged": Study(DIVERGED, exit_code=5),
    "diverged_stack": Study(DIVERGED_STACK, "stacked_with=3"),
    "micro_batches": Study(MICRO_BATCHES),
    "bf16": Study(BF16),
}
KILLED = [name for name, study in STUDIES.items() if study.killed_at[1] >= 0]


def start(name: str, checkout: Path, out: Path, *, is_last: bool) -> "subprocess.Popen[bytes]":
    """Start the command that begins a study, or the last one, with the checkout's code."""
    study, folder = STUDIES[name], out / "runs" / name
    words = [*PINNED.split(), *study.words.split(), f"study.name={name}"]
    is_sweep = "," in study.words
    launcher = TORCHRUN if study.is_two_ranks and (is_last or not is_sweep) else ()
    if is_sweep and not launcher:
        words.insert(0, "-m")
    elif is_sweep:
        runs = read_json(folder / "manifest.json")["runs"]
        longest, *others = sorted(runs, key=lambda run: -int(run["plan"]["steps"]))
        words = [word for word in longest["overrides"] if not word.startswith("paths.")]
        words.append("together=[{}]".format(",".join(f"'{run['run_id']}'" for run in others)))
    words += [f"paths.runs={folder.parent}", f"paths.data={out / 'data'}"]
    own = {"PYTHONPATH": str(checkout), "WINDTUNNEL_CACHE": str(out / "cache")}
    (out / "logs").mkdir(parents=True, exist_ok=True)
    with (out / "logs" / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "train", *words],
            cwd=checkout,
            env={**os.environ, **ENVIRONMENT, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def interrupt(name: str, checkout: Path, out: Path) -> None:
    """Begin a study, kill it in the middle, and keep a copy of what is left."""
    folder, (steps, at) = out / "runs" / name, STUDIES[name].killed_at
    for _ in range(3):  # a busy machine may notice the step too late
        process, deadline = start(name, checkout, out, is_last=False), time.monotonic() + TIMEOUT
        while process.poll() is None and time.monotonic() < deadline:
            if last_step(folder, steps) >= at:
                break
            time.sleep(0.005)
        kill(process)
        # Before the next checkpoint: runs are stacked again only from checkpoints of one step.
        if at <= last_step(folder, steps) < at + 12:
            shutil.copytree(folder, out / "unfinished" / name)
            return
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(f"{name}: not killed in the middle; see {out}/logs/{name}.log")


def last_step(folder: Path, steps: int) -> int:
    """Return the last step that a run of so many steps has logged; -1 before the manifest."""
    plans = read_json(folder / "manifest.json").get("runs", [])
    runs = [folder / run["run_id"] for run in plans if run["plan"]["steps"] == steps]
    logged = [row["step"] for run in runs for row in read_jsonl(run / "metrics.jsonl")]
    return max(logged, default=0 if runs else -1)


def finish(name: str, checkout: Path, out: Path) -> None:
    """Run a study's last command to its end, and check that it tested what it should."""
    study, began = STUDIES[name], time.monotonic()
    process = start(name, checkout, out, is_last=True)
    try:
        code = process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        kill(process)
        sys.exit(f"{name}: no end after {TIMEOUT:.0f} s; see {out}/logs/{name}.log")
    if code != study.exit_code:
        sys.exit(f"{name}: exit code {code}, expected {study.exit_code}; see {out}/logs/{name}.log")
    last = [read_jsonl(path) for path in (out / "runs" / name).glob("*/attempts.jsonl")]
    last = [[row for row in rows if row["attempt"] == rows[-1]["attempt"]] for rows in last]
    keys = [{key for row in rows for key in row if row[key]} for rows in last]
    expected = [word.split("=") for word in study.shows.split()]
    shown = " ".join(f"{key}={sum(key in each for each in keys)}" for key, _ in expected)
    is_resumed = any(row["attempt"] > 1 and row.get("start_step") for rows in last for row in rows)
    if shown != study.shows or is_resumed != (study.killed_at[1] > 0):
        sys.exit(f"{name}: attempts.jsonl shows {shown}, expected {study.shows}; {is_resumed=}")
    say(f"{name}: {time.monotonic() - began:.1f} s")


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a command and all that it started: torchrun's ranks are in sessions of their own."""
    descriptors = []
    for pid in list(family_of(process.pid)) if process.poll() is None else []:
        with contextlib.suppress(ProcessLookupError):
            descriptors.append(os.pidfd_open(pid))
            signal.pidfd_send_signal(descriptors[-1], signal.SIGKILL)
    for descriptor in descriptors:
        select.select([descriptor], [], [])  # until it is dead
        os.close(descriptor)
    process.wait()


def family_of(pid: int) -> Iterator[int]:
    """Yield a process and its descendants, parents first (Linux)."""
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text(encoding="utf-8").split():
            yield from family_of(int(child))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is empty."""
    value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    assert isinstance(value, dict)
    return value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a JSONL file; a missing file is empty."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def read_tensors(path: Path) -> dict[str, str]:
    """Read a file of torch.save: by each tensor's name, the SHA-256 of its bytes.

    torch.load is allowed in train's checkpoint module alone. The file's opcodes hold the names in
    turn with the numbers of the storages, and each storage is a tensor of its own.
    """
    if not path.exists():
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].split("/")[0]
            opcodes = pickletools.genops(archive.read(f"{root}/data.pkl"))
            words = [str(word) for opcode, word, _ in opcodes if opcode.name == "BINUNICODE"]
            words = [word for word in words if word not in ("storage", "cpu")]
            content = [archive.read(f"{root}/data/{number}") for number in words[1::2]]
    except zipfile.BadZipFile as error:
        sys.exit(f"{path}: {error}")
    digests = [hashlib.sha256(each).hexdigest() for each in content]
    return dict(zip(words[::2], digests, strict=True))


def read_record(run: Path) -> dict[str, Any]:
    """Read all that a run folder says was measured."""
    newest = max(run.glob("checkpoints/step_*[0-9]"), default=run / "no checkpoint")
    return {
        **{name: read_jsonl(run / f"{name}.jsonl") for name in ("metrics", "evals")},
        **{name: read_json(run / f"{name}.json") for name in ("result", "run", "status")},
        "checkpoint": read_json(newest / "DONE.json").get("step"),
        **{name: read_tensors(newest / f"{name}.pt") for name in ("model", "optim")},
    }


def gaps(record: dict[str, Any]) -> Iterator[str]:
    """Yield what a finished run must have and this one has not: two absences are not equal."""
    state = record["status"].get("state")
    if state not in ("completed", "diverged"):
        yield f"the state is {state}"
    at_the_end = ("result", "checkpoint", "model", "optim") if state == "completed" else ()
    for name in ("metrics", "evals", "run", *at_the_end):
        if not record[name]:
            yield f"{name} is missing or empty"


def leaves(value: Any, ignored: Collection[str], path: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Yield the dotted path and the exact text of each number and word in a JSON value."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in ignored:
                yield from leaves(item, ignored, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value)


def differences(a: Path, b: Path, ignored: Collection[str], counts: Counter[str]) -> list[str]:
    """Compare two folders of one study; `counts` takes what was compared."""
    manifests = [read_json(study / "manifest.json").get("runs", []) for study in (a, b)]
    plans = [{run["run_id"]: run["plan"] for run in runs} for runs in manifests]
    names = [{path.parent.name for path in study.glob("*/run.json")} for study in (a, b)]
    every = names[0] | names[1] | set(plans[0]) | set(plans[1])
    is_same = every and all(each == every for each in (*names, *map(set, plans)))
    found = [] if is_same else [f"run_ids: {sorted(names[0])} and {sorted(names[1])}"]
    counts.update(runs=len(every), same_ids=bool(is_same))
    for name in sorted(every):
        flat = []
        for study, plan in zip((a, b), plans, strict=True):
            record = read_record(study / name)
            found += [f"{study / name}: {gap}" for gap in gaps(record)]
            flat.append(dict(leaves({**record, "manifest": plan.get(name)}, ignored)))
            if study is a:
                counts.update({key: len(record[key]) for key in ("metrics", "evals")})
                counts.update(results=bool(record["result"]))
                counts.update(tensors=len(record["model"]) + len(record["optim"]))
        for path in dict.fromkeys([*flat[0], *flat[1]]):
            values = [each.get(path, "absent") for each in flat]
            if values[0] != values[1]:
                found.append(f"{name}: {path}: {values[0]} and {values[1]}")
    return found


def compare(pairs: Iterable[tuple[str, Path, Path]], ignored: Collection[str]) -> int:
    """Compare studies, print a line each and the first differences, and return the exit code."""
    columns = ("runs", "metrics", "evals", "results", "tensors")
    line = "{:<24}" + "{:>9}" * 5 + "{:>13}{:>9}"
    say(line.format("study", *columns, "differences", "run_ids"))
    told: list[str] = []
    commits: list[set[str]] = [set(), set()]
    for label, a, b in pairs:
        counts: Counter[str] = Counter()
        found = differences(a, b, ignored, counts)
        same = "equal" if counts["same_ids"] else "DIFFER"
        say(line.format(label, *(counts[key] for key in columns), len(found), same))
        told += [f"{label}: {what}" for what in found[:10]]
        told += [f"{label}: and {len(found) - 10} more"] if len(found) > 10 else []
        for side, study in zip(commits, (a, b), strict=True):
            side |= {str(read_json(path).get("git")) for path in study.glob("*/run.json")}
    for what in told:
        say(what)
    say(f"code: {', '.join(sorted(commits[0]))} and {', '.join(sorted(commits[1]))}")
    say(f"ignored keys: {', '.join(sorted(ignored))}")
    say("not equal" if told else "all equal")
    return 1 if told else 0


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the command."""
    command, *folders = [sys.argv[1:2], *(Path(word).resolve() for word in sys.argv[2:])]
    match command, folders:
        case (["record"], [checkout, out]) if not out.exists():
            for name in STUDIES:
                if name in KILLED:
                    interrupt(name, checkout, out)
                finish(name, checkout, out)
            say("studies of this recording that must have the same records:")
            twins = [(name, study.twin) for name, study in STUDIES.items() if study.twin]
            pairs = [(f"{a} = {b}", out / "runs" / a, out / "runs" / b) for a, b in twins]
            return compare(pairs, {*IGNORED, "study"})
        case (["compare"], [a, b]):
            return compare([(n, a / "runs" / n, b / "runs" / n) for n in STUDIES], IGNORED)
        case (["continue"], [checkout, a, out]) if not out.exists():
            shutil.copytree(a / "data", out / "data")
            for name in KILLED:
                shutil.copytree(a / "unfinished" / name, out / "runs" / name)
                finish(name, checkout, out)
            return compare([(n, a / "runs" / n, out / "runs" / n) for n in KILLED], IGNORED)
    sys.exit(f"{__doc__}\nOUT and OUT_C must be new folders.")


if __name__ == "__main__":
    sys.exit(main())
