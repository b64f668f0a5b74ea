"""Every config composes, converts and validates; every mistake names the nearest right key."""

import dataclasses
import math
import re
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf, open_dict

from train.config.compose import (
    CONFIG_ROOT,
    composed_once,
    explain,
    is_config_failure,
    known_keys,
    register_schema,
    to_config,
)
from train.config.experiment import Norm, Positions, ScheduleShape
from train.config.runtime import Compile
from train.config.schema import Config
from train.errors import ConfigError
from train.plan.grid import expand_grid
from train.plan.schedule import shares_trunk
from train.plan.validate import validate
from train.study import dry_run as pricing
from train.study.dry_run import print_plan
from train.study.study import plan_grid

GROUPS = ("data", "machine", "model", "optimizer", "schedule", "study", "tracker")
OPTIONS = [
    (group, path.stem) for group in GROUPS for path in sorted((CONFIG_ROOT / group).glob("*.yaml"))
]
BUDGET = "budget.tokens=163840000"  # 10,000 steps of the default batch


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    """Hydra with our configs and plugins, as python -m train starts it."""
    register_schema()
    plugins = str(CONFIG_ROOT.parent / "train" / "plugins")
    sys.path.insert(0, plugins)
    Plugins.instance()
    with initialize_config_dir(str(CONFIG_ROOT), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()
    sys.path.remove(plugins)


def composed(*overrides):
    return compose("train", overrides=list(overrides))


def config_of(*overrides):
    """What python -m train does between the command line and the plan."""
    try:
        return to_config(composed(*overrides))
    except Exception as error:
        if isinstance(error, ConfigError) or not is_config_failure(error):
            raise
        raise explain(error) from None


def refusal(*overrides):
    with pytest.raises(ConfigError) as refused:
        config_of(*overrides)
    assert refused.value.exit_code == 2
    return str(refused.value)


def test_every_group_is_tested():
    folders = {path.name for path in CONFIG_ROOT.iterdir() if path.is_dir()}
    assert folders - {"__pycache__", "hydra"} == set(GROUPS)
    assert len(OPTIONS) >= 30


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_and_validates(group, option):
    config = config_of(f"{group}={option}", BUDGET)
    assert validate(config).steps * config.optimizer.batch_tokens == 163_840_000


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "schedule"])
def test_a_schedule_s_file_is_its_shape(option):
    assert config_of(f"schedule={option}").schedule.shape is ScheduleShape[option]


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "model"])
def test_a_rung_s_file_is_its_width(option):
    assert config_of(f"model={option}").model.d_model == int(option.removeprefix("d"))


def test_gpt2_s_block_composes():
    words = "model.norm=layer model.positions=learned model.qk_norm=false model.tie_head=true"
    config = config_of("model=d64", BUDGET, *words.split())
    assert (config.model.norm, config.model.positions) == (Norm.layer, Positions.learned)
    params = validate(config).params
    assert params.embedding == 256 * 64 + 256 * 64  # tokens, and positions of a window
    assert (params.head, params.norms) == (0, 2 * 2 * 64 + 64)


@pytest.mark.parametrize("word", ["machine.compile=true", "machine.compile=on"])
def test_compile_takes_words_that_yaml_leaves_alone(word):
    assert config_of("machine.compile=always").machine.compile is Compile.always
    assert "machine.compile" in refusal(word)
    assert "expected one of [auto, always, never]" in refusal(word)


def test_runs_to_train_along_are_a_list_of_words():
    others = ["d32l2-20.5k-lr1.00e-02-s0-0123abcd", "d32l2-1m-lr2.00e-02-s0-45670000"]
    config = config_of(BUDGET, f"together=[{','.join(others)}]")
    assert config.together == others
    assert validate(config).run_id == validate(dataclasses.replace(config, together=[])).run_id


def test_the_horizons_of_wsd_share_a_trunk():
    horizons = [f"budget.tokens={steps * 16_384}" for steps in (500, 1000, 2000)]
    short, middle, long = (validate(config_of("schedule=wsd", word)).schedule for word in horizons)
    assert [short.fork_step, middle.fork_step] == [400, 800]
    assert shares_trunk(short, long)
    assert shares_trunk(middle, long)


