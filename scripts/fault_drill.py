"""Train a study under random SIGKILLs and compare it, bit by bit, with an undisturbed one.

    python scripts/fault_drill.py study=NAME [kills=50] [seed=0] [runs=DIR] [overrides of the study]
                                  [--json FILE] [--markdown FILE] [--quick]

The study is trained once undisturbed (kept for the next drill) and once under SIGKILLs at random
moments drawn from the seed; after each kill the same command is started again. A kill hits one job,
the launcher alone (its jobs go on as orphans), or the launcher with all its jobs. If the study ends
before `kills` kills, it is trained again with the next seed. --quick without a study trains four
small runs on synthetic text.
"""

import argparse
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.figures import write_figures
from drill.compare_studies import RunComparison, compare_studies
from drill.random_kills import Storm
from drill.report import Drill, figures, print_report, write_markdown
from train.run_folder.provenance import git_state
from train.storage.records import read_json, write_json

PLUMBING = {"machine.checkpoint_steps": "100", "machine.log_every": "10"}
"""Overrides that the command line may replace. The default checkpoint interval, in minutes, is too
long for runs of seconds."""

RECORD = "fault_drill.json"
"""File in every study folder made by the drill; only folders that have it are ever deleted."""

QUICK_STUDY = """# @package _global_
# Four small runs on synthetic text, a few seconds each on one CPU core: for a quick drill.
study:
  name: quick_drill
  grid:
    - {model.d_model: [16, 24], optimizer.lr: [0.005, 0.01]}
model: {head_dim: 8}
data:
  source: synthetic
  name: quick_drill
  vocab_size: 64
  seq_len: 32
  validation_tokens: 20000
  synthetic: {tokens: 1000000}
optimizer: {batch_tokens: 512}
budget: {tokens: 512000}
eval: {points: 4, tokens: 8192}
"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line."""

    study: str
    kills: int
    seed: int
    runs: Path
    overrides: tuple[str, ...]
    config_dir: Path | None = None

    def command(self, name: str) -> list[str]:
        """The command that trains the study under the name `name`."""
        words = ["-m", "train"]
        if self.config_dir:
            words += ["--config-dir", str(self.config_dir)]
        words += ["-m", f"study={self.study}", f"study.name={name}", f"paths.runs={self.runs}"]
        return [sys.executable, *words, *self.plumbing, *self.overrides]

    @property
    def plumbing(self) -> list[str]:
        """PLUMBING without the keys that the overrides set."""
        asked = {word.partition("=")[0].lstrip("+") for word in self.overrides}
        return [f"{key}={value}" for key, value in PLUMBING.items() if key not in asked]


