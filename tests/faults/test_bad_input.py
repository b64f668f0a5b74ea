"""Bad inputs of the fault catalogue: refused with exit 2 before anything is computed or written.

One table through the real command in this process: Hydra, the typed config, validate and preflight.
Every message has the value, the rule and the nearest right value, and no traceback. The controls
leave a check out, and the nonsense is trained or started.
"""

import dataclasses
import re

import pytest
import torch

from faults.foreign import files_in, study_words
from train import __main__ as command
from train.config.compose import known_keys
from train.config.experiment import BudgetConfig, ModelConfig
from train.config.schema import Config
from train.errors import ConfigError
from train.plan.counting import count_params
from train.plan.planning import PlannedRun, plan_run
from train.plan.validate import validate
from train.study import study

GOOD = (
    "data=synthetic",
    "machine=cpu",
    "model=d32",
    "data.seq_len=128",
    "optimizer.batch_tokens=512",
    "budget.tokens=51200",  # 100 steps
)

BAD = {
    # unknown keys and options
    "model.d_modle=32": "model.d_modle: unknown; did you mean model.d_model?",
    "+model.d_modle=32": "model.d_modle: unknown; did you mean model.d_model?",
    "+model.deep.er=32": "model.deep: unknown; did you mean model.d_ff or model.d_model?",
    "model=d6": "model=d6: there is no such config; did you mean d96 or d64 or d16?",
    "model=": "model=: there is no such config; known: d1024",
    # words that are no overrides
    "seed": "seed: not an override; write key=value, such as seed=1",
    "+seed=3": "+seed: is a setting; write seed=...",
    "model=d16,": "model=d16,: a value is missing after the last comma; write model=d16",
    "model=d16,d32": "put -m before them (python -m train -m model=d16,d32)",
    "seed=range(1,3)": "several values are several runs; put -m before them",
    "study.question=it's": "cannot be read; quote the value",
    # missing values and wrong types
    "seed=": "seed: Value '' of type 'str' could not be converted to Integer",
    "seed=null": "seed: ",
    "seed=1.0": "seed: Value '1.0' of type 'float' could not be converted to Integer",
    "model.n_layers=2.0": "model.n_layers: Value '2.0' of type 'float' could not be converted",
    "budget.tokens=lots": "budget.tokens: Value 'lots' of type 'str' could not be converted",
    "model.activation=relu": "Invalid value 'relu', expected one of [gelu, swiglu]",
    "machine.device=tpu": "Invalid value 'tpu', expected one of [auto, cpu, cuda]",
    # shapes
    "model.n_heads=3": "model.d_model=32 is not divisible by model.n_heads=3 (rotary needs an even",
    "model.d_model=6 model.n_heads=2": "leaves an odd head width with model.n_heads=2",
    "model.n_layers=0": "model.n_layers=0: must be positive and finite, such as 1",
    "model.n_layers=-1": "model.n_layers=-1: must be positive and finite, such as 1",
    "model.n_layers=100000000": "model.d_model=32 with 100000000 layers: 1.24e+12 parameters",
    "model.d_model=1048576": "model.d_model=1048576 with 16384 layers: 2.16e+17 parameters",
    "data.vocab_size=1000000000000": "parameters and windows of data.seq_len=128 need at least",
    "model.rotary_base=0.5": "model.rotary_base=0.5: must be above 1",
    "model.aspect_ratio=nan": "model.aspect_ratio=nan: must be positive and finite",
    # batches, windows, budgets
    "data.seq_len=0": "data.seq_len=0: must be positive and finite",
    "data.seq_len=1000000 optimizer.batch_tokens=1000000 budget.tokens=1e8 eval.tokens=1000000": (
        "fewer than one window of 1000001; use data.seq_len=499999 or less, or more text"
    ),
    "optimizer.batch_tokens=130": "is not a positive multiple of data.seq_len=128; use 128 or 256",
    "optimizer.batch_tokens=64": "is not a positive multiple of data.seq_len=128; use 128",
    "machine.micro_batch_seqs=3": "does not divide the batch of 4 windows; use 2",
    "budget.tokens=100": "fewer than one batch of optimizer.batch_tokens=512; ask for at least 512",
    "budget.tokens=1800": "whole steps would change it by",
    "budget.tokens=-5": "budget.tokens=-5: must be positive and finite",
    "budget.tokens=nan": "budget.tokens=nan: must be positive and finite",
    "budget.tokens=1e300": "a run has less than 2^53 = 9007199254740992 steps",
    "budget.tokens=null": "exactly one of budget.tokens, budget.flops, budget.tokens_per_param",
    "budget.flops=1e12": "got budget.tokens=51200, budget.flops=1e+12; set the others to null",
    "budget.tokens=51200000": "allow repetition with data.allow_repeat=true",
    # schedules and the optimiser
    "schedule.warmup_fraction=1.0": "is not shorter than the run of 100 steps; use at most 99",
    "schedule.warmup_fraction=null schedule.warmup_steps=100": "use at most 99 steps",
    "schedule=wsd schedule.warmup_tokens_per_param=null schedule.warmup_fraction=0.9": (
        "use schedule.cooldown_fraction of at most 0.100, or a warm-up of at most 80 steps"
    ),
    "schedule=wsd schedule.warmup_fraction=0.05": (
        "got warmup_tokens_per_param and warmup_fraction; set the others to null"
    ),
    "together=[all]": "scratch/manifest.json; plan the study first",
    "machine.stack=0": "machine.stack=0: must be at least 1",
    "schedule.final_lr_ratio=1.5": "schedule.final_lr_ratio=1.5: must be in [0, 1]",
    "schedule.horizon_tokens=1e9": "only schedule=kaplan has a horizon",
    "optimizer.lr=-0.1": "optimizer.lr=-0.1: must be positive and finite",
    "optimizer.lr=0": "optimizer.lr=0.0: must be positive and finite",
    "optimizer.lr=nan": "optimizer.lr=nan: must be positive and finite",
    "optimizer.lr=inf": "optimizer.lr=inf: must be positive and finite",
    "optimizer.lr=1e200 optimizer.lr_multiplier=1e200": "makes the learning rate inf, which must",
    "optimizer.beta1=1": "optimizer.beta1=1.0: must be in [0, 1)",
    "optimizer.beta2=1": "optimizer.beta2=1.0: must be in [0, 1)",
    "optimizer.eps=0": "optimizer.eps=0.0: must be positive and finite",
    "optimizer.weight_decay=-1": "optimizer.weight_decay=-1.0: must be at least 0 and finite",
    # evaluations, checkpoints, the machine
    "eval.points=-1": "eval.points=-1: must be at least 0",
    "eval.points=101": "more evaluations than the run's 100 steps; use at most 100",
    "eval.tokens=1": "fewer than one window of data.seq_len=128; use at least 128",
    "machine.checkpoint_keep=1": "machine.checkpoint_keep=1: must be at least 2",
    "machine.checkpoint_steps=0": "machine.checkpoint_steps=0: must be at least 1",
    "machine.log_every=0": "machine.log_every=0: must be positive and finite",
    "machine.threads=100000": "machine.threads=100000: must be 1 .. 1024",
    "machine.device=cuda": "torch finds no CUDA device here",
    # data
    "data=enwik8 data.vocab_size=300": "with data.tokenizer=bytes, whose ids are 0..255; use",
    "data=files": "data.source=files needs data.files=[PATH or GLOB, ...]; it is empty",
    "data.files=[a.txt]": "data.source=synthetic does not read it; add data=files",
    "data.validation_tokens=0": "data.validation_tokens=0 must be at least 1",
    "data.synthetic.tokens=10": "data.validation_tokens=500000 leaves nothing to train on",
    "data.synthetic.successors=1000": "must be between 1 and data.vocab_size=256",
    # names, seeds, folders
    "seed=-1": "seed=-1: must be 0 .. 2^63 - 1",
    "seed=9223372036854775808": "seed=9223372036854775808: must be 0 .. 2^63 - 1",
    "study.name=a/b": "study.name='a/b': must start with a letter or digit",
    "tracker.project=a/b": "tracker.project='a/b': must be 1 to 128 characters without / ",
    "tracker.entity=''": "tracker.entity='': must be 1 to 128 characters",
    "paths.runs=same paths.data=same": "paths.runs=same is paths.data too; studies and prepared",
    "paths.runs=same/../same paths.data=same/": "is paths.data too",
    "paths.runs=''": "paths.runs='': must name a folder, such as runs",
    # studies
    "study.max_flops=0": "study.max_flops=0.0: must be positive and finite, or null",
    "study.max_flops=1e3": "study.max_flops=1000: 1 run of 1.0",
    "-m study.max_flops=1e10 seed=1,2": "study.max_flops=1e+10: 2 runs of 2.0",
    "study.max_runs=0": "study.max_runs=0: must be at least 1",
    "-m study.max_runs=1 seed=1,2": "the grid has 2 runs, more than study.max_runs=1",
    "-m model.d_modle=16,32": "model.d_modle: unknown; did you mean model.d_model?",
    "-m model=d16,": "model=d16,: a value is missing after the last comma; write model=d16",
    "-m seed=1,x": "seed: Value 'x' of type 'str' could not be converted to Integer",
    "-m seed=0 machine.threads=1,2": "two points of the grid are the same run",
}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("words", BAD)
def test_a_bad_input_is_refused_with_value_rule_and_remedy(tmp_path, train_command, words):
    multirun, *rest = ["", *words.split()] if not words.startswith("-m") else words.split()
    code, said = train_command(*[word for word in (multirun,) if word], *GOOD, *rest)
    assert code == 2, said
    assert "error: " in said  # after a bar, where data was made first
    assert BAD[words] in said
    assert "Traceback" not in said
    written = files_in(tmp_path / "work")
    assert not any(name.startswith("runs/") for name in written), written


