"""What Hydra's documentation promises, on our command: options, configs, callbacks, plugins."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.runner import PEAK
from omegaconf import OmegaConf

from train import __main__ as command
from train.errors import ConfigError, DivergedError, PreemptedError
from train.run_folder.manifest import read_manifest
from train.storage.records import read_json
from train.study import dry_run

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "configs"

TINY = (
    "data=synthetic",
    "data.vocab_size=64",
    "data.seq_len=32",
    "data.validation_tokens=4000",
    "data.synthetic.tokens=40000",
    "data.synthetic.document_tokens=500",
    "model=d16",
    "model.head_dim=8",
    "optimizer.batch_tokens=256",
    "budget.tokens=5120",
    "eval.points=1",
    "eval.tokens=1024",
    "machine=cpu",
    "machine.compile=never",
    "machine.attention=plain",
)
"""A run of 20 steps."""

OTHERS = ("hydra/sweeper=basic", "hydra/launcher=basic")

RECORDER = '''
import os
from hydra.experimental.callback import Callback


class Recorder(Callback):
    """Appends each event to a file, with what it was told."""

    def note(self, event, told=""):
        with open(os.environ["RECORDED"], "a") as file:
            file.write(f"{event} {told}".strip() + "\\n")

    def on_run_start(self, config, **kwargs):
        self.note("run_start")

    def on_run_end(self, config, **kwargs):
        self.note("run_end")

    def on_job_start(self, config, **kwargs):
        self.note("job_start", config.seed)

    def on_job_end(self, config, job_return, **kwargs):
        value = job_return._return_value
        self.note("job_end", f"{job_return.status.name} {type(value).__name__}")

    def on_multirun_start(self, config, **kwargs):
        self.note("multirun_start")

    def on_multirun_end(self, config, **kwargs):
        self.note("multirun_end")
'''

CALLBACK = "+hydra.callbacks.recorder._target_=recorder.Recorder"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def train(work, monkeypatch, capsys):
    """Run `python -m train WORDS` in this process; return its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("train.engine.engine.peak_flops", lambda compute, dtype: PEAK)
    monkeypatch.setattr(dry_run, "seconds_per_step", lambda *words, **options: 0.01)
    monkeypatch.setattr(dry_run, "measure_peak_flops", lambda *words, **options: 1e11)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["train", *words])
        capsys.readouterr()
        try:
            code = command.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def confs(tmp_path):
    """Write config files of the user's own below one folder."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / "conf" / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path / "conf"

    return write


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A callback class on the path; return the events that it has noted."""
    (tmp_path / "recorder.py").write_text(RECORDER, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(REPO), str(tmp_path))))
    monkeypatch.setenv("RECORDED", str(tmp_path / "events"))
    return lambda: (tmp_path / "events").read_text(encoding="utf-8").splitlines()


def shell(script, work, timeout=120, **environment):
    """Run a line of bash with `python -m train` ready to start."""
    python = Path(sys.executable).parent
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=work,
        env={
            **os.environ,
            "PYTHONPATH": str(REPO),
            "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def read_config(work):
    """The config in the folder of the only run."""
    (path,) = (work / "runs" / "scratch").glob("*/config.yaml")
    assert (path.parent / "result.json").exists()
    return OmegaConf.load(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resolve"], "--resolve flag can only be used in conjunction with --cfg or --help"),
        (["model=3"], "Config group override must be a string or a list. Got int"),
        (["--config-dir", "nowhere"], "nowhere' not found"),
        (["-m", "hydra.launcher._target_=os.system"], "Invalid plugin 'os.system'"),
        (["-m", "hydra/sweeper=basic", "seed=interval(0,1)"], "INTERVAL_SWEEP"),
    ],
)
def test_what_hydra_itself_refuses_ends_with_its_message_and_exit_code_2(
    train, work, words, message
):
    code, _, error = train(*words, *TINY)
    assert code == 2, error
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert not (work / "runs").exists()


# options that print


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_ours(train, option):
    code, out, err = train(option)
    assert (code, err) == (0, "")
    assert out.startswith("Wind Tunnel measures the compute-optimal exponent")
    for line in (
        "python -m train model=d64 budget.flops=1e13",
        "python -m train -m study=quickstart",
        "python -m analysis study=quickstart",
        "schedule: constant, cosine, kaplan, linear, wsd",
        "study: lr_check, quickstart, scratch",
        "train/config/experiment.py",
        "  d_model: 64",
        'eval "$(windtunnel-train -sc install=bash)"',
    ):
        assert line in out


def test_hydra_help_lists_launchers_and_sweepers(train):
    code, out, _ = train("--hydra-help")
    assert code == 0
    assert "hydra/launcher: basic" in out
    assert ", local" in out
    assert "--cfg" in out