def main(words: Sequence[str] | None = None) -> int:
    """Run the drill and print its table; return 0 also when a figure falls short of its goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--markdown", type=Path, help="where a Markdown page with the table goes")
    parser.add_argument("--quick", action="store_true", help="at most 3 minutes")
    parser.add_argument("--config-dir", type=Path, help="where the study's own configs are")
    options = parser.parse_args(words)
    try:
        request = make_request(options)
        drill = run_drill(request)
    except DrillError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    rows = figures(drill)
    print_report(drill, rows)
    if options.json:
        write_figures(options.json, rows)
    if options.markdown:
        write_markdown(options.markdown, drill, rows, command=_command_line(words))
    return 0


class DrillError(Exception):
    """The drill cannot be run as asked."""


def make_request(options: argparse.Namespace) -> Request:
    """Read the key=value words; write the config of the quick study if none is named.

    Raises:
        DrillError: A word is wrong.
    """
    own = {"study": "", "kills": "5" if options.quick else "50", "seed": "0", "runs": "runs"}
    overrides = []
    for word in options.words:
        key, equals, value = word.partition("=")
        if equals and key in own:
            own[key] = value
        else:
            overrides.append(word)
    config_dir = options.config_dir
    if not own["study"]:
        if not options.quick:
            raise DrillError(
                "study=NAME is missing: python scripts/fault_drill.py study=quickstart"
            )
        own["study"] = "quick_drill"
        config_dir = Path(own["runs"]) / "quick_drill-conf"
        (config_dir / "study").mkdir(parents=True, exist_ok=True)
        (config_dir / "study" / "quick_drill.yaml").write_text(QUICK_STUDY, encoding="utf-8")
    taken = [word for word in overrides if word.startswith(("study.name=", "paths.runs="))]
    if taken:
        raise DrillError(f"{taken[0]}: the drill names its own folders, under runs=DIR")
    counts = {}
    for name in ("kills", "seed"):
        if not own[name].isdecimal() or (name == "kills" and int(own[name]) < 1):
            raise DrillError(f"{name}={own[name]}: not a whole number, such as {name}=50")
        counts[name] = int(own[name])
    return Request(
        study=own["study"],
        runs=Path(own["runs"]),
        overrides=tuple(overrides),
        config_dir=config_dir,
        **counts,
    )


def run_drill(request: Request) -> Drill:
    """Train the reference unless it exists, then train under kills until there are enough.

    Raises:
        DrillError: The study does not train undisturbed, or a folder of another origin has the
            name.
    """
    reference = request.runs / f"{request.study}-drill-reference"
    seconds_alone = train_reference(request, reference)
    storms: list[Storm] = []
    compared: list[RunComparison] = []
    while (left := request.kills - sum(len(storm.kills) for storm in storms)) > 0:
        seed = request.seed + len(storms)
        folder = request.runs / f"{request.study}-drill-s{seed}"
        make_own_folder(folder, {"seed": seed, "reference": reference.name})
        storm = _storm(request, folder, kills=left, seconds_alone=seconds_alone, seed=seed)
        storm.run()
        storms.append(storm)
        _say(f"{folder.name}: {len(storm.kills)} kills, comparing with {reference.name}")
        compared += compare_studies(reference, folder)
        # the study is too short to be hit, or cannot be finished; the table shows which
        if not storm.kills or storm.share < 1:
            break
    return Drill(
        study=request.study,
        kills_wanted=request.kills,
        reference=reference,
        seconds_alone=seconds_alone,
        storms=tuple(storms),
        compared=tuple(compared),
        settings=(*request.plumbing, *request.overrides),
    )


def train_reference(request: Request, folder: Path) -> float:
    """Train the study undisturbed, unless the same command and commit did before.

    Returns:
        Its wall-clock seconds, data preparation excluded.

    Raises:
        DrillError: The study does not finish.
    """
    asked: dict[str, object] = {
        "command": request.command(folder.name),
        "git": git_state(Path(__file__).parent),
    }
    try:
        record = read_json(folder / RECORD)
    except (FileNotFoundError, ValueError):
        record = {}
    if record.get("seconds") and _is_of(record, asked):
        _say(f"{folder.name}: there already, {record['seconds']:.0f} s")
        return float(record["seconds"])
    # prepares the data, which is not timed
    warm_up = _undisturbed(request, folder, asked)
    warm_up.run_until_it_trains()
    storm = _undisturbed(request, folder, asked)
    storm.run()
    if storm.launches > 1 or storm.share < 1:
        tail = (folder / "drill.log").read_text(errors="replace")[-2000:]
        raise DrillError(f"the study does not train undisturbed:\n{tail}")
    write_json(folder / RECORD, {**asked, "seconds": storm.seconds})
    return storm.seconds


def _undisturbed(request: Request, folder: Path, record: dict[str, object]) -> Storm:
    make_own_folder(folder, record)
    return _storm(request, folder, kills=0, seconds_alone=0.0, seed=0)


def _storm(request: Request, folder: Path, *, kills: int, seconds_alone: float, seed: int) -> Storm:
    return Storm(
        command=request.command(folder.name),
        folder=folder,
        mark=uuid.uuid4().hex,
        kills_wanted=kills,
        seconds_alone=seconds_alone,
        rng=Random(seed),
        say=_Progress(kills, seconds_alone),
    )


def _is_of(record: dict[str, object], asked: dict[str, object]) -> bool:
    """Whether a reference was made by this command at this commit, with a clean work tree."""
    is_clean = not git_state(Path(__file__).parent)["dirty"]
    return is_clean and all(record.get(key) == value for key, value in asked.items())


def make_own_folder(folder: Path, record: dict[str, object]) -> None:
    """Make a study folder, deleting one of an earlier drill.

    Raises:
        DrillError: A folder with that name exists and was not made by a drill.
    """
    if folder.exists():
        if not (folder / RECORD).exists():
            raise DrillError(f"{folder}: is in the way, and no drill made it; use runs=DIR")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_json(folder / RECORD, record)


class _Progress:
    """Prints a line every ten seconds, with the estimated time left."""

    def __init__(self, kills_wanted: int, seconds_alone: float) -> None:
        self._kills_wanted, self._seconds_alone = kills_wanted, seconds_alone
        self._said = time.monotonic()

    def __call__(self, storm: Storm) -> None:
        seconds, share, kills = storm.seconds, storm.share, len(storm.kills)
        if time.monotonic() - self._said < 10:
            return
        self._said = time.monotonic()
        line = f"{storm.folder.name}  {share:4.0%} of FLOPs  {seconds:.0f} s"
        if self._kills_wanted:
            lost = max(0.0, seconds - share * self._seconds_alone) / max(1, kills)
            left = (1 - share) * self._seconds_alone + lost * (self._kills_wanted - kills)
            line += f"  {kills} of {self._kills_wanted} kills  about {left:.0f} s left"
        elif share > 0.02:
            line += f"  about {seconds / share * (1 - share):.0f} s left"
        _say(line)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _command_line(words: Sequence[str] | None) -> str:
    given = list(words if words is not None else sys.argv[1:])
    kept = [word for word in given if "=" in word and not word.startswith("--")]
    kept += ["--quick"] if "--quick" in given else []
    return " ".join(["python scripts/fault_drill.py", *kept])


if __name__ == "__main__":
    sys.exit(main())
