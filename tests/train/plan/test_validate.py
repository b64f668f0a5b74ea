"""Every rule across fields: refused with the value and the nearest right one."""

import dataclasses
import re

import pytest

from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Positions,
    ScheduleConfig,
    ScheduleShape,
    TokenizerKind,
)
from train.config.runtime import MachineConfig
from train.errors import ConfigError, DataError
from train.plan.validate import check_batch_split, check_enough_tokens, validate

INF, NAN = float("inf"), float("nan")


def with_values(config, values):
    """A copy of `config` with dotted keys replaced."""
    for key, value in values.items():
        config = replace(config, key.split("."), value)
    return config


def replace(node, path, value):
    inner = value if len(path) == 1 else replace(getattr(node, path[0]), path[1:], value)
    return dataclasses.replace(node, **{path[0]: inner})


def test_a_right_config_returns_its_plan(make_config):
    assert validate(make_config()).steps == 40


NAMES = (
    "must start with a letter or digit and hold only letters, digits, dots, dashes and underscor"
)
FINITE = "must be positive and finite"
BATCH = " is not a positive multiple of data.seq_len=32; use "
WARMUP = "a warm-up of {} steps is not shorter than the run of 40 steps; use at most 39 steps"

# after `key=value`; tests/faults/test_bad_input.py sends others through the command
BROKEN = [
    ("study.name", "x" * 101, f": {NAMES}es (at most 100)"),
    ("data.name", ".hidden", f": {NAMES}"),
    ("data.name", "two words", f": {NAMES}"),
    ("optimizer.lr_multiplier", -1.0, ": must be positive"),
    ("optimizer.lr_rule.coefficient", 0.0, ": must be positive"),
    ("optimizer.lr_rule.reference_params", 0.0, ": must be positive"),
    ("optimizer.lr_rule.maximum", INF, f": {FINITE}"),
    ("optimizer.lr_rule.exponent", NAN, ": must be finite"),
    ("optimizer.grad_clip", NAN, f": {FINITE}"),
    ("schedule.cooldown_fraction", -0.1, ": must be in [0, 1]"),
    ("schedule.warmup_steps", -1, ": must be at least 0"),
    ("schedule.warmup_tokens", INF, ": must be at least 0 and finite"),
    ("schedule.warmup_tokens_per_param", -1.0, ": must be at least 0 and finite"),
    ("study.diverged_above", 0.0, f": {FINITE}"),
    ("machine.checkpoint_minutes", 0.0, ": must be positive"),
    ("machine.workers", 0, ": must be at least 1"),
    ("optimizer.batch_tokens", 0, f"{BATCH}32"),
    ("optimizer.batch_tokens", -5, f"{BATCH}32"),
    ("machine.micro_batch_seqs", 7, " does not divide the batch of 8 windows; use 8"),
    ("machine.micro_batch_seqs", 0, " does not divide the batch"),
]


@pytest.mark.parametrize(("key", "value", "rule"), BROKEN)
def test_a_broken_rule_names_the_value_and_the_rule(make_config, key, value, rule):
    shown = repr(value) if isinstance(value, str) else value
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{key}={shown}{rule}')}") as refused:
        validate(with_values(make_config(), {key: value}))
    assert refused.value.exit_code == 2