def test_what_the_table_changes_is_good_otherwise():
    assert {word.split("=")[0] for word in GOOD if "." in word} <= set(known_keys(Config))


IN_FILES = {
    "model: {d_modle: 3}": "model.d_modle: unknown; did you mean model.d_model?",
    "model: 3": "mine.yaml: Merge error: int is not a subclass of ModelConfig",
    "- 1": "mine.yaml: keys where a list belongs, or a list where keys belong",
    "study: [": "mine.yaml",
    "study: {question: !!python/object/apply:os.mkdir [x]}": "mine.yaml",
    "study: {name: ../../x}": "study.name='../../x': must start with a letter",
    "data: {name: ..}": "data.name='..': must start",
    "study: {grid: [{seed: 1}]}": "study.grid: axis seed is 1; it must be a list of at least one",
    "study: {grid: [{model.d_modle: [1]}]}": "model.d_modle: unknown; did you mean model.d_model?",
    "study: {grid: [{seed: [0], paths.runs: [a]}, {seed: [1], paths.runs: [b]}]}": (
        "paths.runs=a,b: one launch is one study; launch each by itself"
    ),
    "study: {grid: [{seed: [0], study.name: [a]}, {seed: [1], study.name: [b]}]}": (
        "study.name=a,b: one launch is one study; launch each by itself"
    ),
    "study: {grid: 3}": "mine.yaml: study.grid: a list belongs here; write study.grid=[VALUE,...]",
    "study: {grid: [3]}": "mine.yaml: Cannot assign int to Dict",
    "study: {grid: [{hydra.run.dir: [/tmp]}]}": "axis 'hydra.run.dir' is no config key",
    "study: {grid: [{--config-dir: [/tmp]}]}": "axis '--config-dir' is no config key",
    "study: {grid: [{~model: [x]}]}": "axis '~model' is no config key",
    "study: {grid: [{" + ", ".join(f"k{i}: {list(range(50))}" for i in range(9)) + "}]}": (
        "the grid has 1953125000000000 runs; at most 100000 can be planned"
    ),
}