def test_cfg_prints_the_composed_config(train, confs):
    conf = confs(study__mine="# @package _global_\nstudy: {question: 'd${model.d_model}'}\n")
    words = ("--config-dir", str(conf), "study=mine", "model=d16")
    code, out, err = train("--cfg", "job", *words)
    assert (code, err) == (0, "")
    assert "  d_model: 16\n" in out
    assert "question: d${model.d_model}\n" in out
    assert "question: d16\n" in train("--cfg", "job", "--resolve", *words)[1]
    assert train("--cfg", "job", "--package", "model", *words)[1].startswith("# @package model\nd_")
    hydra = train("--cfg", "hydra", *words)[1]
    assert hydra.startswith("hydra:\n")
    assert "    name: train\n" in hydra


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("all", "Config search path"),
        ("config", "Defaults List"),
        ("defaults", "model/d16"),
        ("defaults-tree", "model: d16"),
        ("plugins", "StudySweeper"),
        ("searchpath", f"file://{CONFIGS}"),
    ],
)
def test_info(train, kind, words):
    code, out, err = train("--info", kind, "model=d16")
    assert (code, err) == (0, "")
    assert words in out


@pytest.mark.parametrize("option", ["--help", "--info all"])
def test_output_that_nobody_reads_to_the_end_is_no_error(work, option):
    # true reads nothing: each write meets a closed pipe
    ended = shell(f"sleep 0.1; python -m train {option} | true", work)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_bash_completes_the_rungs(work, tmp_path):
    program = tmp_path / "bin" / "windtunnel-train"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom train.__main__ import main\nsys.exit(main())\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    script = f"""
    export PATH={program.parent}:$PATH
    eval "$(windtunnel-train -sc install=bash)"
    complete -p windtunnel-train
    COMP_LINE="windtunnel-train model=d1" COMP_POINT=25 COMP_CWORD=1
    hydra_bash_completion
    echo "${{COMPREPLY[@]}}"
    """
    ended = shell(script, work)
    assert ended.returncode == 0, ended.stderr
    rule, rungs = ended.stdout.splitlines()
    assert rule.endswith("-F hydra_bash_completion windtunnel-train")
    assert sorted(rungs.split()) == [f"model=d{width}" for width in (1024, 128, 16, 192)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resolve"], "--resolve flag can only be used in conjunction with --cfg or --help"),
        (["--config-dir", "nowhere"], "nowhere' not found"),
        (["--config-name", "nobody"], "Cannot find primary config 'nobody'"),
        (["hydra/launcher=bsic"], "hydra/launcher=bsic: there is no such config; did you mean ba"),
        (["hydra.foo=1"], "hydra.foo: not a key of Hydra's; to add one, write +hydra.foo=..."),
        (["+hydra.callbacks.x._target_=nobody.X"], "ModuleNotFoundError(\"No module named 'nobod"),
        (["-m", "hydra.launcher._target_=os.system"], "Invalid plugin 'os.system'"),
        (["-m", "seed=interval(0,1)"], "seed=interval(0,1): only lists of choices can be swept"),
        (["seed=glob(*)"], "several values are several runs; put -m before them"),
    ],
)
def test_a_mistake_in_hydra_s_own_words_ends_with_a_message(train, work, words, message):
    code, _, err = train(*words, *TINY)
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
    assert not (work / "runs").exists()


# configs of the user's own


def test_a_search_path_adds_groups_on_the_command_line_and_in_a_config(train, confs):
    conf = confs(
        model__mine="d_model: 40\n",
        root="defaults: [train, _self_]\nhydra: {searchpath: ['file://${oc.env:MINE}']}\n",
    )
    path = f"hydra.searchpath=[file://{conf}]"
    assert "d_model: 40" in train("--cfg", "job", path, "model=mine")[1]
    assert train("model=mine", "budget.tokens=3")[0] == 2


def test_a_root_config_of_one_s_own(train, confs, monkeypatch):
    conf = confs(
        root="defaults: [train, {override model: d16}, _self_]\nseed: 5\n"
        "hydra: {searchpath: ['file://${oc.env:MINE}/more']}\n",
        more__model__mine="d_model: 40\n",
    )
    monkeypatch.setenv("MINE", str(conf))
    words = ("--config-dir", str(conf), "--config-name", "root")
    code, out, err = train("--cfg", "job", *words)
    assert (code, err) == (0, "")
    assert "seed: 5" in out
    assert "d_model: 16" in out
    assert "d_model: 40" in train("--cfg", "job", *words, "model=mine")[1]


EXPERIMENT = """
# @package _global_
defaults:
  - override /model: d16
  - override /schedule: linear
optimizer:
  lr: 0.004
study:
  question: "lr ${optimizer.lr} of ${hydra:runtime.choices.model}"
"""