WSD, KAPLAN = {"shape": ScheduleShape.wsd}, {"shape": ScheduleShape.kaplan}


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"warmup_steps": 40}, f"schedule.warmup_steps=40: {WARMUP.format(40)}"),
        ({"warmup_tokens": 2e4}, f"schedule.warmup_tokens=20000.0: {WARMUP.format(78)}"),
        ({"warmup_fraction": 1.0}, f"schedule.warmup_fraction=1.0: {WARMUP.format(40)}"),
        (
            {"warmup_steps": 3, "warmup_fraction": 0.1},
            "at most one of warmup_steps, warmup_tokens, warmup_tokens_per_param, warmup_fraction "
            "may be given, got warmup_steps and warmup_fraction; set the others to null: "
            "schedule.warmup_steps=null or schedule.warmup_fraction=null",
        ),
        (
            {"warmup_tokens_per_param": 1.0},  # 26,624 tokens are 104 batches of 256
            f"schedule.warmup_tokens_per_param=1.0: {WARMUP.format(104)}, "
            f"schedule.warmup_tokens_per_param=0.373",
        ),
        ({"warmup_tokens_per_param": 1e308}, WARMUP[20:]),
        (
            {**WSD, "warmup_tokens_per_param": 0.35, "cooldown_fraction": 0.2},
            "a warm-up of 36 and a cooldown of 8 steps are longer than the run of 40 steps; use "
            "schedule.cooldown_fraction of at most 0.100, or a warm-up of at most 32 steps, "
            "schedule.warmup_tokens_per_param=0.306",
        ),
        (
            {**WSD, "warmup_steps": 30, "cooldown_fraction": 0.5},
            "a warm-up of 30 and a cooldown of 20 steps are longer than the run of 40 steps; use "
            "schedule.cooldown_fraction of at most 0.250, or a warm-up of at most 20 steps",
        ),
        (
            KAPLAN,
            "schedule.horizon_tokens=null: schedule=kaplan needs the tokens of its one long "
            "cosine, for example 40960",
        ),
        (
            {**KAPLAN, "horizon_tokens": 1e4},
            "horizon_tokens=10000: must be at least the run's 10240",
        ),
        ({**KAPLAN, "horizon_tokens": INF}, f"schedule.horizon_tokens=inf: {FINITE}"),
        ({"horizon_tokens": 1e6}, "schedule.horizon_tokens=1e+06: only schedule=kaplan has a hor"),
    ],
)
def test_a_schedule_that_does_not_fit_its_run_is_refused(make_config, schedule, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        validate(make_config(schedule=ScheduleConfig(**schedule)))


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        ({"warmup_steps": 39}, 39),
        ({**WSD, "warmup_steps": 30, "cooldown_fraction": 0.25}, 30),
        # the advice of refusals above
        ({"warmup_tokens_per_param": 0.373}, 39),
        ({**WSD, "warmup_tokens_per_param": 0.306}, 32),
    ],
)
def test_the_longest_warm_up_that_fits_is_accepted(make_config, schedule, steps):
    assert validate(make_config(schedule=ScheduleConfig(**schedule))).schedule.warmup_steps == steps


def test_a_base_that_learned_positions_do_not_read_is_refused(make_config):
    learned = ModelConfig(d_model=32, head_dim=16, positions=Positions.learned)
    assert validate(make_config(model=learned)).shape.positions is Positions.learned
    with pytest.raises(ConfigError, match=re.escape("model.rotary_base=500: only model.pos")):
        validate(make_config(model=dataclasses.replace(learned, rotary_base=500.0)))


OTHERS = ["d32l2-20.5k-lr1.00e-02-s0-0123abcd", "d32l2-20.5k-lr2.00e-02-s0-4567cdef"]


def test_other_runs_may_be_trained_along(make_config):
    assert validate(make_config(together=OTHERS)) == validate(make_config())


def test_what_cannot_be_another_run_is_not_trained_along(make_config):
    own = validate(make_config()).run_id
    refusals = {
        "": f"together: '' is no run_id, such as {own}; the study's manifest.json lists them",
        "../" + own: f"together: '../{own}' is no run_id",
        own: f"together: {own} is the job's own run; leave it out",
        OTHERS[0]: f"together: {OTHERS[0]} is there twice; leave one out",
    }
    for entry, message in refusals.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            validate(make_config(together=[*OTHERS, entry]))