def plan_study(*words):
    """Plan a study as `python -m train -m <words>` does."""
    try:
        study = composed(*words).study
    except Exception as error:
        raise explain(error) from None
    grid = expand_grid(words, OmegaConf.to_container(study.grid))
    return plan_grid(grid, lambda overrides: composed(*overrides))


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "study"])
def test_every_study_plans_its_whole_grid(option):
    study = composed(f"study={option}").study
    assert study.name == option
    budget = [] if study.grid else [BUDGET]  # scratch has no grid, only a place
    runs = plan_study(f"study={option}", *budget)
    points = sum(math.prod(len(axis) for axis in block.values()) for block in study.grid)
    assert len(runs) == max(1, points) <= study.max_runs
    assert {run.config.study.name for run in runs} == {option}


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "study"])
def test_every_study_dry_runs(option, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pricing, "seconds_per_step", lambda *words, **options: 0.01)
    monkeypatch.chdir(tmp_path)  # no data is prepared there
    study = composed(f"study={option}").study
    runs = plan_study(f"study={option}", *([] if study.grid else [BUDGET]))
    print_plan(runs, [])
    printed = capsys.readouterr().out
    assert all(run.plan.run_id in printed for run in runs)
    assert f"{len(runs)} runs on " in printed
    assert "not prepared yet; its length is checked when it is" in printed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.d_modle=32", "model.d_modle: unknown; did you mean model.d_model?"),
        ("+model.d_modle=32", "model.d_modle: unknown; did you mean model.d_model?"),
        ("++model.d_modle=32", "model.d_modle: unknown; did you mean model.d_model?"),
        (
            "+data.synthetic.zipf_exponant=1",
            "data.synthetic.zipf_exponant: unknown; did you mean data.synthetic.zipf_exponent?",
        ),
        (
            "optimizer.lr_rule.coeficient=1",
            "optimizer.lr_rule.coeficient: unknown; did you mean optimizer.lr_rule.coefficient?",
        ),
        ("sede=1", "sede: unknown; did you mean seed"),
        ("+sede=1", "sede: unknown; did you mean seed"),
        ("budgt.tokens=1", "budgt: unknown; did you mean budget?"),
        ("+budgt.tokens=1", "budgt: unknown; did you mean budget?"),
    ],
)
def test_an_unknown_key_names_the_nearest(override, message):
    assert message in refusal(override)


def test_an_unknown_key_without_a_near_one_lists_its_siblings():
    message = refusal("+eval.zzzzzzzz=1")
    assert message == "eval.zzzzzzzz: unknown; known: eval.points, eval.tokens"


@pytest.mark.parametrize(
    ("override", "messages"),
    [
        ("model=d6", ("model=d6: there is no such config; did you mean", "d64", "d16")),
        ("schedule=cosin", ("schedule=cosin: there is no such config; did you mean cosine?",)),
        (
            "study=quickstrat",
            ("study=quickstrat: there is no such config; did you mean quickstart?",),
        ),
        ("tracker=zzz", ("tracker=zzz: there is no such config; known: none, wandb",)),
        ("modle=d64", ("modle", "did you mean model?")),
    ],
)
def test_an_unknown_option_names_near_ones(override, messages):
    told = refusal(override)
    assert all(message in told for message in messages), told


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.d_model=wide", "model.d_model: Value 'wide' of type 'str' could not be converted"),
        ("model.d_model=1.5", "model.d_model: Value '1.5' of type 'float' could not be converted"),
        ("model.d_model=null", "model.d_model"),
        ("seed=one", "seed: Value 'one' of type 'str' could not be converted to Integer"),
        ("model.activation=relu", "model.activation: Invalid value 'relu', expected one of [gelu"),
        ("schedule.shape=cos", "schedule.shape: Invalid value 'cos', expected one of [cosine"),
        ("budget.flops=lots", "budget.flops: Value 'lots' of type 'str' could not be converted"),
        ("together=all", "together: a list belongs here; write together=[VALUE,...]"),
        ("together={a:1}", "together: a list belongs here; write together=[VALUE,...]"),
        ("data.files=a.txt", "data.files: a list belongs here; write data.files=[VALUE,...]"),
    ],
)
def test_a_value_of_the_wrong_kind_names_key_and_value(override, message):
    assert message in refusal(override)


def test_an_override_that_is_no_override_is_refused():
    assert "seed" in refusal("seed")


STUDY = """
# @package _global_
study:
  name: mine
  grid:
    - {{{axis}: [1, 2]}}
{extra}
"""


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"extra": "modle:\n  d_model: 3"}, "modle: unknown; did you mean model?"),
        (
            {"extra": "optimizer:\n  batch_token: 3"},
            "optimizer.batch_token: unknown; did you mean optimizer.batch_tokens?",
        ),
        ({"axis": "model.d_modle"}, "model.d_modle: unknown; did you mean model.d_model?"),
        ({"axis": "+model.d_modle"}, "model.d_modle: unknown; did you mean model.d_model?"),
    ],
)
def test_an_unknown_key_of_a_study_file_is_refused(tmp_path, mistake, message):
    assert len(plan_study(*study_file(tmp_path / "right"), BUDGET)) == 2
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan_study(*study_file(tmp_path / "wrong", **mistake), BUDGET)


