"""Names, sizes, layout and initial values of parameters."""

import math

import pytest
import torch

from tests.train.small_engines import shape_of
from train.config.experiment import Activation, Norm, Positions
from train.model.parameters import ALIGNMENT, initial_values, layout_of

VARIANTS = [
    {},
    {"activation": Activation.swiglu, "tie_head": True},
    {"norm": Norm.layer, "positions": Positions.learned, "qk_norm": False},
    {"d_model": 20, "n_heads": 2, "vocab_size": 7, "seq_len": 9},
]


def test_names_and_sizes_by_hand():
    shape = shape_of(d_model=8, n_heads=2, n_layers=1, vocab_size=11, seq_len=5)
    assert {p.name: p.size for p in layout_of(shape).parameters} == {
        "embedding.weight": (11, 8),
        "blocks.0.attention.qkv.weight": (24, 8),
        "blocks.0.attention.out.weight": (8, 8),
        "blocks.0.feed_forward.up.weight": (32, 8),
        "blocks.0.feed_forward.down.weight": (8, 32),
        "head.weight": (11, 8),
        "blocks.0.attention_norm.gain": (8,),
        "blocks.0.attention.q_norm.gain": (4,),
        "blocks.0.attention.k_norm.gain": (4,),
        "blocks.0.feed_forward_norm.gain": (8,),
        "final_norm.gain": (8,),
    }


def test_options_add_and_take_away_parameters():
    plain = {p.name: p.size for p in layout_of(shape_of()).parameters}
    tied = {p.name: p.size for p in layout_of(shape_of(tie_head=True)).parameters}
    assert plain.keys() - tied.keys() == {"head.weight"}
    learned = {p.name: p.size for p in layout_of(shape_of(positions=Positions.learned)).parameters}
    assert dict(learned.items() - plain.items()) == {"positions.weight": (16, 32)}
    bare = {p.name for p in layout_of(shape_of(qk_norm=False)).parameters}
    assert {name.rpartition("attention.")[2] for name in plain.keys() - bare} == {
        "q_norm.gain",
        "k_norm.gain",
    }
    gated = {p.name: p.size for p in layout_of(shape_of(activation=Activation.swiglu)).parameters}
    assert gated["blocks.0.feed_forward.up.weight"] == (2 * 88, 32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_lie_side_by_side_aligned_and_apart(variant):
    layout = layout_of(shape_of(**variant))
    end = 0
    for parameter in layout.parameters:
        assert parameter.start % ALIGNMENT == 0
        # no more padding than needed
        assert 0 <= parameter.start - end < ALIGNMENT
        end = parameter.start + parameter.numel
    assert 0 <= layout.width - end < ALIGNMENT


@pytest.mark.parametrize("variant", VARIANTS)
def test_weight_decay_reaches_matrices_and_no_gain(variant):
    layout = layout_of(shape_of(**variant))
    decayed = {p.name for p in layout.parameters if p.start < layout.decayed}
    assert decayed == {p.name for p in layout.parameters if len(p.size) == 2}
    assert decayed == {p.name for p in layout.parameters if not p.name.endswith("gain")}


@pytest.mark.parametrize("n_replicas", [1, 3])
def test_views_are_the_rows_and_lead_with_the_replica_where_there_are_several(n_replicas):
    layout = layout_of(shape_of())
    rows_RP = torch.zeros(n_replicas, layout.width)
    views = layout.views(rows_RP)
    assert list(views) == [p.name for p in layout.parameters]
    lead = () if n_replicas == 1 else (n_replicas,)
    for number, parameter in enumerate(layout.parameters, start=1):
        assert views[parameter.name].shape == (*lead, *parameter.size)
        views[parameter.name].fill_(number)
    for row_P in rows_RP:
        for number, parameter in enumerate(layout.parameters, start=1):
            assert (row_P == number).sum() == parameter.numel


def test_a_row_packed_and_unpacked_is_the_tensors_and_a_copy():
    shape = shape_of()
    layout, values = layout_of(shape), initial_values(shape, seed=3)
    row_P = torch.zeros(layout.width)
    layout.pack(values, row_P)
    unpacked = layout.unpack(row_P)
    row_P.zero_()
    assert unpacked.keys() == values.keys()
    assert all(torch.equal(unpacked[name], value) for name, value in values.items())


def test_tensors_of_another_model_are_refused_by_name_and_size():
    shape = shape_of()
    layout, values = layout_of(shape), initial_values(shape, seed=0)
    row_P = torch.zeros(layout.width)
    fewer = {name: value for name, value in values.items() if name != "head.weight"}
    with pytest.raises(ValueError, match=r"^parameters are not those of the model: head\.weight$"):
        layout.pack(fewer, row_P)
    odd = fewer | {"other.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r": head\.weight, other\.weight$"):
        layout.pack(odd, row_P)
    wide = values | {"final_norm.gain": torch.ones(33)}
    with pytest.raises(ValueError, match=r"^final_norm\.gain has shape \(33,\), not \(32,\)$"):
        layout.pack(wide, row_P)


@pytest.mark.parametrize("variant", VARIANTS)
def test_first_values_are_those_of_the_layout_in_float32(variant):
    shape = shape_of(**variant)
    values = initial_values(shape, seed=0)
    sizes = {p.name: p.size for p in layout_of(shape).parameters}
    assert {name: tuple(value.shape) for name, value in values.items()} == sizes
    assert all(value.dtype is torch.float32 for value in values.values())
    assert all((value == 1).all() for name, value in values.items() if name.endswith("gain"))
    assert all(value.any() for name, value in values.items() if name != "head.weight")


def test_a_seed_draws_the_same_weights_every_time_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = initial_values(shape_of(), seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    other = initial_values(shape_of(), seed=5)
    assert all(torch.equal(one[name], other[name]) for name in one)
    third = initial_values(shape_of(), seed=6)
    assert not torch.equal(one["embedding.weight"], third["embedding.weight"])
    tied = initial_values(shape_of(tie_head=True), seed=5)
    assert "head.weight" not in tied
    assert torch.equal(tied["embedding.weight"], one["embedding.weight"])


def test_weights_have_the_documented_spread():
    shape = shape_of(
        d_model=256, n_layers=8, vocab_size=512, seq_len=512, positions=Positions.learned
    )
    values = initial_values(shape, seed=0)
    depth = (2 * 8) ** -0.5
    spreads = {
        "embedding.weight": 256**-0.5,
        "positions.weight": 256**-0.5,
        "blocks.3.attention.qkv.weight": 256**-0.5,
        "blocks.3.feed_forward.up.weight": 256**-0.5,
        "blocks.3.attention.out.weight": 256**-0.5 * depth,
        "blocks.3.feed_forward.down.weight": 1024**-0.5 * depth,
    }
    for name, std in spreads.items():
        assert values[name].std().item() == pytest.approx(std, rel=0.02), name
        assert abs(values[name].mean().item()) < 5 * std / math.sqrt(values[name].numel()), name
    assert not values["head.weight"].any()
