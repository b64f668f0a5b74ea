"""Check that our model and the reference compute the same function in float32."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.reference_step import ReferenceModel
from train.model.attention import fused_attention
from train.model.parameters import initial_values
from train.model.transformer import Transformer
from train.plan.shape import ModelShape

WINDOWS = 4

TOLERANCE = 1e-5
"""Nats per token. Both sum the same float32 losses in different orders."""


@torch.no_grad()
def losses(shape: ModelShape, *, seed: int) -> tuple[float, float]:
    """Return our loss and the reference's for the same random weights and tokens.

    Gains are drawn around 1: with all of them at their initial 1, a forgotten gain would not show.
    """
    weights = initial_values(shape, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in weights.items():
        if name.endswith(".gain"):
            weight.add_(torch.empty_like(weight).normal_(std=0.3, generator=generator))
    windows = (WINDOWS, shape.seq_len + 1)
    tokens_BT = torch.randint(shape.vocab_size, windows, generator=generator)
    inputs_BT, targets_BT = tokens_BT[:, :-1], tokens_BT[:, 1:]
    reference = ReferenceModel(shape)
    load(reference, weights)
    ours = Transformer(
        shape, device=torch.device("cpu"), dtype=torch.float32, attention=fused_attention
    )
    own = ours.losses(weights, inputs_BT[None], targets_BT[None])
    return float(own), float(reference(inputs_BT, targets_BT))


def load(reference: ReferenceModel, weights: Mapping[str, Tensor]) -> None:
    """Load our weights into the reference.

    Raises:
        RuntimeError: A name or a shape differs.
    """
    named = {reference_name(name): weight for name, weight in weights.items()}
    reference.load_state_dict(named | {"head.weight": named["embedding.weight"]})


def reference_name(name: str) -> str:
    """The reference's name of one of our weights."""
    for ours, theirs in ((".attention.", "."), (".feed_forward.", "."), (".gain", ".weight")):
        name = name.replace(ours, theirs)
    return name
