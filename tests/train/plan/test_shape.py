"""The ladder's rule: hand-worked shapes, its range, and its refusals."""

import itertools
import re

import pytest

from train.config.compose import CONFIG_ROOT
from train.config.experiment import Activation, ModelConfig, Norm, Positions
from train.errors import ConfigError
from train.plan.counting import count_params
from train.plan.shape import ModelShape, model_shape


def shape_of(**model):
    return model_shape(ModelConfig(**model), vocab_size=256, seq_len=128)


@pytest.mark.parametrize(
    ("d_model", "n_layers", "n_heads", "head_dim", "d_ff"),
    [
        (16, 2, 2, 8, 64),  # at the floors of two layers and two heads
        (64, 2, 2, 32, 256),
        (96, 2, 2, 48, 384),  # 1.5 layers round to 2
        (160, 2, 2, 80, 640),  # 2.5 rounds to even
        (192, 3, 3, 64, 768),
        (1024, 16, 16, 64, 4096),
    ],
)
def test_depth_and_heads_follow_the_width(d_model, n_layers, n_heads, head_dim, d_ff):
    shape = shape_of(d_model=d_model)
    assert (shape.n_layers, shape.n_heads, shape.head_dim, shape.d_ff) == (
        n_layers,
        n_heads,
        head_dim,
        d_ff,
    )
    assert shape.rung == f"d{d_model}l{n_layers}"


@pytest.mark.parametrize(("d_model", "d_ff"), [(24, 64), (64, 176), (96, 256), (128, 344)])
def test_swiglu_is_eight_thirds_wide_rounded_up_to_eights(d_model, d_ff):
    shape = shape_of(d_model=d_model, activation=Activation.swiglu)
    assert shape.gated
    assert shape.d_ff == d_ff


def test_explicit_sizes_win_over_the_rule():
    shape = shape_of(d_model=64, n_layers=5, n_heads=4, d_ff=100, tie_head=True, qk_norm=False)
    assert shape == ModelShape(
        n_layers=5,
        d_model=64,
        n_heads=4,
        head_dim=16,
        d_ff=100,
        vocab_size=256,
        seq_len=128,
        gated=False,
        norm=Norm.rms,
        qk_norm=False,
        tie_head=True,
        positions=Positions.rotary,
    )


def test_gpt2_s_block_can_be_asked_for():
    shape = shape_of(
        d_model=64, norm=Norm.layer, positions=Positions.learned, qk_norm=False, tie_head=True
    )
    assert (shape.norm, shape.positions) == (Norm.layer, Positions.learned)
    assert (shape.gated, shape.qk_norm, shape.tie_head) == (False, False, True)
    assert shape.d_ff == 4 * 64


def test_a_shape_is_told_in_plain_values():
    assert shape_of(d_model=16, positions=Positions.learned).to_json() == {
        "n_layers": 2,
        "d_model": 16,
        "n_heads": 2,
        "head_dim": 8,
        "d_ff": 64,
        "vocab_size": 256,
        "seq_len": 128,
        "gated": False,
        "norm": "rms",
        "qk_norm": True,
        "tie_head": False,
        "positions": "learned",
    }


def test_learned_positions_allow_an_odd_head_width():
    shape = shape_of(d_model=6, positions=Positions.learned)
    assert (shape.n_heads, shape.head_dim) == (2, 3)


def test_aspect_ratio_and_floor_are_dials_of_the_rule():
    assert shape_of(d_model=256, aspect_ratio=32.0).n_layers == 8
    assert shape_of(d_model=16, min_layers=1).n_layers == 1


def test_the_ladder_climbs_from_ten_thousand_to_two_hundred_million():
    widths = sorted(int(path.stem[1:]) for path in (CONFIG_ROOT / "model").glob("d*.yaml"))
    counts = [count_params(shape_of(d_model=width)) for width in widths]
    standard = [count.standard for count in counts]
    assert standard[0] == 2 * 12 * 16**2 + 256 * 16 == 10_240
    assert standard[-1] == 16 * 12 * 1024**2 + 256 * 1024 == 201_588_736
    steps = [after / before for before, after in itertools.pairwise(standard)]
    assert all(1.5 < step < 4.0 for step in steps), steps
    assert [count.total for count in counts] == sorted({count.total for count in counts})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"d_model": 64, "n_heads": 3},
            "model.d_model=64 is not divisible by model.n_heads=3 "
            "(rotary needs an even head width); use d_model=60 or 66",
        ),
        (
            {"d_model": 12, "n_heads": 4},
            "model.d_model=12 leaves an odd head width with model.n_heads=4 "
            "(rotary needs an even head width); use d_model=8 or 16",
        ),
        (
            {"d_model": 6},
            "model.d_model=6 leaves an odd head width with model.n_heads=2 "
            "(rotary needs an even head width); use d_model=4 or 8",
        ),
        ({"d_model": 4, "n_heads": 8}, "use d_model=16"),
        (
            {"d_model": 64, "n_heads": 3, "positions": Positions.learned},
            "model.d_model=64 is not divisible by model.n_heads=3; use d_model=63 or 66",
        ),
        ({"d_model": 0}, "model.d_model=0: must be positive and finite, such as 1"),
        ({"d_model": -64}, "model.d_model=-64: must be positive"),
        ({"aspect_ratio": 0.0}, "model.aspect_ratio=0.0: must be positive"),
        ({"aspect_ratio": float("nan")}, "model.aspect_ratio=nan: must be positive"),
        ({"min_layers": 0}, "model.min_layers=0: must be positive"),
        ({"head_dim": -1}, "model.head_dim=-1: must be positive"),
        ({"n_layers": 0}, "model.n_layers=0: must be positive"),
        ({"n_heads": 0}, "model.n_heads=0: must be positive"),
        ({"d_ff": -3}, "model.d_ff=-3: must be positive"),
    ],
)
def test_impossible_shapes_are_refused_with_the_nearest(model, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        shape_of(**model)