def study_file(folder, *, axis="seed", extra=""):
    """The words that name a study file of the user's own, beside our configs."""
    (folder / "study").mkdir(parents=True)
    text = STUDY.format(axis=axis, extra=extra)
    (folder / "study" / "mine.yaml").write_text(text, encoding="utf-8")
    return "study=mine", f"hydra.searchpath=[file://{folder}]"


def test_a_refused_point_names_its_overrides():
    with pytest.raises(ConfigError, match=r"n_heads=3.*\n  in the run model\.n_heads=3 budget"):
        plan_grid([[BUDGET], ["model.n_heads=3", BUDGET]], lambda overrides: composed(*overrides))


def test_two_points_that_are_one_run_are_refused():
    with pytest.raises(ConfigError, match=r"two points of the grid are the same run d64l2-.*"):
        plan_grid([[BUDGET], [BUDGET, "machine.threads=1"]], lambda overrides: composed(*overrides))


def test_the_known_keys_are_every_field_with_its_path():
    keys = set(known_keys(Config))
    assert {"seed", "model", "model.d_model", "optimizer.lr_rule.exponent"} <= keys
    assert "d_model" not in keys


def test_hydra_s_own_node_is_not_ours():
    tree = composed(BUDGET)
    assert "hydra" not in tree
    with open_dict(tree):
        tree.hydro = 1
    with pytest.raises(ConfigError, match=re.escape("hydro: unknown")):
        to_config(tree)


def test_the_readme_s_grid_fits_the_default_text():
    """enwik8's training split has 71,518,891 bytes (docs/results/quickstart.md)."""
    text = (CONFIG_ROOT.parent / "README.md").read_text(encoding="utf-8")
    command = re.search(r"-m (study\.name=ladder .*?) dry_run=true", text, flags=re.DOTALL)
    assert command is not None
    grid = expand_grid(command[1].replace("\\\n", " ").split(), [])
    assert len(grid) == 15
    assert all(validate(config_of(*overrides)).tokens < 71_518_891 for overrides in grid)


class Counted:
    """Hydra's composition, hydra node included, and what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, words):
        self.asked.append(words)
        return compose("train", words, return_hydra_config=True)


POINTS = [
    ["study=quickstart", "model=d16", "budget.flops=1e10", "optimizer.lr=null"],
    ["study=quickstart", "model=d16", "budget.flops=2e10", "optimizer.lr=0.01"],
    ["study=quickstart", "model=d32", "budget.flops=2e10", "data.files=[a,'b c']"],
    ["study=quickstart", "model=d32", "schedule=wsd", "schedule.cooldown=linear", "seed=3"],
    ["study=quickstart", "model=d32", "model.d_model=48", "data.synthetic.seed=7"],
    ["study=quickstart", "data=synthetic", "+model.n_layers=3", "model.head_dim=16"],
    ["study=quickstart", "model=d24", "study.question='${hydra:runtime.choices.model}'"],
    ["study=quickstart", "study.name=x.y-z", "study.question='a=b, c: 50%'"],
]


def test_every_point_is_what_hydra_composes():
    hydra = Counted()
    fast = composed_once(hydra)
    # the second time from what is kept
    for _ in range(2):
        for words in POINTS:
            config = to_config(fast(words))
            expected = hydra(words)
            HydraConfig.instance().set_config(expected)
            del expected.hydra
            assert config == to_config(expected)


def test_hydra_is_asked_once_for_each_choice_of_groups():
    hydra = Counted()
    fast = composed_once(hydra)
    for model in ("d16", "d32"):
        for flops in ("1e9", "2e9", "3e9"):
            fast([f"model={model}", f"budget.flops={flops}"])
    assert hydra.asked == [["model=d16"], ["model=d32"]]


def test_a_point_does_not_see_the_values_of_another():
    fast = composed_once(Counted())
    fast(["model=d16", "optimizer.lr=0.5"])
    assert fast(["model=d16"]).optimizer.lr is None
    fast(["model=d16"]).optimizer.lr = 0.7
    assert fast(["model=d16"]).optimizer.lr is None


@pytest.mark.parametrize(
    "word", ["model.d_modle=3", "optimizer.lr=fast", "model.x.y=2", "modle.d=3", "model=d17"]
)
def test_a_refused_value_is_explained_the_same(word):
    messages = []
    for composer in (Counted(), composed_once(Counted())):
        with pytest.raises(Exception) as refused:  # noqa: PT011
            composer(["study=quickstart", word])
        messages.append(str(explain(refused.value)))
    assert messages[0] == messages[1]
    assert (
        word.partition("=")[0] in messages[0] or "model.x" in messages[0] or "modle" in messages[0]
    )