def test_an_experiment_file_overrides_groups_in_a_run_and_in_a_sweep(train, confs, work):
    words = ("--config-dir", str(confs(experiment__mine=EXPERIMENT)), "+experiment=mine")
    tiny = [word for word in TINY if word != "model=d16"]
    code, out, _ = train(*words, *tiny, "dry_run=true")
    assert code == 0
    assert "d16l2-5.12k-lr4.00e-03-s0-" in out
    code, out, _ = train("-m", *words, *tiny, "seed=0,1", "model=d16,d24", "dry_run=true")
    assert code == 0
    assert "4 runs on" in out
    assert out.count("lr4.00e-03") == 4
    assert train(*words, *tiny, *OTHERS)[0] == 0
    config = read_config(work)
    assert (config.study.question, config.schedule.shape) == ("lr 0.004 of d16", "linear")


@pytest.mark.parametrize(
    ("sweep", "n_runs"),
    [
        ("model=d16,d24", 2),
        ("seed=range(1,4)", 3),
        ("model=choice(d16,d24)", 2),
        ("model=glob(d1*)", 4),
        ("model=glob(*,exclude=d1*)", 9),
        ("+hydra.sweeper.params.seed='1,2'", 2),
    ],
)
def test_sweeps_of_every_kind_are_grids(train, sweep, n_runs):
    code, out, err = train("-m", *TINY, sweep, "dry_run=true")
    assert code == 0, err
    assert f"{n_runs} runs on " in out


# callbacks and hydra.job


def test_a_callback_is_called_for_a_run_that_completes_and_for_one_that_fails(train, recorded):
    assert train(*TINY, CALLBACK)[0] == 0
    assert recorded() == ["run_start", "job_start 0", "job_end COMPLETED float", "run_end"]
    code, _, err = train(*TINY, CALLBACK, "seed=-1")
    assert code == 2
    assert "error: seed=-1: must be" in err
    assert recorded()[4:] == ["run_start", "job_start -1", "job_end FAILED ConfigError", "run_end"]


def test_callbacks_of_a_study_are_called_in_the_command_and_in_its_jobs(train, recorded):
    code, _, err = train("-m", *TINY, CALLBACK, "seed=3", "machine.workers=1")
    assert code == 0, err
    assert recorded() == [
        "multirun_start",
        "run_start",
        "job_start 3",
        "job_end COMPLETED float",
        "run_end",
        "multirun_end",
    ]


def test_the_job_s_environment_folder_name_and_logging(train, recorded, work, monkeypatch):
    told = {}

    def run_job(tree, *, startup):
        told.update(folder=Path.cwd(), mine=os.environ.get("MINE"))
        command.logging.getLogger("mine").debug("a line of mine")

    monkeypatch.setattr(command, "run_job", run_job)
    words = ("+hydra.job.env_set.MINE=x", "hydra.job.chdir=true", "hydra.run.dir=elsewhere")
    code, out, _ = train(*TINY, *words, "hydra.job.name=mine", "hydra.verbose=[mine]")
    assert code == 0
    assert told == {"folder": work / "elsewhere", "mine": "x"}
    assert out == "a line of mine\n"
    assert Path.cwd() == work
    assert "MINE" not in os.environ
    assert "    name: mine" in train("--cfg", "hydra", "hydra.job.name=mine")[1]
    assert "DEBUG" not in out


def test_the_jobs_of_a_study_compose_their_configs_as_the_command_does(train, confs, work):
    root = "defaults: [/train, _self_]\neval: {tokens: 2048}\n"
    hydra = "hydra: {searchpath: ['pkg://configs'], run: {dir: elsewhere}}\n"
    conf = confs(
        root__mine=root + hydra, model__mine="d_model: 8\n", more__optimizer__mine="lr: 0.01\n"
    )
    paths = (
        "--config-path",
        str(conf / "root"),
        "--config-name",
        "mine",
        "--config-dir",
        str(conf),
    )
    more = f"hydra.searchpath=[pkg://configs,file://{conf}/more]"
    tiny = [word for word in TINY if not word.startswith(("model=", "eval.tokens"))]
    groups = ("model=mine", "model.head_dim=4", "optimizer=mine")
    code, _, err = train("-m", *paths, more, *tiny, *groups, "hydra.job.chdir=true")
    assert code == 0, err
    config = read_config(work)
    assert (config.model.d_model, config.eval.tokens, config.optimizer.lr) == (8, 2048, 0.01)


# launchers and sweepers of others

NOTE = "starts each job once; the defaults, hydra/sweeper=study and hydra/launcher=local, also"


