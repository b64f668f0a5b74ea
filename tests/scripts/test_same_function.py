"""scripts/same_function.py: the yardstick computes what our model computes."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train.config.experiment import ModelConfig, Norm, Positions
from train.model.parameters import initial_values
from train.plan.shape import ModelShape, model_shape

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

import same_function  # type: ignore[import-not-found]  # noqa: E402
from reference_step import ReferenceModel  # type: ignore[import-not-found]  # noqa: E402


@pytest.fixture
def shape() -> ModelShape:
    model = ModelConfig(d_model=32, n_layers=3, n_heads=4, qk_norm=False, tie_head=True)
    model.norm, model.positions = Norm.layer, Positions.learned
    return model_shape(model, vocab_size=64, seq_len=24)


@pytest.mark.parametrize("seed", range(3))
def test_reference_and_model_have_one_loss(shape: ModelShape, seed: int) -> None:
    ours, theirs = same_function.losses(shape, seed=seed)
    assert ours == pytest.approx(theirs, abs=same_function.TOLERANCE)
    assert ours > 1.05 * torch.tensor(64.0).log()  # weights and tokens are random


def test_another_function_is_told_apart(shape: ModelShape) -> None:
    ours, theirs = same_function.losses(shape, seed=0)
    rms, same = same_function.losses(replace(shape, norm=Norm.rms), seed=0)
    assert same == theirs
    assert abs(rms - theirs) > 100 * same_function.TOLERANCE > abs(ours - theirs)


def test_every_weight_is_copied(shape: ModelShape) -> None:
    reference = ReferenceModel(shape)
    weights = initial_values(shape, seed=5)
    for number, weight in enumerate(weights.values()):
        weight.fill_(float(number))
    same_function.load(reference, weights)
    values = {float(weight.detach().mean()) for weight in reference.parameters()}
    assert values == set(map(float, range(len(weights))))


def test_a_shape_of_another_block_is_refused(shape: ModelShape) -> None:
    with pytest.raises(RuntimeError, match=r"blocks\.0\.q_norm\.weight"):
        same_function.losses(replace(shape, qk_norm=True), seed=0)
