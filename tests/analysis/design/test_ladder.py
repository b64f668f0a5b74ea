"""The ladder that is inferred from runs is the one that training has."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.design.ladder import Job, layers_of, read_ladder, train_commands
from train.config.experiment import Activation, ModelConfig
from train.plan.counting import count_params
from train.plan.shape import model_shape

WIDTHS = (32, 64, 96, 192)


def shape(width, **model):
    return model_shape(ModelConfig(d_model=width, **model), vocab_size=256, seq_len=128)


def runs(widths=WIDTHS, count="standard", **model):
    shapes = [shape(width, **model) for width in widths]
    sizes = [getattr(count_params(item), count) for item in shapes]
    return pd.DataFrame({"rung": [item.rung for item in shapes], "n_params": sizes})


@pytest.mark.parametrize("count", ["standard", "kaplan", "total"])
def test_rungs_that_were_not_run_have_the_size_that_training_counts(count):
    ladder = read_ladder(runs(count=count), None)
    assert ladder is not None
    assert {rung.width for rung in ladder.rungs} > set(WIDTHS)
    assert [rung.width for rung in ladder.rungs] == sorted(rung.width for rung in ladder.rungs)
    for rung in ladder.rungs:
        exact = getattr(count_params(shape(rung.width)), count)
        assert rung.n_params == pytest.approx(exact, rel=0.01 if count == "total" else 1e-6)


def test_rounded_feed_forward_widths_are_followed_closely():
    ladder = read_ladder(runs(activation=Activation.swiglu), None)
    assert ladder is not None
    for rung in ladder.rungs:
        exact = count_params(shape(rung.width, activation=Activation.swiglu)).standard
        assert rung.n_params == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("head_dim", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("widths", [(8, 12, 32), WIDTHS, (512, 1024)])
def test_every_rung_has_heads_of_even_width(head_dim, widths):
    ladder = read_ladder(runs(widths), None)
    assert ladder is not None
    for rung in ladder.rungs:
        assert shape(rung.width, head_dim=head_dim).n_layers == layers_of(rung.width)


@pytest.mark.parametrize(
    "frame",
    [
        runs().drop(columns="rung"),
        runs().assign(rung=["a", "b", "c", "d"]),
        runs(min_layers=3),
        runs(widths=(64,)),
        runs().assign(n_params=[1e5, 1.2e5, 1.3e5, 1.4e5]),
    ],
)
def test_what_is_not_on_the_ladder_is_not_taken_for_it(frame):
    assert read_ladder(frame, None) is None


def manifest(folder, entries):
    value = {"runs": [{"run_id": str(k), "overrides": words} for k, words in enumerate(entries)]}
    (folder / "manifest.json").write_text(json.dumps(value))
    return folder


def test_a_study_with_rungs_by_name_is_extended_by_name(tmp_path):
    entries = [["study=big", f"model=d{width}", "budget.flops=1e18"] for width in WIDTHS]
    ladder = read_ladder(runs(), manifest(tmp_path, entries))
    assert ladder is not None
    assert {rung.width for rung in ladder.rungs} == {16, 24, 32, 48, 64, 96, 128, 192, 256, 384}
    jobs = [Job(96, 1.0001e18, 1e10, None), Job(48, 1e18, 1e10, None), Job(64, 2.5e18, 1e10, 3)]
    start = "python -m train -m study=big study.extend=true"
    assert train_commands(ladder, jobs, by_flops=True) == [
        f"{start} model=d48,d96 budget.flops=1e18",
        f"{start} model=d64 budget.flops=2.5e18 seed=3",
    ]
    assert train_commands(ladder, [Job(64, 1e18, 976384.0, None)], by_flops=False) == [
        f"{start} model=d64 budget.tokens=9.7638e5"
    ]
    assert train_commands(ladder, jobs[2:], by_flops=False) == [
        f"{start} model=d64 budget.tokens=1e10 seed=3"
    ]


def test_names_end_where_the_configs_do(tmp_path):
    entries = [["study=big", f"model=d{width}"] for width in (768, 1024)]
    ladder = read_ladder(runs((768, 1024)), manifest(tmp_path, entries))
    assert ladder is not None
    assert [rung.width for rung in ladder.rungs] == [384, 512, 768, 1024]


def test_words_that_vary_are_named_and_not_repeated(tmp_path):
    entries = [
        [
            "study.name=x",
            f"model.d_model={width}",
            "budget.flops=1e18",
            f"optimizer.lr={k}",
            "seed=0",
        ]
        for k, width in enumerate(WIDTHS)
    ]
    ladder = read_ladder(runs(), manifest(tmp_path, entries))
    assert ladder is not None
    assert (ladder.size_key, ladder.words) == ("model.d_model", ("study.name=x",))
    assert ladder.varied == ("optimizer.lr",)
    assert ladder.budgets == (1e18,)


def test_without_a_manifest_there_are_sizes_and_no_commands(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    for folder in (None, tmp_path, tmp_path / "gone"):
        ladder = read_ladder(runs(), folder)
        assert ladder is not None
        assert train_commands(ladder, [Job(64, 1e18, 1e10, None)], by_flops=True) == []


def test_short_runs_are_asked_for_in_whole_steps():
    """Whole steps would change 53.3 of them by 0.6 %, which training refuses."""
    ladder = read_ladder(runs().assign(batch_tokens=64), None)
    assert ladder is not None
    assert ladder.batch_tokens == 64
    ladder = replace(ladder, words=("study.name=x",))
    jobs = [Job(64, 1.336e8, 3410.95, None), Job(64, 5e9, 53.3 * 6400, None)]
    short, long = train_commands(ladder, jobs, by_flops=True)
    assert short.endswith("model.d_model=64 budget.tokens=3392")
    assert long.endswith("model.d_model=64 budget.flops=5e9")
    (by_tokens,) = train_commands(ladder, jobs[1:], by_flops=False)
    assert by_tokens.endswith("budget.tokens=341120")


def test_runs_of_several_batches_share_none():
    frame = runs()
    several = read_ladder(
        frame.assign(batch_tokens=64.0 * 2.0 ** (np.arange(len(frame)) % 2)), None
    )
    unknown = read_ladder(frame.assign(batch_tokens=np.nan), None)
    assert several is not None
    assert unknown is not None
    assert several.batch_tokens is unknown.batch_tokens is None