@pytest.mark.parametrize("text", IN_FILES)
def test_a_bad_study_file_is_refused_the_same_way(tmp_path, train_command, text):
    code, said = train_command("-m", *study_words(tmp_path / "mine", text), *GOOD[1:])
    assert code == 2, said
    assert IN_FILES[text] in said
    assert "Traceback" not in said
    assert files_in(tmp_path / "work") == {}


NONSENSE = (
    "eval.points=101",
    "eval.tokens=1",
    "model.rotary_base=0.5",
    "paths.runs=x paths.data=x",
)


@pytest.mark.parametrize("words", NONSENSE)
def test_control_without_validate_the_nonsense_starts(train_command, monkeypatch, words):
    started = []
    monkeypatch.setattr(command, "validate", plan_run)
    monkeypatch.setattr(
        command, "train_runs", lambda runs, startup: started.extend(run.config for run in runs)
    )
    monkeypatch.setattr(command, "preflight", lambda runs: None)
    assert train_command(*GOOD, *words.split())[0] == 0
    assert len(started) == 1


def test_control_without_the_limit_of_flops_the_study_starts(train_command, monkeypatch):
    launched = []
    monkeypatch.setattr(study, "preflight", lambda runs: launched.append(len(runs)))
    monkeypatch.setattr(study, "report_unfinished", lambda *words: None)
    monkeypatch.setattr(study, "plan_jobs", lambda runs: [])
    words = ["-m", *GOOD, "study.max_flops=1e10", "seed=1,2"]
    assert train_command(*words)[0] == 2
    assert launched == []
    monkeypatch.setattr(study, "refuse_over_max_flops", lambda runs: None)
    train_command(*words)
    assert launched == [2]


def test_flops_are_counted_exactly_at_1e30(make_config):
    config = make_config(
        model=ModelConfig(d_model=131_072, n_layers=100),
        budget=BudgetConfig(flops=1e30),
    )
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, batch_tokens=2**20)
    )
    plan = validate(config)
    n_params = count_params(plan.shape).standard
    assert isinstance(plan.flops, int)
    assert plan.flops == 6 * n_params * plan.steps * 2**20
    assert 0.999e30 < plan.flops < 1.001e30
    run = PlannedRun(overrides=[], config=config, plan=plan)
    config.study.max_flops = 0.99e30
    with pytest.raises(ConfigError, match=re.escape("study.max_flops=9.9e+29: 1 run of 1e+30")):
        study.refuse_over_max_flops([run])