@pytest.mark.parametrize("plugins", [OTHERS, OTHERS[1:]], ids=["basic sweeper", "our sweeper"])
def test_hydra_s_own_launcher_trains_a_sweep_into_ordinary_folders(train, work, plugins):
    sweep = ("-m", *TINY, "optimizer.lr=1e-3,2e-3", "machine.stack=1", *plugins)
    code, out, err = train(*sweep)
    assert code == 0, err
    assert err.count(NOTE) == 1
    assert err.count(f"note: {' '.join(plugins)} ") == 1
    manifest = read_manifest(work / "runs" / "scratch")
    folders = [work / "runs" / "scratch" / entry["run_id"] for entry in manifest["runs"]]
    assert len(folders) == 2
    for folder in folders:
        assert read_json(folder / "status.json")["state"] == "completed"
    assert out.count(": completed, validation loss") == 2
    # the same command again finds them done
    assert train(*sweep)[0] == 0
    assert not list(work.glob("*.log"))


def test_the_start_up_of_a_later_job_is_its_own(train, monkeypatch):
    seconds = []
    monkeypatch.setattr(command, "train_runs", lambda runs, startup: seconds.append(startup))
    assert train("-m", *TINY, "seed=1,2", *OTHERS)[0] == 0
    assert len(seconds) == 2
    assert max(seconds) < command.process_seconds() - 1.0


@pytest.mark.parametrize("plugins", [OTHERS, OTHERS[1:]], ids=["basic sweeper", "our sweeper"])
def test_a_failed_job_of_another_launcher_names_its_error(train, monkeypatch, plugins):
    started = []

    def run_job(tree, *, startup):
        started.append(tree.seed)
        raise ConfigError(f"seed {tree.seed} is not liked")

    monkeypatch.setattr(command, "run_job", run_job)
    code, _, err = train("-m", *TINY, "seed=1,2", "machine.stack=1", *plugins)
    assert code == 2
    assert started == [1, 2]
    assert "error: seed 1 is not liked" in err
    assert "Traceback" not in err


def test_a_signal_ends_another_launcher_s_sweep_and_a_divergence_does_not(train, monkeypatch):
    started = []

    def run_job(tree, *, startup):
        started.append(tree.seed)
        raise PreemptedError("saved") if tree.seed == 3 else DivergedError("the loss is nan")

    monkeypatch.setattr(command, "run_job", run_job)
    assert train("-m", *TINY, "seed=1,2", *OTHERS)[0] == 0
    assert train("-m", *TINY, "seed=3,4", *OTHERS)[0] == 75
    assert started == [1, 2, 3]


def test_our_launcher_says_which_launchers_take_the_jobs_of_another_sweeper(train):
    code, _, err = train("-m", *TINY, "seed=1,2", "hydra/sweeper=basic")
    assert code == 2
    assert "error: hydra/launcher=local: takes jobs from hydra/sweeper=study only" in err


def test_joblib_trains_a_sweep(work):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = " ".join((*TINY, "hydra/launcher=joblib"))
    sweep = f"python -m train -m {words} machine.stack=1 optimizer.lr=1e-3,2e-3"
    ended = shell(sweep, work)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count(NOTE) == 1
    results = list((work / "runs" / "scratch").glob("*/result.json"))
    assert len(results) == 2
    # finished runs are passed over, and an error comes back from the worker
    again = shell(f"{sweep},-3e-3 hydra/sweeper=basic", work)
    assert again.returncode == 2
    assert again.stdout.count(": completed, validation loss") == 2
    assert "error: optimizer.lr=-0.003: must be positive and finite" in again.stderr


def test_optuna_minimises_the_validation_loss(work):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = (*TINY, "'optimizer.lr=tag(log,interval(1e-4,1e-2))'", "hydra/launcher=basic")
    options = "hydra/sweeper=optuna hydra.sweeper.n_trials=3"
    ended = shell(f"python -m train -m {options} {' '.join(words)}", work)
    assert ended.returncode == 0, ended.stderr
    results = [read_json(path)["row"] for path in (work / "runs").glob("scratch/*/result.json")]
    assert len(results) == 3
    best = min(row["loss"] for row in results)
    assert f"Best value: {best}" in ended.stdout
    assert math.isfinite(best)


def test_a_plugin_that_cannot_be_imported_is_a_warning(work, tmp_path):
    module = tmp_path / "lib" / "hydra_plugins" / "broken" / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text("import nothing_of_this_name\n", encoding="utf-8")
    path = os.pathsep.join((str(REPO), str(tmp_path / "lib")))
    ended = shell("python -m train --help", work, PYTHONPATH=path)
    assert ended.returncode == 0, ended.stderr
    assert "Error importing 'hydra_plugins.broken'" in ended.stderr
    assert ended.stdout.startswith("Wind Tunnel measures")