def test_a_refused_batch_s_own_advice_is_accepted(make_config):
    for near in (96, 128):
        optimizer = OptimizerConfig(lr=0.01, batch_tokens=near)
        budget = BudgetConfig(tokens=near * 7)
        assert validate(make_config(optimizer=optimizer, budget=budget)).steps == 7


def test_bytes_need_a_vocabulary_that_holds_every_byte(make_config):
    data = DataConfig(tokenizer=TokenizerKind.bytes, vocab_size=128, seq_len=32)
    with pytest.raises(ConfigError, match=r"vocab_size=128.*256"):
        validate(make_config(data=data))


def test_a_run_within_its_data_needs_no_permission(make_config):
    plan = validate(make_config())  # 10,240 tokens
    fits = {"seq_len": 32, "allow_repeat": False, "name": "tiny"}
    # 321 whole windows and the one token after them
    assert check_enough_tokens(plan, n_tokens=321 * 32 + 1, **fits) == 10_240 / (321 * 32)
    assert check_enough_tokens(plan, n_tokens=320 * 32 + 1, **fits) == 1.0


def test_more_tokens_than_the_data_has_are_refused_unless_repeated(make_config):
    plan = validate(make_config())
    message = (
        f"run {plan.run_id} asks for 10240 tokens, and tiny has 10208 in whole windows (1.00 "
        f"epochs); ask for at most 10208, or allow repetition with data.allow_repeat=true"
    )
    short = {"n_tokens": 320 * 32, "seq_len": 32, "name": "tiny"}  # one token short of 320 windows
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_enough_tokens(plan, allow_repeat=False, **short)
    assert check_enough_tokens(plan, allow_repeat=True, **short) == 10_240 / 10_208


def test_files_that_the_source_does_not_read_are_refused(make_config):
    config = make_config()
    config.data.files = ["corpus/*.txt"]
    with pytest.raises(ConfigError, match="synthetic does not read it; add data=files"):
        validate(config)


def test_data_shorter_than_a_window_is_refused(make_config):
    plan = validate(make_config())
    with pytest.raises(DataError, match="32 tokens are fewer than one window"):
        check_enough_tokens(plan, n_tokens=32, seq_len=32, allow_repeat=False, name="tiny")


# several ranks


def config_of_windows(make_config, batch_seqs, micro=None):
    return make_config(
        optimizer=OptimizerConfig(lr=0.01, batch_tokens=32 * batch_seqs),
        budget=BudgetConfig(tokens=10 * 32 * batch_seqs),
        machine=MachineConfig(micro_batch_seqs=micro),
    )


@pytest.mark.parametrize(
    ("batch_seqs", "micro", "n_ranks"),
    [(8, None, 2), (8, None, 8), (9, None, 3), (7, None, 1), (8, 4, 2), (8, 8, 1)],
)
def test_an_even_batch_is_split(make_config, batch_seqs, micro, n_ranks):
    check_batch_split(config_of_windows(make_config, batch_seqs, micro), n_ranks)


@pytest.mark.parametrize(
    ("batch_seqs", "micro", "n_ranks", "message"),
    [
        (6, None, 4, "its 6 windows of 32 tokens cannot be shared evenly by 4 processes; use 128 "),
        (6, None, 4, "; use 128 or 256, or 2 processes"),
        (3, None, 4, "; use 128, or 1 process"),
        (7, None, 2, "; use 192 or 256, or 1 process"),
        (8, 8, 2, " does not divide the 4 windows that each of 2 processes takes of the batch; "),
        (8, 8, 2, " of the batch; use 4"),
    ],
)
def test_an_uneven_split_is_refused_with_the_nearest(
    make_config, batch_seqs, micro, n_ranks, message
):
    value = f"optimizer.batch_tokens={32 * batch_seqs}: "
    if micro:
        value = f"machine.micro_batch_seqs={micro} "
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        check_batch_split(config_of_windows(make_config, batch_seqs, micro), n_ranks)
    assert str(refused.value).startswith(value)
